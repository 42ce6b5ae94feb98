"""Do two predictions of one query agree, in the sense in which runs on different machines can agree at all?

Windows and their order are equal, but for a step (2 s) where the unrounded time lies within 1e-3 s of the rounding
edge, and for neighbours whose scores differ by less than 1e-5. Scores agree within 2e-4, saliency within 2e-2.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.runs.postprocess import MAX_TIME_S, PostprocessingOptions, ranked_windows, suppressed

SCORE_TOLERANCE = 2e-4
SALIENCY_TOLERANCE = 2e-2
EDGE_TOLERANCE_S = 1e-3
ORDER_TOLERANCE = 1e-5
# A saved score and ours are both rounded to 4 decimals; the difference of two such numbers is not exact in binary.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class OwnPrediction:
    """What this model gives for a query, before it is rounded: score (Q,), span_cxw (Q, 2), saliency (n,)."""

    query: Query
    score: npt.NDArray[np.float32]
    span_cxw: npt.NDArray[np.float32]
    saliency: npt.NDArray[np.float16]


@dataclass(frozen=True)
class Comparison:
    """How a saved prediction compares with ours; they agree if `differences` is empty.

    Attributes:
        differences: what differs, a sentence each.
        edge_steps: times one step apart, their unrounded value at the rounding edge. swapped: windows in another
            order among equal scores. Both are agreement.
    """

    qid: int | str
    differences: list[str] = field(default_factory=list)
    edge_steps: int = 0
    swapped: int = 0
    largest_score: float = 0.0
    largest_saliency: float = 0.0

    @property
    def agrees(self) -> bool:
        """True if nothing differs by more than machines may."""
        return not self.differences


@dataclass(frozen=True)
class _Window:
    """A window as written, [start s, end s, score], and before rounding."""

    written: list[float]
    raw_times_s: tuple[float, float]
    raw_score: float


def compare(saved: Mapping[str, Any], own: OwnPrediction, options: PostprocessingOptions) -> Comparison:
    """Compare a saved submission line with what this model gives for the same query."""
    windows = _own_windows(own, options)
    theirs = saved.get("pred_relevant_windows")
    qid = own.query.qid
    if not _is_table(theirs) or not is_numbers(saved.get("pred_saliency_scores")):
        return Comparison(qid, ["the saved line has no readable windows or saliency scores"])
    assert theirs is not None
    differences, found = [], Comparison(qid)
    if saved.get("vid") != own.query.vid:
        differences.append(f"another video: {saved.get('vid')!r} saved, {own.query.vid!r} annotated")
    if len(theirs) != len(windows):
        differences.append(f"{len(theirs)} windows saved, {len(windows)} here")
    else:
        found = _compare_windows(qid, theirs, windows, options)
        differences += found.differences
    saliency = np.asarray(saved["pred_saliency_scores"], float)
    largest = 0.0
    if len(saliency) != len(own.saliency):
        differences.append(f"saliency of {len(saliency)} clips saved, of {len(own.saliency)} here")
    else:
        largest = float(np.abs(saliency - own.saliency.astype(float)).max(initial=0.0))
        if not largest <= SALIENCY_TOLERANCE:
            differences.append(f"saliency differs by up to {largest:.3g}")
    return replace(found, differences=differences, largest_saliency=largest)


def _own_windows(own: OwnPrediction, options: PostprocessingOptions) -> list[_Window]:
    every = ranked_windows(own.score, own.span_cxw, own.query.duration_s, replace(options, nms_thd=-1))
    order = np.argsort(-own.score, kind="stable") if options.sort_by_score else np.arange(len(own.score))
    centre, half = own.span_cxw[:, 0], np.float32(0.5) * own.span_cxw[:, 1]
    duration = np.float32(own.query.duration_s)
    start, end = (centre - half) * duration, (centre + half) * duration
    windows = [
        _Window(written, (float(start[slot]), float(end[slot])), float(own.score[slot]))
        for written, slot in zip(every, order, strict=True)
    ]
    if options.nms_thd < 0:
        return windows
    # Suppression returns some of the very lists it was given.
    by_identity = {id(window.written): window for window in windows}
    kept = suppressed(every[: options.max_before_nms], options.nms_thd)[: options.max_after_nms]
    return [by_identity[id(written)] for written in kept]


def _compare_windows(
    qid: int | str, saved: Sequence[Sequence[float]], own: Sequence[_Window], options: PostprocessingOptions
) -> Comparison:
    """Compare window lists of equal length, rank by rank; within a run of equal scores, in any order."""
    differences: list[str] = []
    swapped = edge_steps = 0
    largest = 0.0
    for first, last in _equal_score_runs(own, options.sort_by_score):
        ranks = range(first, last)
        partner = _matching(saved, own, ranks, options.clip_length_s) or {rank: rank for rank in ranks}
        for rank in ranks:
            theirs, ours = saved[rank], own[partner[rank]]
            swapped += partner[rank] != rank
            gap = abs(theirs[2] - ours.written[2])
            largest = max(largest, gap)
            told = _time_differences(rank, theirs, ours, options.clip_length_s)
            if told is None:
                edge_steps += theirs[0] != ours.written[0] or theirs[1] != ours.written[1]
            else:
                differences.append(told)
            if not gap <= SCORE_TOLERANCE + _ROUNDING:
                differences.append(f"score of window {rank + 1}: {theirs[2]:g} saved, {ours.written[2]:g} here")
    return Comparison(qid, differences, edge_steps, swapped, largest)


def _equal_score_runs(own: Sequence[_Window], sorted_by_score: bool) -> list[tuple[int, int]]:
    """Return [first, last) of every run of neighbours whose scores differ by less than 1e-5."""
    starts = [
        rank
        for rank in range(len(own))
        if rank == 0 or not sorted_by_score or abs(own[rank - 1].raw_score - own[rank].raw_score) >= ORDER_TOLERANCE
    ]
    return list(zip(starts, [*starts[1:], len(own)], strict=True)) if own else []


def _matching(
    saved: Sequence[Sequence[float]], own: Sequence[_Window], ranks: range, step_s: float
) -> dict[int, int] | None:
    """Return which of our windows each saved one is, every one used once; None if there is no such assignment."""
    taken: dict[int, int] = {}  # our rank -> saved rank

    def place(rank: int, tried: set[int]) -> bool:
        # Itself first: order is only given up where it has to be.
        for candidate in sorted(ranks, key=lambda other: other != rank):
            if candidate in tried or not _alike(saved[rank], own[candidate], step_s):
                continue
            tried.add(candidate)
            if candidate not in taken or place(taken[candidate], tried):
                taken[candidate] = rank
                return True
        return False

    if not all(place(rank, set()) for rank in ranks):
        return None
    return {rank: candidate for candidate, rank in taken.items()}


def _alike(theirs: Sequence[float], ours: _Window, step_s: float) -> bool:
    near = abs(theirs[2] - ours.written[2]) <= SCORE_TOLERANCE + _ROUNDING
    return near and _time_differences(0, theirs, ours, step_s) is None


def _time_differences(rank: int, theirs: Sequence[float], ours: _Window, step_s: float) -> str | None:
    """Return what differs in a window's times, or None."""
    for written, saved, raw in zip(ours.written, theirs, ours.raw_times_s, strict=False):
        gap = abs(written - saved)
        if gap > 1e-6 and not (abs(gap - step_s) <= 1e-6 and _on_edge(raw, step_s)):
            return (
                f"window {rank + 1}: {theirs[0]:g} to {theirs[1]:g} s saved, {ours.written[0]:g} to "
                f"{ours.written[1]:g} s here (unrounded {ours.raw_times_s[0]:.3f} to {ours.raw_times_s[1]:.3f} s)"
            )
    return None


def _on_edge(raw_s: float, step_s: float) -> bool:
    steps = min(max(raw_s, 0.0), MAX_TIME_S) / step_s
    return abs(steps - math.floor(steps) - 0.5) * step_s <= EDGE_TOLERANCE_S


def is_numbers(values: Any) -> bool:
    """Whether what was read from a file is a list of finite numbers, none beyond what a float can hold."""
    return isinstance(values, list) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        for value in values
    )


def _is_table(values: Any) -> bool:
    return isinstance(values, list) and all(is_numbers(row) and len(row) == 3 for row in values)
