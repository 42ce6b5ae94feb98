"""scaled: a scaled sigmoid and a scaled tanh over normalised branches.

scaled_film, beside it, adds a shift and lets 1 + g multiply the FFN branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qd_detr.gates.errors import CheckpointError
from qd_detr.gates.fusion import GatedFusionLayer, GatingFunction
from qd_detr.gates.gating import ATTENTION, FFN, Gate
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.families.family import PLAIN_TRANSFORMER, Family, Weights, number_of

_DEFAULT_TEMPERATURE = 1.5


class ScaledGating(GatingFunction):
    """g_att = scale * sigmoid((MLP_mha + bias) / T), g_ffn = alpha * tanh(MLP_ffn)."""

    def __init__(self, hidden_dim: int, gating_type: str) -> None:
        super().__init__(hidden_dim, gating_type)
        self.mha_bias = nn.Parameter(torch.tensor(1.0))
        self.mha_scale = nn.Parameter(torch.tensor(1.0))
        self.ffn_alpha = nn.Parameter(torch.tensor(0.3))
        self.temperature = _DEFAULT_TEMPERATURE

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Both gates, with the ranges that the learned scales give them."""
        scale, alpha = float(self.mha_scale.detach()), abs(float(self.ffn_alpha.detach()))
        return (
            replace(ATTENTION, value_range=(min(0.0, scale), max(0.0, scale))),
            replace(FFN, value_range=(-alpha, alpha)),
        )

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        """Return the gates, each (B, *G)."""
        joint = self.joint(video, audio)
        attention = self.mha_scale * torch.sigmoid((self.mlp_mha(joint) + self.mha_bias) / self.temperature)
        return attention, self.ffn_alpha * torch.tanh(self.mlp_ffn(joint))


class ScaledLayer(GatedFusionLayer):
    """The base's layer with a norm after each gated branch."""

    gating_class: type[ScaledGating] = ScaledGating

    def __init__(self, hidden_dim: int, n_heads: int, gating_type: str) -> None:
        super().__init__(hidden_dim, n_heads, gating_type)
        self.gating_function: Any = self.gating_class(hidden_dim, gating_type)
        self.delta_norm_mha = nn.LayerNorm(hidden_dim)
        self.delta_norm_ffn = nn.LayerNorm(hidden_dim)

    def configure(self, architecture: Architecture) -> None:
        """Take the temperature, which no weight shows."""
        self.gating_function.temperature = architecture.settings["temperature"]

    def audio_branch(self, audio: Tensor) -> Tensor:
        """Return the normalised audio branch (B, L, D)."""
        return self.delta_norm_mha(super().audio_branch(audio))

    def refined(self, mixed: Tensor) -> Tensor:
        """Return the normalised FFN branch (B, L, D)."""
        return self.delta_norm_ffn(super().refined(mixed))


def settings_of(weights: Weights, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the temperature of the attention gate."""
    temperature = number_of(options, "mha_gate_temp", _DEFAULT_TEMPERATURE)
    if temperature == 0:
        raise CheckpointError("the option mha_gate_temp is 0, by which the gate is divided; give the run's own options")
    return {"temperature": temperature}


FAMILY = Family(
    "scaled",
    "scaled gates over normalised branches",
    layer=ScaledLayer,
    marks=r"\.gating_function\.mha_bias$",
    without=r"\.gating_function\.ffn_beta$",
    settings=settings_of,
    questions=("nheads", "fusion_n_heads", "mha_gate_temp"),
    copies={
        "transformer.py": (PLAIN_TRANSFORMER,),
        "model.py": ("9f29ed259f737e69",),
        "code/avigate_custom.py": ("a7c1ac0895a2f6ae",),
    },
)
