"""Everything of a run into its tree, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qd_detr.gates.results.context import OutputOptions, RunFindings
from qd_detr.gates.results.drawing import draw_run
from qd_detr.gates.results.explorer import write_explorer
from qd_detr.gates.results.ranking import ranked
from qd_detr.gates.results.report import report_text
from qd_detr.gates.results.report.audio import with_sentences
from qd_detr.gates.results.report.wording import in_english
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.writing import csv_text, sample_table, write_predictions, write_statistics
from qd_detr.gates.tracking.entries import SampleId

# Sections with a file of their own.
_SECTION_FILES = ("audit", "alignment", "metrics", "interventions", "audio_help", "audio_share", "timeline", "planted")


def write_run(
    tree: ResultsTree,
    findings: RunFindings,
    options: OutputOptions,
    sample_columns: Mapping[str, Mapping[SampleId, Any]] | None = None,
) -> None:
    """Write statistics, tables, predictions, figures and the report of a run into its tree."""
    note = in_english(findings.analysis.facts.gating_note)
    write_statistics(tree, findings.analysis)
    table = sample_table(findings, sample_columns)
    if options.top:
        table, findings.sections["top"] = ranked(table, options.rank_by, options.top)
    tree.write_text("samples.csv", csv_text(table.head, table.rows))
    if findings.lines is not None:
        write_predictions(tree, list(findings.lines), note)
    for name in _SECTION_FILES:
        if name in findings.sections:
            section = findings.sections[name]
            section = in_english(with_sentences(section) if name == "audio_help" else section)
            noted = {**section, "gating_note": note} if note and isinstance(section, dict) else section
            tree.write_json(f"{name}.json", noted)
    if options.explorer:
        write_explorer(tree, findings, table, options.lang)
    figures, notes = draw_run(tree, findings, options)
    tree.write_text("ANALYSIS_REPORT.md", report_text(findings, figures, notes, options.lang))
