"""COMPARISON_REPORT.md: two finished runs side by side."""

from __future__ import annotations

from typing import Any

from qd_detr.gates.results.report.markdown import foreign, inline, number, table
from qd_detr.gates.results.report.wording import counted, label, report_texts
from qd_detr.gates.wording import Reason, Texts


def comparison_text(comparison: dict[str, Any], figures: list[tuple[str, Reason]], language: str = "en") -> str:
    """Return the report of two finished runs, in "en" or "ko"."""
    texts = report_texts(language)
    head, rows = comparison_rows(comparison, texts)
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
        lines += [texts("comparison.no_metrics", reason=foreign(texts.say(comparison["metrics"]["reason"]))), ""]
    shown = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows]
    lines += table([label(texts, "comparison.head", name) for name in head], shown)
    for path, caption in figures:
        words = texts.say(caption)
        lines += [f"![{words}]({path})", "", words, ""]
    return "\n".join(lines).rstrip() + "\n"


def comparison_rows(comparison: dict[str, Any], texts: Texts) -> tuple[list[str], list[list[Any]]]:
    """Return a table's head and rows: metrics, predictions, gates; numbers unrounded, None where there is none."""
    head = ["what", "first", "second", "difference", "low", "high", "n"]
    rows: list[list[Any]] = []
    for row in comparison["metrics"]["rows"]:
        rows.append([row["metric"], row["first"], row["second"], *_numbers(row["difference"])])
    for name, interval in comparison["predictions"].items():
        rows.append([name, None, None, *_numbers(interval)])
    for row in comparison["gates"]:
        what = texts(f"compared.{row['kind']}_{row['figure']}", layer=row["layer"])
        rows.append([what, row["first"], row["second"], *_numbers(row["difference"])])
    return head, rows


def _numbers(interval: dict[str, Any] | None) -> list[Any]:
    return [None] * 4 if interval is None else [interval[key] for key in ("estimate", "low", "high", "n")]


def _what(run: dict[str, Any], texts: Texts) -> str:
    known = {key: value for key, value in run.items() if value is not None}
    return ", ".join(f"{label(texts, 'comparison.key', key)} {inline(value)}" for key, value in known.items())
