"""The whole report, and the short summary for the terminal."""

from __future__ import annotations

from pathlib import Path

from qd_detr.results.context import RunFindings
from qd_detr.results.report.annotation import alignment_section, metrics_section, planted_section, planted_sentence
from qd_detr.results.report.audio import audio_section, audio_sentences
from qd_detr.results.report.audit import audit_section
from qd_detr.results.report.gates import injection_section, injection_sentences, values_section, variation_section
from qd_detr.results.report.markdown import counted, inline, number


def report_text(findings: RunFindings, figures: list[tuple[str, str]], notes: list[str]) -> str:
    """Return the report.

    Args:
        figures: (relative path, caption) in the order to show them. notes: sentences on figures that are not there.
    """
    lines = [
        "# Gate analysis",
        "",
        *_head(findings),
        "## In short",
        "",
        *(f"- {sentence}" for sentence in key_sentences(findings)),
        "",
        *audit_section(findings),
        *injection_section(findings),
        *values_section(findings),
        *variation_section(findings),
        *alignment_section(findings),
        *planted_section(findings),
        *metrics_section(findings),
        *audio_section(findings),
        *_figures(figures, notes),
        *_how_to_read(findings),
    ]
    return "\n".join(lines).rstrip() + "\n"


def key_sentences(findings: RunFindings) -> list[str]:
    """Return the findings in a few sentences."""
    sentences = injection_sentences(findings.analysis)
    statistics = findings.analysis.statistics["layer_statistics"]
    verdicts = {f"layer {layer}": entry["attention"]["variance"]["verdict"] for layer, entry in statistics.items()}
    named = ", ".join(f"{layer} {verdict}" for layer, verdict in verdicts.items())
    sentences.append(f"What the attention gates vary with: {named}.")
    metrics = findings.sections.get("metrics")
    if metrics:
        shown = [(name, value) for name, value in metrics["brief"].items() if value is not None]
        wanted = [f"{name} {value}" for name, value in shown if name in ("MR-full-mAP", "MR-full-R1@0.5", "mAP")]
        sentences.append(f"The model reaches {', '.join(wanted)} on these queries.")
    if "planted" in findings.sections:
        sentences.append(planted_sentence(findings.sections["planted"]))
    return sentences + audio_sentences(findings)


def terminal_summary(report: Path) -> str:
    """Return the summary that ends a run: the report's findings and where the rest is."""
    lines = report.read_text(encoding="utf-8").splitlines()
    start = lines.index("## In short") + 2
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("- "))
    return "\n".join([*(line[2:] for line in lines[start:end]), "", f"Report: {report}"])


def _head(findings: RunFindings) -> list[str]:
    facts, notes = findings.analysis.facts, findings.notes
    n = len(findings.analysis.rows)
    lines = []
    if notes:
        lines.append(f"- model: {inline(notes['model'])}" + (f", epoch {notes['epoch']}" if notes["epoch"] is not None else ""))
        lines.append(f"- data: {inline(notes['data'])}, {n} of {counted(notes['annotated'], 'query', 'queries')}")
    lines.append(
        f"- fusion: {facts.gating_type} gating"
        + (f" (trained as {facts.trained_gating_type})" if facts.gating_note else "")
        + f", {counted(facts.num_layers, 'layer')}, hidden size {facts.hidden_dim}; gates in {_range(facts.gate_range)}"
    )
    lines.append(f"- recorded: {counted(n, 'sample')}")
    return [*lines, ""]


def _range(gate_range: tuple[float, float] | None) -> str:
    return "a range the gating function does not state" if gate_range is None else f"[{gate_range[0]:g}, {gate_range[1]:g}]"


def _figures(figures: list[tuple[str, str]], notes: list[str]) -> list[str]:
    lines = ["## Figures", ""]
    for path, caption in figures:
        alt = caption.split(".")[0].replace("[", "(").replace("]", ")")
        lines += [f"![{alt}]({path})", "", caption, ""]
    lines += [f"{note}" for note in notes]
    return [*lines, ""] if figures or notes else []


def _how_to_read(findings: RunFindings) -> list[str]:
    facts = findings.analysis.facts
    shape = {
        "global": "one number per layer for a whole video: it cannot follow time",
        "clipwise": "one number per layer and clip: it can follow time",
        "elementwise": "one number per layer, clip and feature channel: its mean over channels may cancel, its magnitude "
        "and injection do not",
    }[facts.gating_type]
    return [
        "## How to read this",
        "",
        f"- {facts.gating_type.capitalize()} gates: {shape}.",
        "- Near 0 the branch is ignored; a large magnitude uses it. The sign alone means nothing.",
        "- The attention gate scales audio; the FFN gate scales a refinement of features that are already fused.",
        "- Injection, not the bare gate, says how much gets in: a wide-open gate on a small branch lets through little.",
        "- No statistic of a gate says whether the audio helps. That takes interventions and the benchmark's metrics"
        + ("." if "audio_help" in findings.sections else " (`--ablate`, `--audio`)."),
        f"- Every number here was computed from this run ({number(len(findings.analysis.rows), 0)} samples); "
        "`run_config.json` holds what is needed to repeat it.",
        "",
    ]
