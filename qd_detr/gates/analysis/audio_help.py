"""Does the audio help, where, and do the gates tell? From a sweep to plain results for report, figures and JSON.

The audio effect of a query is what it scores with audio minus what it scores without: above 0 the audio helps. "Without"
is asked in two ways. With all attention gates off no audio is added any more, though it still sets the FFN gates. With
silence the model hears nothing at all, but its gates answer to a silence they were never trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qd_detr.gates.analysis.effects import ScoredSweep, condition_effects, dose_curve, prediction_changes, score_sweep
from qd_detr.gates.analysis.flips import flip_columns, flips
from qd_detr.gates.analysis.gate_relations import gate_explanation, per_query_effects
from qd_detr.gates.analysis.group_effects import group_effects, groups_of_videos, telling_groups
from qd_detr.gates.analysis.intervals import Interval
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL
from qd_detr.gates.analysis.slice_effects import slice_effects
from qd_detr.gates.analysis.sweep_readings import calibration, layer_interactions, wrong_audio
from qd_detr.gates.analysis.verdicts import MARGIN_POINTS
from qd_detr.gates.analysis.window_moves import window_moves
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.runs.interventions.results import GATES_RECORDED, SweepRun
from qd_detr.gates.tracking.entries import SampleId
from qd_detr.gates.wording import Reason


def audio_help(
    run: SweepRun,
    *,
    dset_name: str = "hl",
    clip_length_s: float = 2.0,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
    margin: float = MARGIN_POINTS,
    contrasts: Mapping[str, str] | None = None,
    shares: Mapping[SampleId, float | None] | None = None,
    own_slices: Mapping[str, Collection[str]] | None = None,
    scored: ScoredSweep | None = None,
) -> dict[str, Any]:
    """Return all that a sweep says about the audio, JSON-ready.

    Args:
        run: the sweep.
        dset_name: decides the metrics.
        clip_length_s: seconds per saliency clip.
        seed: of the resampling. draws, level: likewise.
        margin: percent points within which an effect counts as none.
        contrasts: what the baseline is compared with, the primary one first; None: the ways to be without audio.
        shares: per qid the audio's share of the prediction, where it was computed.
        own_slices: per name the qids, as text, of a slice beside those of `slices`.
        scored: the sweep with its scores, where it was scored already.

    Returns:
        {"gates_recorded": "after" the intervention, "n_queries", "n_labelled", "n_source_videos",
        "bootstrap": {"draws", "level", "seed", "clusters"}, "metrics": {"available", "reason", "names", "primary",
        "baseline": {metric: percent}}, "conditions": see `condition_effects`, "dose_curve": see `dose_curve`,
        "margin", "verdict": see `verdicts`, "groups": see `group_effects`, "flips": see `flips`,
        "window_moves": see `window_moves`, "interactions": see `layer_interactions`, "wrong_audio": see `wrong_audio`,
        "calibration": see `calibration`,
        "slices": see `slice_effects`, "explanation": see `gate_explanation`}.
        Without labels all from "verdict" on but "groups" are [] or None and "reason" says why.
    """
    sweep = scored or score_sweep(run, dset_name, clip_length_s, contrasts)
    settings: dict[str, Any] = {"draws": draws, "level": level}
    records = condition_effects(sweep, seed, margin=margin, **settings)
    of_slices = slice_effects(sweep, seed, own=own_slices, **settings)
    groups = group_effects(sweep, shares, seed, margin=margin, **settings)
    of_video = groups_of_videos(telling_groups(groups))
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
        "margin": margin,
        "verdict": verdicts(sweep, records, of_slices),
        "groups": groups,
        "flips": flips(sweep, seed, **settings),
        "window_moves": window_moves(sweep, clip_length_s, seed, **settings),
        "interactions": layer_interactions(sweep, seed, **settings),
        "wrong_audio": wrong_audio(sweep, seed, **settings),
        "calibration": calibration(sweep, seed, **settings),
        "slices": of_slices,
        "explanation": gate_explanation(sweep, seed, groups=of_video, **settings) if run.gates else None,
    }


def _why_no_metrics(sweep: ScoredSweep) -> Reason | None:
    missing = int((~sweep.labelled).sum())
    if not missing:
        return None
    if not sweep.scored:
        return Reason("labels.none")
    return Reason("labels.left_out", {"missing": missing, "n": len(sweep.labelled)})


def verdicts(
    sweep: ScoredSweep, records: Sequence[Mapping[str, Any]], of_slices: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the answer for each contrast, on the primary metric, the primary contrast first.

    Args:
        sweep: the scores.
        records: see `condition_effects`: the verdicts follow the decisions of that table.
        of_slices: see `slice_effects`.

    Returns:
        Per contrast {"without", "metric", "primary" (whether it was stated beforehand), "direction" ("helps",
        "hurts", "not shown"), "effect" (an interval: with audio minus without), "adjusted_p", the keys of
        `verdicts.Verdict`, "best_slice", "worst_slice" (the records of the slices on which the audio helps and hurts
        more than on all other queries, of those that stand the farthest from the rest; None if none does),
        "largest_slice" (the slice that differs most from the rest, whether it stands or not)}.
    """
    metric = sweep.primary
    if metric is None:
        return []
    by_name = {record["name"]: record for record in records}
    found = []
    for place, (without, name) in enumerate(sweep.contrasts.items()):
        entry = by_name[sweep.run.run_name(name)]["metrics"][metric]
        if entry["change"] is None:
            continue  # the contrast comes to the model as it is: there is nothing to compare
        effect = negated(entry["change"])
        mine = [one for one in of_slices if one["without"] == without and one["metric"] == metric]
        mine = [one for one in mine if one["difference"]["estimate"] is not None]
        stand = sorted((one for one in mine if one["significant"]), key=_apart)
        verdict = {
            **entry["verdict"],
            "verdict": OPPOSITE.get(entry["verdict"]["verdict"], entry["verdict"]["verdict"]),
        }
        direction = verdict["verdict"] if verdict["verdict"] in OPPOSITE else "not shown"
        found.append(
            {
                "without": without,
                "metric": metric,
                "primary": place == 0,
                "direction": direction,
                "effect": effect,
                "adjusted_p": entry["adjusted_p"],
                **verdict,
                "best_slice": next((one for one in reversed(stand) if _apart(one) > 0 and _size(one) > 0), None),
                "worst_slice": next((one for one in stand if _apart(one) < 0 and _size(one) < 0), None),
                "largest_slice": max(mine, key=lambda one: abs(_apart(one)), default=None),
            }
        )
    return found


OPPOSITE = {"helps": "hurts", "hurts": "helps"}


def negated(change: Interval) -> Interval:
    """Return the interval of the difference taken the other way round."""

    def minus(key: str) -> float | None:
        value = change[key]  # type: ignore[literal-required]
        return None if value is None else 0.0 - value

    return change | {
        "estimate": minus("estimate"),
        "low": minus("high"),
        "high": minus("low"),
        "equivalence_low": minus("equivalence_high"),
        "equivalence_high": minus("equivalence_low"),
    }


def _size(record: dict[str, Any]) -> float:
    return float(record["effect"]["estimate"])


def _apart(record: dict[str, Any]) -> float:
    return float(record["difference"]["estimate"])


def sample_columns(sweep: ScoredSweep) -> dict[str, dict[SampleId, float]]:
    """Return columns for samples.csv, {name: {qid: value}}: the audio effect of each query and how its prediction moved."""
    run = sweep.run
    columns: dict[str, dict[SampleId, float]] = {}
    labelled = [query.qid for query in sweep.labelled_queries]
    for (without, score), effect in per_query_effects(sweep).items():
        name = f"audio_effect_{score.replace(' ', '_')}_{without}"
        columns[name] = dict(zip(labelled, effect.tolist(), strict=True))
    for name, change in flip_columns(sweep).items():
        columns[name] = dict(zip(labelled, change.tolist(), strict=True))
    for without, condition in sweep.contrasts.items():
        iou = prediction_changes(run, condition)["first_window_iou"]
        name = f"first_window_iou_{without}"
        columns[name] = {query.qid: value for query, value in zip(run.queries, iou.tolist(), strict=True)}
    return columns
