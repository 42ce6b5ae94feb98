"""The report's first section: what could mislead a reader."""

from __future__ import annotations

from typing import Any

from qd_detr.gates.errors import first_few
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.markdown import inline, number, percent
from qd_detr.gates.results.report.wording import counted
from qd_detr.gates.wording import Texts

NOISE = 1e-5
_REPEATED = ("repeated_pairs", "identical_video_features", "identical_audio_features")


def audit_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section on what could mislead, worst first."""
    audit: dict[str, Any] = findings.sections.get("audit", {})
    points: list[str] = []
    points += _query_points(audit, len(findings.analysis.rows), texts)
    points += _batch_points(audit, findings, texts)
    points += _data_points(audit, findings, texts)
    points += _gate_points(audit, texts)
    points += _clean_points(audit, texts)
    if not points:
        points.append(texts("audit.unchecked"))
    return [texts("audit.title"), "", *(f"- {point}" for point in points), ""]


def _query_points(audit: dict[str, Any], n_samples: int, texts: Texts) -> list[str]:
    check = audit.get("query_independence")
    if not check:
        return []
    if check["largest_gate_change"] is None:
        return [texts("audit.query_unchecked")]
    largest, videos = check["largest_gate_change"], check["videos"]
    comparisons = counted(texts, check["compared"], "comparison")
    checked = {"comparisons": comparisons, "how": texts.say(check["how"]), "largest": number(largest)}
    if largest > NOISE:
        return [texts("audit.query_dependent", **checked, samples=counted(texts, n_samples, "sample"))]
    return [texts("audit.query_independent", **checked, videos=counted(texts, videos, "video"))]


def _batch_points(audit: dict[str, Any], findings: RunFindings, texts: Texts) -> list[str]:
    points = []
    effects = audit.get("batch_effects")
    if findings.notes.get("legacy_batches"):
        in_gates = not findings.analysis.facts.gating.per_clip
        point = texts("audit.legacy_batches_global" if in_gates else "audit.legacy_batches")
        points.append(point + (texts("audit.legacy_batches_own") if findings.notes.get("own_checkpoint") else ""))
    elif findings.notes.get("own_checkpoint"):
        points.append(texts("audit.own_values"))
    elif effects:
        n = effects["queries"]
        point = texts(
            "audit.batch_effects",
            eval_bsz=effects["eval_bsz"],
            first=effects["first_window_changes"],
            n=n,
            any=effects["any_window_changes"],
            scores=effects["any_score_changes"],
            score_change=number(effects["largest_score_change"]),
            saliency_change=number(effects["largest_saliency_change"]),
        )
        points.append(point + ("" if n == effects["of"] else texts("audit.batch_effects_first", n=n, of=effects["of"])))
    noise = audit.get("noise_floor")
    if noise:
        largest = {name: number(noise[name]) for name in ("gates", "scores", "saliency")}
        points.append(texts("audit.noise_floor", samples=counted(texts, noise["samples"], "sample"), **largest))
    return points


def _data_points(audit: dict[str, Any], findings: RunFindings, texts: Texts) -> list[str]:
    points = []
    notes = findings.notes
    if notes.get("left_out"):
        queries = counted(texts, notes["left_out"], "query_was")
        points.append(texts("audit.left_out", queries=queries, share=percent(notes["left_out"] / notes["annotated"])))
    if notes.get("long_audio"):
        points.append(texts("audit.long_audio", videos=counted(texts, notes["long_audio"], "video")))
    points += _coverage_points(audit.get("coverage", {}), texts)
    for key in _REPEATED:
        groups = audit.get(key)
        if groups:
            ids = [inline(one) for group in groups for one in group]
            points.append(texts(f"audit.{key}", samples=counted(texts, len(ids), "sample"), ids=first_few(ids)))
    points += [texts("audit.disagreement", what=sentence) for sentence in notes.get("disagreements", [])]
    return points


def _coverage_points(coverage: dict[str, Any], texts: Texts) -> list[str]:
    """Return what the model did not see of the videos."""
    points = []
    for key in ("short_audio", "short_video", "cut", "long_video"):
        names = coverage.get(key)
        if names:
            shown = first_few([inline(name) for name in names])
            points.append(texts(f"audit.{key}", videos=counted(texts, len(names), "video"), names=shown))
    if coverage.get("windows_beyond"):
        queries = counted(texts, len(coverage["queries_beyond"]), "query")
        points.append(texts("audit.beyond", n=coverage["windows_beyond"], of=coverage["windows"], queries=queries))
    return points


def _gate_points(audit: dict[str, Any], texts: Texts) -> list[str]:
    silent = audit.get("never_fired")
    if not silent:
        return []
    names = [
        texts("audit.silent_gate", layer=g["layer"], kind=g["kind"], largest=number(g["largest_magnitude"]))
        for g in silent
    ]
    return [texts("audit.silent", gates=counted(texts, len(silent), "gate"), names=", ".join(names))]


def _clean_points(audit: dict[str, Any], texts: Texts) -> list[str]:
    """Return the checks that found nothing, in one line."""
    clean = []
    if audit.get("checked_data") and not any(audit.get(key) for key in _REPEATED):
        clean.append(texts("audit.nothing_repeated"))
    if audit.get("finite"):
        clean.append(texts("audit.finite"))
    if audit.get("never_fired") == []:
        clean.append(texts("audit.all_fired"))
    return [texts("audit.clean", checks="; ".join(clean))] if clean else []
