"""The run itself: one pass, what it shows, the published tree."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qd_detr.gates.analysis.audio_help import audio_help, sample_columns
from qd_detr.gates.analysis.audio_share import audio_share, share_columns
from qd_detr.gates.analysis.collect import GateCollector
from qd_detr.gates.analysis.effects import score_sweep
from qd_detr.gates.analysis.group_effects import groups_of_videos, telling_groups
from qd_detr.gates.analysis.planted_truth import planted_findings
from qd_detr.gates.commands.analyse.findings import AlignmentCollector, add_metrics, audit
from qd_detr.gates.commands.analyse.provenance import fingerprint_of, run_config_of
from qd_detr.gates.commands.analyse.replay import claim_facts
from qd_detr.gates.commands.analyse.request import PreparedRun
from qd_detr.gates.commands.analyse.timeline import add_timeline
from qd_detr.gates.commands.analyse.work import failures, open_history, results_of, sweep_of, timelines_of
from qd_detr.gates.data.video_names import youtube_link
from qd_detr.gates.planted import TRUTH_FILE, read_truth
from qd_detr.gates.results.context import ConditionWindows, RunFindings, SampleContext
from qd_detr.gates.results.names import file_names
from qd_detr.gates.results.report.claims import CLAIM_FILES, claim_sheet
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.whole import write_run
from qd_detr.gates.results.writing import SampleWriter
from qd_detr.gates.runs.inference import SampleResult
from qd_detr.gates.runs.interventions.conditions import MEAN_VIDEO
from qd_detr.gates.runs.interventions.edits import to_plain
from qd_detr.gates.runs.interventions.results import SweepRun
from qd_detr.gates.runs.journal import FinishedJournals, RunJournal
from qd_detr.gates.runs.probes import Probes
from qd_detr.gates.tracking.entries import SampleId


def run(prepared: PreparedRun, finished: FinishedJournals | None = None) -> tuple[Path, RunFindings]:
    """Run a prepared request and publish its tree; return the report's path and what was found.

    finished: journals that hold all of the run's work already; else it keeps one of its own.

    Raises:
        RequestError: data that turned out unusable while being read. RunError: anything else that stopped the run.
            The results that were there before are untouched then.
    """
    request = prepared.request
    started = time.time()
    facts = prepared.model.avigate_fusion.facts
    queries = prepared.queries
    names = file_names(query.qid for query in queries)
    with ResultsTree(request.output_dir, resume=request.resume) as tree, failures():
        journal = finished or RunJournal(tree.journal_dir, fingerprint_of(prepared), resume=request.resume)
        history = open_history(prepared, journal)
        collector = GateCollector(facts)
        writer = SampleWriter(tree, names, facts, save_raw_data=request.save_raw_data)
        alignment = AlignmentCollector(facts, float(prepared.settings.options["clip_length"]))
        seen: dict[int, SampleResult] = {}
        for result in results_of(prepared, journal, history):
            assert result.gates is not None
            context = _context(prepared, result)
            collector.add(result.query.qid, result.gates)
            alignment.add(context, result.gates)
            writer.write(context, result.gates)
            seen[result.position] = replace(result, gates=None)
        in_order = [seen[position] for position in prepared.wanted]
        findings = RunFindings(
            analysis=collector.result(),
            contexts=[_context(prepared, result) for result in in_order],
            lines=[result.line for result in in_order],
            history=history,
            names=names,
            notes=_notes(prepared),
        )
        probes = Probes(prepared.model, prepared.samples, prepared.pass_settings.postprocessing, history)
        of_legacy_run = not prepared.checkpoint.own
        findings.sections["audit"] = audit(
            probes,
            findings,
            in_order,
            own_values=not request.legacy_batches,
            legacy_eval_bsz=prepared.settings.options["eval_bsz"] if of_legacy_run else None,
        )
        columns = add_metrics(findings, prepared.settings.options)
        if prepared.conditions:
            raw = {result.position: result.raw for result in in_order}
            columns |= _condition_columns(prepared, findings, sweep_of(prepared, journal, history, raw))
        findings.sections["alignment"] = alignment.readout(request.seed, _groups(findings))
        if request.timeline:
            columns |= add_timeline(prepared, findings, tree, timelines_of(prepared, journal, history))
        columns |= _links(findings)
        _add_planted_truth(prepared, findings)
        write_run(tree, findings, request.output_options, columns)
        for language in dict.fromkeys(("en", request.lang)):
            sheet = claim_sheet(findings, claim_facts(prepared), language)
            if sheet is not None:
                tree.write_text(CLAIM_FILES[language], sheet)
        tree.publish(run_config_of(prepared, started))
    return request.output_dir / "ANALYSIS_REPORT.md", findings


def _condition_columns(prepared: PreparedRun, findings: RunFindings, swept: SweepRun) -> dict[str, dict[SampleId, Any]]:
    """Add what the conditions show to the findings; return their columns for samples.csv."""
    request = prepared.request
    what = {
        "dset_name": prepared.settings.options["dset_name"],
        "clip_length_s": float(prepared.settings.options["clip_length"]),
    }
    findings.conditions = [_first_windows(swept, condition.name) for condition in swept.conditions]
    columns: dict[str, dict[SampleId, Any]] = {}
    if swept.has(MEAN_VIDEO):
        findings.sections["audio_share"] = audio_share(swept)
        columns |= share_columns(findings.sections["audio_share"])
    effects = swept.of_audio()
    shares = _shares(findings.sections.get("audio_share"))
    scored = score_sweep(effects, **what)
    findings.sections["audio_help"] = audio_help(
        effects,
        seed=request.seed,
        margin=request.margin,
        shares=shares,
        own_slices=prepared.own_slices,
        scored=scored,
        **what,
    )
    findings.sections["interventions"] = to_plain(
        [condition.intervention for condition in effects.conditions if condition.intervention is not None]
    )
    return columns | sample_columns(scored)


def _first_windows(swept: SweepRun, name: str) -> ConditionWindows:
    lines = swept.lines_of(name)
    first = {
        query.qid: line["pred_relevant_windows"][0].tolist() if len(line["pred_relevant_windows"]) else None
        for query, line in zip(swept.queries, lines, strict=True)
    }
    return ConditionWindows(name, swept.same_as.get(name), first)


def _links(findings: RunFindings) -> dict[str, dict[SampleId, Any]]:
    """Return the column of addresses of the original videos, at the second where the prediction begins; {} if no
    name tells one."""
    links = {}
    for context in findings.contexts:
        windows = [] if context.line is None else context.line["pred_relevant_windows"]
        second = float(windows[0][0]) if len(windows) else 0.0
        links[context.sample_id] = None if context.query is None else youtube_link(context.query.vid, second)
    return {"original_video": links} if any(links.values()) else {}


def _shares(section: dict[str, Any] | None) -> dict[SampleId, float | None] | None:
    if section is None:
        return None
    return {one["qid"]: one["windows"]["share"] for one in section["samples"]}


def _groups(findings: RunFindings) -> dict[str, str] | None:
    """Return per video its group, "open" or "closed"; {} with one group, None where no condition was run."""
    section = findings.sections.get("audio_help")
    return None if section is None else groups_of_videos(telling_groups(section["groups"]))


def _add_planted_truth(prepared: PreparedRun, findings: RunFindings) -> None:
    """Compare share, injection and the raw audio with the truth, where the data comes with it."""
    folder = prepared.request.data_path.parent
    if not (folder / TRUTH_FILE).is_file() or not findings.analysis.has_injection:
        return
    try:
        kinds = {qid: video.audio for qid, video in read_truth(folder).items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # a truth.json of somebody else's
    if not any(row.sample_id in kinds for row in findings.analysis.rows):
        return
    samples = prepared.samples
    queries = [samples.queries[position] for position in prepared.wanted]
    audio = {one.qid: samples.reader.read(one).audio.mean(axis=0, dtype=np.float64) for one in queries}
    shares = _shares(findings.sections.get("audio_share"))
    findings.sections["planted"] = planted_findings(findings.analysis.rows, kinds, shares, audio)


def _context(prepared: PreparedRun, result: SampleResult) -> SampleContext:
    return SampleContext(
        sample_id=result.query.qid,
        query=result.query,
        n_clips=prepared.samples.clip_counts[result.position],
        clip_length_s=float(prepared.settings.options["clip_length"]),
        line=result.line,
    )


def _notes(prepared: PreparedRun) -> dict[str, Any]:
    """Return what the report tells about how the run was made."""
    return {
        "model": str(prepared.request.model_path),
        "data": str(prepared.request.data_path),
        "annotated": prepared.total_annotated,
        "left_out": len(prepared.samples.left_out),
        "long_audio": prepared.samples.index.length_mismatches - len(prepared.samples.coverage.short_audio),
        "legacy_batches": prepared.pass_settings.legacy_batches,
        "own_checkpoint": prepared.checkpoint.own,
        "batch_size": prepared.batch_size,
        "disagreements": prepared.settings.disagreements,
        "family": prepared.settings.recognition.family,
        "families": list(prepared.settings.recognition.candidates),
        "epoch": prepared.checkpoint.epoch,
        "dset_name": prepared.settings.options["dset_name"],
    }
