"""Moment retrieval: average precision and first-window recall of predicted windows.

Windows of all queries stand in one padded array beside a mask, so that no step loops over queries.

Shapes: N queries, P predicted windows, G ground-truth windows, T IoU thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
# Length of a ground-truth window in seconds: above the first, up to and including the second.
LENGTH_RANGES_S: Mapping[str, tuple[float, float]] = {
    "full": (0.0, math.inf),
    "long": (30.0, 150.0),
    "middle": (10.0, 30.0),
    "short": (0.0, 10.0),
}
MAX_PREDICTED_WINDOWS = 10


@dataclass(frozen=True, eq=False)
class MomentFigures:
    """Per-query figures of moment retrieval, in the order of the queries.

    `ap[name]` is (N, T) and `r1_iou[name]` is (N,), fractions, for every range of `LENGTH_RANGES_S`; a query
    without a ground-truth window of that length is NaN there and drops out of the range's means.
    `best_iou` is (N,): the highest IoU of any of the first 10 predicted windows with any ground-truth window.
    """

    ap: Mapping[str, np.ndarray]
    r1_iou: Mapping[str, np.ndarray]
    best_iou: np.ndarray


def moment_figures(predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> MomentFigures:
    """Return the figures of N queries.

    Args:
        predicted: Per query (P_i, 3): start s, end s, score, in submission order; P_i may be 0, which scores 0.
        truth: Per query (G_i, 2): start s, end s, with start < end; at least one.
    """
    windows, window_mask = pad([query[:MAX_PREDICTED_WINDOWS] for query in predicted], width=3)  # (N, P, 3), (N, P)
    truth_windows, truth_mask = pad(truth, width=2)  # (N, G, 2), (N, G)
    first = windows[:, 0, :2]  # (N, 2)

    scores = np.where(window_mask, windows[..., 2], -np.inf)  # (N, P)
    by_score = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(windows[..., :2], by_score[..., None], axis=1)  # (N, P, 2)
    ranked_iou = temporal_iou(ranked, truth_windows)  # (N, P, G)
    first_iou = temporal_iou(first[:, None], truth_windows)[:, 0]  # (N, G)

    lengths = truth_windows[..., 1] - truth_windows[..., 0]  # (N, G)
    ap: dict[str, np.ndarray] = {}
    r1_iou: dict[str, np.ndarray] = {}
    for name, (above, up_to) in LENGTH_RANGES_S.items():
        in_range = truth_mask & (lengths > above) & (lengths <= up_to)  # (N, G)
        rows = in_range.any(axis=1)
        ap[name] = np.full((len(rows), len(IOU_THRESHOLDS)), np.nan)
        ap[name][rows] = average_precision(ranked_iou[rows], in_range[rows])

        overlapped = np.argmax(np.where(in_range, first_iou, -1.0), axis=1)  # (N,), first of equals
        best_truth = np.take_along_axis(truth_windows, overlapped[:, None, None], axis=1)[:, 0]  # (N, 2)
        r1_iou[name] = np.where(rows, hull_iou(first, best_truth), np.nan)
    # Padding has no length, so its IoU is 0 and never the highest.
    return MomentFigures(ap=ap, r1_iou=r1_iou, best_iou=ranked_iou.max(axis=(1, 2)))


def pad(windows: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows (N, W, width) filled up with 0, and the mask (N, W) of the real ones; W is at least 1."""
    counts = np.array([len(query) for query in windows], dtype=np.intp)
    mask = np.arange(max(1, counts.max(initial=0))) < counts[:, None]  # (N, W)
    padded = np.zeros((*mask.shape, width))
    if mask.any():
        padded[mask] = np.concatenate([query for query in windows if len(query)])
    return padded, mask


def temporal_iou(windows: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the IoU (N, P, G) of windows (N, P, 2) with truth (N, G, 2); 0 where the union is empty."""
    start = np.maximum(windows[:, :, None, 0], truth[:, None, :, 0])  # (N, P, G)
    end = np.minimum(windows[:, :, None, 1], truth[:, None, :, 1])
    intersection = np.maximum(0.0, end - start)
    union = np.diff(windows, axis=-1) + np.diff(truth, axis=-1)[:, None, :, 0] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def hull_iou(windows: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the IoU (N,) of pairs (N, 2), with max(end) - min(start) for the union, 0 where that is 0.

    Equal to the IoU whenever the two overlap. The field's R1 is defined so.
    """
    intersection = np.maximum(0.0, np.minimum(windows[:, 1], truth[:, 1]) - np.maximum(windows[:, 0], truth[:, 0]))
    hull = np.maximum(windows[:, 1], truth[:, 1]) - np.minimum(windows[:, 0], truth[:, 0])
    return np.divide(intersection, hull, out=np.zeros_like(intersection), where=hull != 0)


def average_precision(iou: np.ndarray, truth_mask: np.ndarray) -> np.ndarray:
    """Return the average precision (N, T) of ranked windows.

    The area under the interpolated precision-recall steps: precision is made monotone from the right, and
    each true positive adds its step of recall times the precision there. Padding needs no mask among the
    predictions: ranked last with IoU 0, it is a false positive that adds no recall.

    Args:
        iou: (N, P, G), predictions by falling score.
        truth_mask: (N, G), at least one per query.
    """
    hits = np.cumsum(true_positives(iou, truth_mask), axis=2)  # (N, T, P)
    recall = hits / truth_mask.sum(axis=1)[:, None, None]
    precision = hits / np.arange(1, iou.shape[1] + 1)
    monotone = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    return (np.diff(recall, axis=2, prepend=0.0) * monotone).sum(axis=2)


def true_positives(iou: np.ndarray, truth_mask: np.ndarray) -> np.ndarray:
    """Return (N, T, P): is the prediction matched with a ground-truth window not taken by one ranked before it?

    The window of highest IoU among the free ones at or above the threshold is taken. Of equals it is the
    last: the official evaluation sorts by rising IoU and reads backwards.
    """
    n_queries, n_windows, n_truth = iou.shape
    thresholds = np.array(IOU_THRESHOLDS)[None, :, None]
    free = np.broadcast_to(truth_mask[:, None, :], (n_queries, len(IOU_THRESHOLDS), n_truth)).copy()  # (N, T, G)
    matched = np.zeros((n_queries, len(IOU_THRESHOLDS), n_windows), dtype=bool)
    for rank in range(n_windows):
        this_iou = iou[:, rank, None, :]  # (N, 1, G)
        candidates = np.where(free & (this_iou >= thresholds), this_iou, -1.0)  # (N, T, G)
        chosen = n_truth - 1 - np.argmax(candidates[..., ::-1], axis=2)[..., None]  # (N, T, 1)
        hit = np.take_along_axis(candidates, chosen, axis=2) >= 0  # (N, T, 1)
        matched[:, :, rank] = hit[..., 0]
        np.put_along_axis(free, chosen, np.take_along_axis(free, chosen, axis=2) & ~hit, axis=2)
    return matched
