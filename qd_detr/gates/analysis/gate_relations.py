"""Do the gates foretell the audio effect? Rank correlations over queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.effects import ScoredSweep
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, bootstrap_correlation, false_discovery
from qd_detr.gates.gating import ATTENTION
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.runs.interventions.results import SweepRun

Array = NDArray[np.float64]


def gate_figures_of_queries(run: SweepRun) -> dict[str, Array]:
    """Return per query (N,) its attention gates' magnitude and injection in the baseline, means over layers."""
    attention = run.kinds.index(ATTENTION.kind)
    figures = {"magnitude": run.baseline.magnitude[:, :, attention].mean(axis=1)}
    if run.baseline.injection is not None:
        figures["injection"] = run.baseline.injection[:, :, attention].mean(axis=1)
    return figures


def gate_explanation(
    sweep: ScoredSweep,
    seed: int,
    *,
    groups: Mapping[str, str] | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    rate: float = 0.05,
) -> dict[str, Any] | None:
    """Return how a query's gates relate to its measured audio effect; None without labels or without a way to be silent.

    Spearman's correlation over queries, with intervals by resampling source videos. The signed effect asks whether
    gates are larger where audio helps; the absolute one whether they are larger where it matters, for better or worse.

    Args:
        sweep: the scores.
        seed: of the resampling. draws, level: likewise.
        groups: the name of each video's group, where videos fall into several.
        rate: of false discoveries.

    Returns:
        {"rate", "n_tests", "found": how many stand after Benjamini-Hochberg, "relations": [{"figure" ("magnitude",
        "injection"), "without", "score" ("AP", "best IoU"), "effect" ("signed", "absolute"), "correlation" (an
        interval), "adjusted_p", "significant"}], "within": the same under the primary contrast within each group, its
        name as "group", controlled among themselves}
    """
    effects = per_query_effects(sweep)
    if not effects:
        return None
    gates = {figure: values[sweep.labelled] for figure, values in gate_figures_of_queries(sweep.run).items()}
    settings: dict[str, Any] = {"seed": seed, "draws": draws, "level": level}
    everyone = np.ones(len(sweep.labelled_queries), dtype=bool)
    relations = _relations(gates, effects, everyone, sweep.labelled_clusters, settings)
    primary = next(iter(sweep.contrasts))
    first = {key: effect for key, effect in effects.items() if key[0] == primary}
    of_query = [(groups or {}).get(query.vid) for query in sweep.labelled_queries]
    within = [
        {"group": group, **relation}
        for group in dict.fromkeys((groups or {}).values())
        if group in of_query
        for relation in _relations(
            gates, first, np.array([one == group for one in of_query]), sweep.labelled_clusters, settings
        )
    ]
    control = _decide(relations, rate)
    _decide(within, rate)
    found = sum(bool(relation["significant"]) for relation in relations)
    return {"rate": rate, "n_tests": control["n_tests"], "found": found, "relations": relations, "within": within}


def _relations(
    gates: Mapping[str, Array],
    effects: Mapping[tuple[str, str], Array],
    kept: NDArray[np.bool_],
    clusters: Sequence[str],
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the relations over the queries `kept` (n,), undecided yet."""
    keys, left, right = [], [], []
    for figure, gate in gates.items():
        for (without, score), effect in effects.items():
            for kind, values in (("signed", effect), ("absolute", np.abs(effect))):
                keys.append({"figure": figure, "without": without, "score": score, "effect": kind})
                left.append(gate[kept])
                right.append(values[kept])
    of_kept = [cluster for cluster, keep in zip(clusters, kept, strict=True) if keep]
    intervals = bootstrap_correlation(np.stack(left, axis=1), np.stack(right, axis=1), of_kept, **settings)
    return [{**key, "correlation": interval} for key, interval in zip(keys, intervals, strict=True)]


def _decide(relations: list[dict[str, Any]], rate: float) -> dict[str, Any]:
    """Write "adjusted_p" and "significant" into relations that are tested together; return the control."""
    control = false_discovery([relation["correlation"]["p"] for relation in relations], rate)
    for relation, adjusted, significant in zip(relations, control["adjusted"], control["significant"], strict=True):
        relation |= {"adjusted_p": adjusted, "significant": significant}
    return {**control}


def per_query_effects(sweep: ScoredSweep) -> dict[tuple[str, str], Array]:
    """Return {(way to be without audio, "AP" or "best IoU"): with audio minus without (n,), as fractions}."""
    if not sweep.scored:
        return {}
    before = sweep.of(BASELINE)
    effects: dict[tuple[str, str], Array] = {}
    for without, name in sweep.contrasts.items():
        after = sweep.of(name)
        effects[without, "AP"] = before.ap - after.ap
        if before.best_iou is not None and after.best_iou is not None:
            effects[without, "best IoU"] = before.best_iou - after.best_iou
    return effects
