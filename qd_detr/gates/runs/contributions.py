"""When the audio made the prediction what it is: contributions of every fusion layer and clip that sum to its effect.

Letters: A fusion layers, n clips of a sample, Q slots, R points on a path, K targets, W windows.

s in [0, 1]^(A x n) scales every attention gate, clip by clip: s = 1 is the model as it is, s = 0 all of them off. The
contribution of layer l and clip t to a scalar F of the outputs is the integrated gradient along the straight path,

    C[l, t] = integral over a from 0 to 1 of dF / ds[l, t] at s = a * 1        (Sundararajan, Taly, Yan, ICML 2017)

and the sum of C is F(1) - F(0). The integral is a sum over steps of the path, each with the gradient at its midpoint.
The path has kinks (IoU, ReLU), so a step is halved where its sum and its difference of F disagree, and nowhere else.

A sample runs alone, its batch being the points of its own path: its numbers depend on no other sample and on no batch
size, and there is no padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qd_detr.gates.fusion import GateSite
from qd_detr.gates.gating import ATTENTION
from qd_detr.gates.model.qd_detr import QDDETR, Projected

FIRST_STEPS = 8
MOST_STEPS = 256
MOST_ROWS = 32  # points of a path that run as one batch
MOST_ERROR = 4.0
ABSOLUTE_BOUND, RELATIVE_BOUND = 1e-3, 0.01

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Contributions:
    """What one sample's clips contributed to one target.

    Attributes:
        values: C (A, n). with_audio, without_audio: F(1) and F(0).
        bound: how far the sum of C may be from the effect.
        nodes: points of the path at which a gradient was taken.
    """

    values: Array
    with_audio: float
    without_audio: float
    bound: float
    nodes: int

    @property
    def effect(self) -> float:
        """F(1) - F(0)."""
        return self.with_audio - self.without_audio

    @property
    def residual(self) -> float:
        """The sum of C less the effect."""
        return float(self.values.sum()) - self.effect

    @property
    def complete(self) -> bool:
        """Whether the contributions sum to the effect within the bound."""
        return abs(self.residual) <= self.bound


def bound_of(effect: float) -> float:
    """Return how far contributions may miss their effect: 1e-3, or 1 % of it where that is more."""
    return max(ABSOLUTE_BOUND, RELATIVE_BOUND * abs(effect))


class AudioPath:
    """One sample's model as a function of s.

    Args:
        model: in eval mode.
        batch: the features of one sample without padding, as `collate` gives them.
    """

    def __init__(self, model: QDDETR, batch: Mapping[str, Any]) -> None:
        self._model = model
        with torch.no_grad():
            self._projected = model.project(
                batch["src_txt"], batch["src_txt_mask"], batch["src_vid"], batch["src_vid_mask"], batch["src_aud"]
            )
        if len(self._projected.video) != 1 or not bool(self._projected.vid_mask.all()):
            raise ValueError("a path is that of one sample without padding")
        self.num_layers = model.avigate_fusion.num_layers
        self.n_clips = self._projected.video.shape[1]
        self.forwards = 0

    def predictions(self, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots' scores (R, Q) and spans (R, Q, 2; start and end as fractions) at s = scales (R, A, n)."""
        one, count = self._projected, len(scales)
        rows = Projected(
            video=_repeated(one.video, count),
            audio=_repeated(one.audio, count),
            text=_repeated(one.text, count),
            vid_mask=_repeated(one.vid_mask, count),
            txt_mask=_repeated(one.txt_mask, count),
        )

        def scaled(site: GateSite, gate: Tensor) -> Tensor:
            return gate * scales[:, site.layer_idx, :, None] if site.kind == ATTENTION.kind else gate

        fused = self._model.fuse(rows, edit=scaled)
        outputs = self._model.decode(fused, rows, attached_references=True)
        centre, width = outputs["pred_spans"].unbind(-1)
        spans = torch.stack([centre - width / 2, centre + width / 2], dim=-1)
        self.forwards += len(scales)
        return outputs["pred_logits"].softmax(dim=-1)[..., 0], spans

    def values(self, scales: NDArray[np.floating], targets: Sequence[Tensor]) -> Array:
        """Return F (R, K) at s = scales (R, A, n) for each target's windows (W, 2)."""
        parts = []
        with torch.no_grad():
            for part in np.split(scales, range(MOST_ROWS, len(scales), MOST_ROWS)):
                score, spans = self.predictions(self._tensor(part))
                parts.append(torch.stack([weighted_overlap(score, spans, one) for one in targets], dim=-1))
        return torch.cat(parts).double().cpu().numpy()

    def gradients(self, points: NDArray[np.floating], targets: Sequence[Tensor]) -> tuple[Array, Array]:
        """Return F (R, K) and dF/ds (R, K, A, n) at s = a * 1 for every a of points (R,)."""
        values, slopes = [], []
        for part in np.split(points, range(MOST_ROWS, len(points), MOST_ROWS)):
            ones = np.ones((1, self.num_layers, self.n_clips))
            scales = self._tensor(part[:, None, None] * ones).requires_grad_()
            with torch.enable_grad():
                score, spans = self.predictions(scales)
                of_targets = [weighted_overlap(score, spans, one) for one in targets]
            last = len(of_targets) - 1
            by_target = [
                torch.autograd.grad(one.sum(), scales, retain_graph=k < last)[0] for k, one in enumerate(of_targets)
            ]
            self.forwards += len(part) * len(targets)
            values.append(torch.stack([one.detach() for one in of_targets], dim=-1))
            slopes.append(torch.stack(by_target, dim=1))
        return tuple(torch.cat(one).double().cpu().numpy() for one in (values, slopes))  # type: ignore[return-value]

    def first_window(self) -> Tensor:
        """Return the model's own first window (1, 2), unrounded."""
        with torch.no_grad():
            score, spans = self.predictions(self._tensor(np.ones((1, self.num_layers, self.n_clips))))
            return spans[0, score[0].argmax()][None]

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        like = self._projected.video
        return torch.tensor(values, dtype=like.dtype, device=like.device)


def _repeated(tensor: Tensor, rows: int) -> Tensor:
    return tensor.expand(rows, *tensor.shape[1:])


def weighted_overlap(score: Tensor, spans: Tensor, windows: Tensor) -> Tensor:
    """Return the sum over slots of w_k max_j IoU(span_k, window_j), w_k = p_k / sum p, (R,).

    score (R, Q); spans (R, Q, 2) and windows (W, 2) as start and end.
    """
    start, end = spans[..., :1], spans[..., 1:]  # (R, Q, 1)
    overlap = (torch.minimum(end, windows[:, 1]) - torch.maximum(start, windows[:, 0])).clamp(min=0.0)  # (R, Q, W)
    union = (end - start) + (windows[:, 1] - windows[:, 0]) - overlap
    best = (overlap / union).amax(dim=-1)
    return (best * score).sum(dim=-1) / score.sum(dim=-1)


def contributions(path: AudioPath, targets: Sequence[Tensor], most_steps: int = MOST_STEPS) -> list[Contributions]:
    """Return what the sample's clips contributed to each target.

    Args:
        targets: per target its windows (W, 2), start and end as fractions of the video.
        most_steps: no step is halved when there are as many.
    """
    edges = np.linspace(0.0, 1.0, FIRST_STEPS + 1)
    at_edges = path.values(edges[:, None, None] * np.ones((1, path.num_layers, path.n_clips)), targets)  # (R, K)
    steps = _Steps.between(path, targets, edges, at_edges)
    bounds = np.array([bound_of(effect) for effect in at_edges[-1] - at_edges[0]])  # (K,)
    nodes = len(steps)
    while len(steps) < most_steps:
        chosen = _to_halve(steps.errors(), bounds)[: most_steps - len(steps)]
        if not len(chosen):
            break
        steps = steps.halved(path, targets, chosen)
        nodes += 2 * len(chosen)
    values = np.einsum("r,rkat->kat", steps.ends - steps.starts, steps.slopes)
    return [
        Contributions(values[k], float(at_edges[-1, k]), float(at_edges[0, k]), float(bounds[k]), nodes)
        for k in range(len(targets))
    ]


def _to_halve(errors: Array, bounds: Array) -> NDArray[np.intp]:
    """Return the steps that have to be halved, worst first; none where the sums are good enough. errors (R, K).

    Good enough: the errors sum to the bound (K,) at most, and their sizes to `MOST_ERROR` bounds, so that no sum is right
    by errors that happen to cancel. Where not, the fewest steps are halved that hold half of what is too much.
    """
    chosen: dict[int, float] = {}
    for error, bound in zip(errors.T, bounds, strict=True):
        size = np.abs(error)
        if abs(error.sum()) <= bound and size.sum() <= MOST_ERROR * bound:
            continue
        goal = min(size.sum(), MOST_ERROR * bound) / 2
        order = np.argsort(-size, kind="stable")
        left = size.sum() - np.cumsum(size[order])
        for r in order[: int(np.argmax(left <= goal)) + 1].tolist():
            chosen[r] = max(chosen.get(r, 0.0), size[r] / bound)
    return np.array(sorted(chosen, key=lambda r: -chosen[r]), dtype=np.intp)


@dataclass(frozen=True, eq=False)
class _Steps:
    """Steps of a path (R,): where they start and end, F there and at the midpoint (R, K), slopes there (R, K, A, n)."""

    starts: Array
    ends: Array
    at_starts: Array
    at_ends: Array
    at_midpoints: Array
    slopes: Array

    @classmethod
    def between(cls, path: AudioPath, targets: Sequence[Tensor], edges: Array, at_edges: Array) -> _Steps:
        values, slopes = path.gradients((edges[:-1] + edges[1:]) / 2, targets)
        return cls(edges[:-1], edges[1:], at_edges[:-1], at_edges[1:], values, slopes)

    def __len__(self) -> int:
        return len(self.starts)

    def errors(self) -> Array:
        """Return per step and target its sum less its difference of F, (R, K)."""
        sums = self.slopes.sum(axis=(2, 3)) * (self.ends - self.starts)[:, None]
        return sums - (self.at_ends - self.at_starts)

    def halved(self, path: AudioPath, targets: Sequence[Tensor], chosen: NDArray[np.intp]) -> _Steps:
        """Return the steps with the chosen ones halved; F at their midpoints is known already."""
        middle = (self.starts[chosen] + self.ends[chosen]) / 2
        starts = np.concatenate([self.starts[chosen], middle])
        ends = np.concatenate([middle, self.ends[chosen]])
        at_starts = np.concatenate([self.at_starts[chosen], self.at_midpoints[chosen]])
        at_ends = np.concatenate([self.at_midpoints[chosen], self.at_ends[chosen]])
        values, slopes = path.gradients((starts + ends) / 2, targets)
        halves = _Steps(starts, ends, at_starts, at_ends, values, slopes)
        kept = np.setdiff1d(np.arange(len(self)), chosen)
        return _Steps(
            *(
                np.concatenate([old[kept], new])
                for old, new in zip(vars(self).values(), vars(halves).values(), strict=True)
            )
        )
