"""Everything the explorer shows but the series over time: plain data, ready for JSON. It only reads what was computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from qd_detr.gates.analysis.slices import sound_words
from qd_detr.gates.gating import ATTENTION
from qd_detr.gates.results.conditions import condition_words
from qd_detr.gates.results.context import RunFindings, SampleContext
from qd_detr.gates.results.drawing import run_scale
from qd_detr.gates.results.explorer.planes import OPEN_FROM, Planes, SeriesName
from qd_detr.gates.results.report.opening import key_sentences
from qd_detr.gates.results.report.wording import in_english, report_texts
from qd_detr.gates.results.writing import SampleTable
from qd_detr.gates.tracking.entries import SampleId
from qd_detr.gates.wording import LANGUAGES

FORMAT = "qd_detr-gates explorer/1"
ODD_FROM = 5.0
"""Robust standard deviations (1.4826 x median absolute deviation) from the run's median that make an injection odd."""


def facts_of_run(
    findings: RunFindings,
    table: SampleTable,
    contexts: Sequence[SampleContext],
    planes: Planes,
    series: Sequence[SeriesName],
    lang: str,
) -> dict[str, Any]:
    """Return what the page knows of a run.

    Args:
        table: samples.csv. contexts: of each row. series: those of the planes that are in the page.
        lang: the language in which the page opens.
    """
    facts, notes = findings.analysis.facts, findings.notes
    scale = run_scale(findings.analysis)
    intervals = _metric_intervals(findings.sections.get("audio_help"))
    return {
        "format": FORMAT,
        "lang": lang,
        "about": {
            "model": _name(notes.get("model")),
            "data": _name(notes.get("data")),
            "gating": facts.gating_type,
            "layers": facts.num_layers,
            "note": in_english(facts.gating_note),
        },
        "findings": {language: _findings(findings, language) for language in LANGUAGES},
        "metrics": [
            {"name": name, "value": value, "interval": intervals.get(name)}
            for name, value in (findings.sections.get("metrics") or {"brief": {}})["brief"].items()
        ],
        "effects": _effects(findings.sections.get("audio_help")),
        "gates": _gates(findings.analysis.statistics, [gate.kind for gate in facts.gates]),
        "columns": _columns(table, contexts),
        "samples": [
            {**_sample(context), "n_clips": n, "oddities": odd}
            for context, n, odd in zip(contexts, planes.clips, oddities(findings, table.ids), strict=True)
        ],
        "conditions": [
            {
                "name": condition.name,
                "same_as": condition.same_as,
                "first": [condition.first_windows.get(sample_id) for sample_id in table.ids],
            }
            for condition in findings.conditions
        ],
        "condition_words": {
            language: {one.name: condition_words(one.name, report_texts(language)) for one in findings.conditions}
            for language in LANGUAGES
        },
        "tops": {
            name: top
            if (top := scale.injection_max.get(name.removesuffix("_injection")))
            else planes.largest_shown(name)
            for name in dict.fromkeys(name for name, _ in series)
            if name.endswith(("_injection", "_contribution"))
        },
        "series": [{"name": name, "layer": layer} for name, layer in series],
        "gate_limit": scale.gate_limit,
        "open_from": OPEN_FROM,
        "saliency_top": 4,
    }


def _name(path: Any) -> str | None:
    return None if path is None else PurePath(str(path)).name


def _findings(findings: RunFindings, language: str) -> list[str]:
    texts = report_texts(language)
    note = findings.analysis.facts.gating_note
    sentences = key_sentences(findings, texts)
    return [*([texts.say(note)] if note else []), *(sentence.replace("**", "") for sentence in sentences)]


def _metric_intervals(audio_help: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the intervals of the model's own metrics, of those that are means over queries."""
    if not audio_help:
        return {}
    baseline = next(record for record in audio_help["conditions"] if record["name"] == "baseline")
    return {name: in_english(entry["interval"]) for name, entry in baseline["metrics"].items()}


def _effects(audio_help: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not audio_help or not audio_help["metrics"]["names"]:
        return None
    keys = ("change", "significant")
    conditions = [
        {
            "name": record["name"],
            "same_as": record["same_as"],
            "metrics": {
                name: {key: in_english(entry[key]) for key in keys} for name, entry in record["metrics"].items()
            },
        }
        for record in audio_help["conditions"]
        if record["name"] != "baseline"
    ]
    return {"names": audio_help["metrics"]["names"], "conditions": conditions}


def _gates(statistics: Mapping[str, Any], kinds: Sequence[str]) -> list[dict[str, Any]]:
    keys = ("mean", "std", "median", "min", "max", "histogram")
    return [
        {"layer": int(layer), "kind": kind, **{key: entry[kind][key] for key in keys}}
        for layer, entry in statistics["layer_statistics"].items()
        for kind in kinds
    ]


def _columns(table: SampleTable, contexts: Sequence[SampleContext]) -> list[dict[str, Any]]:
    columns = [
        {"name": name, "values": _values([row[i] for row in table.rows], text=name in _TEXT_COLUMNS)}
        for i, name in enumerate(table.head)
    ]
    return [
        *columns,
        {"name": "moment_length_s", "values": [_moment_length(context) for context in contexts]},
        {"name": "sound_words", "values": [_heard(context) for context in contexts]},
    ]


_TEXT_COLUMNS = ("id", "file_name", "vid", "query", "gating_type", "trained_gating_type", "original_video")


def _values(cells: Sequence[str], *, text: bool) -> list[Any]:
    """Return a column's cells as the numbers they are, None for an empty one."""
    if text:
        return [str(cell) for cell in cells]
    return [_number(cell) for cell in cells]


def _number(cell: Any) -> Any:
    if cell == "" or cell is None:
        return None
    try:
        value = float(cell)
    except ValueError:
        return str(cell)
    return (int(value) if value.is_integer() and abs(value) < 2**53 else value) if np.isfinite(value) else None


def _moment_length(context: SampleContext) -> float | None:
    if context.query is None or context.query.relevant_windows is None:
        return None
    return float(sum(end - start for start, end in context.query.relevant_windows))


def _heard(context: SampleContext) -> str:
    return " ".join(dict.fromkeys(sound_words(context.query.query))) if context.query else ""


def _sample(context: SampleContext) -> dict[str, Any]:
    query, line = context.query, context.line
    windows = query.relevant_windows if query else None
    return {
        "clip_length_s": context.clip_length_s,
        "windows": None if windows is None else [list(window) for window in windows],
        "predicted": None if line is None else [list(window) for window in line["pred_relevant_windows"]],
    }


def oddities(findings: RunFindings, ids: Sequence[SampleId]) -> list[list[str]]:
    """Return for each row what is odd about it: names out of the audit, and "injection" for one far from the others'."""
    audit = findings.sections.get("audit") or {}
    pairs = {qid for group in audit.get("repeated_pairs", []) for qid in group}
    video = {vid for group in audit.get("identical_video_features", []) for vid in group}
    audio = {vid for group in audit.get("identical_audio_features", []) for vid in group}
    vids = {context.sample_id: context.query.vid for context in findings.contexts if context.query}
    far = _far_injections(findings)
    return [
        [
            *(["repeated_pair"] if sample_id in pairs else []),
            *(["identical_video"] if vids.get(sample_id) in video else []),
            *(["identical_audio"] if vids.get(sample_id) in audio else []),
            *(["injection"] if sample_id in far else []),
        ]
        for sample_id in ids
    ]


def _far_injections(findings: RunFindings) -> set[SampleId]:
    analysis = findings.analysis
    if not analysis.has_injection:
        return set()
    means = np.array(
        [[gate.injection_mean for gate in row.gates[ATTENTION.kind]] for row in analysis.rows], dtype=np.float64
    )  # (N, A)
    from_median = np.abs(means - np.median(means, axis=0))
    spread = 1.4826 * np.median(from_median, axis=0)
    far = np.flatnonzero(((from_median > ODD_FROM * spread) & (spread > 0)).any(axis=1))
    return {analysis.rows[i].sample_id for i in far}
