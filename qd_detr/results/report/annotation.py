"""The report on gates against the annotation, and on predictions and metrics."""

from __future__ import annotations

from typing import Any

from qd_detr.results.context import RunFindings
from qd_detr.results.report.gates import KIND_NAMES
from qd_detr.results.report.markdown import counted, number, table

SIGNIFICANT = 0.05


def alignment_section(findings: RunFindings) -> list[str]:
    """Return the section on whether gates follow the moments."""
    data: dict[str, Any] | None = findings.sections.get("alignment")
    if data is None:
        return []
    lines = ["## Gates against the annotation", ""]
    if not data["applies"]:
        return [*lines, f"Does not apply: {data['reason']}.", ""]
    lines += [
        "Does a gate do something else inside the moments than outside? Each figure is held against a null in which the "
        f"series are turned in time within their videos ({data['draws']:,} draws); an effect inside the null band is no "
        "effect. n counts samples; queries on one video are turned together.",
        "",
    ]
    for against, title in (("annotation", "annotated moments"), ("prediction", "first predicted window")):
        part = data[against]
        lines += [f"### Against the {title}", ""]
        if not part["applies"]:
            lines += [f"Does not apply: {part['reason']}.", ""]
            continue
        rows = []
        for s in part["series"]:
            for key, name in (("inside_minus_outside", "inside - outside"), ("saliency_correlation", "rank corr. with saliency")):
                f = s[key]
                if f["effect"] is None:
                    continue
                rows.append(
                    [
                        f"layer {s['layer']} {KIND_NAMES[s['kind']]}",
                        s["series"],
                        name,
                        number(f["effect"]),
                        f"{number(f['null_low'])} to {number(f['null_high'])}",
                        number(f["p"]),
                        f["n_samples"],
                        f["n_videos"],
                    ]
                )
        lines += table(["gate", "series", "figure", "effect", "null, 95 %", "p", "samples", "videos"], rows)
        lines += [f"- {sentence}" for sentence in _alignment_sentences(part, title)]
        lines.append("")
    return lines


def _alignment_sentences(part: dict[str, Any], title: str) -> list[str]:
    sentences = []
    for s in part["series"]:
        if s["series"] != "injection" or s["kind"] != "attention":
            continue
        f = s["inside_minus_outside"]
        if f["effect"] is None:
            continue
        where = f"Layer {s['layer']}: audio injection inside the {title}"
        if f["p"] < SIGNIFICANT:
            side = "higher" if f["effect"] > 0 else "lower"
            sentences.append(f"{where} is {side} than outside by {number(abs(f['effect']))} (p = {number(f['p'])}).")
        else:
            sentences.append(f"{where} does not differ from outside beyond chance ({number(f['effect'])}, p = {number(f['p'])}).")
    return sentences


def metrics_section(findings: RunFindings) -> list[str]:
    """Return the section on the benchmark's metrics."""
    metrics = findings.sections.get("metrics")
    if metrics is None:
        reason = findings.sections.get("metrics_reason")
        return [] if reason is None else ["## Metrics", "", f"Not computed: {reason}.", ""]
    brief = metrics["brief"]
    lines = ["## Metrics", "", f"Over {counted(len(findings.contexts), 'query', 'queries')}, in percent.", ""]
    lines += table(["metric", "value"], [[name, number(value, 2)] for name, value in brief.items()])
    return lines


def planted_section(findings: RunFindings) -> list[str]:
    """Return the section on planted truth, for data that comes with it."""
    data = findings.sections.get("planted")
    if data is None:
        return []
    rows = [[kind, entry["n"], number(entry["injection"])] for kind, entry in data["kinds"].items()]
    return [
        "## Was what is planted found?",
        "",
        planted_sentence(data),
        "",
        *table(["audio planted as", "videos", "attention injection, mean"], rows),
    ]


def planted_sentence(data: dict[str, Any]) -> str:
    """Return the finding in a sentence."""
    if data["auc"] is None:
        return "The data says which audio is worth listening to, but this run has not both kinds."
    return (
        f"The data says for which videos the audio is worth listening to. The attention gates' injection tells them from the "
        f"others with an AUC of {number(data['auc'])} (n = {data['n']}; 0.5 is chance, 1 is perfect)."
    )
