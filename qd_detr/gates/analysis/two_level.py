"""Means over runs and queries, with intervals in which seeds and source videos both count.

Letters: G groups of runs that differ in their seed alone, R runs of a group, n queries, K columns, C clusters (source
videos), D draws.

What a group would give on other videos and with other seeds scatters by V = V_C + V_R: the clustered variance of the
group's mean over its runs, and the variance of the runs' means over R, less what of it is the videos' doing (each run
answers each video a little differently, and V_C holds that already). A draw takes C source videos, the same for all
groups, and of each group R - 1 runs, with replacement: as many give the mean its variance without the factor
(R - 1) / R that R would leave (Rao and Wu 1988, "Resampling inference with complex survey data", JASA 83(401)). The
runs' deviations are scaled so that their draws scatter by V_R: drawing both levels as they are would count the part
that belongs to both three times (Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)).
Degrees of freedom are Satterthwaite's: four runs a group leave 3 to 6 where seeds make most of V, however many videos
there are.

A group of one run has no V_R; its intervals are those of `resampling`, over source videos alone.
benchmarks/seed_coverage.py measures how often the truth is covered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.analysis.intervals import Interval, interval_of, spread_of, within
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, change_size, cluster_members, cluster_sums, resampled_totals
from qd_detr.gates.wording import Reason

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """An interval over seeds and source videos."""

    interval: Interval
    df: float | None  # degrees of freedom of its standard error; None without one
    seed_share: float | None  # of the variance: what differs from seed to seed; None if no group has two runs


@dataclass(frozen=True, eq=False)
class TwoLevel:
    """Groups side by side.

    Attributes:
        means: per group and column. differences: per pair of groups (g, h) with g < h: h minus g, per column.
        drawn: (D, G, K) the groups' means in each draw.
    """

    means: list[list[Estimate]]
    differences: dict[tuple[int, int], list[Estimate]]
    drawn: Array

    def best_shares(self, column: int) -> list[float]:
        """Return per group the share of draws in which its mean is the highest; equals share a draw."""
        drawn = self.drawn[:, :, column]
        highest = drawn == drawn.max(axis=1, keepdims=True)
        return [float(share) for share in (highest / highest.sum(axis=1, keepdims=True)).mean(axis=0)]


def two_level_bootstrap(
    groups: Sequence[ArrayLike],
    clusters: Sequence[str],
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
    bounds: Sequence[tuple[float, float]] | None = None,
) -> TwoLevel:
    """Return each group's mean and all differences between two groups.

    Args:
        groups: per group (R, n, K), NaN where a run has no value for a query (it drops out of that column, in all
            groups, and is counted).
        clusters: (n,) the source video of each query.
        seed: the same seed gives the same numbers. draws: D. level: the intervals'.
        bounds: per column the least and greatest value of a query, for the rule of three.
    """
    runs = [np.asarray(group, dtype=np.float64) for group in groups]
    if any(group.ndim != 3 or not len(group) or group.shape[1:] != runs[0].shape[1:] for group in runs):
        raise ValueError(f"groups have shapes {[group.shape for group in runs]}; expected (R, n, K) with one n and K")
    if len(clusters) != runs[0].shape[1]:
        raise ValueError(f"{len(clusters)} clusters for {runs[0].shape[1]} queries; expected one each")
    defined = np.logical_and.reduce([~np.isnan(group).any(axis=0) for group in runs])  # (n, K)
    members = cluster_members(clusters)
    samples = [_Group(np.where(defined, group, 0.0), defined, members) for group in runs]
    drawn = _drawn(samples, defined, members, draws, seed)

    def estimates(weights: Sequence[float], low_high: Sequence[tuple[float, float]] | None) -> list[Estimate]:
        return [
            _estimate(samples, weights, drawn, defined, members, k, level, None if low_high is None else low_high[k])
            for k in range(defined.shape[1])
        ]

    unit = np.eye(len(samples))
    apart = None if bounds is None else [(low - high, high - low) for low, high in bounds]
    return TwoLevel(
        means=[estimates(list(weights), bounds) for weights in unit],
        differences={
            (g, h): estimates(list(unit[h] - unit[g]), apart)
            for g in range(len(samples))
            for h in range(g + 1, len(samples))
        },
        drawn=drawn[0] + drawn[1],
    )


class _Group:
    """A group's runs: their means (R, K), the mean over runs per query (n, K), and how seeds make the mean scatter."""

    def __init__(self, values: Array, defined: NDArray[np.bool_], members: NDArray[np.intp]) -> None:
        n_runs = len(values)
        with np.errstate(invalid="ignore"):
            self.run_means = values.sum(axis=1) / defined.sum(axis=0)
        self.per_query = values.mean(axis=0)
        self.n_runs = n_runs
        self.mean = self.run_means.mean(axis=0)  # (K,)
        self.of_runs = self.of_seeds = np.zeros(
            defined.shape[1]
        )  # the runs' variance with and without the videos' part
        if n_runs > 1:
            self.of_runs = self.run_means.var(axis=0, ddof=1) / n_runs
            self.of_seeds = self.of_runs - self._of_both(values, defined, members) / n_runs

    def _of_both(self, values: Array, defined: NDArray[np.bool_], members: NDArray[np.intp]) -> Array:
        """Return the clustered variance of a run's mean that it does not share with the group's other runs (K,)."""
        apart = values - self.per_query  # (R, n, K)
        with np.errstate(invalid="ignore"):
            parts = (apart - (self.run_means - self.mean)[:, None] * defined) / defined.sum(axis=0)
        n_clusters = (cluster_sums(defined, members) > 0).sum(axis=0)
        squares = sum((cluster_sums(part, members) ** 2).sum(axis=0) for part in parts)
        return np.asarray(n_clusters / np.maximum(n_clusters - 1, 1) * squares / (self.n_runs - 1))


def _drawn(
    samples: Sequence[_Group], defined: NDArray[np.bool_], members: NDArray[np.intp], draws: int, seed: int
) -> tuple[Array, Array]:
    """Return the groups' means in each draw of source videos, and how each draw of runs moves them, (D, G, K) both."""
    columns = defined.shape[1]
    features = np.concatenate([*(group.per_query for group in samples), defined], axis=1)
    totals = np.concatenate(list(resampled_totals(cluster_sums(features, members), draws, seed)))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = totals[:, :-columns].reshape(draws, len(samples), columns) / totals[:, None, -columns:]
    deviations = np.zeros_like(drawn)
    rng = np.random.default_rng([seed, 1])
    for g, group in enumerate(samples):
        if group.n_runs > 1:
            taken = rng.multinomial(group.n_runs - 1, [1 / group.n_runs] * group.n_runs, size=draws)  # (D, R)
            share = np.maximum(0.0, group.of_seeds)
            scale = np.sqrt(np.divide(share, group.of_runs, where=group.of_runs > 0, out=0 * group.of_runs))
            deviations[:, g] = taken / (group.n_runs - 1) @ ((group.run_means - group.mean) * scale)
    return np.asarray(drawn), deviations


def _estimate(
    samples: Sequence[_Group],
    weights: Sequence[float],
    drawn: tuple[Array, Array],
    defined: NDArray[np.bool_],
    members: NDArray[np.intp],
    k: int,
    level: float,
    bounds: tuple[float, float] | None,
) -> Estimate:
    """Return sum of weight * mean over the groups, for column k."""
    used = [(weight, group) for weight, group in zip(weights, samples, strict=True) if weight]
    takes_part = defined[:, k]
    n = int(takes_part.sum())
    estimate = sum(weight * group.mean[k] for weight, group in used)
    combined = np.sum([weight * group.per_query[takes_part, k] for weight, group in used], axis=0)
    parts = (combined - estimate) / n if n else np.zeros(0)
    of_clusters = np.bincount(members[takes_part], parts)
    seen = np.bincount(members[takes_part]) > 0
    n_clusters = int(seen.sum())
    spread = spread_of(parts, of_clusters[seen].astype(np.float64))
    of_videos = spread["standard_error"] ** 2
    several = [(weight, group) for weight, group in used if group.n_runs > 1]
    of_seeds = max(0.0, float(sum(weight**2 * group.of_seeds[k] for weight, group in several)))
    # A group whose runs differ by less than their videos explain takes from the variance; its draws cannot.
    drawn_variance = float(sum(weight**2 * max(0.0, group.of_seeds[k]) for weight, group in several))
    moved = math.sqrt(of_seeds / drawn_variance) if drawn_variance else 0.0
    df: float = n_clusters - 1
    if several and n_clusters > 1:
        spread["standard_error"] = math.sqrt(of_videos + of_seeds)
        df = _degrees_of_freedom(of_videos, of_seeds, several, n_clusters, k)
    interval = interval_of(
        float(estimate),
        drawn[0][:, :, k] @ np.asarray(weights) + moved * (drawn[1][:, :, k] @ np.asarray(weights)),
        spread,
        n=n,
        n_clusters=n_clusters,
        n_undefined=len(takes_part) - n,
        level=level,
        missing=Reason("interval.no_value"),
        bounds=bounds,
        df=df,
    )
    interval = within(interval, bounds)
    if not several:
        interval["change_size"] = change_size(combined)
    total = of_videos + of_seeds
    known = interval["standard_error"] is not None
    return Estimate(interval, df if known else None, of_seeds / total if several and total and known else None)


def _degrees_of_freedom(
    of_videos: float, of_seeds: float, several: Sequence[tuple[float, _Group]], n_clusters: int, k: int
) -> float:
    """Return Satterthwaite's degrees of freedom, in tenths, no fewer than the smallest group's."""
    uncertain = of_videos**2 / (n_clusters - 1)
    uncertain += sum((weight**2 * float(group.of_runs[k])) ** 2 / (group.n_runs - 1) for weight, group in several)
    if not uncertain or not of_seeds:  # the runs differ by no more than their videos explain
        return n_clusters - 1
    least = min(*(group.n_runs - 1 for _, group in several), n_clusters - 1)
    df = math.floor(10 * (of_videos + of_seeds) ** 2 / uncertain) / 10
    return min(max(df, least), n_clusters - 1)
