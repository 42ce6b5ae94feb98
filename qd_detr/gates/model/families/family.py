"""What a family of gated models is: one object that states how its members differ from the base model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from qd_detr.gates.errors import CheckpointError
from qd_detr.gates.fusion import AVIGATEFusionCustom, GatedFusionLayer, GateEdit, GatingFunction, at_layer, through
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR, Projected
from qd_detr.gates.tracking.api import GateTracking
from qd_detr.gates.tracking.recorder import GateUse

Weights = Mapping[str, Tensor]
NOTHING = r"(?!)"
PLAIN_TRANSFORMER = "94159ea821497e0a"
PLAIN_MODEL = "fae725402843c6ce"
PLAIN_FUSION = "dd8b1362e9042f02"
"""First digits of the SHA-256 of the base's own transformer.py, model.py and code/avigate_custom.py."""


def _no_sizes(weights: Weights) -> dict[str, int]:
    return {}


def _found(pattern: str, weights: Weights) -> bool:
    return any(re.search(pattern, key) for key in weights)


def _no_settings(weights: Weights, options: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """One family: everything that a checkpoint of it needs and that the base model does not tell.

    Attributes:
        name: as users give it with `--family`.
        model: builds it from an `Architecture`. Left out, the base model with the gating function or layer below.
        layer, gating: of the fusion, in place of the base's.
        marks: a regular expression that finds one of its keys. None: it has the base's keys, and something else has to
            tell it. without: one that finds none of them, where another family's would have it.
        gating_type: the type of its gates; None where the options say it, as they do in the base.
        option: the gating type's name in its options, where that is another.
        sizes: from the weights, those sizes that they do not show where the base's do.
        settings: from weights and options, what else decides its function; see `Architecture.settings`.
        like: what it is, in a few words.
        questions: the options that decide its function and that no weight shows, beside the gating type.
        reads: other options that decide it, hard-wired to their defaults where its code did not have them.
        fusion_n_heads: the heads of its fusion, where its code hard-wires them.
        untrained: a regular expression of those encoder tensors (`transformer.encoder.layers.{i}.*`) that its training
            leaves as they start (`NOTHING`: it trains them all). None: no evidence but the keys, or the user, tells it.
        option_names: options that its code, and no other with the same keys, writes.
        copies: the first 16 digits of the SHA-256 of code that its runs leave beside the checkpoint, by file name.
        code_also_of: families that the same code trains under other options.
        code_mark: a name in its transformer.py, which an edited copy has too. code_without: a call that the base's has
            and its own has not, but in a comment.
    """

    name: str
    like: str
    model: type[QDDETR] | None = None
    layer: type[GatedFusionLayer] = GatedFusionLayer
    gating: type[GatingFunction] | None = None
    marks: str | None = None
    without: str | None = None
    gating_type: str | None = None
    option: str | None = None
    sizes: Callable[[Weights], dict[str, int]] = _no_sizes
    settings: Callable[[Weights, Mapping[str, Any]], dict[str, Any]] = _no_settings
    questions: tuple[str, ...] = ("nheads", "fusion_n_heads")
    reads: tuple[str, ...] = ()
    fusion_n_heads: int | None = None
    untrained: str | None = None
    option_names: tuple[str, ...] = ()
    copies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    code_also_of: tuple[str, ...] = ()
    code_mark: str | None = None
    code_without: str | None = None

    def marked(self, weights: Weights) -> bool:
        """Whether the keys alone show that these weights are of this family."""
        if self.marks is None or (self.without is not None and _found(self.without, weights)):
            return False
        return _found(self.marks, weights)

    def build(self, architecture: Architecture) -> QDDETR:
        """Return a model of this family with weights as they start."""
        if self.model is not None:
            return self.model(architecture)
        return _OwnLayers(architecture, self.layer, self.gating)


class FamilyModel(QDDETR):
    """Base of the models whose fusion is walked gate by gate: `first_video`, `first_gate` and what follows."""

    def fuse(self, projected: Projected, *, edit: GateEdit | None = None, legacy_batch_mask: bool = False) -> Tensor:
        """Return the fused video (B, L, D), its gates recorded if anybody wants them."""
        fusion: GateTracking = self.avigate_fusion
        listeners = fusion._listeners(len(projected.vid_mask))
        measure = any(listener.measure for listener in listeners)
        video = self.first_video(projected, legacy_batch_mask=legacy_batch_mask)
        recorded: list[list[GateUse]] = []
        for layer_idx in range(fusion.num_layers):
            uses: list[GateUse] = []
            step = self.first_gate(layer_idx, video, projected, legacy_batch_mask=legacy_batch_mask)
            own_edit = None if edit is None else at_layer(edit, layer_idx)
            video = through(step, own_edit, uses if listeners else None, measure=measure)
            recorded.append(uses)
        fusion._record(listeners, recorded, projected.pad_mask, projected.vid_mask.shape[1])
        return video


class _OwnLayers(FamilyModel):
    """The base model with another gating function or layer in its fusion."""

    def __init__(
        self, architecture: Architecture, layer: type[GatedFusionLayer], gating: type[GatingFunction] | None
    ) -> None:
        self.__dict__["_parts"] = (layer, gating)
        super().__init__(architecture)

    def _make_fusion(self) -> GateTracking:
        a = self.architecture
        layer, gating = self.__dict__.pop("_parts")
        fusion = AVIGATEFusionCustom(a.hidden_dim, a.hidden_dim, a.hidden_dim, a.fusion_n_heads, 1, a.gating_type)
        layers: list[Any] = [layer(a.hidden_dim, a.fusion_n_heads, a.gating_type) for _ in range(a.fusion_layers)]
        for one in layers:
            if gating is not None:
                one.gating_function = gating(a.hidden_dim, a.gating_type)
            if hasattr(one, "configure"):
                one.configure(a)
        fusion.fusion_layers = nn.ModuleList(layers)
        return fusion


def count_of(weights: Weights, pattern: str) -> int:
    """Return how many different numbers the pattern's group takes among the keys."""
    return len({match.group(1) for key in weights if (match := re.match(pattern, key))})


def size_of(weights: Weights, key: str, axis: int) -> int:
    """Return one size of a tensor.

    Raises:
        CheckpointError: it is not there, or has too few axes.
    """
    if key not in weights or weights[key].dim() <= axis:
        raise CheckpointError(f"the checkpoint lacks {key} in its shape; it is incomplete or of another architecture")
    return weights[key].shape[axis]


def projected_by(weights: Weights, *, video: str, audio: str) -> dict[str, int]:
    """Return the sizes of a model whose one-layer fusion projects both by a Linear: keys of their weights (D, in)."""
    return {
        "video_dim": size_of(weights, video, 1),
        "audio_dim": size_of(weights, audio, 1),
        "n_input_proj": count_of(weights, r"input_txt_proj\.(\d{1,9})\."),
        "fusion_layers": 1,
    }


def number_of(options: Mapping[str, Any], name: str, default: float) -> float:
    """Return a numeric option.

    Raises:
        CheckpointError: it is there and no number.
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError(f"the option {name} is {value!r:.100}; expected a number; give the run's own options")
    return float(value)


def positive_integers(options: Mapping[str, Any], name: str, default: Sequence[int]) -> tuple[int, ...]:
    """Return an option that is a list of positive integers.

    Raises:
        CheckpointError: it is there and something else.
    """
    value = options.get(name, default)
    if isinstance(value, int):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(type(one) is int and one > 0 for one in value):
        raise CheckpointError(
            f"the option {name} is {value!r:.100}; expected positive integers; give the run's options"
        )
    return tuple(value)
