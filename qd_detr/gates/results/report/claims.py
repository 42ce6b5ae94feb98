"""The claim sheet: a table, a methods paragraph, a checklist and the command that repeats the run, as LaTeX.

Every number in it is one of the run's JSON files, rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qd_detr.gates.analysis.audio_help import negated
from qd_detr.gates.analysis.effects import WITHOUT
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.wording import counted, report_texts
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.wording import Texts, for_terminal

CLAIM_FILES = {"en": "claims.tex", "ko": "claims_ko.tex"}
_ESCAPES = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


@dataclass(frozen=True)
class ClaimFacts:
    """What the sheet says of the run besides its findings.

    Attributes:
        command: that repeats it. versions: of "toolkit", "python", "torch", "numpy".
        checkpoint, annotations: their SHA-256. queries: analysed. annotated: in the annotations.
        legacy_batches: whether the run repeats them.
    """

    command: str
    versions: dict[str, str]
    checkpoint: str
    annotations: str
    queries: int
    annotated: int
    legacy_batches: bool


def claim_sheet(findings: RunFindings, facts: ClaimFacts, language: str = "en") -> str | None:
    """Return the sheet as a LaTeX document; None for a run without metrics, which has nothing to claim of the audio."""
    if "metrics" not in findings.sections:
        return None
    texts = report_texts(language)
    data: dict[str, Any] | None = findings.sections.get("audio_help")
    data = data if data and data["metrics"]["available"] else None
    lines = [
        *_preamble(language),
        *_section(texts("claims.title")),
        *_table(findings, data, facts, texts),
        *_section(texts("claims.methods")),
        " ".join(map(latex, _methods(findings, data, facts, texts))),
        "",
    ]
    if data is not None:
        lines += [*_section(texts("claims.finding")), " ".join(map(latex, _finding(data, texts))), ""]
    shown, not_shown = _checklist(findings, data, facts, texts)
    lines += _section(texts("claims.checklist"))
    for title, points in (("shows", shown), ("not", not_shown)):
        items = [rf"\item {latex(point)}" for point in points]
        lines += [latex(texts(f"claims.check.{title}")), r"\begin{itemize}", *items, r"\end{itemize}"]
    lines += [*_section(texts("claims.repeat")), latex(texts("claims.repeat.about"))]
    lines += [r"\begin{verbatim}", facts.command, r"\end{verbatim}", r"\end{document}"]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Return text that LaTeX shows as it is."""
    # Two hyphens in a row are a flag here, not a dash.
    return "".join(_ESCAPES.get(char, char) for char in for_terminal(text)).replace("--", "-{}-")


def _preamble(language: str) -> list[str]:
    korean = [r"\usepackage{kotex}"] if language == "ko" else []
    return [
        "% xelatex or pdflatex; xelatex alone where names in the command are not ASCII.",
        r"\documentclass{article}",
        r"\usepackage[a4paper,margin=25mm]{geometry}",
        r"\usepackage{booktabs}",
        *korean,
        r"\begin{document}",
    ]


def _section(title: str) -> list[str]:
    return [rf"\section*{{{latex(title)}}}"]


def _table(findings: RunFindings, data: dict[str, Any] | None, facts: ClaimFacts, texts: Texts) -> list[str]:
    """Return the table of metrics and effects."""
    if data is None:
        head = ["metric", "value"]
        caption = texts("claims.caption.alone", queries=counted(texts, facts.queries, "query"))
        brief = findings.sections["metrics"]["brief"]
        rows = [[latex(name), "--" if value is None else f"{value:.2f}"] for name, value in brief.items()]
    else:
        contrasts = _contrasts(data)
        head = ["metric", "value", *contrasts]
        caption = texts(
            "claims.caption",
            level=f"{100 * data['bootstrap']['level']:g}",
            videos=counted(texts, data["n_source_videos"], "source_video"),
        )
        rows = []
        for metric in data["metrics"]["names"]:
            value = _metrics_of(data, BASELINE)[metric]
            cells = [latex(metric), _cell(value["value"], value["interval"], signed=False)]
            for name in contrasts.values():
                entry = _metrics_of(data, name)[metric]
                change = negated(entry["change"]) if entry["change"] else None
                star = "*" if entry["significant"] else ""
                cells.append("--" if change is None else _cell(change["estimate"], change, signed=True) + star)
            rows.append(cells)
    return [
        r"\begin{table}[h]\centering\small",
        rf"\caption{{{latex(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(latex(texts(f"claims.head.{name}")) for name in head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}\end{table}",
    ]


def _cell(value: float | None, interval: Mapping[str, Any], *, signed: bool) -> str:
    if value is None:
        return "--"
    shown = f"{value:+.2f}" if signed else f"{value:.2f}"
    if interval["low"] is None or interval["high"] is None:
        return f"${shown}$"
    low, high = (f"{interval[side]:+.2f}" if signed else f"{interval[side]:.2f}" for side in ("low", "high"))
    return f"${shown}$ [${low}$, ${high}$]"


def _contrasts(data: dict[str, Any]) -> dict[str, str]:
    """Return the ways to be without audio that were run: short name, and condition."""
    return {one["without"]: WITHOUT[one["without"]] for one in data["verdict"]}


def _metrics_of(data: dict[str, Any], condition: str) -> dict[str, Any]:
    record = next(one for one in data["conditions"] if one["name"] == condition)
    return dict(record["metrics"])


def _methods(findings: RunFindings, data: dict[str, Any] | None, facts: ClaimFacts, texts: Texts) -> list[str]:
    fusion = findings.analysis.facts
    videos = len({context.query.vid for context in findings.contexts if context.query is not None})
    sentences = [
        texts(
            "claims.method.model",
            gating=fusion.gating_type,
            layers=counted(texts, fusion.num_layers, "layer"),
            queries=counted(texts, facts.queries, "query"),
            videos=counted(texts, data["n_source_videos"], "source_video") if data else counted(texts, videos, "video"),
        )
    ]
    if data is not None and data["verdict"]:
        boot = data["bootstrap"]
        level = f"{100 * boot['level']:g}"
        ways = "; ".join(texts(f"claims.way.{without}") for without in _contrasts(data))
        sentences.append(texts("claims.method.contrast", ways=ways))
        draws = f"{boot['draws']:,}"
        sentences.append(texts("claims.method.interval", level=level, draws=draws, seed=boot["seed"]))
        sentences.append(
            texts(
                "claims.method.margin",
                margin=f"{data['margin']:g}",
                metric=data["metrics"]["primary"],
                rate=f"{100 * (1 - boot['level']):g}",
            )
        )
    sums = {"checkpoint": facts.checkpoint[:16], "annotations": facts.annotations[:16]}
    return [*sentences, texts("claims.method.versions", **facts.versions, **sums)]


def _finding(data: dict[str, Any], texts: Texts) -> list[str]:
    if not data["verdict"]:
        return []
    first = data["verdict"][0]
    effect = first["effect"]
    shown = {side: f"{effect[side]:+.2f}" for side in ("estimate", "low", "high") if effect[side] is not None}
    sentences = [
        texts(
            "claims.finding.primary",
            metric=first["metric"],
            effect=texts("claims.effect" if "low" in shown else "claims.effect.bare", **shown),
            queries=counted(texts, effect["n"], "query"),
            verdict=texts(f"claims.verdict.{first['verdict']}", margin=f"{first['margin']:g}"),
        )
    ]
    for one in data["flips"]:
        if one["without"] == first["without"]:
            counts = {side: one[side]["count"] for side in ("rescued", "harmed")}
            queries = counted(texts, data["n_labelled"], "query")
            sentences.append(texts("claims.flips", threshold=one["threshold"], queries=queries, **counts))
    return sentences


def _checklist(
    findings: RunFindings, data: dict[str, Any] | None, facts: ClaimFacts, texts: Texts
) -> tuple[list[str], list[str]]:
    """Return what the run shows and what it does not."""
    shown, not_shown = [], []
    fusion = findings.analysis.facts
    if data is None or not data["verdict"]:
        not_shown.append(texts("claims.check.no_effects"))
    else:
        first = data["verdict"][0]
        counts = counted(texts, data["n_labelled"], "query")
        shown.append(
            texts(
                "claims.check.clusters", queries=counts, videos=counted(texts, data["n_source_videos"], "source_video")
            )
        )
        if first["verdict"] != "undecided":
            shown.append(texts("claims.check.verdict"))
        elif first["minimum_detectable"] is None:
            not_shown.append(texts("claims.check.undecided.plain"))
        else:
            not_shown.append(texts("claims.check.undecided", least=f"{first['minimum_detectable']:.1f}"))
        not_shown.append(texts("claims.check.retrained"))
        if "silence" not in _contrasts(data):
            not_shown.append(texts("claims.check.silence"))
    not_shown.append(texts("claims.check.seeds"))
    if fusion.gating_type != fusion.trained_gating_type:
        changed = {"trained": fusion.trained_gating_type, "gating": fusion.gating_type}
        not_shown.append(texts("claims.check.changed", **changed))
    if facts.queries < facts.annotated:
        not_shown.append(texts("claims.check.part", analysed=f"{facts.queries:,}", annotated=f"{facts.annotated:,}"))
    if facts.legacy_batches:
        not_shown.append(texts("claims.check.batches"))
    return shown, not_shown
