"""Gate logs: gates that some other code wrote down, a JSON object a line, read without a model.

A line is about one query and names it by `qid` (a JSON list of such objects will do). It holds the gates of one layer
(with `layer`, or `layer_idx`, counted from 0), or of all of them: every gate a list by layer, or `layers`, a list of
objects. A gate is a key that ends in `_gate` or `_gates` (`attention_gate`, `ffn_gates`; `att`, `attn` and `mha` stand
for attention) or in `_shift`; other keys are let through. Of one layer it is a number, or a list (1), (L) or (L, D),
perhaps with a leading batch axis of 1 and a trailing axis of 1. Letters: A layers, L clips, D hidden, n the clips of a
gate (L or 1), C its channels (D or 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.data.json_lines import LineProblem, records_of
from qd_detr.gates.errors import DataError, MissingFileError, RequestError, first_few
from qd_detr.gates.files import shown_short
from qd_detr.gates.gating import ATTENTION, FFN, GATES, FusionFacts
from qd_detr.gates.tracking.entries import SampleGates, SampleId
from qd_detr.gates.tracking.history import GateHistory

_LAYER_KEYS = ("layer", "layer_idx")
_ATTENTION_NAMES = ("att", "attn", "mha")
# A list of numbers over layers looks like one over clips; no fusion has as many layers as a video has clips.
_MOST_LAYERS = 16

Values = NDArray[np.float32]
ByLayer = dict[int, dict[str, Values]]


@dataclass(frozen=True)
class GateLog:
    """What a log holds: facts as far as gates tell them (no range, no value that is off), and the gates by qid."""

    facts: FusionFacts
    history: GateHistory


def read_gate_log(path: Path, history: GateHistory) -> GateLog:
    """Return the gates of a log, put into `history` in the order of the file.

    The gating type is what the shapes show: elementwise with channels, clipwise with a value per clip, else global.
    hidden_dim is known of elementwise gates alone, and None else.

    Raises:
        MissingFileError: no such file. RequestError: a folder, or it cannot be read. DataError: a line that cannot be
            used, by its number; queries that differ in their layers, kinds or shapes, by qid; no gates at all.
    """
    if not path.exists():
        raise MissingFileError(f"no gate log at {path}; give its path with --gate_log")
    if not path.is_file():
        raise RequestError(f"{path} is not a plain file; --gate_log takes a .jsonl of gates")
    found: dict[SampleId, ByLayer] = {}
    lines: dict[str, tuple[SampleId, int]] = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            unit, records = records_of(file, path)
            for number, record in records:
                try:
                    _take(record, number, found, lines)
                except LineProblem as problem:
                    raise DataError(f"{path}, {unit} {number}: {problem}; correct it or take it out") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}); give a readable file with --gate_log") from None
    if not found:
        raise DataError(f"{path} holds no gates; expected one JSON object a line, with qid and gates")
    return _settled(path, found, history)


def _take(
    record: Any,
    number: int,
    found: dict[SampleId, ByLayer],
    lines: dict[str, tuple[SampleId, int]],
) -> None:
    """Put the gates of one line where they belong."""
    if isinstance(record, LineProblem):
        raise record
    if not isinstance(record, dict):
        raise LineProblem(f"is {shown_short(record)}; expected an object with qid and gates")
    qid = record.get("qid")
    if not isinstance(qid, (int, str)) or isinstance(qid, bool) or qid == "":
        raise LineProblem(f"'qid' is {shown_short(qid)}; expected a number or text")
    same, first = lines.setdefault(str(qid), (qid, number))
    if type(same) is not type(qid):
        raise LineProblem(f"'qid' {qid!r} is {same!r} in record {first}; write it the same way everywhere")
    layers = found.setdefault(qid, {})
    for layer, gates in _layers_of(record):
        if layer in layers:
            raise LineProblem(f"layer {layer} of qid {qid!r} is there already; a layer may be there once")
        layers[layer] = gates


def _layers_of(record: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Values]]]:
    """Yield the layers of a line, each with its gates as written."""
    stated = next((record[key] for key in _LAYER_KEYS if key in record), None)
    if stated is not None:
        if not isinstance(stated, int) or isinstance(stated, bool) or stated < 0:
            raise LineProblem(f"'layer' is {shown_short(stated)}; expected a whole number from 0")
        yield stated, {kind: _numbers(key, record[key]) for kind, key in _kinds(record).items()}
    elif "layers" in record:
        inner = record["layers"]
        if not isinstance(inner, list) or not inner or not all(isinstance(one, dict) for one in inner):
            raise LineProblem(f"'layers' is {shown_short(inner)}; expected a list of objects, one a layer")
        for layer, one in enumerate(inner):
            yield layer, {kind: _numbers(key, one[key]) for kind, key in _kinds(one).items()}
    else:
        by_kind = {kind: _by_layer(key, record[key]) for kind, key in _kinds(record).items()}
        counts = {len(one) for one in by_kind.values()}
        if len(counts) > 1:
            raise LineProblem(f"its gates are of {' and '.join(map(str, sorted(counts)))} layers; expected as many")
        for layer in range(counts.pop()):
            yield layer, {kind: one[layer] for kind, one in by_kind.items()}


def _kinds(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the kinds of gates of an object with the keys that hold them."""
    kinds: dict[str, str] = {}
    for key in record:
        name = key.removesuffix("s")
        kind = name.removesuffix("_gate") if name.endswith("_gate") else name if name.endswith("_shift") else None
        if kind in (*_ATTENTION_NAMES, "attention"):
            kind = ATTENTION.kind
        if not kind:
            continue
        if kind in kinds:
            raise LineProblem(f"{kinds[kind]!r} and {key!r} both hold {kind} gates; keep one of them")
        kinds[kind] = key
    if not kinds:
        raise LineProblem(
            f"no gates among its keys ({first_few(list(record)) or 'none'}); expected keys such as attention_gates and "
            "ffn_gates"
        )
    return kinds


def _by_layer(key: str, given: Any) -> list[Values]:
    if not isinstance(given, list) or not given:
        raise LineProblem(f"'{key}' is {shown_short(given)}; expected a list by layer, or a line with its 'layer'")
    if not isinstance(given[0], list) and len(given) > _MOST_LAYERS:
        raise LineProblem(
            f"'{key}' is a list of {len(given)} numbers, more than any fusion has layers; if these are the clips of one "
            "layer, write its number as 'layer'"
        )
    return [_numbers(key, one) for one in given]


def _numbers(key: str, given: Any) -> Values:
    """Return the numbers of one gate of one layer, as they are nested."""
    try:
        values = np.asarray(given)
    except (ValueError, OverflowError):
        raise LineProblem(f"'{key}' is no even list of numbers: {shown_short(given)}") from None
    if values.dtype.kind not in "iuf" or _holds_truth(given):
        raise LineProblem(f"'{key}' holds something else than numbers: {shown_short(given)}")
    if values.size == 0:
        raise LineProblem(f"'{key}' is empty")
    with np.errstate(over="ignore"):
        gates = values.astype(np.float32)
    if not np.isfinite(gates).all():
        raise LineProblem(f"'{key}' holds {values[~np.isfinite(gates)][0]}; gates are finite (float32)")
    if gates.ndim == 3 and len(gates) > 1:
        raise LineProblem(f"'{key}' is a batch of {len(gates)}; expected the gates of one query")
    if gates.ndim > 3:
        raise LineProblem(f"'{key}' is nested {gates.ndim} deep; expected (1), (L) or (L, D), a batch axis of 1 before")
    return gates


def _holds_truth(given: Any) -> bool:
    return any(map(_holds_truth, given)) if isinstance(given, list) else isinstance(given, bool)


def _settled(path: Path, found: Mapping[SampleId, ByLayer], history: GateHistory) -> GateLog:
    """Put every query's gates into the history, the same layers and kinds of each, and tell the gating type."""
    first_qid, first = next(iter(found.items()))
    layers, kinds = sorted(first), _in_order(first[min(first)])
    if layers != list(range(len(layers))):
        raise DataError(f"{path}, qid {first_qid!r}: has the layers {first_few(layers)}; expected all from 0")
    # (1, N) is one clip of N channels, or N clips with a batch axis: that nothing has two rows says the latter.
    every = (gate for of_query in found.values() for gates in of_query.values() for gate in gates.values())
    rows = all(len(gate) == 1 for gate in every if gate.ndim == 2)
    gates = {qid: _stacked(path, qid, of_query, layers, kinds, rows) for qid, of_query in found.items()}
    shapes = {qid: of_query[kinds[0]].shape[2:] for qid, of_query in gates.items()}
    channels = shapes[first_qid][1]
    for qid, shape in shapes.items():
        if shape[1] != channels:
            raise DataError(
                f"{path}, qid {qid!r}: has gates of {shape[1]} channels, qid {first_qid!r} of {channels}; expected as many"
            )
    per_clip = any(shape[0] > 1 for shape in shapes.values())
    gating = "elementwise" if channels > 1 else "clipwise" if per_clip else "global"
    hidden_dim = channels if channels > 1 else None
    for qid, by_kind in gates.items():
        history[qid] = SampleGates(by_kind, np.ones((1, shapes[qid][0]), bool), gating, hidden_dim)
    # Nothing is known of their range, nor of the value that switches one off.
    known = tuple(replace(GATES[kind], value_range=None, off=None) for kind in kinds)
    return GateLog(FusionFacts(gating, gating, len(layers), hidden_dim, known), history)


def _in_order(kinds: Iterable[str]) -> list[str]:
    """Return kinds of gates, attention and FFN first."""
    return sorted(kinds, key=lambda kind: (kind != ATTENTION.kind, kind != FFN.kind))


def _stacked(
    path: Path, qid: SampleId, of_query: ByLayer, layers: list[int], kinds: list[str], rows: bool
) -> dict[str, Values]:
    """Return the gates of a query by kind, (A, 1, n, C)."""
    if sorted(of_query) != layers:
        raise DataError(
            f"{path}, qid {qid!r}: has the layers {first_few(sorted(of_query))}; expected {first_few(layers)}, as the first"
        )
    for layer in layers:
        if set(of_query[layer]) != set(kinds):
            raise DataError(
                f"{path}, qid {qid!r}: does not have the gates {', '.join(kinds)} in every layer, as the first"
            )
    shaped = {kind: [_shaped(of_query[layer][kind], rows) for layer in layers] for kind in kinds}
    shapes = {gate.shape for of_kind in shaped.values() for gate in of_kind}
    if len(shapes) > 1:
        raise DataError(
            f"{path}, qid {qid!r}: its gates differ in shape: {first_few(sorted(shapes))} (clips, channels)"
        )
    return {kind: np.stack(of_kind)[:, None] for kind, of_kind in shaped.items()}


def _shaped(values: Values, rows: bool) -> Values:
    """Return (n, C) of a number, (n), (n, C) or (1, n, C); with `rows` of (1, n)."""
    if values.ndim == 3:
        return values[0]
    return values.reshape(-1, 1) if values.ndim < 2 or rows else values
