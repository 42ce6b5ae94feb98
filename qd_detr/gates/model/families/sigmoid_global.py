"""sigmoid_global: the base's keys and global gating, but the attention gate is a sigmoid."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qd_detr.gates.fusion import GatingFunction
from qd_detr.gates.gating import ATTENTION, FFN, Gate
from qd_detr.gates.model.families.family import NOTHING, PLAIN_MODEL, PLAIN_TRANSFORMER, Family


class SigmoidGating(GatingFunction):
    """g_att = sigmoid(MLP_mha), g_ffn = tanh(MLP_ffn); the joint features are those of the base."""

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The attention gate in (0, 1), the FFN gate in (-1, 1)."""
        return replace(ATTENTION, value_range=(0.0, 1.0)), replace(FFN, value_range=(-1.0, 1.0))

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gates, each (B, 1, 1)."""
        joint = self.joint(video, audio)
        return torch.sigmoid(self.mlp_mha(joint)), torch.tanh(self.mlp_ffn(joint))


FAMILY = Family(
    "sigmoid_global",
    "global gating with a sigmoid attention gate",
    gating=SigmoidGating,
    gating_type="global",
    untrained=NOTHING,
    option_names=("ssm_band_width", "ssm_enc_channels", "ssm_dilations", "ssm_diag_subtract", "ssm_use_video_branch"),
    copies={
        "transformer.py": (PLAIN_TRANSFORMER,),
        "model.py": (
            "02bfe2093af106ba",
            "84e03d143ea3bd00",
            PLAIN_MODEL,
        ),
        "code/avigate_custom.py": (
            "13a004a7d72e714a",
            "9d26a4daead35c62",
        ),
    },
    code_also_of=("base",),
)
