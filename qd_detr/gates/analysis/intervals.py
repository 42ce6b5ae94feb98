"""From an estimate, its resampled values and its clustered standard error to an interval that may be shown.

Letters: n queries, C clusters (source videos), D draws.

- 6 to 9 clusters: estimate +- t_{C-1} SE, with the clustered standard error of the linearised statistic. Where few
  queries change, those that were not drawn are missing from the scatter as well: SE^2 is the clustered variance plus
  the square of what one more cluster would add, were it as far off as the farthest of those seen.
- 10 and more: from the lower to the upper end of that interval and of the expanded percentile interval (Hesterberg
  2015, "What teachers should know about the bootstrap", The American Statistician 69(4)), and the larger of the two p
  values. The bootstrap's own distribution is too narrow by sqrt((C - 1) / C) and has normal, not t, tails, so the
  quantiles are taken at Phi(-t_{C-1} sqrt(C / (C - 1))). Either alone misses skewed effects of 10 to 20 videos too
  often (benchmarks/verdict_rates.py).
- Below 6: the estimate alone. No interval of so few clusters keeps what it promises.
- All clusters show one value: nothing is left to resample. If a share of pi of the videos were otherwise, C videos
  would hide it with probability (1 - pi)^C <= 5 % from pi = 3 / C on (the rule of three, Hanley and Lippman-Hand 1983,
  JAMA 249(13)); between the least and the greatest value that a query can have, that bounds the mean.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.student import NORMAL, t_cdf, t_quantile
from qd_detr.gates.wording import Reason

FEW_CLUSTERS = 10
TOO_FEW_CLUSTERS = 6


class Interval(TypedDict):
    """An estimate with its interval, ready for JSON; None where it could not be had, `reason_key` says why."""

    estimate: float | None
    low: float | None
    high: float | None
    level: float
    p: float | None
    equivalence_low: float | None  # the interval of two one-sided tests, at level 2 * level - 1
    equivalence_high: float | None
    standard_error: float | None  # clustered, with room for a cluster that was not seen
    design_effect: float | None  # the clustered variance over that of as many unrelated queries
    change_size: float | None  # the one size of all values but 0, as of right or wrong; None where sizes differ
    rule_of_three: float | None  # where all source videos show one value: up to this share of videos could be otherwise
    n: int  # queries with a value
    n_clusters: int  # source videos that have such a query
    n_undefined: int  # queries without a value, left out
    reason_key: str | None  # no_value, one_cluster, too_few_clusters, no_draw, same_value, few_clusters
    reason: Reason | None


class Spread(TypedDict):
    """How an estimate scatters, from the sums of its clusters: in units of the estimate."""

    standard_error: float  # with room for one more cluster like the one that is farthest off
    design_effect: float  # without
    largest: float  # by how much the cluster that moves the estimate most does so


def spread_of(parts: NDArray[np.float64], sums: NDArray[np.float64]) -> Spread:
    """Return the scatter of a linear statistic from each query's part in it (n,) and the clusters' sums of them (C,)."""
    n, n_clusters = len(parts), len(sums)
    variance = n_clusters / max(n_clusters - 1, 1) * float((sums * sums).sum())
    largest = float(np.abs(sums).max(initial=0.0))
    unrelated = n / max(n - 1, 1) * float((parts * parts).sum())
    return {
        "standard_error": math.hypot(math.sqrt(variance), largest),
        "design_effect": variance / unrelated if unrelated else 1.0,
        "largest": largest,
    }


def interval_of(
    estimate: float,
    drawn: NDArray[np.float64],
    spread: Spread | None,
    *,
    n: int,
    n_clusters: int,
    n_undefined: int,
    level: float,
    missing: Reason,
    bounds: tuple[float, float] | None = None,
    df: float | None = None,
) -> Interval:
    """Return the interval of an estimate by the rules above.

    Args:
        estimate: NaN if it could not be had; then `missing` says why.
        drawn: (D,) its resampled values; NaN for a draw that held none.
        spread: of its linearised form; None: taken from the draws, without a design effect or an equivalence interval.
        n: queries with a value. n_clusters: source videos they come from. n_undefined: queries without one.
        level: the interval's.
        bounds: least and greatest value of a single query, for the rule of three.
        df: degrees of freedom of the standard error, where more than source videos scatter; None: C - 1.
    """
    result = _empty(n, n_clusters, n_undefined, level)
    if math.isnan(estimate):
        return result | {"reason_key": "no_value", "reason": missing}
    result["estimate"] = float(estimate)
    if n_clusters < TOO_FEW_CLUSTERS:
        few = Reason("interval.too_few_videos", {"n": n_clusters})
        one = Reason("interval.one_video")
        key = "one_cluster" if n_clusters < 2 else "too_few_clusters"
        return result | {"reason_key": key, "reason": one if n_clusters < 2 else few}
    drawn = drawn[~np.isnan(drawn)]  # a draw without a single query that takes part
    if not drawn.size:
        return result | {"reason_key": "no_draw", "reason": Reason("interval.no_draw")}
    scale = float(np.abs(drawn).max())
    if drawn.max() - drawn.min() <= 1e-12 * scale:
        return _same_everywhere(result, bounds)
    if spread is None:
        widen = math.sqrt(n_clusters / (n_clusters - 1))
        spread = {"standard_error": float(drawn.std()) * widen, "design_effect": math.nan, "largest": math.nan}
    df = n_clusters - 1 if df is None else df
    low, high, p = _student(estimate, spread["standard_error"], df, level)
    if n_clusters >= FEW_CLUSTERS:
        expanded = _percentiles(drawn, n_clusters, df, level)
        low, high, p = min(expanded[0], low), max(expanded[1], high), max(expanded[2], p)
    result |= {"low": low, "high": high, "p": p, "standard_error": spread["standard_error"]}
    if not math.isnan(spread["design_effect"]):
        within = _equivalence(estimate, spread, df, level)
        result |= {"design_effect": spread["design_effect"]}
        result |= {"equivalence_low": within[0], "equivalence_high": within[1]}
    if n_clusters < FEW_CLUSTERS:
        rough = Reason("interval.rough", {"n": n_clusters})
        result |= {"reason_key": "few_clusters", "reason": rough}
    return result


def within(interval: Interval, bounds: tuple[float, float] | None) -> Interval:
    """Return an interval of a mean that ends where no query's value can be: no share is above 100 %."""
    if bounds is not None and interval["low"] is not None and interval["high"] is not None:
        interval["low"], interval["high"] = max(interval["low"], bounds[0]), min(interval["high"], bounds[1])
    return interval


def _empty(n: int, n_clusters: int, n_undefined: int, level: float) -> Interval:
    return {
        "estimate": None,
        "low": None,
        "high": None,
        "level": level,
        "p": None,
        "equivalence_low": None,
        "equivalence_high": None,
        "standard_error": None,
        "design_effect": None,
        "change_size": None,
        "rule_of_three": None,
        "n": n,
        "n_clusters": n_clusters,
        "n_undefined": n_undefined,
        "reason_key": None,
        "reason": None,
    }


def _same_everywhere(result: Interval, bounds: tuple[float, float] | None) -> Interval:
    """Return the interval of the rule of three; its p is that of a sign test, in which all clusters agree."""
    value = result["estimate"]
    assert value is not None
    share = 3.0 / result["n_clusters"]
    low = high = None
    if bounds is not None:
        low, high = (value + share * (bound - value) for bound in bounds)
    return result | {
        "low": low,
        "high": high,
        "equivalence_low": low,
        "equivalence_high": high,
        "p": 1.0 if value == 0 else 2.0 ** (1 - result["n_clusters"]),
        "rule_of_three": share,
        "reason_key": "same_value",
        "reason": Reason("interval.same"),
    }


def _percentiles(drawn: NDArray[np.float64], n_clusters: int, df: float, level: float) -> tuple[float, float, float]:
    """Return the expanded percentile interval, and the p value at which its edge would reach 0."""
    widen = math.sqrt(n_clusters / (n_clusters - 1))
    tail = NORMAL.cdf(t_quantile((1 - level) / 2, df) * widen)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    # Draws at exactly 0 count for both sides, so p < 1 - level means that the interval leaves 0 out.
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    share = min((1 + int(beyond)) / (1 + drawn.size), 0.5)
    return float(low), float(high), min(1.0, 2 * t_cdf(NORMAL.inv_cdf(share) / widen, df))


def _student(estimate: float, error: float, df: float, level: float) -> tuple[float, float, float]:
    half = -t_quantile((1 - level) / 2, df) * error
    return float(estimate - half), float(estimate + half), min(1.0, 2 * t_cdf(-abs(estimate) / error, df))


def _equivalence(estimate: float, spread: Spread, df: float, level: float) -> tuple[float, float]:
    """Return the interval that must lie within the margin, wide enough for one cluster that was not seen.

    Where few queries change, those that were not drawn are what makes an effect look small: each side allows for one
    more cluster that moves the estimate as far as the farthest of those seen. With thousands of queries it is nothing.
    """
    unseen = spread["largest"]
    half = unseen - t_quantile(1 - level, df) * spread["standard_error"]
    return float(estimate - half), float(estimate + half)
