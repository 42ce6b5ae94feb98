"""Statistics of one stream of values: exact moments and shares, percentiles from a fine histogram."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from qd_detr.gates.analysis.statistics.exact import MAX_EXPONENT, MAX_TERMS, SHORT_BITS, Moments, magnitude_exponent
from qd_detr.gates.analysis.statistics.histogram import Histogram

PERCENTS = (1, 5, 25, 75, 95, 99)
NEAR_ZERO = 0.05
"""A value with a magnitude below this is near zero: the branch behind the gate is all but shut off."""

SATURATION_MARGIN = 0.025
"""A value within this share of the range of either end is saturated; for (-1, 1) that is a magnitude above 0.95."""

RANGE_TOLERANCE = 1e-6
"""How far beyond the range a value may lie, as a share of the range's width: rounding, not another range."""

PENDING_VALUES = 8192
"""Small arrays are gathered up to this many values before they are processed together."""


def saturation_limits(value_range: tuple[float, float]) -> tuple[float, float]:
    """Return (low, high): values below the one or above the other are saturated."""
    low, high = value_range
    margin = SATURATION_MARGIN * (high - low)
    return low + margin, high - margin


def checked_range(value_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the range as two floats, or raise ValueError if it is no range."""
    if value_range is None:
        return None
    low, high = (float(end) for end in value_range)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"value_range: expected (low, high) with low < high, both finite, got {value_range!r}; "
            "give None where the range is not known"
        )
    return low, high


def check_values(low: float, high: float, value_range: tuple[float, float] | None, what: str = "values") -> None:
    """Raise ValueError unless values from `low` to `high` are finite and within the range."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{what}: expected finite numbers, got NaN or infinity among them")
    if value_range is None:
        if max(-low, high) > 2.0**MAX_EXPONENT:
            raise ValueError(f"{what}: from {low:.6g} to {high:.6g}, too large to be squared (limit 2**{MAX_EXPONENT})")
        return
    tolerance = RANGE_TOLERANCE * (value_range[1] - value_range[0])
    if low < value_range[0] - tolerance or high > value_range[1] + tolerance:
        raise ValueError(
            f"{what}: expected within [{value_range[0]:g}, {value_range[1]:g}], got values from {low:.9g} "
            f"to {high:.9g}; a gating function that has another range must state it (None if unknown)"
        )


class ValueStatistics:
    """Statistics of a stream of values that is seen once and never kept.

    Streams merge exactly: for a known range every figure of merge(a, b) equals, to the bit, that of one stream that
    saw all values, in any order and in blocks of any size. For an unknown range this holds for counts, histograms, min,
    max and percentiles; moments then agree to about 1e-22 of the largest magnitude.

    Percentiles are within one fine bin of np.percentile on all values: (high - low) / 32,768 for a known range (6e-5
    for a tanh), 0.1 % of the value itself (1e-9 near 0) for an unknown one. They are exact at min and max.

    Args:
        value_range: (low, high) that every value must lie in, or None if it is not known.
    """

    def __init__(self, value_range: tuple[float, float] | None) -> None:
        self.value_range = checked_range(value_range)
        self.min = math.inf
        self.max = -math.inf
        self.magnitude_min = math.inf
        self._moments = Moments()
        self._histogram = Histogram.for_range(self.value_range)
        self._positive = 0
        self._near_zero = 0
        self._saturated = 0
        self._pending = np.empty(0)
        self._pending_count = 0
        self._limits: tuple[float, float] | None = None
        self._exponent: int | None = None
        if self.value_range is not None:
            self._limits = saturation_limits(self.value_range)
            # Fixed by the range, never by the data: this is what makes the sums independent of the blocks.
            self._exponent = magnitude_exponent(max(map(abs, self.value_range)))

    @property
    def count(self) -> int:
        """The number of values seen."""
        return self._moments.count + self._pending_count

    def add(self, values: np.ndarray) -> None:
        """Take in an array of any shape; an empty one changes nothing.

        Raises:
            ValueError: A value is not finite, or outside the range by more than rounding; nothing is taken in then.
        """
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"values: expected real numbers, got dtype {array.dtype}")
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        check_values(low, high, self.value_range)
        self.add_checked(array if array.dtype.kind == "f" else array.astype(np.float64), low, high)

    def add_checked(self, values: np.ndarray, low: float, high: float) -> None:
        """Take in a non-empty float array whose least and greatest value are known and passed `check_values`."""
        self.min = min(self.min, low)
        self.max = max(self.max, high)
        flat = values.reshape(-1)
        if flat.size > PENDING_VALUES:
            for start in range(0, flat.size, MAX_TERMS):
                self._process(flat[start : start + MAX_TERMS])
            return
        if self._pending_count + flat.size > PENDING_VALUES:
            self._flush()
        if not self._pending.size:
            self._pending = np.empty(PENDING_VALUES)
        self._pending[self._pending_count : self._pending_count + flat.size] = flat
        self._pending_count += flat.size

    def merge(self, other: ValueStatistics) -> ValueStatistics:
        """Take in all that `other` has seen (which stays as it is) and return self."""
        if other.value_range != self.value_range:
            raise ValueError(f"cannot merge statistics of range {other.value_range} into those of {self.value_range}")
        self._flush()
        other._flush()
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        self.magnitude_min = min(self.magnitude_min, other.magnitude_min)
        self._moments.merge(other._moments)
        self._histogram.merge(other._histogram)
        self._positive += other._positive
        self._near_zero += other._near_zero
        self._saturated += other._saturated
        return self

    def histogram(self, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (counts, edges) of about `bins` even bins: over the known range, else from min to max.

        Edges are rounded to those of the fine bins, so the counts are exact for the edges that are returned.
        """
        return self._nonempty_histogram().coarse(bins)

    def magnitude_histogram(self, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (counts, edges) of the magnitudes, as `histogram`; a negative value on an edge counts below it."""
        return self._nonempty_histogram().folded().coarse(bins)

    def readout(self, histogram_bins: int | None = None) -> dict[str, Any]:
        """Return the statistics as plain numbers, ready for JSON; None for what no value, or no range, can give.

        Args:
            histogram_bins: Also put the two coarse histograms in, as {"counts": [...], "edges": [...]}.
        """
        self._flush()
        count = self._moments.count
        result: dict[str, Any] = {"count": count}
        magnitude: dict[str, Any] = {}
        if count:
            # Values below the grid of the sums (1e-22 of the range) would read out as a mean of 0, below their minimum.
            mean = min(max(self._moments.mean(), self.min), self.max)
            result |= {"mean": mean, "std": self._moments.std(), "min": self.min, "max": self.max}
            result |= _percentile_entries(self._histogram, self.min, self.max)
            magnitude_max = max(abs(self.min), abs(self.max))
            mean = min(max(self._moments.magnitude_mean(), self.magnitude_min), magnitude_max)
            magnitude |= {
                "mean": mean,
                "std": self._moments.magnitude_std(),
                "min": self.magnitude_min,
                "max": magnitude_max,
            }
            magnitude |= _percentile_entries(self._histogram.folded(), self.magnitude_min, magnitude_max)
        else:
            for entry in (result, magnitude):
                entry |= dict.fromkeys(("mean", "std", "min", "max", "median"))
                entry["percentiles"] = {str(percent): None for percent in PERCENTS}
        result["magnitude"] = magnitude
        result["share_positive"] = self._positive / count if count else None
        result["share_near_zero"] = self._near_zero / count if count else None
        result["share_saturated"] = self._saturated / count if count and self._limits else None
        if histogram_bins is not None:
            result["histogram"] = self._histogram_entry(self.histogram, histogram_bins)
            magnitude["histogram"] = self._histogram_entry(self.magnitude_histogram, histogram_bins)
        return result

    def _histogram_entry(
        self, histogram: Callable[[int], tuple[np.ndarray, np.ndarray]], bins: int
    ) -> dict[str, list[float]] | None:
        if not self.count:
            return None
        counts, edges = histogram(bins)
        return {"counts": counts.tolist(), "edges": edges.tolist()}

    def _nonempty_histogram(self) -> Histogram:
        self._flush()
        if not self._moments.count:
            raise ValueError("no values were added: there is no histogram")
        return self._histogram

    def _flush(self) -> None:
        if self._pending_count:
            self._process(self._pending[: self._pending_count])
            self._pending_count = 0

    def _process(self, values: np.ndarray) -> None:
        """Take in a block (n,), 1 <= n <= MAX_TERMS, whose values are in self.min .. self.max."""
        magnitudes = np.abs(values)
        self.magnitude_min = min(self.magnitude_min, float(magnitudes.min()))
        self._positive += _count_above(values, 0.0)
        self._near_zero += _count_below(magnitudes, NEAR_ZERO)
        if self._limits is not None:
            if self._limits[0] == -self._limits[1]:
                self._saturated += _count_above(magnitudes, self._limits[1])
            else:
                self._saturated += _count_below(values, self._limits[0]) + _count_above(values, self._limits[1])
        exponent = magnitude_exponent(float(magnitudes.max())) if self._exponent is None else self._exponent
        sign = 1 if self.min >= 0 else (-1 if self.max <= 0 else 0)
        wide = values.astype(np.float64)
        self._histogram.add(wide, self.min, self.max)
        if values.dtype == np.float32:
            small = np.flatnonzero(magnitudes < math.ldexp(1.0, exponent - SHORT_BITS))
            self._moments.add_float32(wide, small, sign, exponent)
        else:
            self._moments.add(wide, sign, exponent)


@functools.cache
def _rounded_up(limit: float, dtype: np.dtype) -> Any:
    """Return the least number of `dtype` that is no less than `limit`."""
    rounded = dtype.type(limit)
    return rounded if float(rounded) >= limit else np.nextafter(rounded, dtype.type(np.inf))


def _count_below(values: np.ndarray, limit: float) -> int:
    # float32 values are compared as float32, which is twice as fast; the limit is rounded so that none changes sides.
    return int(np.count_nonzero(values < _rounded_up(limit, values.dtype)))


def _count_above(values: np.ndarray, limit: float) -> int:
    return int(np.count_nonzero(values > -_rounded_up(-limit, values.dtype)))


def _percentile_entries(histogram: Histogram, low: float, high: float) -> dict[str, Any]:
    median, *others = histogram.percentiles(np.array((50, *PERCENTS)), low, high).tolist()
    percentiles = {str(percent): value for percent, value in zip(PERCENTS, others, strict=True)}
    return {"median": median, "percentiles": percentiles}
