"""text_audio (option use_custom_audio_fusion): audio refined by the text, one gate, then joined to the video's features.

Letters: B batch, L clips, T tokens, D hidden, Dv video features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qd_detr.gates.fusion import GateStep
from qd_detr.gates.gating import ATTENTION, Gate
from qd_detr.gates.model.attention import packed_attention, padding_of, visible_keys
from qd_detr.gates.model.families.family import PLAIN_TRANSFORMER, Family, FamilyModel, Weights, count_of, size_of
from qd_detr.gates.model.heads import ProjectionStage
from qd_detr.gates.model.positions import normal
from qd_detr.gates.model.qd_detr import Projected
from qd_detr.gates.tracking.api import GateTracking

_DROPOUT = 0.5


class TextAudioFusion(GateTracking, nn.Module):
    """Audio attends to the text, and one gate for the sequence scales what comes of it."""

    gating_type = trained_gating_type = "global"
    num_layers = 1
    gates = (Gate(ATTENTION.kind, ATTENTION.role, ATTENTION.label, ATTENTION.short, value_range=(0.0, 1.0)),)

    def __init__(self, hidden_dim: int, n_heads: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.audio_proj = nn.Linear(hidden_dim, hidden_dim)
        self.cross_attention = nn.MultiheadAttention(hidden_dim, n_heads, dropout=_DROPOUT, batch_first=True)
        self.dummy_token = nn.Parameter(normal(1, 1, hidden_dim))
        self.ffn = nn.Sequential(
            nn.Linear(hidden_dim, 4 * hidden_dim), nn.ReLU(), nn.Linear(4 * hidden_dim, hidden_dim)
        )
        self.gate_self_attention = nn.MultiheadAttention(hidden_dim, n_heads, dropout=_DROPOUT, batch_first=True)
        self.gate_mlp = nn.Sequential(nn.Linear(hidden_dim, hidden_dim // 2), nn.ReLU(), nn.Linear(hidden_dim // 2, 1))
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(_DROPOUT)
        self._start_tracking()

    def refine(
        self, audio: Tensor, text: Tensor, txt_pad: Tensor | None, vid_pad: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the gate (B, 1, 1) and what it scales (B, L, D)."""
        p = self.dropout(self.audio_proj(audio))
        dummy = self.dummy_token.expand(len(text), 1, -1)
        keys = torch.cat([text, dummy], dim=1)
        values = torch.cat([text, torch.zeros_like(dummy)], dim=1)
        hidden = None if txt_pad is None else torch.cat([txt_pad, torch.zeros_like(txt_pad[:, :1])], dim=1)
        x = self.norm1(p + packed_attention(self.cross_attention, p, keys, values, visible_keys(hidden)))
        y = self.norm2(x + self.ffn(x))
        s = packed_attention(self.gate_self_attention, y, y, y, visible_keys(vid_pad))
        # Over all rows, padding too: legacy checkpoints were trained so.
        return torch.sigmoid(self.gate_mlp(s.mean(dim=1, keepdim=True))), y


class TextAudioModel(FamilyModel):
    """QD-DETR whose video projection reads the video's features and the refined audio side by side."""

    fusion_reads_text = True

    def _add_fusion(self) -> None:
        a = self.architecture
        dim, settings = a.hidden_dim, a.settings
        self.input_aud_proj: Any = nn.Linear(a.audio_dim, dim)
        if settings["audio_stages"]:
            self.input_aud_proj = _stages(a.audio_dim, dim, settings["audio_stages"], a)
        self.audio_fusion_module = TextAudioFusion(dim, a.n_heads)
        stages = settings["video_stages"]
        self.input_vid_proj = _stages(a.video_dim + dim, dim, stages, a)
        # The code with one stage whatever the options say kept that stage's ReLU, unless they say one.
        last: Any = self.input_vid_proj[-1]
        last.relu = stages == 1 and a.n_input_proj > 1
        for name in settings["alignment"]:
            setattr(self, name, nn.Linear(settings["alignment"][name][1], settings["alignment"][name][0]))

    @property
    def avigate_fusion(self) -> TextAudioFusion:
        """The gated fusion, under the name that users' scripts know."""
        return self.audio_fusion_module

    def project_video(self, src_vid: Tensor) -> Tensor:
        """Return the features as they are, (B, L, Dv): their projection comes after the gate."""
        return self._brought(src_vid)

    def first_gate(
        self, layer_idx: int, video: Tensor, projected: Projected, *, legacy_batch_mask: bool = False
    ) -> GateStep:
        """Return the fusion stopped at its gate."""
        gate, refined = self.audio_fusion_module.refine(
            projected.audio, projected.text, padding_of(projected.txt_mask), projected.pad_mask
        )
        # [video | g * refined] is [video | 0] + g * [0 | refined]: the sum whose terms injection compares.
        beside = torch.cat([torch.zeros_like(video), refined], dim=-1)  # (B, L, Dv + D)
        alone = torch.cat([video, torch.zeros_like(refined)], dim=-1)
        return GateStep(
            self.audio_fusion_module.gates[0],
            gate,
            beside,
            alone,
            lambda g: self.input_vid_proj(torch.addcmul(alone, g, beside)),
        )


def _stages(in_dim: int, dim: int, count: int, a: Any) -> nn.Sequential:
    return nn.Sequential(
        *(ProjectionStage(in_dim if i == 0 else dim, dim, a.input_dropout, relu=i < count - 1) for i in range(count))
    )


def _sizes(weights: Weights) -> dict[str, int]:
    one_linear = "input_aud_proj.weight" in weights
    joined = size_of(weights, "input_vid_proj.0.LayerNorm.weight", 0)
    audio = ("input_aud_proj.weight", 1) if one_linear else ("input_aud_proj.0.LayerNorm.weight", 0)
    return {
        "video_dim": joined - size_of(weights, "global_rep_token", 0),
        "audio_dim": size_of(weights, *audio),
        "n_input_proj": count_of(weights, r"input_txt_proj\.(\d{1,9})\."),
        "fusion_layers": 1,
    }


def _settings(weights: Weights, options: Mapping[str, Any]) -> dict[str, Any]:
    alignments = [
        key.removesuffix(".weight") for key in weights if key.startswith("alignment_") and key.endswith(".weight")
    ]
    return {
        "audio_stages": count_of(weights, r"input_aud_proj\.(\d{1,9})\."),
        "video_stages": count_of(weights, r"input_vid_proj\.(\d{1,9})\."),
        "alignment": {name: [size_of(weights, f"{name}.weight", axis) for axis in (0, 1)] for name in alignments},
    }


FAMILY = Family(
    "text_audio",
    "audio refined by the text behind one gate (use_custom_audio_fusion)",
    model=TextAudioModel,
    marks=r"^audio_fusion_module\.",
    gating_type="global",
    questions=("nheads",),
    sizes=_sizes,
    settings=_settings,
    copies={
        "transformer.py": (PLAIN_TRANSFORMER,),
        "model.py": (
            "132f40ac9ccd159c",
            "ff41581edc1da241",
        ),
    },
)
