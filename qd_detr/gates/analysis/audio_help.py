"""Does the audio help, where, and do the gates tell? From a sweep to plain results for report, figures and JSON.

The audio effect of a query is what it scores with audio minus what it scores without: above 0 the audio helps. "Without"
is asked in two ways. With all attention gates off no audio is added any more, though it still sets the FFN gates. With
silence the model hears nothing at all, but its gates answer to a silence they were never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.effects import ScoredSweep, condition_effects, dose_curve, prediction_changes, score_sweep
from qd_detr.gates.analysis.resampling import (
    DRAWS,
    LEVEL,
    Interval,
    bootstrap_correlation,
    false_discovery,
    paired_bootstrap,
    ratio_bootstrap,
)
from qd_detr.gates.analysis.slices import slices
from qd_detr.gates.data.datasets import dataset_of
from qd_detr.gates.gating import ATTENTION
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, audio_name
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.runs.interventions.results import GATES_RECORDED, SweepRun
from qd_detr.gates.tracking.entries import SampleId

Array = NDArray[np.float64]

WITHOUT = {"gates_off": ATTENTION_OFF, "silence": audio_name("none")}
"""The two ways to be without audio: a short name, and the condition of the sweep."""

SHOWN = {"gates_off": "all attention gates off", "silence": "silent audio"}
NO_RELATION = "no relation found: the interval contains 0"


def audio_help(
    run: SweepRun,
    *,
    dset_name: str = "hl",
    clip_length_s: float = 2.0,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Return all that a sweep says about the audio, JSON-ready.

    Returns:
        {"gates_recorded": "after" the intervention, "n_queries", "n_labelled", "n_source_videos",
        "bootstrap": {"draws", "level", "seed", "clusters"}, "metrics": {"available", "reason", "names", "primary",
        "baseline": {metric: percent}}, "conditions": see `condition_effects`, "dose_curve": see `dose_curve`,
        "verdict": see `verdicts`, "slices": see `slice_effects`, "explanation": see `gate_explanation`}.
        Without labels the last three are [] or None and "reason" says why.
    """
    sweep = score_sweep(run, dset_name, clip_length_s)
    records = condition_effects(sweep, seed, draws=draws, level=level)
    of_slices = slice_effects(sweep, seed, draws=draws, level=level)
    return {
        "gates_recorded": GATES_RECORDED,
        "n_queries": len(run.queries),
        "n_labelled": int(sweep.labelled.sum()),
        "n_source_videos": len(set(sweep.clusters)),
        "bootstrap": {"draws": draws, "level": level, "seed": seed, "clusters": "source videos"},
        "metrics": {
            "available": bool(sweep.scored),
            "reason": _why_no_metrics(sweep),
            "names": list(sweep.metrics),
            "primary": sweep.primary,
            "baseline": {m: float(sweep.of(BASELINE).columns[m].mean()) for m in sweep.metrics},
        },
        "conditions": records,
        "dose_curve": dose_curve(records),
        "verdict": verdicts(sweep, of_slices, seed, draws=draws, level=level),
        "slices": of_slices,
        "explanation": gate_explanation(sweep, seed, draws=draws, level=level),
    }


def _why_no_metrics(sweep: ScoredSweep) -> str | None:
    missing = int((~sweep.labelled).sum())
    if not missing:
        return None
    if not sweep.scored:
        return "the annotations have no labels: predictions are compared, metrics cannot be computed"
    return f"{missing} of {len(sweep.labelled)} queries have no labels and are left out of the metrics"


def available(sweep: ScoredSweep) -> dict[str, str]:
    """Return the ways to be without audio that the sweep holds, short name to condition."""
    return {short: name for short, name in WITHOUT.items() if sweep.run.has(name)}


def audio_effect(sweep: ScoredSweep, without: str, metric: str) -> Array:
    """Return per labelled query (n,) a metric with audio minus without, in percent points."""
    return sweep.of(BASELINE).columns[metric] - sweep.of(WITHOUT[without]).columns[metric]


def slice_effects(
    sweep: ScoredSweep, seed: int, *, draws: int = DRAWS, level: float = LEVEL, rate: float = 0.05
) -> list[dict[str, Any]]:
    """Return the audio effect on each slice of the labelled queries.

    Returns:
        Per slice, way to be without audio and metric {"slice", "description", "without", "metric", "n", "effect" (an
        interval, percent points), "adjusted_p", "significant"}; Benjamini-Hochberg over all of them. A slice may
        overlap another and is not compared with the rest of the queries.
    """
    queries = sweep.labelled_queries
    ways = available(sweep)
    if not sweep.scored or not ways:
        return []
    moments = dataset_of(sweep.dset_name).moments
    windows = [query.relevant_windows or () for query in queries] if moments else None
    parts = slices(windows, [query.duration_s for query in queries], [query.query for query in queries])
    keys = [(name, without, metric) for name in parts for without in ways for metric in sweep.metrics]
    masks = np.stack([parts[name].mask for name, _, _ in keys], axis=1)  # (n, keys)
    effects = np.stack([audio_effect(sweep, without, metric) for _, without, metric in keys], axis=1)
    intervals = ratio_bootstrap(
        np.where(masks, effects, 0.0),
        masks.astype(np.float64),
        sweep.labelled_clusters,
        seed=seed,
        draws=draws,
        level=level,
    )
    control = false_discovery([interval["p"] for interval in intervals], rate)
    return [
        {
            "slice": name,
            "description": parts[name].description,
            "without": without,
            "metric": metric,
            "n": int(masks[:, i].sum()),
            "effect": intervals[i],
            "adjusted_p": control["adjusted"][i],
            "significant": control["significant"][i],
        }
        for i, (name, without, metric) in enumerate(keys)
    ]


def verdicts(
    sweep: ScoredSweep,
    of_slices: Sequence[dict[str, Any]],
    seed: int,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> list[dict[str, Any]]:
    """Return the answer for each way to be without audio, on the primary metric.

    Returns:
        Per way {"without", "metric", "direction" ("helps", "hurts", "not shown"), "effect" (an interval: with audio
        minus without), "best_slice", "worst_slice" (the records of the slices on which audio helps and hurts most
        among those that stand after false-discovery control, None if none does), "largest_slice" (the slice of
        largest effect either way, whether it stands or not), "sentence"}.
    """
    metric = sweep.primary
    if metric is None:
        return []
    found = []
    for without in available(sweep):
        (effect,) = paired_bootstrap(
            audio_effect(sweep, without, metric), sweep.labelled_clusters, seed=seed, draws=draws, level=level
        )
        mine = [one for one in of_slices if one["without"] == without and one["metric"] == metric and one["n"]]
        stand = [one for one in mine if one["significant"]]
        best = max(stand, key=_size, default=None)
        worst = min(stand, key=_size, default=None)
        found.append(
            {
                "without": without,
                "metric": metric,
                "direction": direction_of(effect),
                "effect": effect,
                "best_slice": best if best is not None and _size(best) > 0 else None,
                "worst_slice": worst if worst is not None and _size(worst) < 0 else None,
                "largest_slice": max(mine, key=lambda one: abs(_size(one)), default=None),
                "sentence": _verdict_sentence(without, metric, effect),
            }
        )
    return found


def _size(record: dict[str, Any]) -> float:
    return float(record["effect"]["estimate"])


def direction_of(effect: Interval) -> str:
    """Return "helps" or "hurts" where the interval leaves 0 out, else "not shown"."""
    low, high = effect["low"], effect["high"]
    if low is not None and low > 0:
        return "helps"
    if high is not None and high < 0:
        return "hurts"
    return "not shown"


def _verdict_sentence(without: str, metric: str, effect: Interval) -> str:
    if effect["low"] is None or effect["high"] is None or effect["estimate"] is None:
        return f"Whether the audio helps cannot be said: {effect['reason']}."
    conclusion = {
        "helps": "the audio helps",
        "hurts": "the audio hurts",
        "not shown": "an effect of the audio is not shown, the interval contains 0",
    }[direction_of(effect)]
    return (
        f"{metric} with audio minus {metric} with {SHOWN[without]} is {effect['estimate']:+.2f} points "
        f"({100 * effect['level']:g} % interval {effect['low']:+.2f} to {effect['high']:+.2f}; {effect['n']} queries, "
        f"{effect['n_clusters']} source videos): {conclusion}."
    )


def gate_figures_of_queries(run: SweepRun) -> dict[str, Array]:
    """Return per query (N,) its attention gates' magnitude and injection in the baseline, means over layers."""
    attention = run.kinds.index(ATTENTION.kind)
    figures = {"magnitude": run.baseline.magnitude[:, :, attention].mean(axis=1)}
    if run.baseline.injection is not None:
        figures["injection"] = run.baseline.injection[:, :, attention].mean(axis=1)
    return figures


def gate_explanation(
    sweep: ScoredSweep, seed: int, *, draws: int = DRAWS, level: float = LEVEL, rate: float = 0.05
) -> dict[str, Any] | None:
    """Return how a query's gates relate to its measured audio effect; None without labels or without a way to be silent.

    Spearman's correlation over queries, with intervals by resampling source videos. The signed effect asks whether
    gates are larger where audio helps; the absolute one whether they are larger where it matters, for better or worse.

    Returns:
        {"rate", "n_tests", "found": how many stand after Benjamini-Hochberg, "relations": [{"figure" ("magnitude",
        "injection"), "without", "score" ("AP", "best IoU"), "effect" ("signed", "absolute"), "correlation" (an
        interval), "adjusted_p", "significant", "sentence"}]}
    """
    effects = per_query_effects(sweep)
    if not effects:
        return None
    gates = {figure: values[sweep.labelled] for figure, values in gate_figures_of_queries(sweep.run).items()}
    keys, left, right = [], [], []
    for figure, gate in gates.items():
        for (without, score), effect in effects.items():
            for kind, values in (("signed", effect), ("absolute", np.abs(effect))):
                keys.append({"figure": figure, "without": without, "score": score, "effect": kind})
                left.append(gate)
                right.append(values)
    intervals = bootstrap_correlation(
        np.stack(left, axis=1), np.stack(right, axis=1), sweep.labelled_clusters, seed=seed, draws=draws, level=level
    )
    control = false_discovery([interval["p"] for interval in intervals], rate)
    relations = [
        {
            **key,
            "correlation": interval,
            "adjusted_p": adjusted,
            "significant": significant,
            "sentence": _relation_sentence(key, interval, bool(significant)),
        }
        for key, interval, adjusted, significant in zip(
            keys, intervals, control["adjusted"], control["significant"], strict=True
        )
    ]
    found = sum(bool(relation["significant"]) for relation in relations)
    return {"rate": rate, "n_tests": control["n_tests"], "found": found, "relations": relations}


def per_query_effects(sweep: ScoredSweep) -> dict[tuple[str, str], Array]:
    """Return {(way to be without audio, "AP" or "best IoU"): with audio minus without (n,), as fractions}."""
    if not sweep.scored:
        return {}
    before = sweep.of(BASELINE)
    effects: dict[tuple[str, str], Array] = {}
    for without, name in available(sweep).items():
        after = sweep.of(name)
        effects[without, "AP"] = before.ap - after.ap
        if before.best_iou is not None and after.best_iou is not None:
            effects[without, "best IoU"] = before.best_iou - after.best_iou
    return effects


def _relation_sentence(key: dict[str, str], interval: Interval, stands: bool) -> str:
    effect = f"{key['effect']} audio effect on {key['score']} ({SHOWN[key['without']]})"
    what = f"{key['figure']} of the attention gates and the {effect}"
    if interval["estimate"] is None or interval["low"] is None or interval["high"] is None:
        return f"{what}: not to be had, {interval['reason']}."
    numbers = (
        f"Spearman {interval['estimate']:+.2f} ({interval['low']:+.2f} to {interval['high']:+.2f}, n = {interval['n']})"
    )
    if interval["low"] <= 0 <= interval["high"]:
        return f"{what}: {numbers}, {NO_RELATION}."
    if not stands:
        return f"{what}: {numbers}; with as many relations looked at, it does not stand after false-discovery control."
    larger = "larger" if interval["estimate"] > 0 else "smaller"
    return f"{what}: {numbers}; larger gates go with a {larger} effect."


def sample_columns(
    run: SweepRun, dset_name: str = "hl", clip_length_s: float = 2.0
) -> dict[str, dict[SampleId, float]]:
    """Return columns for samples.csv, {name: {qid: value}}: the audio effect of each query and how its prediction moved."""
    sweep = score_sweep(run, dset_name, clip_length_s)
    columns: dict[str, dict[SampleId, float]] = {}
    labelled = [query.qid for query in sweep.labelled_queries]
    for (without, score), effect in per_query_effects(sweep).items():
        name = f"audio_effect_{score.replace(' ', '_')}_{without}"
        columns[name] = dict(zip(labelled, effect.tolist(), strict=True))
    for without, condition in available(sweep).items():
        iou = prediction_changes(run, condition)["first_window_iou"]
        name = f"first_window_iou_{without}"
        columns[name] = {query.qid: value for query, value in zip(run.queries, iou.tolist(), strict=True)}
    return columns
