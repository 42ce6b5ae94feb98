"""Statistics of series around moments at every circular time shift, and the null distribution of their means.

Letters: n clips of a sample, S series (a layer's gate, its injection, ...), K statistics, D draws, L lags.

A statistic here is a weighted sum over clips, so its value at all n shifts is one matrix product; nothing is sampled
but which shift each video gets. Column 0 is inside minus outside, column 1 Spearman's correlation with the saliency,
then the L lags around window starts, then the L lags around window ends.

The null turns the series of a video by a number of clips drawn evenly from 0..n-1. No shift at all is among them: the
n turns form a group, and only with all of its members does the observed value rank evenly among the draws when the
series does not know the moments (without the shift 0 the null's mean would be -effect / (n - 1), not 0, and a p value
too small for short videos). The exact null mean of every column is therefore 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.ranks import average_ranks

MAX_LAG = 5
LAGS = tuple(range(-MAX_LAG, MAX_LAG + 1))
DIFFERENCE = slice(0, 1)
CORRELATION = slice(1, 2)
STARTS = slice(2, 2 + len(LAGS))
ENDS = slice(STARTS.stop, STARTS.stop + len(LAGS))
N_STATISTICS = ENDS.stop
N_HEADLINES = CORRELATION.stop
"""So many statistics come before the profiles."""
COLUMNS = {
    "inside_minus_outside": DIFFERENCE,
    "saliency_correlation": CORRELATION,
    "around_starts": STARTS,
    "around_ends": ENDS,
}
# Draws are added in blocks that stay in the processor's cache; the sums do not depend on it.
_BLOCK_BYTES = 1 << 19


@dataclass(frozen=True)
class Target:
    """What a sample's series are held against: the clips inside windows and the saliency per clip, either may miss."""

    inside: NDArray[np.bool_] | None  # (n,)
    saliency: NDArray[np.float64] | None  # (n,)


@dataclass(frozen=True)
class ShiftTable:
    """Every statistic of one sample at every shift: `values` (n, S, K), 0 where not `defined` (S, K)."""

    values: NDArray[np.float64]
    defined: NDArray[np.bool_]
    dropped: Counter[tuple[int, str, str]]  # (series, statistic, reason) -> 1


def window_edges(inside: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first clips inside (starts) and the first clips after (ends) of the runs in `inside` (n,).

    Edges that coincide with the video's own are left out: nothing is seen before or after them.
    """
    step = np.diff(inside.astype(np.int8))
    return np.flatnonzero(step == 1) + 1, np.flatnonzero(step == -1) + 1


def shift_table(series: NDArray[np.floating], target: Target) -> ShiftTable:
    """Return all statistics of `series` (S, n) against `target`, at all n circular shifts.

    Shift s moves the series s clips later: clip c shows what clip (c - s) mod n showed.
    """
    n_series, n = series.shape
    finite = np.isfinite(series).all(axis=1)  # (S,)
    values = np.where(finite[:, None], series, 0.0).astype(np.float64)
    constant = values.max(axis=1) == values.min(axis=1)  # (S,)
    # A constant series has no deviations; rounding in its mean must not become some.
    centred = np.where(constant[:, None], 0.0, values - values.mean(axis=1, keepdims=True))
    ranks = _unit(average_ranks(values))  # (S, n)

    weights, usable, reasons = _weights(target, n)
    table = np.empty((n_series, N_STATISTICS, n))
    table[...] = _at_every_shift(centred[:, None], weights)
    table[:, CORRELATION] = _at_every_shift(ranks[:, None], weights[CORRELATION])
    defined = usable & finite[:, None]
    defined[:, CORRELATION] &= ~constant[:, None]
    dropped: Counter[tuple[int, str, str]] = Counter()
    for name in COLUMNS:
        for index in range(n_series):
            reason = reasons.get(name)
            if reason is None and not finite[index]:
                reason = "series_not_finite"
            if reason is None and name == "saliency_correlation" and constant[index]:
                reason = "series_constant"
            if reason is not None:
                dropped[index, name, reason] += 1
    table[~defined] = 0.0
    return ShiftTable(table.transpose(2, 0, 1), defined, dropped)


def _at_every_shift(series: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum over clips c of weights[..., c] * series[..., c - s] for every shift s (..., n).

    By the correlation theorem: for rows this short it is cheaper than the product with all turned weights, and it
    takes no BLAS threads, which stall when the cores are busy with figures.
    """
    spectrum = np.fft.rfft(weights) * np.fft.rfft(series).conj()
    return np.fft.irfft(spectrum, n=weights.shape[-1])


def _weights(target: Target, n: int) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, str]]:
    """Return the weight of each clip in each statistic (K, n), which are usable (K,), and why the others are not."""
    weights = np.zeros((N_STATISTICS, n))
    usable = np.zeros(N_STATISTICS, dtype=bool)
    reasons: dict[str, str] = {}
    inside = target.inside
    if inside is None:
        reasons |= dict.fromkeys(("inside_minus_outside", "around_starts", "around_ends"), "no_windows_given")
    else:
        n_inside = int(inside.sum())
        if n_inside == 0 or n_inside == n:
            reasons["inside_minus_outside"] = "no_clip_inside" if n_inside == 0 else "no_clip_outside"
        else:
            weights[DIFFERENCE] = inside / n_inside - ~inside / (n - n_inside)
            usable[DIFFERENCE] = True
        for name, edges in zip(("around_starts", "around_ends"), window_edges(inside), strict=True):
            if not edges.size:
                reasons[name] = "no_edge_within_the_video"
            for column, lag in zip(range(N_STATISTICS)[COLUMNS[name]], LAGS, strict=True):
                clips = edges + lag
                clips = clips[(clips >= 0) & (clips < n)]
                if clips.size:
                    weights[column] = np.bincount(clips, minlength=n) / clips.size
                    usable[column] = True
    if target.saliency is None:
        reasons["saliency_correlation"] = "no_saliency_given"
    elif target.saliency.min() == target.saliency.max():
        reasons["saliency_correlation"] = "saliency_constant"
    else:
        weights[CORRELATION] = _unit(average_ranks(target.saliency))
        usable[CORRELATION] = True
    return weights, usable, reasons


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `rows` (..., n) centred and of length 1; rows without spread become 0."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)


class ShiftNull:
    """Means over samples, as observed and under draws of one shift per video.

    Add the videos in a fixed order: the k-th added gets the k-th set of shifts of the seed.

    Args:
        n_series: S. draws: D. seed: of the shifts. n_statistics: K, so many of the statistics are kept, the first ones.
    """

    def __init__(self, n_series: int, *, draws: int, seed: int, n_statistics: int = N_STATISTICS) -> None:
        self.draws = draws
        self.n_statistics = n_statistics
        self.n_samples = np.zeros((n_series, n_statistics), dtype=np.int64)
        self.n_videos = np.zeros_like(self.n_samples)
        self.dropped: Counter[tuple[int, str, str]] = Counter()
        self._observed = np.zeros((n_series, n_statistics))
        self._null = np.zeros((draws, n_series * n_statistics))
        self._rng = np.random.default_rng(seed)

    def add_video(self, tables: Sequence[ShiftTable]) -> None:
        """Add the queries of one video, all with the same number of clips; in a draw they share one shift."""
        kept = np.s_[..., : self.n_statistics]
        values = np.sum([table.values[kept] for table in tables], axis=0)  # (n, S, K)
        defined = np.sum([table.defined[kept] for table in tables], axis=0)  # (S, K)
        self.n_samples += defined
        self.n_videos += defined > 0
        for table in tables:
            self.dropped.update(table.dropped)
        self._observed += values[0]
        n = len(values)
        shifts = self._rng.integers(0, n, size=self.draws)
        flat = values.reshape(n, -1)
        step = max(1, _BLOCK_BYTES // (8 * flat.shape[1]))
        for begin in range(0, self.draws, step):
            self._null[begin : begin + step] += flat[shifts[begin : begin + step]]

    def means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the observed means (S, K) and those of the draws (D, S, K); NaN where no sample counts."""
        n = np.where(self.n_samples > 0, self.n_samples, np.nan)
        return self._observed / n, self._null.reshape(self.draws, *n.shape) / n
