"""The sizes of a model, read from its weights, and the state dict that such a model must have.

What the weights show is never taken from options: opt.json and the options inside a checkpoint may disagree on
sizes (the endpoints' two features are counted in one and not in the other), the weights cannot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


from qd_detr.gates.errors import CheckpointError, first_few


@dataclass(frozen=True)
class Architecture:
    """Sizes and switches that decide a QD-DETR model's parameters and function.

    family is the name of its family, settings what else decides the function of a member; see `model.families`.
    """

    video_dim: int
    audio_dim: int
    text_dim: int
    hidden_dim: int = 256
    n_heads: int = 8
    fusion_layers: int = 4
    fusion_n_heads: int = 4
    gating_type: str = "global"
    enc_layers: int = 2
    dec_layers: int = 2
    dim_feedforward: int = 1024
    num_queries: int = 10
    n_input_proj: int = 2
    max_q_l: int = 32
    use_txt_pos: bool = False
    input_dropout: float = 0.5
    dropout: float = 0.1
    contrastive_hdim: int | None = None
    family: str = "base"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], video_dim: int, audio_dim: int, text_dim: int, **changes: Any
    ) -> Architecture:
        """Return what legacy code builds of these options, by their legacy names, for inputs of these widths."""
        named = {field: options[option] for option, field in OPTION_FIELDS.items() if option in options}
        return cls(**{"video_dim": video_dim, "audio_dim": audio_dim, "text_dim": text_dim, **named, **changes})


# The fields that an option decides, by its legacy name; the rest are the features', or of a family.
OPTION_FIELDS = {
    field.name if field.name != "n_heads" else "nheads": field.name
    for field in fields(Architecture)
    if field.name not in ("video_dim", "audio_dim", "text_dim", "contrastive_hdim", "family", "settings")
}
GATE_OUTPUT = "fusion.fusion_layers.0.gating_function.mlp_mha.2.weight"


def sizes_from_weights(weights: Mapping[str, Tensor], of_family: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return every size that a QD-DETR state dict shows, by the field names of `Architecture`.

    of_family: the sizes of video, audio, projections and fusion, where a family's weights show them elsewhere.

    Raises:
        CheckpointError: plain QD-DETR without gates, or a state dict of something else.
    """
    if "global_rep_token" not in weights or "query_embed.weight" not in weights:
        raise CheckpointError(
            "these weights are not those of a QD-DETR model: no "
            + ("global_rep_token" if "global_rep_token" not in weights else "query_embed.weight")
            + f" among {len(weights)} keys ({first_few(sorted(weights))}); give a checkpoint of a QD-DETR model "
            "with AVIGATE fusion"
        )
    if not of_family and not any(key.startswith("fusion.") for key in weights):
        raise CheckpointError(
            "this is a plain QD-DETR model: it has no fusion.* weights (use_avigate_custom was false), hence no gates "
            "to analyse; give a checkpoint trained with use_avigate_custom"
        )

    def size(key: str, axis: int) -> int:
        if key not in weights:
            raise CheckpointError(f"the checkpoint lacks {key}; it is incomplete or of another architecture")
        if weights[key].dim() <= axis:
            raise CheckpointError(f"{key} has shape {tuple(weights[key].shape)}; expected at least {axis + 1} axes")
        if weights[key].shape[axis] < 1:
            raise CheckpointError(f"{key} has shape {tuple(weights[key].shape)}, hence no numbers; it is damaged")
        return weights[key].shape[axis]

    sizes = {
        "hidden_dim": size("global_rep_token", 0),
        "num_queries": size("query_embed.weight", 0),
        "text_dim": size("input_txt_proj.0.LayerNorm.weight", 0),
        "enc_layers": _count(weights, r"transformer\.encoder\.layers\.(\d{1,9})\."),
        "dec_layers": _count(weights, r"transformer\.decoder\.layers\.(\d{1,9})\."),
        "dim_feedforward": size("transformer.encoder.layers.0.linear1.weight", 0),
        "max_q_l": size("txt_position_embed.position_embeddings.weight", 0),
    }
    sizes |= of_family or {
        "video_dim": size("input_vid_proj.0.LayerNorm.weight", 0),
        "audio_dim": size("input_aud_proj.0.LayerNorm.weight", 0),
        "n_input_proj": _count(weights, r"input_vid_proj\.(\d{1,9})\."),
        "fusion_layers": _count(weights, r"fusion\.fusion_layers\.(\d{1,9})\."),
    }
    contrastive = "contrastive_align_projection_query.weight"
    if contrastive in weights:
        sizes["contrastive_hdim"] = size(contrastive, 0)
    return sizes


def gate_width(weights: Mapping[str, Tensor]) -> int:
    """Return the width of a gate: hidden_dim when elementwise, 1 when global or clipwise."""
    if GATE_OUTPUT not in weights:
        raise CheckpointError(f"the checkpoint lacks {GATE_OUTPUT}; it is incomplete or of another architecture")
    if weights[GATE_OUTPUT].dim() < 1:
        raise CheckpointError(f"{GATE_OUTPUT} has no axes; expected (gate width, hidden size)")
    return weights[GATE_OUTPUT].shape[0]


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    found = {int(m.group(1)) for key in weights if (m := re.match(pattern, key))}
    if not found:
        raise CheckpointError(
            f"the checkpoint has no key like {_shown(pattern)}; it is incomplete or of another architecture"
        )
    # Not by a set of all numbers up to the largest: a damaged key may name layer 999999999.
    gap = next((layer for layer in range(len(found)) if layer not in found), None)
    if gap is not None:
        raise CheckpointError(
            f"the checkpoint lacks layer {gap} of {_shown(pattern)}; layers there: {sorted(found)[:20]}"
        )
    return len(found)


def _shown(pattern: str) -> str:
    return pattern.replace("(\\d{1,9})", "(d+)").replace("\\", "")
