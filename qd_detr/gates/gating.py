"""Gates and types of gating, as facts that everything else reads instead of comparing names. Needs no torch.

A fusion states its gates (`fusion.gates`) and its type of gating (`fusion.gating`). A new gate or a new type is added
there and here; statistics, figures, interventions and files follow from the facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qd_detr.gates.wording import Reason

ValueRange = tuple[float, float]

AUDIO = "audio"
"""Role of a gate that scales the audio which is added to the video: how much audio enters."""
REFINEMENT = "refinement"
"""Role of a gate that scales a step on features that hold the audio already."""
SHIFT = "shift"
"""Role of a gate that is itself added, to every feature alike."""


@dataclass(frozen=True)
class Gate:
    """One gate of a fusion layer.

    Attributes:
        kind: its name in keys and columns: `{kind}_gates`, `{kind}_mean`.
        role: `AUDIO`, `REFINEMENT` or `SHIFT`.
        label: its name in a sentence. short: its name in files of raw values and in `att_means`.
        value_range: the interval that holds its values, None where nothing states one.
        off: the value at which its branch adds nothing; None if no value does. 0 for a factor, -1 for the g of a
            factor 1 + g.
    """

    kind: str
    role: str
    label: str
    short: str
    value_range: ValueRange | None = None
    off: float | None = 0.0

    @property
    def gates_key(self) -> str:
        """The key of its values in an entry of the history."""
        return f"{self.kind}_gates"

    @property
    def title(self) -> str:
        """Its name as a heading."""
        return f"{self.label[0].upper()}{self.label[1:]} gate"


ATTENTION = Gate("attention", AUDIO, "attention", "att")
FFN = Gate("ffn", REFINEMENT, "FFN", "ffn")


class _ByKind(dict[str, Gate]):
    def __missing__(self, kind: str) -> Gate:
        # A kind that a family of its own declares; its name is made from the kind.
        return Gate(kind, SHIFT, kind.replace("_", " "), kind, off=None)


GATES = _ByKind({gate.kind: gate for gate in (ATTENTION, FFN)})
"""The gates that the base has, by kind; any other kind is a shift, under a name made from it."""


def label_of(kind: str) -> str:
    """Return a gate's name in a sentence."""
    return GATES[kind].label


def over_layers(layers: Sequence[Sequence[Gate]]) -> tuple[Gate, ...]:
    """Return the gates of a fusion from those of its layers: each with the smallest interval that holds all layers'.

    Raises:
        ValueError: the layers differ in more than the ranges of their gates.
    """
    found = []
    for same in zip(*layers, strict=True):
        ranges = [gate.value_range for gate in same if gate.value_range is not None]
        known = len(ranges) == len(same)
        whole = (min(low for low, _ in ranges), max(high for _, high in ranges)) if known else None
        gates = {replace(gate, value_range=whole) for gate in same}
        if len(gates) > 1:
            raise ValueError(f"the layers of one fusion have different gates: {', '.join(map(str, same))}")
        found.append(gates.pop())
    return tuple(found)


def range_of(gates: Sequence[Gate]) -> ValueRange | None:
    """Return the smallest interval that holds every gate, None if one of them states no range."""
    ranges = [gate.value_range for gate in gates]
    known = [one for one in ranges if one is not None]
    if not known or len(known) < len(ranges):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


@dataclass(frozen=True)
class GatingType:
    """How many values a gate has.

    Attributes:
        name: the option `gating_type`.
        per_clip: a value for every clip, so that the gate can follow time; else one for the whole sequence.
        per_channel: a value for every feature channel; else one for all of them.
        exchangeable_with: names of the types whose weights have the same shapes, so that only the training tells.
    """

    name: str
    per_clip: bool
    per_channel: bool
    exchangeable_with: tuple[str, ...] = ()

    @property
    def form(self) -> str:
        """The name of the plain type whose gates have this shape; texts about the shape are found under it."""
        return "elementwise" if self.per_channel else "clipwise" if self.per_clip else "global"

    def channels(self, hidden_dim: int | None) -> int:
        """Return C, the values of a gate at one place in time; None will do where it has no channels."""
        if not self.per_channel:
            return 1
        if hidden_dim is None:
            raise ValueError(f"{self.name} gates have a channel for each of hidden_dim, which is not given")
        return hidden_dim

    def shape(self, n_clips: int, hidden_dim: int) -> tuple[int, int]:
        """Return the shape of one sample's gate, (n_clips or 1, C)."""
        return (n_clips if self.per_clip else 1), self.channels(hidden_dim)


GATING_TYPES = {
    gating.name: gating
    for gating in (
        GatingType("global", per_clip=False, per_channel=False, exchangeable_with=("clipwise",)),
        GatingType("clipwise", per_clip=True, per_channel=False, exchangeable_with=("global",)),
        GatingType("elementwise", per_clip=True, per_channel=True),
    )
}
"""The types by name."""
EXCHANGEABLE = tuple(name for name, gating in GATING_TYPES.items() if gating.exchangeable_with)
"""Names of the types that weights alone do not tell apart."""


def gatings_of_width(width: int, hidden_dim: int) -> tuple[str, ...]:
    """Return the names of the types whose gates have `width` values at one place in time, as their weights show it."""
    return tuple(name for name, gating in GATING_TYPES.items() if gating.channels(hidden_dim) == width)


def gating_named(name: str) -> GatingType:
    """Return a type of gating by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in GATING_TYPES:
        raise ValueError(f"gating_type must be one of {', '.join(GATING_TYPES)}; got {name!r}")
    return GATING_TYPES[name]


@dataclass(frozen=True)
class FusionFacts:
    """What the analysis needs to know of a fusion, without holding on to the model.

    Attributes:
        gates: the gates of every layer, in the order of use.
        hidden_dim: None where gates without channels were read from a log, which do not tell it.
    """

    gating_type: str
    trained_gating_type: str
    num_layers: int
    hidden_dim: int | None
    gates: tuple[Gate, ...]

    @property
    def gating(self) -> GatingType:
        """The type of the gates as they were run."""
        return gating_named(self.gating_type)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its gates, in the order of use."""
        return tuple(gate.kind for gate in self.gates)

    @property
    def gate_range(self) -> ValueRange | None:
        """The interval that holds every gate, None if one of them states none."""
        return range_of(self.gates)

    @property
    def gating_note(self) -> Reason | None:
        """What goes into every result when the gating type was changed; None when it was not."""
        if self.gating_type == self.trained_gating_type:
            return None
        return Reason("gating.changed", {"trained": self.trained_gating_type, "gating": self.gating_type})
