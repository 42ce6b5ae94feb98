"""Gates that were written down elsewhere: from a log to a results tree, without a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qd_detr.gates.commands.analyse.findings import AlignmentCollector
from qd_detr.gates.data.annotations import Query, read_annotations
from qd_detr.gates.data.gate_log import GateLog, read_gate_log
from qd_detr.gates.errors import DataError, RequestError, first_few
from qd_detr.gates.results.analyzer import collected, config_of
from qd_detr.gates.results.context import OutputOptions, RunFindings, SampleContext
from qd_detr.gates.results.names import file_names
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.whole import write_run
from qd_detr.gates.tracking.entries import SampleId
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.weights.checkpoint import file_sha256

CLIP_LENGTH_S = 2.0


@dataclass(frozen=True)
class LogRequest:
    """What was asked for; field for field the flags of `run_gate_analysis.py --gate_log`.

    data_path: annotations of the queries, for their text, moments and alignment; None: gates alone.
    """

    gate_log: Path
    output_dir: Path
    data_path: Path | None = None
    analyze_samples: tuple[str, ...] | None = None
    max_samples: int | None = None
    save_raw_data: bool = False
    history_memory_mb: float = 64.0


def analyse_log(request: LogRequest, options: OutputOptions) -> tuple[Path, RunFindings]:
    """Publish the tree of a gate log; return the report's path and what was found.

    Raises:
        RequestError: a log or annotations that cannot be used, ids that are not in the log, or an output folder that
            cannot be written to. Nothing has been written then.
    """
    ResultsTree(request.output_dir).check()
    log = read_gate_log(request.gate_log, GateHistory(int(request.history_memory_mb * (1 << 20))))
    contexts = _contexts(request, log)
    known = {str(context.sample_id) for context in contexts}
    unknown = [one for one in options.compare or () if one not in known]
    if unknown:
        raise RequestError(f"--compare_samples: {first_few(unknown)} not among the {len(known)} samples analysed")
    ids = [context.sample_id for context in contexts]
    with ResultsTree(request.output_dir) as tree:
        findings = collected(
            tree, log.facts, contexts, log.history, file_names(ids), save_raw_data=request.save_raw_data
        )
        findings.notes = {"gate_log": str(request.gate_log)}
        if request.data_path is not None:
            alignment = AlignmentCollector(log.facts, CLIP_LENGTH_S)
            for context in contexts:
                alignment.add(context, log.history[context.sample_id])
            findings.sections["alignment"] = alignment.readout(options.seed, None)
        write_run(tree, findings, options)
        made_of: dict[str, Any] = {
            "gate_log": {"path": str(request.gate_log.resolve()), "sha256": file_sha256(request.gate_log)}
        }
        if request.data_path is not None:
            path = request.data_path
            made_of["annotations"] = {"path": str(path.resolve()), "sha256": file_sha256(path)}
        tree.publish(config_of(log.facts, "run_gate_analysis.py --gate_log", len(ids)) | made_of)
    return request.output_dir / "ANALYSIS_REPORT.md", findings


def _contexts(request: LogRequest, log: GateLog) -> list[SampleContext]:
    """Return the samples asked for, in the order of the log, with their annotations where there are some."""
    ids: list[SampleId] = list(log.history)
    if request.max_samples is not None and request.max_samples < 1:
        raise RequestError(
            f"--max_samples is {request.max_samples}; expected 1 or more, or leave it out for all samples"
        )
    if request.analyze_samples is not None:
        asked = set(request.analyze_samples)
        unknown = sorted(asked - set(map(str, ids)))
        if unknown:
            raise RequestError(
                f"{len(unknown)} of {len(asked)} ids of --analyze_samples are not among the {len(ids)} queries of "
                f"{request.gate_log}: {first_few(unknown)}; ids that are there: {first_few(ids)}"
            )
        ids = [one for one in ids if str(one) in asked]
    ids = ids[: request.max_samples]
    queries = {} if request.data_path is None else {str(q.qid): q for q in read_annotations(request.data_path)}
    absent = [one for one in ids if str(one) not in queries]
    if queries and absent:
        raise DataError(
            f"{len(absent)} of {len(ids)} queries of {request.gate_log} are not in {request.data_path}: "
            f"{first_few(absent)}; give the annotations that the log was made of"
        )
    return [_context(one, queries.get(str(one)), log) for one in ids]


def _context(sample_id: SampleId, query: Query | None, log: GateLog) -> SampleContext:
    n_clips = log.history[sample_id].valid_clips.shape[1] if log.facts.gating.per_clip else None
    if query is not None and n_clips is not None and (n_clips - 1) * CLIP_LENGTH_S >= query.duration_s:
        raise DataError(
            f"qid {sample_id!r} has gates for {n_clips} clips of {CLIP_LENGTH_S:g} s and lasts {query.duration_s:g} s: "
            "the gates are of shorter clips, or padded; log the valid clips, or leave --data_path out"
        )
    return SampleContext(sample_id, query, n_clips)
