"""TVSum: top-5 average precision of predicted saliency against each rater. YouTube Highlights: that of all clips.

Shapes: N videos, C clips, R raters, K top clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOP_CLIPS = 5


@dataclass(frozen=True, eq=False)
class TvsumPerQuery:
    """Per-video figures in submission order: `qid` (N,) objects, `ap_by_rater` (N, R) fractions."""

    qid: np.ndarray
    ap_by_rater: np.ndarray

    @property
    def ap(self) -> np.ndarray:
        """AP, mean over raters, (N,)."""
        return self.ap_by_rater.mean(axis=1)


def tvsum_average_precision(predicted: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> np.ndarray:
    """Return the top-5 AP (N, R), from predicted (P_i,) and rater labels (C_i, R) per video."""
    return np.stack([top_average_precision(*video) for video in zip(predicted, labels, strict=True)])


def top_average_precision(saliency: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return one video's AP over its 5 highest-scored clips (first of equals), (R,), per rater.

    A clip is positive when its label is above that rater's median over all clips. Recall is of the positives
    among the top clips; precision is averaged over the two ends of each recall step (trapezoid) and begins at 1.
    A rater without a positive among the top clips counts 0. A prediction longer than the labels is cut.

    Args:
        saliency: (P,), at least one.
        labels: (C, R).
    """
    return _trapezoid_precision(saliency, labels > np.median(labels, axis=0), TOP_CLIPS)


def youtube_average_precision(predicted: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> np.ndarray:
    """Return the AP over all clips (N, 1), from predicted (P_i,) and labels (C_i, R) per video.

    A clip is a highlight when its first label is above 0; otherwise as `top_average_precision`. As the public
    evaluations of YouTube Highlights have it.
    """
    videos = zip(predicted, labels, strict=True)
    return np.stack([_trapezoid_precision(saliency, given[:, :1] > 0, len(given)) for saliency, given in videos])


def _trapezoid_precision(saliency: np.ndarray, positive: np.ndarray, count: int) -> np.ndarray:
    """Return the AP (R,) over the `count` highest-scored clips, from saliency (P,) and positive (C, R)."""
    top = np.argsort(-saliency[: len(positive)], kind="stable")[:count]  # (K,)
    hits = np.cumsum(positive[top], axis=0)  # (K, R)
    precision = hits / np.arange(1, len(top) + 1)[:, None]
    before = np.concatenate([np.ones((1, positive.shape[1])), precision[:-1]])
    area = (positive[top] * (before + precision) / 2).sum(axis=0)  # (R,), times the positives
    return area / np.maximum(hits[-1], 1)
