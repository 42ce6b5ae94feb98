"""Fine histograms on lattices that every stream shares, so that merging them is adding their counts.

Bin i of a lattice is [edge(i), edge(i + 1)), and edge(-i) = -edge(i): zero is an edge, and the histogram of the
magnitudes is the negative half folded onto the positive one.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

FINE_BINS = 32_768
"""A known range is cut into at least this many bins."""

MANTISSA_BITS = 10
"""Bins of a relative lattice to a factor of two: 2**MANTISSA_BITS."""

SMALLEST_EXPONENT = -30
"""Magnitudes below 2**SMALLEST_EXPONENT (1e-9) share one bin of a relative lattice."""


class Lattice(Protocol):
    """Where the bins lie."""

    def index(self, values: np.ndarray, first: int = 0) -> np.ndarray:
        """Return the bin of each float64 value, counted from bin `first`, as int64."""
        ...

    def edges(self, indices: np.ndarray) -> np.ndarray:
        """Return the lower edges of the bins `indices`."""
        ...


class EvenLattice:
    """Bins of one width, a power of two so that binning makes no rounding error: for values of a known range."""

    def __init__(self, width_exponent: int) -> None:
        self.width_exponent = width_exponent

    @classmethod
    def for_range(cls, low: float, high: float) -> EvenLattice:
        """Return the coarsest lattice with at least FINE_BINS bins between `low` and `high`."""
        return cls(math.frexp((high - low) / FINE_BINS)[1] - 1)

    def index(self, values: np.ndarray, first: int = 0) -> np.ndarray:
        """Return the bin of each float64 value, counted from bin `first`, as int64."""
        scaled = values * math.ldexp(1.0, -self.width_exponent)
        np.floor(scaled, out=scaled)
        scaled -= first
        return scaled.astype(np.int64)

    def edges(self, indices: np.ndarray) -> np.ndarray:
        """Return the lower edges of the bins `indices`."""
        return indices * math.ldexp(1.0, self.width_exponent)


class RelativeLattice:
    """Bins whose width follows the value, 2**-10 of the power of two below it: for values of unknown range.

    The width at a value depends on nothing but the value, so a single outlier of 1e6 leaves the bins around 0.5 as
    they were (0.0005 wide), and there is never anything to re-bin.
    """

    _shift = 52 - MANTISSA_BITS
    # Bins are the leading bits of the float64 itself; the first one counted is that of 2**SMALLEST_EXPONENT.
    _first = (SMALLEST_EXPONENT + 1023) << MANTISSA_BITS

    def index(self, values: np.ndarray, first: int = 0) -> np.ndarray:
        """Return the bin of each float64 value, counted from bin `first`, as int64."""
        keys = np.abs(values).view(np.int64)
        keys >>= self._shift
        keys -= self._first - 1
        np.maximum(keys, 0, out=keys)
        np.invert(keys, out=keys, where=values < 0)  # -1 - key
        keys -= first
        return keys

    def edges(self, indices: np.ndarray) -> np.ndarray:
        """Return the lower edges of the bins `indices`."""
        keys = np.abs(np.asarray(indices, dtype=np.int64))
        edges = ((keys + (self._first - 1)) << self._shift).view(np.float64)
        return np.where(keys == 0, 0.0, np.copysign(edges, indices))


class Histogram:
    """Counts over a contiguous run of a lattice's bins.

    Args:
        lattice: Where the bins lie.
        window: (first, end) bin of a fixed run; values beyond it by rounding, and the upper end of the range itself,
            are counted in its end bins. None: the run is exactly what the data needs.
    """

    def __init__(self, lattice: Lattice, window: tuple[int, int] | None = None) -> None:
        self.lattice = lattice
        self.window = window
        self.first = window[0] if window else 0
        self.counts = np.zeros(window[1] - window[0] if window else 0, dtype=np.int64)

    @classmethod
    def for_range(cls, value_range: tuple[float, float] | None) -> Histogram:
        """Return an empty histogram for values of this range, or of an unknown one."""
        if value_range is None:
            return cls(RelativeLattice())
        lattice = EvenLattice.for_range(*value_range)
        width = math.ldexp(1.0, lattice.width_exponent)
        return cls(lattice, (math.floor(value_range[0] / width), math.ceil(value_range[1] / width)))

    def add(self, values: np.ndarray, low: float, high: float) -> None:
        """Count float64 values (n,), n >= 1, which all lie in low .. high, the ends of all data so far."""
        ends = self.lattice.index(np.array((low, high))).tolist()
        if self.window is None:
            self._cover(ends[0], ends[1] + 1)
        indices = self.lattice.index(values, self.first)
        if ends[0] < self.first or ends[1] >= self.first + self.counts.size:
            np.clip(indices, 0, self.counts.size - 1, out=indices)
        np.add.at(self.counts, indices, 1)

    def merge(self, other: Histogram) -> None:
        """Add the counts of a histogram on the same lattice."""
        if other.counts.size:
            self._cover(other.first, other.first + other.counts.size)
            start = other.first - self.first
            self.counts[start : start + other.counts.size] += other.counts

    def folded(self) -> Histogram:
        """Return the histogram of the magnitudes: bin -1 - i is added to bin i."""
        split = min(max(-self.first, 0), self.counts.size)
        parts = [(-self.first - split, self.counts[:split][::-1])] if split else []
        if split < self.counts.size:
            parts.append((self.first + split, self.counts[split:]))
        result = Histogram(self.lattice)
        for first, counts in parts:
            result._cover(first, first + counts.size)
            start = first - result.first
            result.counts[start : start + counts.size] += counts
        return result

    def percentiles(self, percents: np.ndarray, low: float, high: float) -> np.ndarray:
        """Return percentiles with linear interpolation between order statistics, as np.percentile defines them.

        Both neighbouring order statistics are estimated, each within its own bin; so a percentile that falls in the
        gap of bimodal data is right, and no result is off by more than one bin's width. `low` and `high` are the
        exact ends of the data.
        """
        cumulative = np.cumsum(self.counts)
        last = int(cumulative[-1]) - 1
        position = percents / 100.0 * last
        below = np.floor(position).astype(np.int64)
        lower = self._order_statistics(below, cumulative, low, high)
        upper = self._order_statistics(np.minimum(below + 1, last), cumulative, low, high)
        return lower + (upper - lower) * (position - below)

    def coarse(self, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (counts, edges) of about `bins` even bins over a fixed range, or over the data if the range is free.

        Each edge is the nearest edge of the fine bins, so the counts are exact for the edges that are returned. Where
        fine bins are too few (constant data of unknown range) there are fewer than `bins`.
        """
        if bins < 1:
            raise ValueError(f"a histogram needs at least 1 bin, got {bins}")
        fine = self.lattice.edges(np.arange(self.first, self.first + self.counts.size + 1))
        wanted = np.linspace(fine[0], fine[-1], bins + 1)
        right = np.clip(np.searchsorted(fine, wanted), 1, fine.size - 1)
        nearest = np.unique(np.where(wanted - fine[right - 1] <= fine[right] - wanted, right - 1, right))
        return np.add.reduceat(self.counts, nearest[:-1]), fine[nearest]

    def _order_statistics(self, ranks: np.ndarray, cumulative: np.ndarray, low: float, high: float) -> np.ndarray:
        bins = np.searchsorted(cumulative, ranks, side="right")
        in_bin = self.counts[bins]
        share = (ranks - (cumulative[bins] - in_bin) + 0.5) / in_bin
        left = self.lattice.edges(self.first + bins)
        right = self.lattice.edges(self.first + bins + 1)
        estimate = np.clip(left + share * (right - left), low, high)
        return np.where(ranks == 0, low, np.where(ranks == cumulative[-1] - 1, high, estimate))

    def _cover(self, first: int, end: int) -> None:
        """Widen the run so that it holds the bins first .. end - 1."""
        if not self.counts.size:
            self.first, self.counts = first, np.zeros(end - first, dtype=np.int64)
        elif first < self.first or end > self.first + self.counts.size:
            before = max(self.first - first, 0)
            after = max(end - self.first - self.counts.size, 0)
            self.counts = np.pad(self.counts, (before, after))
            self.first -= before
