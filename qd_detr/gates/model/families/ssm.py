"""ssm: gates from a strip of the self-similarity matrix of video and audio (option global_diagstrip_ssm).

Letters: B batch, L clips, D hidden, w band width, C channels of the strip's encoder, F features of the gates' MLPs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qd_detr.gates.errors import CheckpointError
from qd_detr.gates.fusion import GatedFusionLayer
from qd_detr.gates.gating import ATTENTION, FFN, Gate
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.families.family import (
    Family,
    Weights,
    count_of,
    number_of,
    positive_integers,
    size_of,
)
from qd_detr.gates.model.families.sigmoid_global import FAMILY as SIGMOID_GLOBAL

_GATE = "fusion.fusion_layers.0.gating_function.ssm_gate."
_DROPOUT = 0.1


class StripEncoder(nn.Module):
    """Convolutions over time: one of kernel 1, then for every dilation one of kernel 3 and one of kernel 1."""

    def __init__(self, band_width: int, channels: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.Conv1d(2 * band_width + 1, channels, 1), nn.ReLU()]
        for dilation in dilations:
            stages += [nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation), nn.ReLU()]
            stages += [nn.Dropout(_DROPOUT), nn.Conv1d(channels, channels, 1), nn.ReLU()]
        self.net = nn.Sequential(*stages)

    def forward(self, strip: Tensor) -> Tensor:
        """Return (B, C, L) of a strip (B, 2w + 1, L)."""
        return self.net(strip)


class StripGate(nn.Module):
    """The gates of one layer, each (B, 1, 1)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        channels = settings["channels"]
        self.band_width: int = settings["band_width"]
        self.subtract: float = settings["diag_subtract"]
        self.streams: int = settings["streams"]
        self.encoder = StripEncoder(self.band_width, channels, tuple(settings["dilations"]))
        features = self.streams * channels
        self.norm = nn.LayerNorm(features)
        self.mlp_mha = nn.Sequential(nn.Linear(features, channels), nn.ReLU(), nn.Linear(channels, 1))
        self.mlp_ffn = nn.Sequential(nn.Linear(features, channels), nn.ReLU(), nn.Linear(channels, 1))

    def forward(self, video: Tensor, audio: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return attention and FFN gate of video and audio (B, L, D); real: (B, L), 1 = a clip."""
        pooled = [self._pooled(audio, real)]
        if self.streams > 1:
            pooled.append(self._pooled(video, real))
        if self.streams > 2:
            pooled.append(pooled[0] - pooled[1])
        features = self.norm(torch.cat(pooled, dim=-1))[:, None]  # (B, 1, F)
        return torch.sigmoid(self.mlp_mha(features)), torch.tanh(self.mlp_ffn(features))

    def _pooled(self, x: Tensor, real: Tensor) -> Tensor:
        hidden = self.encoder(self.strip(x, real))  # (B, C, L)
        return (hidden * real[:, None]).sum(dim=-1) / (real.sum(dim=-1, keepdim=True) + 1e-6)

    def strip(self, x: Tensor, real: Tensor) -> Tensor:
        """Return the diagonals -w..w of the similarity matrix, (B, 2w + 1, L), each beginning at clip 0."""
        x = x * real[..., None]
        unit = x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-6)
        length = x.shape[1]
        rows = []
        for k in range(min(self.band_width, length - 1) + 1):
            similar = (unit[:, : length - k] * unit[:, k:]).sum(dim=-1) - (self.subtract if k == 0 else 0.0)
            both = real[:, : length - k] * real[:, k:]
            rows.append(F.pad(both * (similar + 1) / 2, (0, k)))
        rows += [x.new_zeros(x.shape[:2])] * (self.band_width + 1 - len(rows))
        return torch.stack([rows[abs(k)] for k in range(-self.band_width, self.band_width + 1)], dim=1)


class StripGating(nn.Module):
    """Holds the gate under the name that checkpoints give it."""

    gating_type = "global"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.ssm_gate = StripGate(settings)


class StripLayer(GatedFusionLayer):
    """The base's layer with these gates."""

    def configure(self, architecture: Architecture) -> None:
        """Take the gating function that the settings describe."""
        self.gating_function: Any = StripGating(architecture.settings)

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The attention gate in (0, 1), the FFN gate in (-1, 1)."""
        return replace(ATTENTION, value_range=(0.0, 1.0)), replace(FFN, value_range=(-1.0, 1.0))

    def gate_values(self, video: Tensor, audio: Tensor, pad_mask: Tensor | None) -> tuple[Tensor, ...]:
        """Return the two gates, each (B, 1, 1)."""
        real = video.new_ones(video.shape[:2]) if pad_mask is None else (~pad_mask).to(video.dtype)
        return self.gating_function.ssm_gate(video, audio, real)


def _settings(weights: Weights, options: Mapping[str, Any]) -> dict[str, Any]:
    channels = size_of(weights, f"{_GATE}encoder.net.0.weight", 0)
    rows = size_of(weights, f"{_GATE}encoder.net.0.weight", 1)
    streams, rest = divmod(size_of(weights, f"{_GATE}norm.weight", 0), channels)
    convolutions = count_of(weights, re.escape(_GATE) + r"encoder\.net\.(\d+)\.weight")
    depth = (convolutions - 1) // 2
    # The first versions had no such options; what they had is the default of the later ones.
    dilations = positive_integers(options, "ssm_dilations", (1, 2, 4)[:depth])
    if rest or not 1 <= streams <= 3 or rows % 2 == 0:
        raise CheckpointError(
            f"the strip gate has {rows} rows, {channels} channels and {streams} streams of features, none that is known"
        )
    if len(dilations) != depth:
        raise CheckpointError(
            f"the options name {len(dilations)} dilations (ssm_dilations = {list(dilations)}), the weights have {depth}; "
            "give the run's own options with --config_path"
        )
    return {
        "band_width": rows // 2,
        "channels": channels,
        "streams": streams,
        "dilations": list(dilations),
        "diag_subtract": number_of(options, "ssm_diag_subtract", 0.1),
    }


FAMILY = Family(
    "ssm",
    "gates from a strip of the self-similarity matrix",
    layer=StripLayer,
    marks=r"\.gating_function\.ssm_gate\.",
    gating_type="global",
    option="global_diagstrip_ssm",
    settings=_settings,
    reads=("ssm_dilations", "ssm_diag_subtract"),
    copies=SIGMOID_GLOBAL.copies,  # one code trains both
)
