"""Statistics of one sample's array, which is in memory: exact, with NumPy's own definitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from qd_detr.gates.analysis.statistics.values import (
    NEAR_ZERO,
    PERCENTS,
    check_values,
    checked_range,
    saturation_limits,
)


def describe(
    values: np.ndarray, value_range: tuple[float, float] | None = None, histogram_bins: int | None = None
) -> dict[str, Any]:
    """Return the statistics of one array as plain numbers, ready for JSON.

    Args:
        values: Any shape, not empty, finite, within the range if that is known.
        value_range: Needed for share_saturated, which is None without it.
        histogram_bins: Also give "histogram" {counts, edges} over the range (without one: from min to max).

    Returns:
        shape, count, mean, std (ddof 0), min, max, median, percentiles {"1", "5", "25", "75", "95", "99"}, magnitude
        {mean, std, min, max, median, percentiles}, share_positive, share_near_zero, share_saturated. Sums are float64;
        the percentiles equal np.percentile of the values as float64.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.size == 0:
        raise ValueError(f"values of a sample: expected real numbers, at least one, got {array.dtype} of {array.shape}")
    known_range = checked_range(value_range)
    ordered = np.sort(array, axis=None)  # one sort serves min, max, every percentile and every share
    check_values(float(ordered[0]), float(ordered[-1]), known_range, "values of a sample")
    count = ordered.size
    below, above = np.searchsorted(ordered, (-NEAR_ZERO, NEAR_ZERO), side="left")
    # side="left" puts -NEAR_ZERO itself above its limit, and it is not near zero: |g| < 0.05 is open at both ends.
    below += int(np.count_nonzero(ordered[below:above] == -NEAR_ZERO))
    result: dict[str, Any] = {"shape": list(array.shape), "count": count, **_ordered_statistics(ordered)}
    if ordered[0] >= 0:
        magnitudes = ordered
    elif ordered[-1] <= 0:
        magnitudes = -ordered[::-1]
    else:
        magnitudes = np.sort(np.abs(ordered))
    result["magnitude"] = _ordered_statistics(magnitudes)
    result["share_positive"] = int(count - np.searchsorted(ordered, 0, side="right")) / count
    result["share_near_zero"] = int(above - below) / count
    result["share_saturated"] = None
    if known_range is not None:
        low, high = saturation_limits(known_range)
        saturated = np.searchsorted(ordered, low, side="left") + count - np.searchsorted(ordered, high, side="right")
        result["share_saturated"] = int(saturated) / count
    if histogram_bins is not None:
        # The values may pass the ends of the range by rounding.
        inside = ordered if known_range is None else np.clip(ordered, *known_range)
        counts, edges = np.histogram(inside, bins=histogram_bins, range=known_range)
        result["histogram"] = {"counts": counts.tolist(), "edges": edges.tolist()}
    return result


def _ordered_statistics(ordered: np.ndarray) -> dict[str, Any]:
    """Return mean, std, min, max, median and percentiles of sorted values (n,)."""
    wide = ordered.astype(np.float64)
    mean = float(wide.mean())
    position = np.array((50, *PERCENTS)) / 100.0 * (wide.size - 1)
    below = np.floor(position).astype(np.int64)
    lower, upper = wide[below], wide[np.minimum(below + 1, wide.size - 1)]
    share = position - below
    # The two branches of NumPy's own interpolation: results equal np.percentile's, to the bit.
    step = upper - lower
    median, *others = np.where(share < 0.5, lower + step * share, upper - step * (1 - share)).tolist()
    minimum, maximum = float(wide[0]), float(wide[-1])
    wide -= mean
    np.square(wide, out=wide)
    return {
        "mean": mean,
        "std": float(np.sqrt(wide.mean())),
        "min": minimum,
        "max": maximum,
        "median": median,
        "percentiles": {str(percent): value for percent, value in zip(PERCENTS, others, strict=True)},
    }
