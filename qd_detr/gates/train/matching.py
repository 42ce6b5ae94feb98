"""Which slot answers for which span: the assignment of least total cost, sample by sample.

Letters: N predictions sets (decoder layers x batch), B batch, Q slots, M spans (padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qd_detr.gates.errors import RequestError, RunError

try:
    from scipy.optimize import linear_sum_assignment
except ModuleNotFoundError:  # only training needs SciPy
    linear_sum_assignment = None


class NotFiniteError(RunError):
    """Predictions, losses or gradients hold NaN or infinity: the training diverged."""


@dataclass(frozen=True)
class CostWeights:
    """How much each part of the matching cost counts."""

    span: float = 10.0
    giou: float = 1.0
    label: float = 4.0


@dataclass(frozen=True)
class Matches:
    """Matched pairs, one entry each: the set's index in N, the slot in Q and the span in M. int64, (pairs,)."""

    set_idx: Tensor
    slot: Tensor
    span: Tensor


def require_scipy() -> None:
    """Raise RequestError if SciPy, which solves the matching, is not installed."""
    if linear_sum_assignment is None:
        raise RequestError(
            "training needs SciPy (scipy.optimize.linear_sum_assignment) for the matching and it is not installed; "
            "pip install scipy"
        )


def span_ends(span_cxw: Tensor) -> tuple[Tensor, Tensor]:
    """Return start and end (...,) of spans (..., 2) given as centre and width."""
    half = 0.5 * span_cxw[..., 1]
    return span_cxw[..., 0] - half, span_cxw[..., 0] + half


def generalized_iou(a_cxw: Tensor, b_cxw: Tensor) -> Tensor:
    """Return gIoU = IoU - (hull - union) / hull of spans (..., 2), broadcast against each other, in one dimension."""
    a_start, a_end = span_ends(a_cxw)
    b_start, b_end = span_ends(b_cxw)
    shared = (torch.minimum(a_end, b_end) - torch.maximum(a_start, b_start)).clamp(min=0)
    union = (a_end - a_start) + (b_end - b_start) - shared
    hull = (torch.maximum(a_end, b_end) - torch.minimum(a_start, b_start)).clamp(min=0)
    return shared / union - (hull - union) / hull


@torch.no_grad()
def matching_costs(logits: Tensor, spans: Tensor, target_cxw: Tensor, weights: CostWeights) -> Tensor:
    """Return the cost (N, Q, M) of giving each slot each span.

    cost = w_span * L1 (summed over centre and width) - w_giou * gIoU - w_label * softmax(logits)[foreground].

    Args:
        logits, spans: (N, Q, 2). target_cxw: (N, M, 2).
    """
    foreground = logits.softmax(dim=-1)[..., :1]  # (N, Q, 1)
    slots, wanted = spans[:, :, None], target_cxw[:, None]  # (N, Q, 1, 2), (N, 1, M, 2)
    distance = (slots - wanted).abs().sum(dim=-1)  # (N, Q, M)
    return weights.span * distance - weights.giou * generalized_iou(slots, wanted) - weights.label * foreground


def match(costs: Tensor, span_counts: Sequence[int]) -> Matches:
    """Return the assignment of least cost for each of the N sets.

    Args:
        costs: (N, Q, M). span_counts: real spans of each set, N of them; the rest of M is padding.

    Raises:
        RequestError: SciPy is not installed.
        NotFiniteError: a cost is NaN or infinite.
    """
    require_scipy()
    table = costs.cpu().numpy()  # the one wait for the device
    if not np.isfinite(table).all():
        raise NotFiniteError("predictions are not finite")
    set_idx: list[int] = []
    slot: list[int] = []
    span: list[int] = []
    for n, count in enumerate(span_counts):
        slots, spans = linear_sum_assignment(table[n, :, :count])
        set_idx.extend([n] * len(slots))
        slot.extend(slots.tolist())
        span.extend(spans.tolist())
    packed = torch.tensor([set_idx, slot, span], dtype=torch.int64).to(costs.device, non_blocking=True)
    return Matches(packed[0], packed[1], packed[2])
