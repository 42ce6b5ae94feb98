"""What a query's annotation asks of the model: spans, and clips that should or should not stand out.

Letters: B batch, L clips of the longest video, n clips of one video, M spans, P pairs of clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qd_detr.gates.data.annotations import Query

# The sum of three annotators' scores of 0..4; TVSum's labels are brought to the same scale.
HIGHEST_LABEL = 12
_HIGHEST_RATING_TVSUM = 5
_RATERS_TVSUM = 20
# A pair that a query cannot give: its video, as cut, shows none of the relevant clips.
NO_CLIP = -1


@dataclass(frozen=True)
class QueryTargets:
    """One query's targets: span_cxw (M, 2) as fractions, labels (n,) of 0..12, pairs (P, 2) of (better, worse) clip."""

    span_cxw: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    pairs: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Targets:
    """A batch's targets.

    Attributes:
        span_cxw: (B, M, 2), centre and width, padded with centre 0.5 and width 1; M may be 0.
        span_counts: spans of each sample.
        labels: (B, L), 0..12, padded with 0.
        pairs: (B, P, 2), (better, worse) clip; (-1, -1) is no pair.
    """

    span_cxw: Tensor
    span_counts: tuple[int, ...]
    labels: Tensor
    pairs: Tensor

    def to(self, device: torch.device) -> Targets:
        """Return the targets on a device."""
        return Targets(
            self.span_cxw.to(device, non_blocking=True),
            self.span_counts,
            self.labels.to(device, non_blocking=True),
            self.pairs.to(device, non_blocking=True),
        )


def query_targets(
    query: Query, clips: int, clip_length_s: float, max_windows: int, rng: np.random.Generator
) -> QueryTargets:
    """Return the targets of a labelled query whose features have `clips` clips.

    Chance, all of it from `rng`, chooses `max_windows` of more windows, and the second pair of clips.

    Raises:
        ValueError: the query has no labels.
    """
    if not (query.labelled and query.has_saliency):
        raise ValueError(f"query {query.qid} has no labels to train on")
    if query.rater_labels is not None:
        labels = _tvsum_labels(query.rater_labels, clips)
        best_and_worst = [[int(labels.argmax()), int(labels.argmin())]]
        return QueryTargets(np.zeros((0, 2), np.float32), labels, np.array(best_and_worst, np.int64))
    assert query.relevant_windows
    assert query.relevant_clip_ids is not None
    assert query.saliency_scores is not None
    windows = np.array(query.relevant_windows, np.float64) / (clips * clip_length_s)  # (M, 2), start and end
    if len(windows) > max_windows:
        windows = windows[rng.permutation(len(windows))[:max_windows]]
    span_cxw = np.stack([windows.mean(axis=1), windows[:, 1] - windows[:, 0]], axis=1).astype(np.float32)

    scored = [
        (clip, sum(scores))
        for clip, scores in zip(query.relevant_clip_ids, query.saliency_scores, strict=True)
        if clip < clips
    ]
    labels = np.zeros(clips, np.float32)
    for clip, score in scored:
        labels[clip] = score
    return QueryTargets(span_cxw, labels, _clip_pairs(scored, clips, rng))


def _clip_pairs(scored: Sequence[tuple[int, float]], clips: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the two pairs: best and worst relevant clip; a random relevant and a random irrelevant one."""
    if not scored:
        return np.full((2, 2), NO_CLIP, np.int64)
    by_score = sorted(scored, key=lambda clip_and_score: clip_and_score[1])
    first = (by_score[-1][0], by_score[0][0])
    irrelevant = np.setdiff1d(np.arange(clips), [clip for clip, _ in scored])
    if not len(irrelevant):
        return np.array([first, first], np.int64)
    relevant = scored[int(rng.integers(len(scored)))][0]
    return np.array([first, (relevant, irrelevant[int(rng.integers(len(irrelevant)))])], np.int64)


def _tvsum_labels(ratings: npt.NDArray[np.float64], clips: int) -> npt.NDArray[np.float32]:
    highest = (_HIGHEST_RATING_TVSUM - 1) * _RATERS_TVSUM
    labels = np.zeros(clips, np.float32)
    scaled = (ratings[:clips] - 1).sum(axis=1) / highest * HIGHEST_LABEL
    labels[: len(scaled)] = scaled
    return labels


def collate_targets(items: Sequence[QueryTargets], clips: int) -> Targets:
    """Return the batch's targets; `clips` is L, the clips of its longest video.

    Raises:
        ValueError: `items` is empty.
    """
    if not items:
        raise ValueError("a batch needs at least one query")
    most = max(len(item.span_cxw) for item in items)
    span_cxw = np.empty((len(items), most, 2), np.float32)
    span_cxw[:] = (0.5, 1.0)  # padding is never matched; a real span keeps its costs finite
    labels = np.zeros((len(items), clips), np.float32)
    for b, item in enumerate(items):
        span_cxw[b, : len(item.span_cxw)] = item.span_cxw
        labels[b, : len(item.labels)] = item.labels
    return Targets(
        span_cxw=torch.from_numpy(span_cxw),
        span_counts=tuple(len(item.span_cxw) for item in items),
        labels=torch.from_numpy(labels),
        pairs=torch.from_numpy(np.stack([item.pairs for item in items])),
    )
