"""temporal_gate (option use_temporal_gate): one gate a clip from video, audio and text, smoothed over time.

Letters: B batch, L clips, T tokens, D hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qd_detr.gates.fusion import GateStep
from qd_detr.gates.gating import ATTENTION, Gate
from qd_detr.gates.model.families.family import PLAIN_TRANSFORMER, Family, FamilyModel, Weights, projected_by
from qd_detr.gates.model.qd_detr import Projected
from qd_detr.gates.tracking.api import GateTracking


class GateNet(nn.Module):
    """The gate (B, L, 1) in (0, 1)."""

    def __init__(self, dim: int, w_a: nn.Linear) -> None:
        super().__init__()
        self.fc_base = nn.Linear(2 * dim, 1)
        self.w_q = nn.Linear(dim, dim, bias=False)
        self.w_a = w_a
        self.gamma = nn.Parameter(torch.tensor(10.0))
        self.tau = nn.Parameter(torch.tensor(0.5))

    def forward(self, video: Tensor, audio: Tensor, query: Tensor) -> Tensor:
        """Return (B, L, 1) of video and audio (B, L, D) and the sentence (B, D)."""
        fits = (self.w_q(audio) * query[:, None]).sum(dim=-1, keepdim=True)
        raw = torch.sigmoid(self.fc_base(torch.cat([video, audio], dim=-1))) * torch.sigmoid(fits)
        # Zeros outside, always a third: the ends are lower, and padded clips count as neighbours.
        smooth = F.avg_pool1d(raw.transpose(1, 2), 3, stride=1, padding=1).transpose(1, 2)
        return smooth * torch.sigmoid(self.gamma * (smooth - self.tau))


class TemporalFusion(GateTracking, nn.Module):
    """fused = v + g * w_a(a)."""

    gating_type = trained_gating_type = "clipwise"
    num_layers = 1
    gates = (Gate(ATTENTION.kind, ATTENTION.role, ATTENTION.label, ATTENTION.short, value_range=(0.0, 1.0)),)

    def __init__(self, video_dim: int, audio_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.v_proj = nn.Linear(video_dim, hidden_dim)
        self.a_proj = nn.Linear(audio_dim, hidden_dim)
        self.w_a = nn.Linear(hidden_dim, hidden_dim)
        self.gate_net = GateNet(hidden_dim, self.w_a)  # checkpoints hold w_a twice: here, and in the net
        self._start_tracking()


class TemporalGateModel(FamilyModel):
    """QD-DETR behind that fusion; outputs hold the gate as `alpha` as well."""

    fusion_reads_text = True

    def _add_fusion(self) -> None:
        a = self.architecture
        self.fusion = TemporalFusion(a.video_dim, a.audio_dim, a.hidden_dim)

    def project_video(self, src_vid: Tensor) -> Tensor:
        """Return (B, L, D)."""
        return self.fusion.v_proj(self._brought(src_vid))

    def project_audio(self, src_aud: Tensor) -> Tensor:
        """Return (B, L, D)."""
        return self.fusion.a_proj(self._brought(src_aud))

    def first_gate(
        self, layer_idx: int, video: Tensor, projected: Projected, *, legacy_batch_mask: bool = False
    ) -> GateStep:
        """Return the fusion stopped at its gate."""
        # Padded rows are no zeros once they are projected. Legacy batches averaged them in; alone there are none.
        rows = torch.ones_like(projected.txt_mask) if legacy_batch_mask else projected.txt_mask
        rows = rows.to(video.dtype)[..., None]
        query = (projected.text * rows).sum(dim=1) / rows.sum(dim=1)
        gate = self.fusion.gate_net(video, projected.audio, query)
        branch = self.fusion.w_a(projected.audio)
        return GateStep(self.fusion.gates[0], gate, branch, video, lambda g: torch.addcmul(video, g, branch))


def _sizes(weights: Weights) -> dict[str, int]:
    return projected_by(weights, video="fusion.v_proj.weight", audio="fusion.a_proj.weight")


FAMILY = Family(
    "temporal_gate",
    "one gate a clip that reads the text (use_temporal_gate)",
    model=TemporalGateModel,
    marks=r"^fusion\.gate_net\.",
    gating_type="clipwise",
    questions=("nheads",),
    sizes=_sizes,
    copies={"transformer.py": (PLAIN_TRANSFORMER,), "model.py": ("ff41581edc1da241",)},
)
