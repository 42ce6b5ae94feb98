"""The whole report, and the short summary for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qd_detr.gates.errors import first_few
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.annotation import alignment_section, metrics_section, planted_section
from qd_detr.gates.results.report.audio import audio_section
from qd_detr.gates.results.report.audit import audit_section
from qd_detr.gates.results.report.gates import injection_section, values_section, variation_section
from qd_detr.gates.results.report.markdown import inline, number
from qd_detr.gates.results.report.opening import key_sentences
from qd_detr.gates.results.report.wording import counted, report_texts
from qd_detr.gates.wording import Reason, Texts

Figures = Sequence[tuple[str, Reason | str]]


def report_text(findings: RunFindings, figures: Figures, notes: list[Reason], language: str = "en") -> str:
    """Return the report.

    Args:
        figures: (relative path, caption) in the order to show them. notes: what to say of figures that are not there.
        language: "en" or "ko"; numbers, ids and names of files and metrics are the same in both.
    """
    texts = report_texts(language)
    lines = [
        texts("head.title"),
        "",
        *_head(findings, texts),
        *_in_short(findings, texts),
        *_picture(figures, texts),
        *audit_section(findings, texts),
        *audio_section(findings, texts),
        *alignment_section(findings, texts),
        *planted_section(findings, texts),
        *metrics_section(findings, texts),
        *injection_section(findings, texts),
        *values_section(findings, texts),
        *variation_section(findings, texts),
        *_figures(figures, notes, texts),
        *_how_to_read(findings, texts),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _in_short(findings: RunFindings, texts: Texts) -> list[str]:
    sentences = key_sentences(findings, texts)
    return [texts("short.title"), "", *(f"- {sentence}" for sentence in sentences), ""] if sentences else []


def terminal_summary(findings: RunFindings, report: Path, language: str = "en") -> str:
    """Return the summary that ends a run: its findings in that language, and where the report is."""
    sentences = [sentence.replace("**", "") for sentence in key_sentences(findings, report_texts(language))]
    return "\n".join([*sentences, *([""] if sentences else []), report_place(report, language)])


def report_place(report: Path, language: str = "en") -> str:
    """Return the line that says where a report is."""
    return report_texts(language)("terminal.report", path=report)


def shard_place(place: Path, waiting: Sequence[str], language: str = "en") -> str:
    """Return the lines that end a shard of a run: where it is, and the shards that are still to come."""
    texts = report_texts(language)
    more = (
        texts("terminal.shards_waiting", names=first_few(waiting, 8)) if waiting else texts("terminal.shards_merging")
    )
    return "\n".join([texts("terminal.shard", place=place), more])


def _head(findings: RunFindings, texts: Texts) -> list[str]:
    facts, notes = findings.analysis.facts, findings.notes
    n = len(findings.analysis.rows)
    lines = []
    if "gate_log" in notes:
        lines.append(texts("head.gate_log", log=inline(notes["gate_log"])))
    elif notes:
        model, epoch = inline(notes["model"]), notes["epoch"]
        known = epoch is not None
        lines.append(texts("head.model_epoch", model=model, epoch=epoch) if known else texts("head.model", model=model))
        lines.append(
            texts("head.data", data=inline(notes["data"]), n=n, queries=counted(texts, notes["annotated"], "query"))
        )
        if notes["family"] != "base":
            lines.append(texts("head.family", family=notes["family"]))
    fusion = {
        "gating": facts.gating_type,
        "layers": counted(texts, facts.num_layers, "layer"),
        "hidden_dim": texts("head.not_told") if facts.hidden_dim is None else facts.hidden_dim,
        "range": _range(facts.gate_range, texts),
    }
    if facts.gating_note:
        lines.append(texts("head.fusion_changed", trained=facts.trained_gating_type, **fusion))
    else:
        lines.append(texts("head.fusion", **fusion))
    lines.append(texts("head.recorded", samples=counted(texts, n, "sample")))
    return [*lines, ""]


def _range(gate_range: tuple[float, float] | None, texts: Texts) -> str:
    return texts("head.no_range") if gate_range is None else f"[{gate_range[0]:g}, {gate_range[1]:g}]"


def _picture(figures: Figures, texts: Texts) -> list[str]:
    """Return the one picture of the opening: the effects where there are some, else the first."""
    if not figures:
        return []
    path, caption = next((one for one in figures if "intervention_effects" in one[0]), figures[0])
    words = texts.say(caption)
    alt = words.split(".")[0].replace("[", "(").replace("]", ")")
    return [f"![{alt}]({path})", "", words, ""]


def _figures(figures: Figures, notes: list[Reason], texts: Texts) -> list[str]:
    lines = [f"- [`{path}`]({path}): {texts.say(caption)}" for path, caption in figures]
    lines += [f"- {texts.say(note)}" for note in notes]
    return [texts("figures.title"), "", *lines, ""] if lines else []


def _how_to_read(findings: RunFindings, texts: Texts) -> list[str]:
    return [
        texts("reading.title"),
        "",
        texts(f"reading.{findings.analysis.facts.gating.form}"),
        texts("reading.repeat", n=number(len(findings.analysis.rows), 0)),
        "",
    ]
