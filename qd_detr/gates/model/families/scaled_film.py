"""scaled_film: the gates of `scaled`, but 1 + g multiplies the FFN branch, and a third gate shifts every feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from qd_detr.gates.fusion import GateStep, two_layers
from qd_detr.gates.gating import SHIFT, Gate
from qd_detr.gates.model.families.scaled import FAMILY as SCALED
from qd_detr.gates.model.families.scaled import ScaledGating, ScaledLayer

FFN_SHIFT = Gate("ffn_shift", SHIFT, "FFN shift", "shift")


class FilmGating(ScaledGating):
    """The gates of `scaled`, and shift = beta * tanh(MLP_ffn_beta)."""

    def __init__(self, hidden_dim: int, gating_type: str) -> None:
        super().__init__(hidden_dim, gating_type)
        self.ffn_beta = nn.Parameter(torch.tensor(0.3))
        self.mlp_ffn_beta = two_layers(2 * hidden_dim, hidden_dim // 2, self.gating.channels(hidden_dim))

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The three gates; the FFN branch is off at g = -1, where 1 + g is 0."""
        attention, ffn = super().gates
        beta = abs(float(self.ffn_beta.detach()))
        return attention, replace(ffn, off=-1.0), replace(FFN_SHIFT, value_range=(-beta, beta))

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        """Return the three gates, each (B, *G)."""
        shift = self.ffn_beta * torch.tanh(self.mlp_ffn_beta(self.joint(video, audio)))
        return *super().forward(video, audio), shift


class FilmLayer(ScaledLayer):
    """zb = z + (1 + g_ffn) * d + shift."""

    gating_class = FilmGating

    def after_audio(self, mixed: Tensor, values: tuple[Tensor, ...], finish: Callable[[Tensor], Tensor]) -> GateStep:
        """Return the layer stopped at its FFN gate; the shift follows it."""
        _, ffn, shift = self.gates
        _, g_ffn, g_shift = values
        refined = self.refined(mixed)

        def add_shift(gate: Tensor) -> GateStep:
            scaled = torch.addcmul(mixed, 1 + gate, refined)
            everywhere = torch.ones_like(scaled)
            return GateStep(shift, g_shift, everywhere, scaled, lambda g: finish(scaled + g))

        return GateStep(ffn, g_ffn, refined, mixed, add_shift)


FAMILY = replace(
    SCALED,
    name="scaled_film",
    like="scaled gates with a FiLM shift",
    layer=FilmLayer,
    marks=SCALED.without,  # the key of the shift
    without=None,
)
