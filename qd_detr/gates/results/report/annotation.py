"""The report on gates against the annotation, and on predictions and metrics."""

from __future__ import annotations

from typing import Any

from qd_detr.gates.gating import ATTENTION
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.markdown import number, table
from qd_detr.gates.results.report.wording import counted, gate_name, heads, label
from qd_detr.gates.wording import Texts

SIGNIFICANT = 0.05
_FIGURES = ("inside_minus_outside", "saliency_correlation")


def alignment_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section on whether gates follow the moments."""
    data: dict[str, Any] | None = findings.sections.get("alignment")
    if data is None:
        return []
    lines = [texts("alignment.title"), ""]
    if not data["applies"]:
        return [*lines, texts("alignment.not", reason=texts.say(data["reason"])), ""]
    lines += [texts("alignment.about", draws=f"{data['draws']:,}"), ""]
    for against in ("annotation", "prediction"):
        part = data[against]
        lines += [texts(f"alignment.{against}"), ""]
        if not part["applies"]:
            lines += [texts("alignment.not", reason=texts.say(part["reason"])), ""]
            continue
        head = heads(
            texts, "alignment", "gate", "series", "figure", "group", "effect", "null", "p", "samples", "videos"
        )
        rows = _alignment_rows(part, texts)
        if not rows:
            lines += [texts("alignment.nothing"), ""]
            continue
        lines += table(head, rows)
        lines += [f"- {sentence}" for sentence in _alignment_sentences(_injections(part), against, texts)]
        lines.append("")
    return lines


def _alignment_rows(part: dict[str, Any], texts: Texts) -> list[list[object]]:
    """Return the rows over all videos, then those of each group of videos."""
    rows: list[list[object]] = []
    for group, series in (("all", part["series"]), *part["groups"].items()):
        for s in series:
            if s["kind"] == ATTENTION.kind:
                rows += _rows_of(s, group, texts)
    return rows


def _rows_of(series: dict[str, Any], group: str, texts: Texts) -> list[list[object]]:
    return [
        [
            gate_name(texts, series["layer"], series["kind"]),
            label(texts, "series", series["series"]),
            texts(f"alignment.{key}"),
            texts(f"alignment.group.{group}"),
            number(f["effect"]),
            texts("range", low=number(f["null_low"]), high=number(f["null_high"])),
            p_value(f["adjusted_p"]),
            f["n_samples"],
            f["n_videos"],
        ]
        for key, f in ((key, series[key]) for key in _FIGURES)
        if f["effect"] is not None
    ]


def p_value(p: float | None) -> str:
    """Return a p value as the report writes it: thousands of draws do not tell values below 0.001 apart."""
    return number(p) if p is None or p >= 0.001 else "< 0.001"


def p_text(p: float) -> str:
    """Return "= 0.020" or "< 0.001"."""
    return p_value(p) if p < 0.001 else f"= {number(p)}"


def alignment_sentences(findings: RunFindings, texts: Texts) -> list[str]:
    """Return of which layers the gates listen more, or less, inside the annotated moments, beyond chance among all layers."""
    data = findings.sections.get("alignment")
    if not data or not data["applies"] or not data["annotation"]["applies"]:
        return []
    tested = _injections(data["annotation"])
    stand = [s for s in tested if s["inside_minus_outside"]["adjusted_p"] < SIGNIFICANT]
    return _alignment_sentences(stand, "annotation", texts)


def _injections(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        s
        for s in part["series"]
        if (s["series"], s["kind"]) == ("injection", ATTENTION.kind) and s["inside_minus_outside"]["effect"] is not None
    ]


def _alignment_sentences(series: list[dict[str, Any]], against: str, texts: Texts) -> list[str]:
    sentences = []
    for s in series:
        f = s["inside_minus_outside"]
        found, effect = "same", f["effect"]
        if f["adjusted_p"] < SIGNIFICANT:
            found, effect = ("higher" if f["effect"] > 0 else "lower"), abs(f["effect"])
        key = f"alignment.{against}.{found}"
        sentences.append(texts(key, layer=s["layer"], effect=number(effect), p=p_text(f["adjusted_p"])))
    return sentences


def metrics_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section on the benchmark's metrics."""
    metrics = findings.sections.get("metrics")
    if metrics is None:
        reason = findings.sections.get("metrics_reason")
        if reason is None:
            return []
        return [texts("metrics.title"), "", texts("metrics.not", reason=texts.say(reason)), ""]
    queries = counted(texts, len(findings.contexts), "query")
    shown = ", ".join(f"{name} {number(value, 2)}" for name, value in metrics["brief"].items())
    lines = [texts("metrics.title"), "", texts("metrics.about", queries=queries, metrics=shown), ""]
    reason = findings.sections.get("metrics_reason")
    return lines if reason is None else [*lines, texts("metrics.no_highlights", reason=texts.say(reason)), ""]


def planted_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section on planted truth, for data that comes with it."""
    data = findings.sections.get("planted")
    if data is None:
        return []
    rows = [
        [label(texts, "planted.kind", kind), entry["n"], number(entry["share"]), number(entry["injection"])]
        for kind, entry in data["kinds"].items()
    ]
    return [
        texts("planted.title"),
        "",
        planted_sentence(data, texts),
        "",
        *table(heads(texts, "planted", "kind", "videos", "share", "injection"), rows),
    ]


def planted_sentence(data: dict[str, Any], texts: Texts) -> str:
    """Return the finding in a sentence."""
    if data["auc"] is None:
        return texts("planted.one_kind")
    others = {"raw": number(data["raw_audio_auc"]), "injection": number(data["auc"])}
    if data["share_auc"] is None:
        return texts("planted.auc", n=data["n"], **others)
    return texts("planted.share_auc", share=number(data["share_auc"]), n=data["share_n"], **others)
