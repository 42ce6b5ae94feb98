"""Which group of runs is best, and whether that can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qd_detr.gates.analysis.audio_help import OPPOSITE, negated


def ranking_of(row: dict[str, Any], best_shares: Mapping[str, float]) -> dict[str, Any]:
    """Return the order of the groups by a metric, best first, and what can be said of the first.

    Args:
        row: the metric's row of a comparison. best_shares: per group the share of draws in which it is highest.

    Returns:
        {"metric", "order": [the row's values, each with "best_share" and "behind": the leader minus this group, as
        {"difference": an interval, "df", "seed_share", "adjusted_p", "verdict"}; None for the leader], "verdict": "best"
        (the first is above every other), "equivalent" (every other is below it or within the margin), "undecided",
        "contenders": [the names of those that the first is not shown to be above]}
    """
    order = sorted(row["values"], key=lambda value: -value["mean"])
    leader = order[0]["group"]
    behind = {value["group"]: _behind(row, leader, value["group"]) for value in order[1:]}
    verdicts = {name: one["verdict"]["verdict"] for name, one in behind.items()}
    contenders = [name for name, verdict in verdicts.items() if verdict != "helps"]
    if not contenders:
        verdict = "best"
    else:
        verdict = "equivalent" if all(verdicts[name] == "equivalent" for name in contenders) else "undecided"
    return {
        "metric": row["metric"],
        "order": [
            {**value, "best_share": best_shares[value["group"]], "behind": behind.get(value["group"])}
            for value in order
        ],
        "verdict": verdict,
        "contenders": contenders,
    }


def _behind(row: dict[str, Any], leader: str, other: str) -> dict[str, Any]:
    """Return the leader minus another group."""
    one = next(one for one in row["differences"] if {one["first"], one["second"]} == {leader, other})
    kept = {key: one[key] for key in ("df", "seed_share", "adjusted_p")}
    if one["second"] == leader:
        return {"difference": one["difference"], **kept, "verdict": one["verdict"]}
    verdict = one["verdict"]
    turned = {**verdict, "verdict": OPPOSITE.get(verdict["verdict"], verdict["verdict"])}
    return {"difference": negated(one["difference"]), **kept, "verdict": turned}
