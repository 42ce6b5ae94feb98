"""t2v_saliency: the base's keys; the fusion stands inside the transformer, after the text, and no encoder follows it.

Letters: B batch, L clips, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from qd_detr.gates.fusion import GatedFusionLayer, GateStep
from qd_detr.gates.model.attention import packed_attention
from qd_detr.gates.model.families.family import PLAIN_FUSION, Family, FamilyModel
from qd_detr.gates.model.positions import clip_positions
from qd_detr.gates.model.qd_detr import Projected


class InsideTransformer(FamilyModel):
    """Projections, text into the video, fusion over [global | video], heads. The gates depend on the query."""

    fusion_reads_text = True

    def first_video(self, projected: Projected, *, legacy_batch_mask: bool = False) -> Tensor:
        """Return [global token | clips that have read the text] (B, 1 + L, D)."""
        positions = clip_positions(projected.vid_mask, self.architecture.hidden_dim).to(projected.video.dtype)
        clips = self.transformer.read_text(projected.video, positions, *self._text(projected, legacy_batch_mask))
        return torch.cat([self._token(clips), clips], dim=1)

    def first_gate(
        self, layer_idx: int, video: Tensor, projected: Projected, *, legacy_batch_mask: bool = False
    ) -> GateStep:
        """Return a layer stopped at its attention gate; it reads the clips and starts from the token anew."""
        layer: GatedFusionLayer = self.fusion.layers[layer_idx]
        branch = self.branch_of(layer_idx, projected)
        return layer.first_gate(
            video[:, 1:], projected.audio, branch, projected.pad_mask, self._relate(layer, projected.pad_mask)
        )

    def _relate(self, layer: GatedFusionLayer, pad_mask: Tensor | None) -> Callable[[Tensor], Tensor]:
        def relate(clips: Tensor) -> Tensor:
            x = torch.cat([self._token(clips), clips], dim=1)  # (B, 1 + L, D)
            n = layer.norm3(x)
            # The legacy mask is the wrong way round: the token and the padding are keys, the clips are not.
            keys = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
            keys[:, 1:] = False if pad_mask is None else pad_mask
            r = (packed_attention(layer.self_attention, n, n, n, keys[:, None, None]) + x)[:, 1:]
            return torch.cat([self._token(r), layer.ffn2(layer.norm4(r)) + r], dim=1)

        return relate

    def _token(self, clips: Tensor) -> Tensor:
        return self.global_rep_token.expand(len(clips), 1, -1)

    def _memory(
        self, fused: Tensor, video_pos: Tensor, vid_pad: Tensor | None, projected: Projected, legacy_batch_mask: bool
    ) -> Tensor:
        return fused

    def _fused_with(self, fused: Tensor, shifted: Projected) -> Tensor:
        return self.fuse(replace(shifted, branches={}))


FAMILY = Family(
    "t2v_saliency",
    "the fusion after the text, inside the transformer",
    model=InsideTransformer,
    untrained=r"^transformer\.encoder\.",
    copies={
        "transformer.py": ("b2171d46865055b5",),
        "model.py": ("7819f688cb539edb",),
        "code/avigate_custom.py": (PLAIN_FUSION,),
    },
    code_mark="_apply_fusion_with_saliency",
)
