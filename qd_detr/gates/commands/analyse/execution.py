"""The run itself: one pass, what it shows, the published tree."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qd_detr.gates.analysis.audio_help import audio_help, sample_columns
from qd_detr.gates.analysis.audio_share import audio_share, share_columns
from qd_detr.gates.analysis.collect import GateCollector
from qd_detr.gates.analysis.planted_truth import planted_findings
from qd_detr.gates.command_line import progress
from qd_detr.gates.commands.analyse.findings import AlignmentCollector, add_metrics, audit
from qd_detr.gates.commands.analyse.provenance import fingerprint_of, run_config_of
from qd_detr.gates.commands.analyse.request import AnalysisRequest, PreparedRun
from qd_detr.gates.commands.analyse.timeline import add_timeline
from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.planted import TRUTH_FILE, read_truth
from qd_detr.gates.results.context import ConditionWindows, OutputOptions, RunFindings, SampleContext
from qd_detr.gates.results.names import file_names
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.whole import write_run
from qd_detr.gates.results.writing import SampleWriter
from qd_detr.gates.runs.inference import SampleResult, run_pass
from qd_detr.gates.runs.interventions.conditions import MEAN_VIDEO
from qd_detr.gates.runs.interventions.edits import to_plain
from qd_detr.gates.runs.interventions.results import SweepRun
from qd_detr.gates.runs.interventions.sweep import SweepSettings, run_sweep
from qd_detr.gates.runs.journal import RunJournal
from qd_detr.gates.runs.probes import Probes
from qd_detr.gates.tracking.entries import SampleId


def run(prepared: PreparedRun) -> tuple[Path, RunFindings]:
    """Run a prepared request and publish its tree; return the report's path and what was found.

    Raises:
        RequestError: data that turned out unusable while being read. RunError: anything else that stopped the run.
            The results that were there before are untouched then.
    """
    request = prepared.request
    started = time.time()
    facts = prepared.model.avigate_fusion.facts
    queries = prepared.queries
    names = file_names(query.qid for query in queries)
    with ResultsTree(request.output_dir, resume=request.resume) as tree:
        try:
            journal = RunJournal(tree.journal_dir, fingerprint_of(prepared), resume=request.resume)
            history = journal.history(int(request.history_memory_mb * (1 << 20)))
            collector = GateCollector(facts)
            writer = SampleWriter(tree, names, facts, save_raw_data=request.save_raw_data)
            alignment = AlignmentCollector(facts, float(prepared.settings.options["clip_length"]))
            seen: dict[int, SampleResult] = {}
            for result in _results(prepared, journal, history):
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
            findings.sections["alignment"] = alignment.readout(request.seed)
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
            columns |= _run_conditions(prepared, findings)
            if request.timeline:
                columns |= add_timeline(prepared, findings, tree)
            _add_planted_truth(request.data_path.parent, findings)
            write_run(tree, findings, _output_options(request), columns)
            tree.publish(run_config_of(prepared, started))
        except (OSError, ValueError) as error:
            if isinstance(error, RequestError):
                raise
            raise RunError(f"the run stopped: {error}") from error
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            few = str(error).strip().splitlines()[:1]
            raise RunError(
                f"the run stopped: out of memory ({''.join(few) or 'no details'}); "
                "try a smaller --batch_size or --history_memory, then --resume"
            ) from error
    return request.output_dir / "ANALYSIS_REPORT.md", findings


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch raises a plain RuntimeError, told only by its words.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _results(prepared: PreparedRun, journal: RunJournal, history: Any) -> Iterator[SampleResult]:
    """Yield the wanted samples' results: those of finished batches from the journal, then the rest as they run."""
    samples = prepared.samples
    wanted = set(prepared.wanted)
    done = 0
    with progress(len(prepared.wanted), "samples", "sample", quiet=prepared.request.quiet) as advance:
        expected = [[samples.queries[p].qid for p in batch if p in wanted] for batch in samples.batches]
        for note, places in journal.finished(expected):
            history.adopt(places)
            done = note["batch"] + 1
            kept = [position for position in samples.batches[note["batch"]] if position in wanted]
            for position, line, marks in zip(kept, note["lines"], note["marks"], strict=True):
                query = samples.queries[position]
                yield SampleResult(position, query, line, history[query.qid], tuple(marks))
                advance()
        rest = samples.in_batches(samples.batches[done:])
        running = run_pass(prepared.model, rest, prepared.pass_settings)
        for number, results in enumerate(running, start=done):
            kept_results = [result for result in results if result.position in wanted]
            history.update((result.query.qid, result.gates) for result in kept_results)
            journal.commit(history, number, kept_results)
            for result in kept_results:
                yield result
                advance()


def _run_conditions(prepared: PreparedRun, findings: RunFindings) -> dict[str, dict[SampleId, Any]]:
    """Run the conditions asked for and add what they show; return their columns for samples.csv."""
    if not prepared.conditions:
        return {}
    request = prepared.request
    samples = prepared.samples
    total = sum(map(len, samples.batches))
    with progress(total, "conditions", "sample", quiet=request.quiet) as advance:
        swept = run_sweep(
            prepared.model,
            samples,
            prepared.conditions,
            SweepSettings(
                legacy_batches=request.legacy_batches,
                postprocessing=prepared.pass_settings.postprocessing,
                history=findings.history,
                progress=advance,
            ),
        )
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
    findings.sections["audio_help"] = audio_help(
        effects, seed=request.seed, margin=request.margin, shares=shares, **what
    )
    findings.sections["interventions"] = to_plain(
        [condition.intervention for condition in effects.conditions if condition.intervention is not None]
    )
    return columns | sample_columns(effects, **what)


def _first_windows(swept: SweepRun, name: str) -> ConditionWindows:
    lines = swept.lines_of(name)
    first = {
        query.qid: line["pred_relevant_windows"][0].tolist() if len(line["pred_relevant_windows"]) else None
        for query, line in zip(swept.queries, lines, strict=True)
    }
    return ConditionWindows(name, swept.same_as.get(name), first)


def _shares(section: dict[str, Any] | None) -> dict[SampleId, float | None] | None:
    if section is None:
        return None
    return {one["qid"]: one["windows"]["share"] for one in section["samples"]}


def _add_planted_truth(folder: Path, findings: RunFindings) -> None:
    """Hold the injection against the truth, where the data comes with it."""
    if not (folder / TRUTH_FILE).is_file() or not findings.analysis.has_injection:
        return
    try:
        kinds = {qid: video.audio for qid, video in read_truth(folder).items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # a truth.json of somebody else's
    if any(row.sample_id in kinds for row in findings.analysis.rows):
        findings.sections["planted"] = planted_findings(findings.analysis.rows, kinds)


def _context(prepared: PreparedRun, result: SampleResult) -> SampleContext:
    return SampleContext(
        sample_id=result.query.qid,
        query=result.query,
        n_clips=prepared.samples.clip_counts[result.position],
        clip_length_s=float(prepared.settings.options["clip_length"]),
        line=result.line,
    )


def _output_options(request: AnalysisRequest) -> OutputOptions:
    return OutputOptions(
        figures=not request.no_figures,
        figure_format=request.figure_format,
        compare=request.compare_samples,
        seed=request.seed,
        quiet=request.quiet,
        lang=request.lang,
        explorer=not request.no_explorer,
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
        "epoch": prepared.checkpoint.epoch,
        "dset_name": prepared.settings.options["dset_name"],
    }
