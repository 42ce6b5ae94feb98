"""Small heads and the arithmetic of anchors."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qd_detr.gates.model.attention import hooked

_STAGES_DRAWN = 3


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., dims[-1])."""
        for i, layer in enumerate(self.layers):
            x = layer(x) if i == 0 else layer(F.relu(x))
        return x


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Return log(x / (1 - x)) with x clamped to [0, 1] and both parts to at least 1e-3."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=1e-3) / (1 - x).clamp(min=1e-3))


class ProjectionStage(nn.Module):
    """LayerNorm, Dropout, Linear and, but for the last stage, ReLU."""

    def __init__(self, in_dim: int, out_dim: int, dropout: float, relu: bool) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(in_dim)
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(in_dim, out_dim))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_dim)."""
        x = self.net(self.LayerNorm(x))
        # A watched layer's output has to stay what it was.
        return F.relu(x, inplace=not (hooked(self.net) or hooked(self.net[1]))) if self.relu else x


def input_projection(in_dim: int, hidden_dim: int, n_stages: int, dropout: float) -> nn.Sequential:
    """Return the stages that bring features of in_dim to hidden_dim."""
    # All that the legacy code drew are drawn, and what is too many is dropped: a seed starts where it started there.
    drawn = [
        ProjectionStage(in_dim if i == 0 else hidden_dim, hidden_dim, dropout, relu=i < n_stages - 1)
        for i in range(max(n_stages, _STAGES_DRAWN))
    ]
    return nn.Sequential(*drawn[:n_stages])
