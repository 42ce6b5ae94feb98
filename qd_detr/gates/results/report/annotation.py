"""The report on metrics, and on what was planted in the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.markdown import number, table
from qd_detr.gates.results.report.wording import counted, heads, label
from qd_detr.gates.wording import Texts


def metrics_lines(findings: RunFindings, texts: Texts, shown: Sequence[str] = ()) -> list[str]:
    """Return the benchmark's metrics of the model as it is but for those `shown` already, or why there are none."""
    metrics, reason = findings.sections.get("metrics"), findings.sections.get("metrics_reason")
    if metrics is None:
        return [] if reason is None else [texts("metrics.not", reason=texts.say(reason))]
    given = {name: value for name, value in metrics["brief"].items() if value is not None and name not in shown}
    told = ", ".join(f"{name} {number(value, 2)}" for name, value in given.items())
    lines = []
    if told and shown:
        lines.append(texts("metrics.further", metrics=told))
    elif told:
        lines.append(texts("metrics.about", queries=counted(texts, len(findings.contexts), "query"), metrics=told))
    return lines if reason is None else [*lines, texts("metrics.no_highlights", reason=texts.say(reason))]


def metrics_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the metrics under a heading of their own, where no section on effects shows them."""
    lines = [] if "audio_help" in findings.sections else metrics_lines(findings, texts)
    return [texts("metrics.title"), "", *(f"- {line}" for line in lines), ""] if lines else []


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
