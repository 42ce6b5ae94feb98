"""The files of a results tree. Each function writes what was computed and computes nothing of its own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qd_detr.gates.analysis.collect import GateAnalysis
from qd_detr.gates.analysis.samples import sample_details
from qd_detr.gates.analysis.statistics import SampleRow
from qd_detr.gates.gating import ATTENTION, FusionFacts
from qd_detr.gates.results.context import RunFindings, SampleContext
from qd_detr.gates.results.report.wording import in_english
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.tracking.entries import SampleGates, SampleId
from qd_detr.gates.wording import for_csv


class SampleWriter:
    """Writes a sample's own files as soon as its gates are there, so that nothing needs to be kept for them."""

    def __init__(
        self, tree: ResultsTree, names: Mapping[SampleId, str], facts: FusionFacts, *, save_raw_data: bool
    ) -> None:
        self.tree = tree
        self.names = names
        self.facts = facts
        self.save_raw_data = save_raw_data

    def write(self, context: SampleContext, entry: SampleGates) -> None:
        """Write `individual_samples/{id}_details.json` and, if asked, the raw gates and the audio they let through."""
        name = self.names[context.sample_id]
        details = sample_details(context.sample_id, entry, self.facts.gates)
        details["trained_gating_type"] = self.facts.trained_gating_type
        if self.facts.gating_note:
            details["gating_note"] = in_english(self.facts.gating_note)
        self.tree.write_json(f"individual_samples/{name}_details.json", {**details, **_known(context)})
        if self.save_raw_data:
            for gate in self.facts.gates:
                for layer_idx, values in enumerate(entry.gates[gate.kind]):
                    np.save(self.tree.path(f"raw_data/{name}_layer{layer_idx}_{gate.short}.npy"), values)
            for layer_idx, injection in enumerate(entry.injection.get(ATTENTION.kind, ())):
                np.save(self.tree.path(f"raw_data/{name}_layer{layer_idx}_injection.npy"), injection)


def _known(context: SampleContext) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if context.query is not None:
        known |= {
            "vid": context.query.vid,
            "query": context.query.query,
            "duration_s": context.query.duration_s,
            "n_clips": context.n_clips,
            "clip_length_s": context.clip_length_s,
        }
        if context.query.relevant_windows is not None:
            known["relevant_windows_s"] = [list(window) for window in context.query.relevant_windows]
    if context.line is not None:
        known["pred_relevant_windows"] = context.line["pred_relevant_windows"]
    return known


def write_statistics(tree: ResultsTree, analysis: GateAnalysis) -> None:
    """Write `overall_statistics.json`."""
    data = {
        "schema": "qd_detr-gates overall_statistics/1",
        **analysis.statistics,
        "trained_gating_type": analysis.facts.trained_gating_type,
    }
    if analysis.facts.gating_note:
        data["gating_note"] = in_english(analysis.facts.gating_note)
    tree.write_json("overall_statistics.json", data)


def write_predictions(tree: ResultsTree, lines: list[dict[str, Any]], gating_note: str | None) -> None:
    """Write `predictions.jsonl` in the order given, QVHighlights submission format."""
    extra = {"gating_note": gating_note} if gating_note else {}
    tree.write_text("predictions.jsonl", "".join(json.dumps({**line, **extra}) + "\n" for line in lines))


@dataclass(frozen=True)
class SampleTable:
    """samples.csv: its columns, and a row of cells per sample, empty where there is no value."""

    head: list[str]
    ids: list[SampleId]
    rows: list[list[Any]]


def sample_table(
    findings: RunFindings, more_columns: Mapping[str, Mapping[SampleId, Any]] | None = None
) -> SampleTable:
    """Return a row per sample in annotation order; `more_columns` are {name: {id: value}}."""
    analysis = findings.analysis
    by_id = {row.sample_id: row for row in analysis.rows}
    contexts = {context.sample_id: context for context in findings.contexts}
    more = more_columns or {}
    gate_columns = [
        f"layer{layer}_{gate.kind}_{figure}"
        for layer in range(analysis.facts.num_layers)
        for gate in analysis.facts.gates
        for figure in _figure_names(analysis)
    ]
    head = ["id", "file_name", "vid", "query", "duration_s", "n_clips", "gating_type", "trained_gating_type"]
    table = SampleTable([*head, *gate_columns, *more], [], [])
    for sample_id, row in _in_order(findings, by_id):
        context = contexts.get(sample_id)
        query = context.query if context is not None else None
        table.ids.append(sample_id)
        table.rows.append(
            [
                sample_id,
                findings.names.get(sample_id, ""),
                query.vid if query else "",
                query.query if query else "",
                query.duration_s if query else "",
                context.n_clips if context is not None and context.n_clips is not None else "",
                analysis.facts.gating_type,
                analysis.facts.trained_gating_type,
                *_gate_cells(row, _figure_names(analysis)),
                *(_rounded(column.get(sample_id)) for column in more.values()),
            ]
        )
    return table


def csv_text(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as CSV; empty cells stand for None."""
    lines = []
    for row in (head, *rows):
        line = io.StringIO()
        # A cell with a carriage return is quoted only where that ends lines; unquoted it would begin a row of its own.
        csv.writer(line, lineterminator="\r\n").writerow([_cell(value) for value in row])
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def _figure_names(analysis: GateAnalysis) -> list[str]:
    names = ["mean", "std", "min", "max", "abs_mean"]
    return [*names, "injection_mean", "cosine_mean"] if analysis.has_injection else names


def _gate_cells(row: SampleRow, figures: list[str]) -> list[Any]:
    layers = zip(*row.gates.values(), strict=True)
    return [_rounded(getattr(gate, figure)) for gates in layers for gate in gates for figure in figures]


def _rounded(value: Any) -> Any:
    """Return a value as samples.csv tells it: numbers of six digits, None for what is not there."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, str):
        return for_csv(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _in_order(findings: RunFindings, rows: dict[SampleId, SampleRow]) -> list[tuple[SampleId, SampleRow]]:
    first = [context.sample_id for context in findings.contexts if context.sample_id in rows]
    rest = [sample_id for sample_id in rows if sample_id not in set(first)]
    return [(sample_id, rows[sample_id]) for sample_id in [*first, *rest]]
