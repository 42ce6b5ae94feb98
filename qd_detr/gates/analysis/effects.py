"""What each condition of a sweep did to predictions and metrics, per query and on the mean, with intervals.

Letters: N queries, n those of them with labels.

A change is the condition minus the baseline, in percent points for metrics. Intervals and p values come from the
paired bootstrap over source videos (`resampling`); all conditions and metrics share its draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.intervals import Interval
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, paired_bootstrap
from qd_detr.gates.analysis.verdicts import MARGIN_POINTS, controlled, verdict_of
from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.video_names import source_video
from qd_detr.gates.evaluation import Scores, benchmark_of
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, DOSES, Condition, audio_name, dose_name
from qd_detr.gates.runs.interventions.edits import BASELINE, to_plain
from qd_detr.gates.runs.interventions.results import GateFigures, SweepRun

Array = NDArray[np.float64]
POINTS = (-100.0, 100.0)
"""Least and greatest change of a query's metric, in percent points."""
CHANGE_BOUNDS = {"first_window_changed": (0.0, 100.0), "first_window_iou": (0.0, 1.0), "top_clip_changed": (0.0, 100.0)}
"""Least and greatest value of a query's figures of `line_changes`."""

WITHOUT = {"gates_off": ATTENTION_OFF, "silence": audio_name("none")}
"""The ways to be without audio, the primary contrast first: a short name, and the condition of the sweep."""


@dataclass(frozen=True, eq=False)
class ScoredSweep:
    """A sweep with its per-query scores.

    Attributes:
        run: what was run. labelled: which of its N queries have labels.
        scored: per condition that was run; empty if no query has labels.
        contrasts: what the baseline is compared with: a short name, and the condition; the primary one first.
    """

    run: SweepRun
    dset_name: str
    labelled: NDArray[np.bool_]
    scored: Mapping[str, Scores]
    contrasts: Mapping[str, str]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics; none without labels."""
        if not self.scored:
            return ()
        return tuple(self.of(BASELINE).columns)

    @property
    def primary(self) -> str | None:
        """The metric that the verdict speaks of."""
        if not self.scored:
            return None
        return benchmark_of(self.dset_name).primary

    @property
    def primary_condition(self) -> str | None:
        """The condition of the primary contrast, under the name it was run by."""
        first = next(iter(self.contrasts.values()), None)
        return None if first is None else self.run.run_name(first)

    @property
    def labelled_queries(self) -> list[Query]:
        """The n queries with labels."""
        return [query for query, has in zip(self.run.queries, self.labelled, strict=True) if has]

    @cached_property
    def clusters(self) -> list[str]:
        """The source video of each of the N queries."""
        return [source_video(query.vid) for query in self.run.queries]

    @cached_property
    def labelled_clusters(self) -> list[str]:
        """The source video of each of the n queries with labels."""
        return [source_video(query.vid) for query in self.labelled_queries]

    def of(self, name: str) -> Scores:
        """Return the scores of a condition, also of one that was not run because it equals another."""
        return self.scored[self.run.run_name(name)]

    def effect(self, contrast: str, metric: str) -> Array:
        """Return per labelled query (n,) a metric of the baseline minus that of a contrast, in percent points."""
        return self.of(BASELINE).columns[metric] - self.of(self.contrasts[contrast]).columns[metric]


def score_sweep(
    run: SweepRun, dset_name: str = "hl", clip_length_s: float = 2.0, contrasts: Mapping[str, str] | None = None
) -> ScoredSweep:
    """Evaluate every condition on the queries that have labels.

    Args:
        run: what was run.
        dset_name: decides the metrics.
        clip_length_s: seconds per saliency clip.
        contrasts: see `ScoredSweep`; None: the ways to be without audio that were run.

    Raises:
        DataError: labels or predictions that cannot be judged.
    """
    labelled = np.array([query.labelled for query in run.queries], dtype=bool)
    queries = [query for query in run.queries if query.labelled]
    scored: dict[str, Scores] = {}
    if queries:
        for name, lines in run.lines.items():
            kept = [line for line, has in zip(lines, labelled, strict=True) if has]
            scored[name] = benchmark_of(dset_name).score(kept, queries, clip_length_s)
    if contrasts is None:
        contrasts = {short: name for short, name in WITHOUT.items() if run.has(name)}
    return ScoredSweep(run, dset_name, labelled, scored, contrasts)


def prediction_changes(run: SweepRun, name: str) -> dict[str, Array]:
    """Return per query, (N,), how a condition's prediction differs from the baseline's; see `line_changes`."""
    return line_changes(run.lines_of(BASELINE), run.lines_of(name))


def line_changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return per query, (N,), how the second of two predictions differs from the first.

    "first_window_changed" and "top_clip_changed" are 100 where the first window's times, the clip of highest saliency
    (first of equals), are others, else 0; "first_window_iou" is the IoU of the two first windows, 1 if they are equal.
    """
    return predicted(before).changes(predicted(after))


@dataclass(frozen=True, eq=False)
class Predicted:
    """What is compared of N predictions.

    Attributes:
        windows: the first windows (N, 2) in seconds, NaN where a prediction has none.
        top_clips: the clip of highest saliency, first of equals (N,).
    """

    windows: Array
    top_clips: NDArray[np.intp]

    def changes(self, after: Predicted) -> dict[str, Array]:
        """Return what `line_changes` does."""
        first, other = self.windows, after.windows
        equal = ((first == other) | (np.isnan(first) & np.isnan(other))).all(axis=1)
        # No window: one without length, which overlaps nothing.
        first, other = np.nan_to_num(first), np.nan_to_num(other)
        overlap = np.minimum(first[:, 1], other[:, 1]) - np.maximum(first[:, 0], other[:, 0])
        overlap = np.maximum(overlap, 0.0)
        union = np.diff(first)[:, 0] + np.diff(other)[:, 0] - overlap
        iou = np.divide(overlap, union, out=np.zeros(len(first)), where=union > 0)
        return {
            "first_window_changed": 100.0 * ~equal,
            "first_window_iou": np.where(equal, 1.0, iou),
            "top_clip_changed": 100.0 * (self.top_clips != after.top_clips),
        }


def predicted(lines: Sequence[Mapping[str, Any]]) -> Predicted:
    """Return what is compared of predictions."""
    rows = [line["pred_relevant_windows"] for line in lines]
    windows = [row[0][:2] if len(row) else (np.nan, np.nan) for row in rows]
    return Predicted(
        np.array(windows, dtype=np.float64).reshape(-1, 2),
        np.array([int(np.argmax(line["pred_saliency_scores"])) for line in lines], dtype=np.intp),
    )


def condition_effects(
    sweep: ScoredSweep, seed: int, *, draws: int = DRAWS, level: float = LEVEL, margin: float = MARGIN_POINTS
) -> list[dict[str, Any]]:
    """Return a record per condition, JSON-ready, in the order of the conditions.

    Returns:
        Per condition {"name", "same_as" (the condition it equals, or None), "intervention" (as in interventions.json,
        or None), "audio" ({"mode", "seed"} or None), "gates" (per layer and kind: magnitude, change, injection,
        injection_change, means over queries), "predictions" ({"first_window_changed" and "top_clip_changed" in
        percent of the queries, "first_window_iou"}, each an interval), "metrics" ({metric: {"baseline", "value",
        "change" (an interval), "adjusted_p", "significant", "verdict" (see `verdict_of`: does the condition raise the
        metric?); the baseline's have "interval" instead, of the value itself}; {} without labels)}.
        adjusted_p is Benjamini-Hochberg's, over all metrics of all conditions that
        were run, the baseline aside; the primary metric of the primary contrast was stated beforehand, keeps its own
        p and is none of the tests.
    """
    run = sweep.run
    changed = [name for name in run.lines if name != BASELINE]
    predictions = _prediction_intervals(sweep, changed, seed, draws, level)
    metrics = _metric_changes(sweep, changed, seed, draws, level, margin)
    unchanged = _unchanged(sweep, seed, draws, level)
    records = []
    for condition in run.conditions:
        name = run.run_name(condition.name)
        records.append(
            {
                "name": condition.name,
                "same_as": run.same_as.get(condition.name),
                **_what(condition),
                "gates": _gate_record(run.gates[name], run.kinds) if name in run.gates else [],
                "predictions": predictions.get(name),
                "metrics": metrics.get(name, unchanged),
            }
        )
    return records


def _what(condition: Condition) -> dict[str, Any]:
    intervention, audio = condition.intervention, condition.audio
    return {
        "intervention": None if intervention is None else to_plain([intervention])[0],
        "audio": None if audio is None else {"mode": audio.mode, "seed": audio.seed},
    }


def _prediction_intervals(
    sweep: ScoredSweep, names: Sequence[str], seed: int, draws: int, level: float
) -> dict[str, dict[str, Any]]:
    if not names:
        return {}
    columns = {name: prediction_changes(sweep.run, name) for name in names}
    table = np.stack([column for changes in columns.values() for column in changes.values()], axis=1)
    bounds = [CHANGE_BOUNDS[key] for changes in columns.values() for key in changes]
    intervals = iter(paired_bootstrap(table, sweep.clusters, seed=seed, draws=draws, level=level, bounds=bounds))
    return {name: {key: without_test(next(intervals)) for key in changes} for name, changes in columns.items()}


def without_test(interval: Interval) -> dict[str, Any]:
    """Return an interval of a share or an overlap, which has nothing to test against 0."""
    return {key: value for key, value in interval.items() if key not in ("p", "equivalence_low", "equivalence_high")}


def _metric_changes(
    sweep: ScoredSweep, names: Sequence[str], seed: int, draws: int, level: float, margin: float
) -> dict[str, dict[str, Any]]:
    if not names or not sweep.scored:
        return {}
    before = sweep.of(BASELINE).columns
    pairs = [(name, metric) for name in names for metric in sweep.metrics]
    table = np.stack([sweep.of(name).columns[metric] - before[metric] for name, metric in pairs], axis=1)
    settings = {"seed": seed, "draws": draws, "level": level}
    intervals = paired_bootstrap(table, sweep.labelled_clusters, bounds=[POINTS] * len(pairs), **settings)  # type: ignore[arg-type]
    first = (sweep.primary_condition, sweep.primary)
    control = controlled(intervals, pairs.index(first) if first in pairs else None)
    found: dict[str, dict[str, Any]] = {}
    for i, (name, metric) in enumerate(pairs):
        found.setdefault(name, {})[metric] = {
            "baseline": float(before[metric].mean()),
            "value": float(sweep.of(name).columns[metric].mean()),
            "change": intervals[i],
            "adjusted_p": control["adjusted"][i],
            "significant": control["significant"][i],
            "verdict": verdict_of(intervals[i], margin=margin, adjusted_p=control["adjusted"][i]),
        }
    return found


def _unchanged(sweep: ScoredSweep, seed: int, draws: int, level: float) -> dict[str, Any]:
    """Return the metrics of the baseline and its like, each with its own interval: a change of 0 by definition has none."""
    if not sweep.scored:
        return {}
    columns = [sweep.of(BASELINE).columns[metric] for metric in sweep.metrics]
    means, table = [float(column.mean()) for column in columns], np.stack(columns, axis=1)
    bounds = [(0.0, 100.0)] * len(sweep.metrics)
    intervals = paired_bootstrap(table, sweep.labelled_clusters, seed=seed, draws=draws, level=level, bounds=bounds)
    none = dict.fromkeys(("change", "adjusted_p", "significant", "verdict"))
    return {
        metric: {"baseline": value, "value": value, "interval": without_test(interval), **none}
        for metric, value, interval in zip(sweep.metrics, means, intervals, strict=True)
    }


def _gate_record(figures: GateFigures, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return per layer {"layer", kind of gate: {figure: mean over queries}, ...}."""
    named = {
        name: getattr(figures, name)
        for name in ("magnitude", "change", "injection", "injection_change")
        if getattr(figures, name) is not None
    }
    means = {name: _mean_over_queries(values) for name, values in named.items()}  # (layers, kinds)
    return [
        {
            "layer": layer,
            **{
                kind: {
                    name: None if np.isnan(mean[layer, k]) else float(mean[layer, k]) for name, mean in means.items()
                }
                for k, kind in enumerate(kinds)
            },
        }
        for layer in range(figures.magnitude.shape[1])
    ]


def _mean_over_queries(values: Array) -> Array:
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def dose_curve(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return metrics over the scale of all attention gates, from `condition_effects`; None if that was not run.

    Returns:
        {"scales": [...], "metrics": {metric: {"value": [...], "change": [interval or None at scale 1, ...]}},
        "predictions": {"first_window_changed": [interval or None, ...], ...}}
    """
    by_name = {record["name"]: record for record in records}
    if any(dose_name(dose) not in by_name for dose in DOSES):
        return None
    doses = [by_name[dose_name(dose)] for dose in DOSES]
    keys = next((list(dose["predictions"]) for dose in doses if dose["predictions"]), [])
    return {
        "scales": list(DOSES),
        "metrics": {
            metric: {part: [dose["metrics"][metric][part] for dose in doses] for part in ("value", "change")}
            for metric in doses[0]["metrics"]
        },
        "predictions": {key: [(dose["predictions"] or {}).get(key) for dose in doses] for key in keys},
    }
