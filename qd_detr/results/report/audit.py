"""The report's first section: what could mislead a reader."""

from __future__ import annotations

from typing import Any

from qd_detr.errors import first_few
from qd_detr.results.context import RunFindings
from qd_detr.results.report.markdown import counted, inline, number, percent

NOISE = 1e-5


def audit_section(findings: RunFindings) -> list[str]:
    """Return the section on what could mislead, worst first."""
    audit: dict[str, Any] = findings.sections.get("audit", {})
    facts = findings.analysis.facts
    points: list[str] = []
    if facts.gating_note:
        points.append(f"**{facts.gating_note}**")
    points += _query_points(audit, len(findings.analysis.rows))
    points += _batch_points(audit, findings)
    points += _data_points(audit, findings)
    points += _gate_points(audit)
    if not points:
        points.append("Gates were recorded by a loop of your own; nothing about its data could be checked here.")
    return ["## Before you read on: what could mislead", "", *(f"- {point}" for point in points), ""]


def _query_points(audit: dict[str, Any], n_samples: int) -> list[str]:
    check = audit.get("query_independence")
    if not check or check["largest_gate_change"] is None:
        return []
    largest, videos = check["largest_gate_change"], check["videos"]
    how = f"checked on {counted(check['compared'], 'comparison')}: {check['how']}; largest change {number(largest)}"
    if largest > NOISE:
        return [f"The gates depend on the query ({how}). Every sample is a case of its own: n = {n_samples}."]
    return [
        f"The gates do not depend on the query ({how}). They are a property of the video: whatever is said about gates "
        f"below has n = {counted(videos, 'video')}, not {counted(n_samples, 'query', 'queries')}."
    ]


def _batch_points(audit: dict[str, Any], findings: RunFindings) -> list[str]:
    points = []
    effects = audit.get("batch_effects")
    if findings.notes.get("legacy_batches"):
        points.append(
            "This run repeats legacy batches: padding and batch mates are in the predictions"
            + (", and padding in the global gates." if findings.analysis.facts.gating_type == "global" else ".")
        )
    elif effects:
        n = effects["queries"]
        points.append(
            f"Every sample has its own value here (batch size 1). In the legacy run's batches of {effects['eval_bsz']}, "
            f"padding and batch mates would have changed the first window in {effects['first_window_changes']} of {n} "
            f"queries, any window in {effects['any_window_changes']}, any score in {effects['any_score_changes']} (largest "
            f"score change {number(effects['largest_score_change'])}, saliency {number(effects['largest_saliency_change'])})."
            + ("" if n == effects["of"] else f" Checked on the first {n} of {effects['of']} queries.")
        )
    noise = audit.get("noise_floor")
    if noise:
        points.append(
            f"Numerical noise floor: {counted(noise['samples'], 'sample')} run alone instead of in a batch moved gates by "
            f"at most {number(noise['gates'])}, scores by {number(noise['scores'])}, saliency by {number(noise['saliency'])}; "
            "smaller differences mean nothing."
        )
    return points


def _data_points(audit: dict[str, Any], findings: RunFindings) -> list[str]:
    points = []
    notes = findings.notes
    if notes.get("left_out"):
        points.append(
            f"{counted(notes['left_out'], 'query was', 'queries were')} left out because features are missing "
            f"({percent(notes['left_out'] / notes['annotated'])} of the annotations)."
        )
    if notes.get("length_mismatches"):
        points.append(
            f"In {counted(notes['length_mismatches'], 'video')} audio and video features differ in length; both were cut "
            "to the shorter."
        )
    for key, text in (
        ("repeated_pairs", "have the same video and the same sentence as another query"),
        ("identical_video_features", "have video features identical to another video's"),
        ("identical_audio_features", "have audio features identical to another video's"),
    ):
        groups = audit.get(key)
        if groups:
            ids = [inline(one) for group in groups for one in group]
            points.append(f"{counted(len(ids), 'sample')} {text} ({first_few(ids)}).")
    if audit.get("checked_data") and not any(
        audit.get(k) for k in ("repeated_pairs", "identical_video_features", "identical_audio_features")
    ):
        points.append("No repeated (video, query) pairs and no identical features under different video names.")
    if audit.get("finite"):
        points.append("All features, gates and predictions are finite.")
    for sentence in notes.get("disagreements", []):
        points.append(f"Options disagree on {sentence}.")
    return points


def _gate_points(audit: dict[str, Any]) -> list[str]:
    silent = audit.get("never_fired")
    if silent is None:
        return []
    if not silent:
        return ["Every gate reached a magnitude of 0.05 in at least one sample."]
    names = [f"layer {g['layer']} {g['kind']} (largest {number(g['largest_magnitude'])})" for g in silent]
    return [f"{counted(len(silent), 'gate')} never fired (magnitude below 0.05 in every sample): {', '.join(names)}."]
