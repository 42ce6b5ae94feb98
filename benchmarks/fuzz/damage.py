"""Seeded damage to bytes, to JSON data and to text: what disks, copies, editors and strangers do to a file."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

DEEP = 20_000  # far beyond what a JSON parser nests


def damaged_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Return `data` with one to four pieces of damage."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_BYTE_DAMAGE)(rng, data, other)
    return data


def _place(rng: random.Random, data: bytes) -> int:
    # Half of the time near an end, where headers and directories are.
    if not data:
        return 0
    near = min(len(data), 3000)
    return rng.choice((rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)))


def _flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if out:
            out[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _overwrite(rng: random.Random, data: bytes, other: bytes) -> bytes:
    piece = rng.choice(
        (
            *(rng.randbytes(length) for length in (1, 4, 60)),
            *(byte * length for byte, length in ((b"\xff", 4), (b"\xff", 8), (b"\0", 8), (b"\x7f", 4))),
            *((1 << bits).to_bytes(8, "little") for bits in (31, 40, 62)),
        )
    )
    at = _place(rng, data)
    return data[:at] + piece + data[at + len(piece) :]


def _cut(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)]


def _delete(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 16, 300)) :]


def _insert(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.randbytes(rng.choice((1, 3, 40))) + data[at:]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    source = other or data
    start = _place(rng, source)
    return data[: _place(rng, data)] + source[start : start + rng.choice((20, 500, len(source)))]


_BYTE_DAMAGE = (_flip, _flip, _overwrite, _overwrite, _cut, _delete, _insert, _splice)


def odd_value(rng: random.Random) -> Any:
    """Return a value that somebody's JSON might hold in the place of a sensible one."""
    return rng.choice(_ODD)(rng)


def _nested(depth: int, inner: Any = 0, kind: type = list) -> Any:
    value = inner
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


_ODD: tuple[Callable[[random.Random], Any], ...] = (
    lambda r: None,
    lambda r: r.choice((True, False)),
    lambda r: r.choice((0, -1, 1, 2, 3, 7, 10**6, 10**9, 10**12, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400)),
    lambda r: r.choice((0.0, -0.0, 0.5, 1e-300, 5e-324, 1e300, -1e300, 3.5e38)),
    lambda r: r.choice((float("nan"), float("inf"), float("-inf"))),
    lambda r: r.choice(("", " ", "a", "..", "../x", "/etc/passwd", "a/../../b", "\0", "a\0b", "a\nb", "x" * 5000)),
    lambda r: r.choice(("\ud800", "a\udfffb", "\u2028", "\ufeff", "한글", "\U0001f600", "global", "nan", "1")),
    lambda r: [],
    lambda r: {},
    lambda r: [odd_value(r) for _ in range(r.randrange(4))],
    lambda r: {str(r.random()): odd_value(r)},
    lambda r: _nested(r.choice((5, 50, 300)), kind=r.choice((list, dict))),
)


def damaged_json(rng: random.Random, data: Any, keys: tuple[str, ...] = ()) -> Any:
    """Return a copy of JSON data with one to three values, keys or items changed."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = _damaged_node(rng, data, keys)
    return data


def _damaged_node(rng: random.Random, node: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(node, dict) and node and rng.random() < 0.93:
        key = rng.choice(list(node))
        how = rng.random()
        if how < 0.1:
            del node[key]
        elif how < 0.2 and keys:
            node[rng.choice(keys)] = odd_value(rng)
        else:
            node[key] = _damaged_node(rng, node[key], keys)
        return node
    if isinstance(node, list) and node and rng.random() < 0.85:
        at = rng.randrange(len(node))
        how = rng.random()
        if how < 0.1:
            node.pop(at)
        elif how < 0.2:
            node.append(copy.deepcopy(node[at]))
        else:
            node[at] = _damaged_node(rng, node[at], keys)
        return node
    return odd_value(rng)


def damaged_text(rng: random.Random, text: str) -> bytes:
    """Return JSON text with damage that no JSON writer would make."""
    how = rng.random()
    at = rng.randrange(len(text) + 1)
    if how < 0.25:
        piece = rng.choice(
            ("9" * 5000, "-" + "9" * 5000, "1e999", "NaN", "-Infinity", '"\\ud800"', "1" * 400, "\\u0000")
        )
        digits = [i for i, char in enumerate(text) if char.isdigit()]
        at = rng.choice(digits) if digits else at
        return (text[:at] + piece + text[at + 1 :]).encode()
    if how < 0.45:
        # Near the interpreter's own limit what parses may still be too deep to show.
        depth = rng.choice((DEEP, 3000, *(rng.randrange(850, 1001) for _ in range(6))))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        digits = [i for i, char in enumerate(text) if char.isdigit()]
        at = rng.choice(digits) if digits else at
        return (text[:at] + opening * depth + "0" + closing * depth + text[at + 1 :]).encode()
    return damaged_bytes(rng, text.encode())
