"""The whole report, and the short summary for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qd_detr.gates.errors import first_few
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.annotation import metrics_section, planted_section
from qd_detr.gates.results.report.audio import audio_section
from qd_detr.gates.results.report.audit import audit_section
from qd_detr.gates.results.report.gates import gates_section
from qd_detr.gates.results.report.markdown import inline
from qd_detr.gates.results.report.opening import key_sentences
from qd_detr.gates.results.report.top import top_section
from qd_detr.gates.results.report.videos import videos_section
from qd_detr.gates.results.report.when import when_section
from qd_detr.gates.results.report.wording import counted, report_texts
from qd_detr.gates.wording import Reason, Texts, wrapped

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
        *_in_short(findings, texts),
        *_picture(figures, texts),
        *_head(findings, texts),
        *audit_section(findings, texts),
        *audio_section(findings, texts),
        *videos_section(findings, texts),
        *when_section(findings, texts),
        *planted_section(findings, texts),
        *metrics_section(findings, texts),
        *top_section(findings, texts),
        *gates_section(findings, texts),
        *_files(figures, notes, texts),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _in_short(findings: RunFindings, texts: Texts) -> list[str]:
    sentences = key_sentences(findings, texts)
    return [*(f"- {sentence}" for sentence in sentences), ""] if sentences else []


def terminal_summary(findings: RunFindings, report: Path, language: str = "en", width: int | None = None) -> str:
    """Return the summary that ends a run: its findings in that language, and where the report is.

    Args:
        findings: of the run. report: its place.
        language: "en" or "ko".
        width: columns of the terminal, to break lines between words; None leaves them whole.
    """
    sentences = [sentence.replace("**", "") for sentence in key_sentences(findings, report_texts(language))]
    shown = sentences if width is None else [wrapped(sentence, width, indent="  ") for sentence in sentences]
    return "\n".join([*shown, *([""] if shown else []), report_place(report, language)])


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
    """Return what was run on what, in a line."""
    facts, notes = findings.analysis.facts, findings.notes
    n = len(findings.analysis.rows)
    fusion = {
        "gating": facts.gating_type,
        "layers": counted(texts, facts.num_layers, "layer"),
        "hidden_dim": texts("head.not_told") if facts.hidden_dim is None else facts.hidden_dim,
        "range": _range(facts.gate_range, texts),
    }
    if facts.gating_note:
        line = texts("head.fusion_changed", trained=facts.trained_gating_type, **fusion)
    else:
        line = texts("head.fusion", **fusion)
    if "gate_log" in notes:
        line = f"{texts('head.gate_log', log=inline(notes['gate_log']))} {line}"
    if "model" not in notes:
        return [f"{line} {texts('head.recorded', samples=counted(texts, n, 'sample'))}", ""]
    epoch = "" if notes["epoch"] is None else texts("head.epoch", epoch=notes["epoch"])
    model = texts("head.model", model=inline(notes["model"]), epoch=epoch)
    if notes["family"] != "base":
        line = f"{texts('head.family', family=notes['family'])} {line}"
    data = texts("head.data", data=inline(notes["data"]), n=n, queries=counted(texts, notes["annotated"], "query"))
    return [f"{model} {data} {line}", ""]


def _range(gate_range: tuple[float, float] | None, texts: Texts) -> str:
    return texts("head.no_range") if gate_range is None else f"[{gate_range[0]:g}, {gate_range[1]:g}]"


def _picture(figures: Figures, texts: Texts) -> list[str]:
    """Return the one picture of the opening: the effects where there are some, else the first."""
    if not figures:
        return []
    path, caption = next((one for one in figures if "intervention_effects" in one[0]), figures[0])
    return [f"![{_plain(texts.say(caption))}]({path})", ""]


def _files(figures: Figures, notes: list[Reason], texts: Texts) -> list[str]:
    """Return the links to all figures, what to say of those that are not there, and where every number is."""
    links = "; ".join(f"[{_plain(texts.say(caption))}]({path})" for path, caption in figures)
    told = [texts("figures.all", links=links)] if figures else []
    told += [texts.say(note) for note in notes]
    return [texts("files.title"), "", *(f"- {one}" for one in told), texts("files.numbers"), ""]


def _plain(caption: str) -> str:
    """Return a caption as the text of a link."""
    return caption.rstrip(".").replace("[", "(").replace("]", ")")
