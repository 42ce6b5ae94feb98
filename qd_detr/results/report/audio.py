"""The report's section on whether the audio helps: what changes when gates or audio are changed on purpose."""

from __future__ import annotations

from typing import Any

from qd_detr.results.context import RunFindings
from qd_detr.results.report.markdown import counted, inline, number, percent, table


def audio_section(findings: RunFindings) -> list[str]:
    """Return the section, or nothing if no condition was run."""
    data: dict[str, Any] | None = findings.sections.get("audio_help")
    if data is None:
        return []
    boot, primary = data["bootstrap"], data["metrics"]["primary"]
    lines = [
        "## Does the audio help?",
        "",
        f"Each condition is the same model on the same {counted(data['n_queries'], 'query', 'queries')}, with gates or audio "
        f"changed on purpose. Changes are in percent points, with {100 * boot['level']:g} % intervals from a paired bootstrap "
        f"over {counted(data['n_source_videos'], 'source video')} ({boot['draws']:,} draws, seed {boot['seed']}). Gates below "
        f"are recorded {data['gates_recorded']} the intervention.",
        "",
    ]
    for verdict in data["verdict"] or []:
        lines += _verdict_lines(verdict)
    if data["metrics"]["reason"]:
        lines += [f"{data['metrics']['reason'].capitalize()}.", ""]
    lines += _condition_table(data, primary)
    lines += _slice_table(data)
    return lines + _explanation(data)


def audio_sentences(findings: RunFindings) -> list[str]:
    """Return the verdicts for the report's opening."""
    data = findings.sections.get("audio_help")
    return [verdict["sentence"] for verdict in (data or {}).get("verdict") or []]


def _verdict_lines(verdict: dict[str, Any]) -> list[str]:
    lines = [f"**{verdict['sentence']}**", ""]
    stands = [(role, verdict[key]) for role, key in (("most", "best_slice"), ("least", "worst_slice")) if verdict[key]]
    for role, record in stands:
        what = "helps" if role == "most" else "hurts"
        lines += [f"- It {what} most on {record['description']}: {_interval(record['effect'])} (n = {record['n']})."]
    if not stands and verdict["largest_slice"]:
        record = verdict["largest_slice"]
        lines += [
            f"- No slice stands out after false-discovery control; the largest effect is on {record['description']}: "
            f"{_interval(record['effect'])} (n = {record['n']})."
        ]
    return [*lines, ""]


def _interval(interval: dict[str, Any]) -> str:
    if interval["estimate"] is None:
        return f"not to be had, {interval['reason']}"
    if interval["low"] is None:
        return f"{interval['estimate']:+.2f} (no interval: {interval['reason']})"
    return f"{interval['estimate']:+.2f} ({interval['low']:+.2f} to {interval['high']:+.2f})"


def _condition_table(data: dict[str, Any], primary: str | None) -> list[str]:
    names = data["metrics"]["names"]
    rows = []
    for record in data["conditions"]:
        same = record["same_as"]
        cells = [record["name"] + (f" (same as {same})" if same else "")]
        moved = record["predictions"]
        cells.append("-" if moved is None else percent(moved["first_window_changed"]["estimate"] / 100))
        for metric in names:
            entry = record["metrics"].get(metric)
            change = entry and entry["change"]
            shown = number(entry["value"], 2) if entry and record["name"] == "baseline" else "-"
            if change:
                mark = " *" if entry["significant"] else ""
                shown = f"{_interval(change)}{mark}" if metric == primary else f"{change['estimate']:+.2f}{mark}"
            cells.append(shown)
        rows.append(cells)
    head = ["condition", "first window moves", *names]
    lines = table(head, rows)
    if names:
        lines += [
            "The first row holds the metrics themselves, the others their change. A star: stands after false-discovery control "
            "(Benjamini-Hochberg, 5 %) over all changes in this table. With all attention gates off no audio is added to the "
            "video any more, but it still sets the FFN gates; silent audio is a second, different answer.",
            "",
        ]
    return lines


def _slice_table(data: dict[str, Any]) -> list[str]:
    primary = data["metrics"]["primary"]
    rows = [
        [r["description"], r["without"].replace("_", " "), r["n"], _interval(r["effect"]), "yes" if r["significant"] else "no"]
        for r in data["slices"] or []
        if r["metric"] == primary
    ]
    if not rows:
        return []
    head = ["slice", "without audio by", "n", f"{primary}: with audio minus without", "stands after control"]
    return ["### On which queries", "", *table(head, rows)]


def _explanation(data: dict[str, Any]) -> list[str]:
    found = data["explanation"]
    if not found:
        return []
    lines = [
        "### Are the gates an explanation?",
        "",
        f"If they were, a query whose gates let more audio in would lose more without it. Of {found['n_tests']} relations looked "
        f"at, {found['found']} stand after false-discovery control.",
        "",
    ]
    return [*lines, *(f"- {relation['sentence']}" for relation in found["relations"]), ""]


def comparison_text(comparison: dict[str, Any], head: list[str], rows: list[list[Any]], figures: list[tuple[str, str]]) -> str:
    """Return COMPARISON_REPORT.md of two finished runs."""
    lines = ["# Two runs compared", ""]
    for label, run in zip(("first", "second"), comparison["runs"], strict=True):
        lines.append(f"- {label}: " + ", ".join(f"{key} {inline(value)}" for key, value in run.items() if value is not None))
    boot = comparison["bootstrap"]
    lines += [
        "",
        f"The same {counted(comparison['n_queries'], 'query', 'queries')} of "
        f"{counted(comparison['n_source_videos'], 'source video')}. Differences are second minus first, with "
        f"{100 * boot['level']:g} % intervals (paired bootstrap over source videos, {boot['draws']:,} draws).",
        "",
    ]
    if not comparison["metrics"]["available"]:
        lines += [f"Metrics were not compared: {comparison['metrics']['reason']}.", ""]
    lines += table(head, [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows])
    for path, caption in figures:
        lines += [f"![{caption}]({path})", "", caption, ""]
    return "\n".join(lines).rstrip() + "\n"
