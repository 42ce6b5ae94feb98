"""The main job: from a request to a results tree. Everything is checked before anything is written."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import qd_detr
from qd_detr.analysis.audio_help import audio_help, sample_columns
from qd_detr.analysis.collect import GateCollector
from qd_detr.analysis.run_comparison import compare_runs, comparison_rows
from qd_detr.analyzer import facts_of
from qd_detr.avigate_custom import AVIGATEFusionCustom
from qd_detr.checkpoint import FORMAT, Checkpoint, build_model, file_sha256, pick_device, read_checkpoint, resolve
from qd_detr.data.annotations import Query, read_annotations, select_queries
from qd_detr.data.feature_check import FeatureIndex, MissingFeaturesError, check_features, write_missing_list
from qd_detr.data.feature_layout import FeatureFolders, FeatureSpec, files_of, locate_features
from qd_detr.data.features import FeatureReader
from qd_detr.errors import RequestError, RunError, first_few
from qd_detr.figures.style import save_figure
from qd_detr.findings import AlignmentCollector, add_metrics, audit
from qd_detr.interventions.conditions import Condition, conditions_of, standard_sweep
from qd_detr.interventions.edits import Intervention, read_interventions, to_plain
from qd_detr.interventions.sweep import run_sweep
from qd_detr.model import QDDETR
from qd_detr.options import Settings
from qd_detr.probes import Probes
from qd_detr.results.context import OutputOptions, RunFindings, SampleContext
from qd_detr.results.drawing_findings import comparison_figure
from qd_detr.results.names import file_names
from qd_detr.results.report.audio import comparison_text
from qd_detr.results.tree import ResultsTree
from qd_detr.results.whole import write_run
from qd_detr.results.writing import SampleWriter, csv_text
from qd_detr.running.inference import DEFAULT_BATCH_SIZE, PassSettings, SampleResult, planned_batches, run_pass
from qd_detr.running.journal import RunJournal
from qd_detr.running.postprocess import PostprocessingOptions
from qd_detr.tracking.entries import SampleId

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnalysisRequest:
    """What the user asked for; field for field the flags of `run_gate_analysis.py`."""

    model_path: Path
    data_path: Path
    output_dir: Path = Path("gate_analysis_results")
    legacy_model: bool = False
    gating_type: str | None = None
    max_samples: int | None = None
    analyze_samples: tuple[str, ...] | None = None
    batch_size: int | None = None
    legacy_batches: bool = False
    compare_samples: tuple[str, ...] | None = None
    save_raw_data: bool = False
    no_figures: bool = False
    figure_format: str = "png"
    config_path: Path | None = None
    feature_root: Path | None = None
    v_feat_dirs: tuple[Path, ...] | None = None
    t_feat_dir: Path | None = None
    a_feat_dir: Path | None = None
    skip_missing: bool = False
    missing_list: Path | None = None
    interventions: Path | None = None
    ablate: bool = False
    audio: tuple[str, ...] = ()
    resume: bool = False
    history_memory_mb: float = 64.0
    device: str = "auto"
    seed: int = 0
    quiet: bool = False


@dataclass
class PreparedRun:
    """A request whose every part has been found usable.

    Attributes:
        wanted: positions in `index.queries` of the samples asked for; with legacy batches the index also holds their
            batch mates, which run but are not analysed.
    """

    request: AnalysisRequest
    checkpoint: Checkpoint
    settings: Settings
    model: QDDETR
    folders: FeatureFolders
    index: FeatureIndex
    reader: FeatureReader
    wanted: list[int]
    pass_settings: PassSettings
    total_annotated: int
    conditions: list[Condition]
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def queries(self) -> list[Query]:
        """The queries asked for, in annotation order."""
        return [self.index.queries[p] for p in self.wanted]

    @property
    def postprocessing(self) -> PostprocessingOptions:
        """How this run's options make predictions."""
        return PostprocessingOptions.from_options(self.settings.options)

    def batches(self) -> list[list[int]]:
        """Positions in `index.queries` of every batch that holds a wanted sample."""
        wanted = set(self.wanted)
        return [batch for batch in planned_batches(self.index, self.pass_settings) if wanted.intersection(batch)]


def feature_spec(settings: Settings) -> FeatureSpec:
    """Return what a checkpoint's model wants of its features."""
    options, sizes = settings.options, settings.architecture
    return FeatureSpec(
        dset_name=options["dset_name"],
        v_feat_dirs=tuple(options["v_feat_dirs"]),
        t_feat_dir=options["t_feat_dir"],
        a_feat_dir=options["a_feat_dir"],
        max_v_l=options["max_v_l"],
        max_q_l=sizes.max_q_l,
        normalize_video=not options["no_norm_vfeat"],
        normalize_text=not options["no_norm_tfeat"],
        temporal_endpoints="tef" in options["ctx_mode"],
        video_dim=sizes.video_dim,
        audio_dim=sizes.audio_dim,
        text_dim=sizes.text_dim,
        clip_length_s=options["clip_length"],
    )


def prepare(request: AnalysisRequest) -> PreparedRun:
    """Check everything about a request and load its model; writes nothing but a list of missing features if asked.

    Raises:
        RequestError: whatever is wrong with it, found before inference starts.
    """
    if request.batch_size is not None and request.batch_size < 1:
        raise RequestError(f"--batch_size must be at least 1; got {request.batch_size}")
    if not request.history_memory_mb >= 0:
        raise RequestError(f"--history_memory must be 0 or more megabytes; got {request.history_memory_mb}")
    ResultsTree(request.output_dir).check()
    device = pick_device(request.device)
    checkpoint = read_checkpoint(request.model_path)
    if not request.legacy_model and checkpoint.format != FORMAT:
        mark = "no format mark" if checkpoint.format is None else f"the format mark {checkpoint.format!r}"
        raise RequestError(
            f"{request.model_path} has {mark}, so this project's trainer did not write it; "
            "if it is a legacy checkpoint, add --legacy_model"
        )
    settings = resolve(checkpoint, gating_type=request.gating_type, config_path=request.config_path)
    spec = feature_spec(settings)
    every_query = read_annotations(request.data_path, spec.dset_name, settings.options["dset_domain"])
    chosen = select_queries(every_query, request.analyze_samples, request.max_samples)
    _check_comparison(request, chosen)
    folders = locate_features(
        spec,
        data_path=request.data_path,
        checkpoint_path=request.model_path,
        feature_root=request.feature_root,
        v_feat_dirs=request.v_feat_dirs,
        t_feat_dir=request.t_feat_dir,
        a_feat_dir=request.a_feat_dir,
    )
    index = _checked_features(request, every_query if request.legacy_batches else chosen, folders, spec)
    chosen_ids = {query.qid for query in chosen}
    wanted = [p for p, query in enumerate(index.queries) if query.qid in chosen_ids]
    if not wanted:
        raise RequestError("none of the samples asked for has all its features; nothing is left to analyse")
    _check_comparison(request, [index.queries[p] for p in wanted])
    default_size = settings.options["eval_bsz"] if request.legacy_batches else DEFAULT_BATCH_SIZE
    model = build_model(checkpoint, settings, device)
    return PreparedRun(
        request=request,
        checkpoint=checkpoint,
        settings=settings,
        model=model,
        conditions=_conditions(request, model.avigate_fusion),
        folders=folders,
        index=index,
        reader=FeatureReader(folders, spec, index),
        wanted=wanted,
        pass_settings=PassSettings(
            batch_size=request.batch_size or default_size, legacy_batches=request.legacy_batches
        ),
        total_annotated=len(every_query),
        hashes={"checkpoint": file_sha256(request.model_path), "annotations": file_sha256(request.data_path)},
    )


def _conditions(request: AnalysisRequest, fusion: AVIGATEFusionCustom) -> list[Condition]:
    """Return what is to be run beside the model as it is, the baseline first; nothing if nothing was asked for."""
    asked: list[Intervention] = []
    if request.interventions is not None:
        asked += read_interventions(request.interventions, fusion.num_layers, fusion.gate_range)
    if request.ablate:
        asked += standard_sweep(fusion.num_layers)
    if not asked and not request.audio:
        return []
    return conditions_of(asked, request.audio, request.seed)


def _check_comparison(request: AnalysisRequest, queries: Sequence[Query]) -> None:
    known = {str(query.qid) for query in queries}
    unknown = [one for one in request.compare_samples or () if one not in known]
    if unknown:
        raise RequestError(
            f"--compare_samples: {first_few(unknown)} not among the {len(known)} samples analysed "
            f"({first_few(sorted(known))})"
        )


def _checked_features(
    request: AnalysisRequest, queries: Sequence[Query], folders: FeatureFolders, spec: FeatureSpec
) -> FeatureIndex:
    try:
        index = check_features(queries, folders, spec, skip_missing=request.skip_missing)
    except MissingFeaturesError as error:
        if request.missing_list is not None:
            write_missing_list(error.missing, request.missing_list)
        raise
    if request.missing_list is not None:
        write_missing_list(index.missing, request.missing_list)
    if index.missing:
        left_out = len({str(qid) for qid, _ in index.missing})
        logger.warning("%d of %d queries left out: features missing", left_out, len(queries))
        if request.legacy_batches:
            logger.warning("with queries left out, the batches are not those of the legacy run")
    if index.length_mismatches:
        logger.warning(
            "%d videos have audio and video features of different length; cut to the shorter", index.length_mismatches
        )
    return index


def run(prepared: PreparedRun) -> Path:
    """Run a prepared request and publish its tree; return the report's path.

    Raises:
        RequestError: data that turned out unusable while being read. RunError: anything else that stopped the run.
            The results that were there before are untouched then.
    """
    request = prepared.request
    started = time.time()
    facts = facts_of(prepared.model.avigate_fusion)
    queries = prepared.queries
    names = file_names(query.qid for query in queries)
    with ResultsTree(request.output_dir, resume=request.resume) as tree:
        try:
            journal = RunJournal(tree.journal_dir, _fingerprint(prepared), resume=request.resume)
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
            probes = Probes(prepared.model, prepared.index, prepared.reader, prepared.postprocessing, history)
            eval_bsz = None if request.legacy_batches else prepared.settings.options["eval_bsz"]
            findings.sections["audit"] = audit(probes, findings, in_order, eval_bsz)
            columns = add_metrics(findings, prepared.settings.options)
            columns |= _run_conditions(prepared, findings)
            write_run(tree, findings, _output_options(request), columns)
            tree.publish(_run_config(prepared, started))
        except (OSError, ValueError) as error:
            if isinstance(error, RequestError):
                raise
            raise RunError(f"the run stopped: {error}") from error
    return request.output_dir / "ANALYSIS_REPORT.md"


def _results(prepared: PreparedRun, journal: RunJournal, history: Any) -> Iterator[SampleResult]:
    """Yield the wanted samples' results: those of finished batches from the journal, then the rest as they run."""
    batches = prepared.batches()
    wanted = set(prepared.wanted)
    done = 0
    bar = tqdm(
        total=len(prepared.wanted), desc="samples", unit="sample", disable=_no_bar(prepared.request), file=sys.stderr
    )
    with bar:
        for note, places in journal.finished():
            history.adopt(places)
            done = note["batch"] + 1
            kept = [position for position in batches[note["batch"]] if position in wanted]
            for position, line, marks in zip(kept, note["lines"], note["marks"], strict=True):
                query = prepared.index.queries[position]
                yield SampleResult(position, query, line, history[query.qid], tuple(marks))
                bar.update()
        running = run_pass(
            prepared.model,
            prepared.index,
            prepared.reader,
            batches[done:],
            prepared.postprocessing,
            prepared.pass_settings,
            history,
        )
        for number, results in enumerate(running, start=done):
            kept_results = [result for result in results if result.position in wanted]
            for result in results:
                if result.position not in wanted:
                    del history[result.query.qid]  # a batch mate that nobody asked for
            journal.commit(history, number, kept_results)
            for result in kept_results:
                yield result
                bar.update()


def _run_conditions(prepared: PreparedRun, findings: RunFindings) -> dict[str, dict[SampleId, Any]]:
    """Run the conditions asked for and add what they show; return their columns for samples.csv."""
    if not prepared.conditions:
        return {}
    request = prepared.request
    batches = prepared.batches()
    total = sum(map(len, batches))
    with tqdm(total=total, desc="conditions", unit="sample", disable=_no_bar(request), file=sys.stderr) as bar:
        swept = run_sweep(
            prepared.model,
            prepared.index,
            prepared.reader,
            batches,
            prepared.postprocessing,
            prepared.conditions,
            history=findings.history,
            legacy_batches=request.legacy_batches,
            progress=bar.update,
        )
    what = {
        "dset_name": prepared.settings.options["dset_name"],
        "clip_length_s": float(prepared.settings.options["clip_length"]),
    }
    findings.sections["audio_help"] = audio_help(swept, seed=request.seed, **what)
    interventions = [c.intervention for c in prepared.conditions if c.intervention is not None]
    findings.sections["interventions"] = to_plain(interventions)
    return sample_columns(swept, **what)


def _no_bar(request: AnalysisRequest) -> bool | None:
    return True if request.quiet else None  # None: shown where stderr is a terminal


def _context(prepared: PreparedRun, result: SampleResult) -> SampleContext:
    return SampleContext(
        sample_id=result.query.qid,
        query=result.query,
        n_clips=prepared.index.clip_counts[result.position],
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
    )


def _notes(prepared: PreparedRun) -> dict[str, Any]:
    """Return what the report tells about how the run was made."""
    index = prepared.index
    return {
        "model": str(prepared.request.model_path),
        "data": str(prepared.request.data_path),
        "annotated": prepared.total_annotated,
        "left_out": len({str(qid) for qid, _ in index.missing}),
        "length_mismatches": index.length_mismatches,
        "legacy_batches": prepared.pass_settings.legacy_batches,
        "batch_size": prepared.pass_settings.batch_size,
        "disagreements": prepared.settings.disagreements,
        "epoch": prepared.checkpoint.epoch,
        "dset_name": prepared.settings.options["dset_name"],
    }


def _fingerprint(prepared: PreparedRun) -> dict[str, Any]:
    """Return what must be equal for an unfinished run to be continued."""
    request = prepared.request
    # Reading gigabytes again only to hash them would cost as much as the run; a file that was written again has
    # another time, so the worst is a run refused that could have gone on.
    stamps = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in _feature_paths(prepared)]
    return {
        "toolkit": qd_detr.__version__,
        "checkpoint sha256": prepared.hashes["checkpoint"],
        "annotations sha256": prepared.hashes["annotations"],
        "feature files": hashlib.sha256("\n".join(stamps).encode("utf-8", "replace")).hexdigest(),
        "options": {k: v for k, v in prepared.settings.options.items() if not k.endswith(("_dir", "_dirs"))},
        "gating_type": prepared.settings.architecture.gating_type,
        "samples": hashlib.sha256(json.dumps([q.qid for q in prepared.queries]).encode()).hexdigest(),
        "batch_size": prepared.pass_settings.batch_size,
        "legacy_batches": prepared.pass_settings.legacy_batches,
        "save_raw_data": request.save_raw_data,
        "device": str(next(prepared.model.parameters()).device.type),
        "threads": torch.get_num_threads(),
    }


def _feature_paths(prepared: PreparedRun) -> list[Path]:
    files = {
        file.path
        for query in prepared.index.queries
        for file in files_of(query, prepared.folders, feature_spec(prepared.settings)).all
    }
    return sorted(files)


def _run_config(prepared: PreparedRun, started: float) -> dict[str, Any]:
    request = prepared.request
    plain = {
        name: [str(v) for v in value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for name, value in asdict(request).items()
    }
    settings = prepared.settings
    return {
        "format": "qd_detr-gates results/1",
        "toolkit_version": qd_detr.__version__,
        "request": plain,
        "checkpoint": {
            "path": str(request.model_path.resolve()),
            "sha256": prepared.hashes["checkpoint"],
            "bytes": request.model_path.stat().st_size,
            "format": prepared.checkpoint.format,
            "epoch": prepared.checkpoint.epoch,
        },
        "annotations": {
            "path": str(request.data_path.resolve()),
            "sha256": prepared.hashes["annotations"],
            "queries": prepared.total_annotated,
            "analysed": len(prepared.wanted),
        },
        "gating": {
            "trained_as": settings.trained_gating_type,
            "run_as": settings.architecture.gating_type,
            "changed": settings.trained_gating_type != settings.architecture.gating_type,
        },
        "architecture": asdict(settings.architecture),
        "options": settings.options,
        "option_origins": settings.origins,
        "option_disagreements": settings.disagreements,
        "batches": {"size": prepared.pass_settings.batch_size, "legacy": prepared.pass_settings.legacy_batches},
        "device": str(next(prepared.model.parameters()).device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "threads": torch.get_num_threads(),
        "seed": request.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "seconds": round(time.time() - started, 1),
        "feature_folders": {
            "video": [str(folder.resolve()) for folder in prepared.folders.video],
            "text": str(prepared.folders.text.resolve()),
            "audio": str(prepared.folders.audio.resolve()),
        },
        "feature_files": dict(sorted(prepared.index.file_sizes.items())),
    }


def compare(first: Path, second: Path, output_dir: Path, *, seed: int, figure_format: str) -> Path:
    """Compare two finished runs and publish COMPARISON_REPORT.md, comparison.json and comparison.csv; return the report.

    Raises:
        RequestError: an unfinished or damaged tree, runs on different data, or an output folder that is one of them.
    """
    if output_dir.resolve() in (first.resolve(), second.resolve()):
        raise RequestError(f"--output_dir {output_dir} is one of the runs to compare; give another folder")
    comparison = compare_runs(first, second, seed=seed)
    head, rows = comparison_rows(comparison)
    with ResultsTree(output_dir) as tree:
        figures = []
        figure = comparison_figure(comparison)
        if figure is not None:
            name = f"run_comparison.{figure_format}"
            save_figure(figure, tree.path(name))
            figures.append((name, "Differences in metrics, second minus first, with intervals."))
        tree.write_json("comparison.json", comparison)
        tree.write_text("comparison.csv", csv_text(head, rows))
        tree.write_text("COMPARISON_REPORT.md", comparison_text(comparison, head, rows, figures))
        tree.publish(
            {
                "format": "qd_detr-gates comparison/1",
                "toolkit_version": qd_detr.__version__,
                "runs": [str(first.resolve()), str(second.resolve())],
                "seed": seed,
            }
        )
    return output_dir / "COMPARISON_REPORT.md"
