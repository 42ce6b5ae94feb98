"""A quantity of every run as rows of a comparison: a value per group of runs, a difference per pair of groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.resampling import contrast_bootstrap, paired_bootstrap
from qd_detr.gates.analysis.run_groups import RunGroup
from qd_detr.gates.analysis.two_level import Estimate, TwoLevel, two_level_bootstrap
from qd_detr.gates.wording import Reason

Array = NDArray[np.float64]
Columns = Mapping[str, Array]
Bounds = Sequence[tuple[float, float]] | None
_Found = tuple[dict[int, list[Estimate]], dict[tuple[int, int], list[Estimate]]]


@dataclass(frozen=True, eq=False)
class GroupTable:
    """What is compared with what.

    Attributes:
        groups: of runs. names: of all runs. clusters: per run the source video of each of its queries.
        paired: all runs hold the same queries in one order; else each group is one run on queries of its own.
        settings: seed, draws and level of the resampling.
    """

    groups: Sequence[RunGroup]
    names: Sequence[str]
    clusters: Sequence[Sequence[str]]
    paired: bool
    settings: Mapping[str, Any]

    def two_level(
        self, runs: Sequence[Columns], columns: Sequence[str], having: Sequence[int], bounds: Bounds = None
    ) -> TwoLevel:
        """Return the groups in `having` side by side in columns that all of their runs have."""
        stacks = [
            np.stack([np.stack([runs[i][name] for name in columns], axis=1) for i in self.groups[g].runs])
            for g in having
        ]
        return two_level_bootstrap(stacks, self.clusters[0], bounds=bounds, **self.settings)

    def best_shares(self, runs: Sequence[Columns], column: str) -> dict[str, float]:
        """Return per group the share of draws in which it is the highest in a column."""
        shares = self.two_level(runs, [column], range(len(self.groups))).best_shares(0)
        return {group.name: share for group, share in zip(self.groups, shares, strict=True)}


def rows_of(
    table: GroupTable, runs: Sequence[Columns], columns: Sequence[str], bounds: Bounds = None
) -> list[dict[str, Any]]:
    """Return a row per column: "values" and "differences", see `compare_runs`.

    Args:
        table: what is compared. runs: the columns of each run. columns: those to compare; a run may lack some.
        bounds: per column the least and greatest value of a query, for the rule of three.
    """
    having = {
        name: tuple(g for g, group in enumerate(table.groups) if all(name in runs[i] for i in group.runs))
        for name in columns
    }
    found: dict[str, dict[str, Any]] = {}
    for present in dict.fromkeys(having.values()):
        names = [name for name in columns if having[name] == present]
        limits = None if bounds is None else [bounds[columns.index(name)] for name in names]
        means, differences = (_paired if table.paired else _unpaired)(table, runs, names, present, limits)
        for k, name in enumerate(names):
            found[name] = {
                "values": [_value(table, runs, name, g, means[g][k]) for g in present],
                "differences": [
                    _difference(table, (g, h), differences[g, h][k] if (g, h) in differences else None)
                    for g, h in combinations(range(len(table.groups)), 2)
                    if g in present or h in present
                ],
            }
    return [found[name] for name in columns]


def _paired(
    table: GroupTable, runs: Sequence[Columns], names: Sequence[str], present: Sequence[int], bounds: Bounds
) -> _Found:
    if not present:
        return {}, {}
    found = table.two_level(runs, names, present, bounds)
    means = dict(zip(present, found.means, strict=True))
    return means, {(present[g], present[h]): one for (g, h), one in found.differences.items()}


def _unpaired(
    table: GroupTable, runs: Sequence[Columns], names: Sequence[str], present: Sequence[int], bounds: Bounds
) -> _Found:
    """Compare runs on queries of their own: a mean each, and their difference, source videos drawn for both at once."""
    place = {g: table.groups[g].runs[0] for g in present}
    means = {
        g: [
            Estimate(interval, None, None)
            for interval in paired_bootstrap(
                np.stack([runs[i][name] for name in names], axis=1), table.clusters[i], bounds=bounds, **table.settings
            )
        ]
        for g, i in place.items()
    }
    differences = {}
    for g, h in combinations(present, 2):
        one = []
        for name in names:
            values = np.concatenate([runs[place[h]][name], runs[place[g]][name]])
            second = np.arange(len(values)) < len(runs[place[h]][name])
            known = ~np.isnan(values)
            clusters = np.array([*table.clusters[place[h]], *table.clusters[place[g]]])[known].tolist()
            interval = contrast_bootstrap(values[known], second[known], clusters, **table.settings)[0]
            one.append(Estimate(interval, None, None))
        differences[g, h] = one
    return means, differences


def _value(table: GroupTable, runs: Sequence[Columns], name: str, g: int, estimate: Estimate) -> dict[str, Any]:
    group = table.groups[g]
    return {
        "group": group.name,
        "mean": estimate.interval["estimate"],
        "runs": {table.names[i]: _mean(runs[i][name]) for i in group.runs},
        "interval": {key: value for key, value in estimate.interval.items() if key != "p"},
        "seed_share": estimate.seed_share,
    }


def _difference(table: GroupTable, pair: tuple[int, int], estimate: Estimate | None) -> dict[str, Any]:
    first, second = (table.groups[g].name for g in pair)
    if estimate is None:
        reason = Reason("compared.only_one")
        return {"first": first, "second": second, "difference": None, "df": None, "seed_share": None, "reason": reason}
    shown = {"difference": estimate.interval, "df": estimate.df, "seed_share": estimate.seed_share, "reason": None}
    return {"first": first, "second": second, **shown}


def _mean(column: Array) -> float | None:
    known = column[~np.isnan(column)]
    return float(known.mean()) if known.size else None
