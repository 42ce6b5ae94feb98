"""From an interval to one of four verdicts: helps, hurts, equivalent within a margin, or undecided.

"Not significant" mixes what was shown to be small with what could not be seen. An effect is equivalent to none where
two one-sided tests reject that it lies outside the margin (Schuirmann 1987); undecided is what is left, and the
minimum detectable effect says what could have been seen. benchmarks/verdict_rates.py measures how often each is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

from qd_detr.gates.analysis.intervals import Interval
from qd_detr.gates.analysis.resampling import false_discovery
from qd_detr.gates.analysis.student import t_quantile

MARGIN_POINTS = 1.0
POWER = 0.8


class Verdict(TypedDict):
    """What an effect comes to, ready for JSON; an effect above 0 helps."""

    verdict: str  # helps, hurts, equivalent, undecided
    margin: float
    size: str | None  # of an effect that stands: beyond (the margin), within (it), open; else None
    reason_key: str | None  # why it is undecided: the interval's own reason_key, or holds_zero, adjusted, disagree
    rough: bool  # the interval comes from fewer than 10 source videos
    minimum_detectable: float | None  # the effect that this data would show with a probability of 80 %
    design_effect: float | None
    effective_n: float | None  # as many unrelated queries would tell as much


def verdict_of(
    effect: Interval, *, margin: float = MARGIN_POINTS, adjusted_p: float | None = None, df: float | None = None
) -> Verdict:
    """Return the verdict on an effect; interval and test must agree.

    Args:
        effect: with audio minus without, or any difference in which more is better.
        margin: an effect within (-margin, margin) counts as none; the metric's own unit.
        adjusted_p: p after the control of the table that the effect stands in; its own p if None.
        df: degrees of freedom of its standard error; None: one fewer than source videos.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}; expected more than 0")
    verdict, size, reason = "undecided", None, effect["reason_key"]
    low, high, p = effect["low"], effect["high"], effect["p"]
    inner = effect["equivalence_low"], effect["equivalence_high"]
    within = inner[0] is not None and inner[1] is not None and -margin < inner[0] and inner[1] < margin
    if low is not None and high is not None and p is not None:
        alpha = 1 - effect["level"]
        outside = low > 0 or high < 0
        reason = "holds_zero" if not outside else "disagree" if p > alpha else "adjusted"
        if outside and p <= alpha and (adjusted_p is None or adjusted_p <= alpha):
            verdict, reason = "helps" if low > 0 else "hurts", None
            nearest = low if low > 0 else -high
            size = "beyond" if nearest > margin else "within" if within else "open"
        elif within:
            verdict, reason = "equivalent", None
    return {
        "verdict": verdict,
        "margin": margin,
        "size": size,
        "reason_key": reason,
        "rough": effect["reason_key"] == "few_clusters",
        "minimum_detectable": minimum_detectable(effect, df=df),
        "design_effect": effect["design_effect"],
        "effective_n": effect["n"] / effect["design_effect"] if effect["design_effect"] else None,
    }


def minimum_detectable(effect: Interval, power: float = POWER, df: float | None = None) -> float | None:
    """Return the effect at which a two-sided test at the interval's level would reject with `power`.

    (t_{1 - alpha/2} + t_power) SE, t with `df` degrees of freedom, C - 1 if None (Bloom 1995, Evaluation Review 19(5));
    None where there is no standard error. Where a query changes by `change_size` m or not at all (right or wrong), an
    effect d is d / m more of the queries that change, and these scatter too: SE^2 grows by d (m - d) times design
    effect / n (as in tests of proportions; Connor 1987, Biometrics 43(1)), and with it the room for one more cluster,
    of whose standardised contributions the largest of C has a square of about 2 ln C.
    """
    error, n_clusters, size = effect["standard_error"], effect["n_clusters"], effect["change_size"]
    if error is None or n_clusters < 2:
        return None
    df = n_clusters - 1 if df is None else df
    reach = t_quantile((1 + effect["level"]) / 2, df) + t_quantile(power, df)
    if size is None or effect["design_effect"] is None:
        return reach * error
    room = 1 + 2 * math.log(n_clusters) / n_clusters
    added = reach * reach * room * effect["design_effect"] / effect["n"]
    # d^2 = (reach SE)^2 + added d (m - d)
    root = math.sqrt((added * size) ** 2 + 4 * (1 + added) * (reach * error) ** 2)
    return min((added * size + root) / (2 * (1 + added)), size)


def controlled(effects: Sequence[Interval], primary: int | None = None, rate: float = 0.05) -> dict[str, Any]:
    """Return Benjamini-Hochberg over a table of effects, of which the primary one, stated beforehand, stands apart.

    Returns:
        As `false_discovery`, `primary`'s own p in its place; it is not among the tests.
    """
    p_values = [None if i == primary else effect["p"] for i, effect in enumerate(effects)]
    control = false_discovery(p_values, rate)
    if primary is not None:
        p = effects[primary]["p"]
        control["adjusted"][primary] = p
        control["significant"][primary] = None if p is None else p <= rate
    return {**control}
