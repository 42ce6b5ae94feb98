"""Highlight detection: how well predicted saliency finds the clips that annotators scored high.

Shapes: N queries, C clips, A annotators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# An annotator calls a clip positive at this score or above.
HIGHLIGHT_LEVELS: Mapping[str, float] = {"Fair": 2.0, "Good": 3.0, "VeryGood": 4.0}
ANNOTATORS = 3


@dataclass(frozen=True, eq=False)
class HighlightFigures:
    """Per-query figures of highlight detection for every level of `HIGHLIGHT_LEVELS`, in the order of the queries.

    `ap_by_annotator[level]` is (N, A), a fraction; `hit1[level]` is (N,), 1.0 where any annotator calls the
    highest-scored clip positive, else 0.0.
    """

    ap_by_annotator: Mapping[str, np.ndarray]
    hit1: Mapping[str, np.ndarray]


def highlight_figures(predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> HighlightFigures:
    """Return the figures of N queries.

    Args:
        predicted: Per query (P_i,), a saliency score per clip, at least one; longer than the truth it is cut for
            the AP, shorter it is filled up with 0.
        truth: Per query (C_i, A), the annotators' scores of every clip (see `clip_scores`), at least one clip.
    """
    n_clips = max(max(len(query) for query in predicted), max(len(query) for query in truth))
    annotated = np.zeros((len(truth), truth[0].shape[1], n_clips))  # (N, A, C)
    saliency = np.full((len(truth), n_clips), -np.inf)  # (N, C)
    top_clip = np.empty(len(truth), dtype=np.intp)
    for row, (scores, labels) in enumerate(zip(predicted, truth, strict=True)):
        annotated[row, :, : len(labels)] = labels.T
        kept = scores[: len(labels)]
        saliency[row, : len(kept)] = kept
        saliency[row, len(kept) : len(labels)] = 0.0
        # Of the uncut prediction: a highest clip past the ground truth's end is a miss.
        top_clip[row] = np.argmax(scores)

    by_saliency = np.argsort(-saliency, axis=1, kind="stable")  # (N, C)
    ranked_saliency = np.take_along_axis(saliency, by_saliency, axis=1)
    # A precision-recall point stands where a run of equal scores ends.
    run_ends = np.ones(saliency.shape, dtype=bool)  # (N, C)
    run_ends[:, :-1] = ranked_saliency[:, 1:] != ranked_saliency[:, :-1]
    ranked = np.take_along_axis(annotated, by_saliency[:, None], axis=2)  # (N, A, C)
    at_top = np.take_along_axis(annotated, top_clip[:, None, None], axis=2)[..., 0]  # (N, A)
    return HighlightFigures(
        ap_by_annotator={
            level: ranked_average_precision(ranked >= at_least, run_ends[:, None])
            for level, at_least in HIGHLIGHT_LEVELS.items()
        },
        hit1={level: (at_top >= at_least).any(axis=1).astype(float) for level, at_least in HIGHLIGHT_LEVELS.items()},
    )


def clip_scores(n_clips: int, clip_ids: Sequence[int], scores: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the annotators' scores of every clip, (n_clips, A): those given for `clip_ids`, 0 elsewhere."""
    full = np.zeros((n_clips, ANNOTATORS))
    if len(clip_ids):
        full[list(clip_ids)] = scores
    return full


def ranked_average_precision(positive: np.ndarray, run_ends: np.ndarray) -> np.ndarray:
    """Return the average precision (N, A) of ranked clips; 0 without a positive clip, 1 when all are.

    The mean of the monotone precision over the points where recall rises. Padding at the end needs no mask: it
    raises no recall, and its precision lies below that of the last real clip.

    Args:
        positive: (N, A, C), clips by falling saliency.
        run_ends: (N, 1, C), true on the last clip of each run of equal saliency.
    """
    hits = np.cumsum(positive, axis=2)  # (N, A, C)
    precision = np.where(run_ends, hits / np.arange(1, positive.shape[2] + 1), 0.0)
    monotone = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    # Whole hits are compared instead of recall as float32: the same below 2**23 positive clips, and exact.
    hits_at_ends = np.maximum.accumulate(np.where(run_ends, hits, 0), axis=2)
    rises = np.diff(hits_at_ends, axis=2, prepend=0) > 0
    points = rises.sum(axis=2)  # (N, A)
    return np.where(rises, monotone, 0.0).sum(axis=2) / np.maximum(points, 1)
