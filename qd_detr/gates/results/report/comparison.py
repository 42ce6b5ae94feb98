"""COMPARISON_REPORT.md: two finished runs side by side."""

from __future__ import annotations

from typing import Any

from qd_detr.gates.results.report.markdown import inline, number, table
from qd_detr.gates.results.report.wording import counted, label, report_texts, said
from qd_detr.gates.wording import Texts


def comparison_text(
    comparison: dict[str, Any],
    head: list[str],
    rows: list[list[Any]],
    figures: list[tuple[str, str]],
    language: str = "en",
) -> str:
    """Return the report of two finished runs, in "en" or "ko"."""
    texts = report_texts(language)
    boot = comparison["bootstrap"]
    first, second = (_what(run, texts) for run in comparison["runs"])
    about = texts(
        "comparison.about",
        queries=counted(texts, comparison["n_queries"], "query"),
        source_videos=counted(texts, comparison["n_source_videos"], "source_video"),
        level=f"{100 * boot['level']:g}",
        draws=f"{boot['draws']:,}",
    )
    lines = [texts("comparison.title"), ""]
    lines += [texts("comparison.first", what=first), texts("comparison.second", what=second), "", about, ""]
    if not comparison["metrics"]["available"]:
        lines += [texts("comparison.no_metrics", reason=said(texts, comparison["metrics"]["reason"])), ""]
    shown = [[said(texts, cell) if isinstance(cell, str) else number(cell) for cell in row] for row in rows]
    lines += table([label(texts, "comparison.head", name) for name in head], shown)
    for path, caption in figures:
        words = said(texts, caption)
        lines += [f"![{words}]({path})", "", words, ""]
    return "\n".join(lines).rstrip() + "\n"


def _what(run: dict[str, Any], texts: Texts) -> str:
    known = {key: value for key, value in run.items() if value is not None}
    return ", ".join(f"{label(texts, 'comparison.key', key)} {inline(value)}" for key, value in known.items())
