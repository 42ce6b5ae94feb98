"""What an intervention on the gates is, as plain data, and the JSON file it is read from and saved to.

    [{"name": "no audio in layer 0", "op": "scale", "value": 0, "layers": [0], "kinds": ["attention"]}]

op       value                    what the gate becomes
scale    a number                 gate * value; may lead out of the gate's range, nothing is clamped
set      a number in the range    value
clamp    [low, high]              gate, but at least low and at most high
mean     "sample"                 its mean over the sample's clips, per channel
mean     "dataset"                its mean over the clips of all analysed samples, per channel, as first recorded
shuffle  -                        itself with the sample's clips in another order; one order for all layers and kinds
swap     -                        that of a sample of another video, as first recorded

Left out, "layers" and "kinds" mean all of them. "seed" (shuffle, swap; 0 if left out) decides the draw. Several edits
at once stand in a list: {"name": ..., "edits": [{"op": ...}, ...]}; at one gate they are done in that order.

Both gates of a layer are computed before either is edited, so an FFN gate does not see the edited attention gate of
its own layer; the layers above see the changed video.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qd_detr.gates.errors import MissingFileError, RequestError
from qd_detr.gates.files import read_json
from qd_detr.gates.gating import FusionFacts, Gate

OPS = ("scale", "set", "clamp", "mean", "shuffle", "swap")
OPS_BY_CHANCE = ("shuffle", "swap")
MEANS = ("sample", "dataset")
DEFAULT_SEED = 0
BASELINE = "baseline"
_EDIT_KEYS = ("op", "value", "layers", "kinds", "seed")

Value = float | tuple[float, float] | str | None


@dataclass(frozen=True)
class Edit:
    """One operation on the gates of some layers and kinds; None means all of them."""

    op: str
    value: Value = None
    layers: tuple[int, ...] | None = None
    kinds: tuple[str, ...] | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Intervention:
    """Edits under a name."""

    name: str
    edits: tuple[Edit, ...]


class _Problem(ValueError):
    """What is wrong with one intervention of a file; the file's reader says which."""


def read_interventions(path: str | Path, facts: FusionFacts) -> list[Intervention]:
    """Return the interventions of a JSON file, in file order.

    Args:
        path: the file.
        facts: of the fusion. "set" to a value outside the gates' range is refused, for no forward could give it, but for
            the one that switches them off; so is a "clamp" to an interval that lies outside, which would be a "set".

    Raises:
        MissingFileError: the file is not there. RequestError: it is not such a list; the first mistake is named.
    """
    path = Path(path)
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise MissingFileError(f"no interventions file {path}; give a JSON list with --interventions") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"interventions {path} cannot be read ({error}); give a JSON file") from None
    except ValueError as error:
        raise RequestError(f"interventions {path} is not JSON ({error}); expected a list of objects") from None
    return parse_interventions(data, facts, where=str(path))


def parse_interventions(data: Any, facts: FusionFacts, *, where: str = "interventions") -> list[Intervention]:
    """Return the interventions that JSON data describe; see `read_interventions`."""
    if not isinstance(data, list) or not data:
        raise RequestError(f'{where}: expected a list such as [{{"name": "no audio", "op": "scale", "value": 0}}]')
    found: list[Intervention] = []
    for place, item in enumerate(data, start=1):
        try:
            intervention = _parse(item, facts)
            if any(intervention.name == other.name for other in found):
                raise _Problem("has the name of an earlier one; give each a name of its own")
        except _Problem as problem:
            name = item.get("name") if isinstance(item, Mapping) else None
            called = f" ({name!r:.60})" if isinstance(name, str) else ""
            raise RequestError(f"{where}: intervention {place}{called} {problem}") from None
        found.append(intervention)
    return found


def to_plain(interventions: Sequence[Intervention]) -> list[dict[str, Any]]:
    """Return the JSON list that `parse_interventions` reads back as the same interventions."""
    plain = []
    for intervention in interventions:
        edits = [_plain_edit(edit) for edit in intervention.edits]
        body = edits[0] if len(edits) == 1 else {"edits": edits}
        plain.append({"name": intervention.name, **body})
    return plain


def _plain_edit(edit: Edit) -> dict[str, Any]:
    plain: dict[str, Any] = {"op": edit.op}
    if edit.value is not None:
        plain["value"] = list(edit.value) if isinstance(edit.value, tuple) else edit.value
    if edit.layers is not None:
        plain["layers"] = list(edit.layers)
    if edit.kinds is not None:
        plain["kinds"] = list(edit.kinds)
    if edit.seed is not None:
        plain["seed"] = edit.seed
    return plain


def _parse(item: Any, facts: FusionFacts) -> Intervention:
    if not isinstance(item, Mapping):
        raise _Problem(f"is {item!r:.60}; expected an object")
    name = item.get("name")
    if not isinstance(name, str) or not name.strip():
        raise _Problem(f"has the name {name!r:.60}; expected a text that is not empty")
    if name == BASELINE:
        raise _Problem(f"is called {BASELINE!r}, which names the run without any; give another name")
    if "edits" not in item:
        return Intervention(name, (_parse_edit(item, facts, known=("name", *_EDIT_KEYS)),))
    extra = sorted(set(map(str, item)) - {"name", "edits"})
    if extra:
        raise _Problem(f"has {', '.join(extra)} beside edits; they belong into each edit")
    edits = item["edits"]
    if not isinstance(edits, list) or not edits or not all(isinstance(edit, Mapping) for edit in edits):
        raise _Problem(f"has the edits {edits!r:.60}; expected a list of objects with at least one")
    return Intervention(name, tuple(_parse_edit(edit, facts, known=_EDIT_KEYS) for edit in edits))


def _parse_edit(item: Mapping[str, Any], facts: FusionFacts, known: Sequence[str]) -> Edit:
    unknown = sorted(set(map(str, item)) - set(known))
    if unknown:
        raise _Problem(f"has unknown keys: {', '.join(unknown)}; known are {', '.join(known)}")
    op = item.get("op")
    if op not in OPS:
        raise _Problem(f"has op {op!r:.60}; expected one of {', '.join(OPS)}")
    kinds = _kinds(item.get("kinds"), facts.kinds)
    edited = [gate for gate in facts.gates if kinds is None or gate.kind in kinds]
    return Edit(
        op=op,
        value=_value(op, item.get("value"), edited),
        layers=_layers(item.get("layers"), facts.num_layers),
        kinds=kinds,
        seed=_seed(op, item.get("seed")),
    )


def _value(op: str, value: Any, gates: Sequence[Gate]) -> Value:
    if op in OPS_BY_CHANCE:
        if value is not None:
            raise _Problem(f"has value {value!r:.60}, but {op} takes none")
        return None
    if op == "mean":
        if value not in MEANS:
            raise _Problem(f'has value {value!r:.60}; mean takes "sample" or "dataset"')
        return str(value)
    if op == "clamp":
        if not isinstance(value, list) or len(value) != 2 or not all(map(_is_number, value)) or value[0] > value[1]:
            raise _Problem(f"has value {value!r:.60}; clamp takes [low, high] with low <= high")
        low, high = float(value[0]), float(value[1])
        for limits in (gate.value_range for gate in gates):
            if limits is not None and (low > limits[1] or high < limits[0]):
                raise _Problem(
                    f"clamps to [{low:g}, {high:g}], which lies outside of the gates' range {_shown(limits)}"
                )
        return low, high
    if not _is_number(value):
        raise _Problem(f"has value {value!r:.60}; {op} takes a finite number")
    for gate in gates if op == "set" else ():
        limits = gate.value_range
        if limits is not None and not limits[0] <= value <= limits[1] and value != gate.off:
            raise _Problem(
                f"sets gates to {value:g}, outside of their range {_shown(limits)}; take a value inside it (scale may lead out)"
            )
    return float(value)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _shown(gate_range: tuple[float, float]) -> str:
    return f"[{gate_range[0]:g}, {gate_range[1]:g}]"


def _layers(layers: Any, num_layers: int) -> tuple[int, ...] | None:
    if layers is None:
        return None
    whole = isinstance(layers, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in layers)
    if not whole or not layers:
        raise _Problem(f"has layers {layers!r:.60}; expected a list of whole numbers, or leave it out for all layers")
    beyond = [one for one in layers if not 0 <= one < num_layers]
    if beyond:
        raise _Problem(f"names layer {beyond[0]}; the model has {num_layers}, counted from 0 to {num_layers - 1}")
    return tuple(sorted(set(layers)))


def _kinds(kinds: Any, known: Sequence[str]) -> tuple[str, ...] | None:
    if kinds is None:
        return None
    if not isinstance(kinds, list) or not kinds or not all(kind in known for kind in kinds):
        raise _Problem(
            f"has kinds {kinds!r:.60}; expected a list of {' and '.join(known)}, or leave it out for all of them"
        )
    return tuple(kind for kind in known if kind in kinds)


def _seed(op: str, seed: Any) -> int | None:
    if op not in OPS_BY_CHANCE:
        if seed is not None:
            raise _Problem(f"has a seed, but {op} leaves nothing to chance")
        return None
    if seed is None:
        return DEFAULT_SEED
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise _Problem(f"has seed {seed!r:.60}; expected a whole number of 0 or more")
    return seed
