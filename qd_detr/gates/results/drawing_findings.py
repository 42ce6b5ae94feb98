"""The figures of what a run found beyond gate values: alignment with the moments, effects of interventions, comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qd_detr.gates.analysis.audio_help import OPPOSITE, negated
from qd_detr.gates.figures.alignment import AlignmentData, plot_alignment
from qd_detr.gates.figures.effects import Effect, EffectsData, plot_effects
from qd_detr.gates.figures.runs import GroupOfRuns, RunsData, plot_runs
from qd_detr.gates.figures.style import FigureScale
from qd_detr.gates.figures.trends import DoseData, Panel, Series, plot_dose_curve
from qd_detr.gates.gating import ATTENTION
from qd_detr.gates.results.conditions import condition_words
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.wording import Reason

FindingFigure = tuple[str, Figure, Reason]  # name, figure, caption


def finding_figures(findings: RunFindings, scale: FigureScale) -> list[FindingFigure]:
    """Return the figures that this run's findings make."""
    return [
        *_alignment(findings, scale),
        *_effects(findings.sections.get("audio_help"), scale),
        *_dose(findings.sections.get("audio_help"), scale),
    ]


def _alignment(findings: RunFindings, scale: FigureScale) -> list[FindingFigure]:
    data = findings.sections.get("alignment")
    if not data or not data["applies"] or not data["annotation"]["applies"]:
        return []
    wanted = "injection" if findings.analysis.has_injection else "magnitude"
    rows = [s for s in data["annotation"]["series"] if s["kind"] == ATTENTION.kind and s["series"] == wanted]
    rows.sort(key=lambda s: s["layer"])
    if not rows or any(s["inside_minus_outside"]["effect"] is None for s in rows):
        return []

    def profiles(name: str, key: str) -> np.ndarray:
        return np.array([[np.nan if v is None else v for v in s[name][key]] for s in rows], dtype=float)

    def band(name: str) -> np.ndarray:
        return np.stack([profiles(name, "null_low"), profiles(name, "null_high")])

    contrast = [s["inside_minus_outside"] for s in rows]
    figure = plot_alignment(
        AlignmentData(
            kind=ATTENTION.kind,
            series=wanted,
            offsets_s=np.array(rows[0]["around_starts"]["lags_clips"]) * data["clip_length_s"],
            start=profiles("around_starts", "effect"),
            start_null=band("around_starts"),
            end=profiles("around_ends", "effect"),
            end_null=band("around_ends"),
            contrast=np.array([c["effect"] for c in contrast]),
            contrast_null=np.array([[c["null_low"] for c in contrast], [c["null_high"] for c in contrast]]),
            n_samples=contrast[0]["n_samples"],
            windows="annotation",
            n_shifts=data["draws"],
        ),
        scale,
    )
    return [("moment_alignment", figure, Reason(f"figures.alignment_{wanted}"))]


def _effects(data: dict[str, Any] | None, scale: FigureScale) -> list[FindingFigure]:
    if not data or not data["metrics"]["available"]:
        return []
    texts, primary = scale.texts, data["metrics"]["primary"]
    effects = []
    for record in data["conditions"]:
        entry = record["metrics"].get(primary)
        change = entry and entry["change"]
        if not change or record["same_as"] or change["low"] is None:
            continue
        group = texts("effects.audio_replaced" if record["audio"] else "effects.gates_changed")
        name = condition_words(record["name"], texts)
        stands = bool(entry["significant"])
        effects.append(Effect(name, change["estimate"], change["low"], change["high"], change["n"], group, stands))
    if not effects:
        return []
    # Gates before audio, the greatest loss first.
    effects.sort(key=lambda e: (e.group != texts("effects.gates_changed"), e.estimate))
    level = data["bootstrap"]["level"]
    n = texts(
        "effects.n",
        queries=texts.counted(data["n_labelled"], "query"),
        videos=texts.counted(data["n_source_videos"], "source_video"),
        level=f"{100 * level:g}",
    )
    figure = plot_effects(
        EffectsData(
            effects,
            x_label=texts("effects.change", metric=primary),
            caption=n,
            title=texts("effects.heading"),
            better=texts("effects.better"),
            worse=texts("effects.worse"),
            level=level,
        ),
        scale,
    )
    return [("intervention_effects", figure, Reason("figures.effects", {"metric": primary}))]


def _dose(data: dict[str, Any] | None, scale: FigureScale) -> list[FindingFigure]:
    curve = (data or {}).get("dose_curve")
    if not data or not curve or not curve["metrics"]:
        return []
    texts = scale.texts
    x = np.array(curve["scales"])
    panels = []
    for metric, entry in curve["metrics"].items():
        changes = entry["change"]

        def column(key: str, changes: Sequence[dict[str, Any] | None] = changes) -> np.ndarray:
            return np.array([0.0 if c is None else np.nan if c[key] is None else c[key] for c in changes])

        line = Series("", x, column("estimate"), column("low"), column("high"))
        panels.append(Panel(_short(metric), texts("dose.change"), [line], zero_line=True))
    queries = texts.counted(data["n_labelled"], "query")
    level = f"{100 * data['bootstrap']['level']:g}"
    figure = plot_dose_curve(
        DoseData(
            panels,
            x_label=texts("dose.factor"),
            caption=texts("dose.about", queries=queries, level=level),
            title=texts("dose.heading"),
            reference_x=1.0,
        ),
        scale,
    )
    return [("dose_response", figure, Reason("figures.dose"))]


def _short(metric: str) -> str:
    return (
        metric.removeprefix("MR-full-").replace("HL-min-VeryGood-mAP", "HL-mAP").replace("HL-min-VeryGood-Hit1", "Hit1")
    )


def submissions_figure(found: dict[str, Any]) -> Figure | None:
    """Return the effects of a submission against others, every metric of each; None where there is no interval."""
    scale = FigureScale()
    texts = scale.texts
    effects = []
    for record in found["conditions"]:
        for metric, entry in record["metrics"].items():
            if not entry["change"] or entry["change"]["low"] is None:
                continue
            effect: Mapping[str, Any] = negated(entry["change"])  # a change is the other minus the submission
            stands = bool(entry["significant"])
            estimate, low, high = (float(effect[end]) for end in ("estimate", "low", "high"))
            effects.append(Effect(metric, estimate, low, high, effect["n"], record["name"], stands))
    if not effects:
        return None
    level = found["bootstrap"]["level"]
    data = EffectsData(
        effects,
        x_label=texts("submissions.change"),
        caption=texts(
            "effects.n",
            queries=texts.counted(found["n_labelled"], "query"),
            videos=texts.counted(found["n_source_videos"], "source_video"),
            level=f"{100 * level:g}",
        ),
        title=texts("submissions.heading"),
        better=texts("submissions.better"),
        worse=texts("submissions.worse"),
        level=level,
    )
    return plot_effects(data, scale)


def comparison_figure(comparison: dict[str, Any], lang: str = "en") -> Figure | None:
    """Return every run by the primary metric, with the differences between groups; None without metrics."""
    ranking = comparison["ranking"]
    if ranking is None:
        return None

    def end(interval: dict[str, Any], side: str) -> float:
        return np.nan if interval[side] is None else float(interval[side])

    row = next(row for row in comparison["metrics"]["rows"] if row["metric"] == ranking["metric"])
    data = RunsData(
        metric=ranking["metric"],
        groups=[
            GroupOfRuns(
                name=one["group"],
                mean=one["mean"],
                low=end(one["interval"], "low"),
                high=end(one["interval"], "high"),
                runs=list(one["runs"].items()),
            )
            for one in ranking["order"]
        ],
        differences=[
            (
                (one["first"], one["second"]),
                Effect("", *_ends(one["difference"]), stands=one["verdict"]["verdict"] in OPPOSITE),
            )
            for one in row["differences"]
            if one["difference"]["low"] is not None
        ],
        n_queries=comparison["n_queries"],
        n_videos=comparison["n_source_videos"],
        level=comparison["bootstrap"]["level"],
    )
    return plot_runs(data, FigureScale(language=lang))


def _ends(interval: dict[str, Any]) -> tuple[float, float, float]:
    return interval["estimate"], interval["low"], interval["high"]
