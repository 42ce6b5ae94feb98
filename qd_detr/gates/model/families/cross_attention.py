"""cross_attention (option use_avigate): one layer, video attends to audio over time; projections without norms.

Letters: B batch, L clips, D hidden, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qd_detr.gates.fusion import GateStep, GatingFunction, two_layers
from qd_detr.gates.gating import Gate
from qd_detr.gates.model.attention import packed_attention
from qd_detr.gates.model.families.family import PLAIN_TRANSFORMER, Family, FamilyModel, Weights, projected_by
from qd_detr.gates.model.qd_detr import Projected
from qd_detr.gates.tracking.api import GateTracking

HEADS = 8
"""Hard-wired in the code that trained them."""
_DROPOUT = 0.5


class CrossAttentionLayer(nn.Module):
    """Gated cross-attention on audio, gated feed-forward, self-attention over clips, feed-forward."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gating_function = GatingFunction(dim, "global")
        self.cross_attention = nn.MultiheadAttention(dim, HEADS, batch_first=True)
        self.self_attention = nn.MultiheadAttention(dim, HEADS, batch_first=True)
        self.ffn1 = two_layers(dim, 4 * dim, dim)
        self.ffn2 = two_layers(dim, 4 * dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)

    def first_gate(self, video: Tensor, audio: Tensor, mask: Tensor) -> GateStep:
        """Return the layer stopped at its attention gate; mask: (B, L), 1 = real."""
        g_att, g_ffn = self.gating_function(video, audio)
        attention, ffn = self.gating_function.gates
        # The 1/0 masks were handed over as numbers, and numbers are added to the scores: padding is not hidden.
        added = mask.to(video.dtype)[:, None, None]  # (B, 1, 1, L)
        n_audio = self.norm1(audio)
        branch = packed_attention(self.cross_attention, self.norm1(video), n_audio, n_audio, added)

        def add_audio(gate: Tensor) -> GateStep:
            mixed = torch.addcmul(video, gate, branch)
            refined = self.ffn1(self.norm2(mixed))

            def relate_clips(gate: Tensor) -> Tensor:
                x = torch.addcmul(mixed, gate, refined)
                n = self.norm3(x)
                related = packed_attention(self.self_attention, n, n, n, added) + x
                return self.ffn2(self.norm4(related)) + related

            return GateStep(ffn, g_ffn, refined, mixed, relate_clips)

        return GateStep(attention, g_att, branch, video, add_audio)


class CrossAttentionFusion(GateTracking, nn.Module):
    """Both projections and the one layer."""

    gating_type = trained_gating_type = "global"
    num_layers = 1

    def __init__(self, video_dim: int, audio_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.video_proj = nn.Linear(video_dim, hidden_dim)
        self.audio_proj = nn.Linear(audio_dim, hidden_dim)
        self.dropout = nn.Dropout(_DROPOUT)
        self.fusion_layers = nn.ModuleList([CrossAttentionLayer(hidden_dim)])
        self._start_tracking()

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates of its layer."""
        layer: Any = self.fusion_layers[0]
        return layer.gating_function.gates


class CrossAttentionModel(FamilyModel):
    """QD-DETR behind that fusion."""

    def _add_fusion(self) -> None:
        a = self.architecture
        self.fusion = CrossAttentionFusion(a.video_dim, a.audio_dim, a.hidden_dim)

    def project_video(self, src_vid: Tensor) -> Tensor:
        """Return (B, L, D)."""
        return self.fusion.dropout(self.fusion.video_proj(self._brought(src_vid)))

    def project_audio(self, src_aud: Tensor) -> Tensor:
        """Return (B, L, D)."""
        return self.fusion.dropout(self.fusion.audio_proj(self._brought(src_aud)))

    def first_gate(
        self, layer_idx: int, video: Tensor, projected: Projected, *, legacy_batch_mask: bool = False
    ) -> GateStep:
        """Return the layer stopped at its attention gate."""
        return self.fusion.fusion_layers[layer_idx].first_gate(video, projected.audio, projected.vid_mask)


def _sizes(weights: Weights) -> dict[str, int]:
    return projected_by(weights, video="fusion.video_proj.weight", audio="fusion.audio_proj.weight")


FAMILY = Family(
    "cross_attention",
    "video that attends to audio over time (use_avigate)",
    model=CrossAttentionModel,
    marks=r"^fusion\.video_proj\.",
    gating_type="global",
    questions=("nheads",),
    fusion_n_heads=HEADS,
    sizes=_sizes,
    copies={"transformer.py": (PLAIN_TRANSFORMER,), "model.py": ("114f57bbf5239b60",)},
)
