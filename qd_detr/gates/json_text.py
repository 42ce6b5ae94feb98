"""JSON from files that anyone may have written: read with a bound on size and depth, and one kind of error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

JSON_BYTES_MAX = 64 << 20
JSON_DEPTH_MAX = 100


def parse_json(text: str | bytes) -> Any:
    """Return the parsed JSON.

    Raises:
        ValueError: not JSON, nested deeper than JSON_DEPTH_MAX, or a number of thousands of digits.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # What was parsed at the edge of the interpreter's stack could not even be shown in a message.
    brackets = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, brackets)) > JSON_DEPTH_MAX and _deeper_than(data, JSON_DEPTH_MAX):  # type: ignore[arg-type]
        raise ValueError("nested too deeply")
    return data


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; a byte-order mark is let through.

    Raises:
        OSError: it cannot be read. ValueError: not a plain file, over JSON_BYTES_MAX, not UTF-8, or as `parse_json`.
    """
    if not path.is_file() and path.exists():
        raise ValueError("not a plain file")  # a pipe or a device may never end
    if path.stat().st_size > JSON_BYTES_MAX:
        raise ValueError(f"larger than {JSON_BYTES_MAX >> 20} MiB")
    return parse_json(path.read_text(encoding="utf-8-sig"))


def _deeper_than(data: Any, limit: int) -> bool:
    level = [data]
    for _ in range(limit):
        level = [
            child
            for node in level
            if isinstance(node, (list, dict))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True
