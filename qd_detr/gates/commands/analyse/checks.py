"""Everything about a request that can be wrong is found here, before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from qd_detr.gates.commands.analyse.request import AnalysisRequest, PreparedRun
from qd_detr.gates.data.annotations import Query, read_annotations, select_queries
from qd_detr.gates.data.datasets import dataset_of
from qd_detr.gates.data.feature_layout import FeatureSpec
from qd_detr.gates.data.samples import DEFAULT_BATCH_SIZE, Samples, check_samples, open_samples
from qd_detr.gates.data.slice_files import read_slices
from qd_detr.gates.errors import RequestError, first_few
from qd_detr.gates.evaluation import benchmark_of
from qd_detr.gates.fusion import AVIGATEFusionCustom
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.runs.inference import PassSettings
from qd_detr.gates.runs.interventions.conditions import Condition, conditions_of, standard_sweep
from qd_detr.gates.runs.interventions.edits import Intervention, read_interventions
from qd_detr.gates.runs.postprocess import PostprocessingOptions
from qd_detr.gates.runs.told_apart import told_by_predictions
from qd_detr.gates.weights.checkpoint import (
    build_model,
    file_sha256,
    pick_device,
    read_checkpoint,
    recognised,
    settings_of,
)
from qd_detr.gates.weights.options import Settings, read_options_file

logger = logging.getLogger(__name__)


def prepare(request: AnalysisRequest) -> PreparedRun:
    """Check everything about a request and load its model; writes nothing but a list of missing features if asked.

    Raises:
        RequestError: whatever is wrong with it, found before inference starts.
    """
    if request.batch_size is not None and request.batch_size < 1:
        raise RequestError(f"--batch_size must be at least 1; got {request.batch_size}")
    if not 0 < request.margin <= 100:
        raise RequestError(f"--margin must be above 0 and at most 100 percent points; got {request.margin:g}")
    if request.top < 0 or (request.rank_by is not None and not request.top):
        raise RequestError("--top must be 1 or more, and --rank_by COLUMN goes with it")
    if request.slice and request.no_effects:
        raise RequestError(
            "--slice reports the audio's effect on queries, which --no_effects leaves out; give one of them"
        )
    if not request.history_memory_mb >= 0:
        raise RequestError(f"--history_memory must be 0 or more megabytes; got {request.history_memory_mb}")
    ResultsTree(request.output_dir).check()
    device = pick_device(request.device)
    if device.type == "cuda" and device.index is None and request.shard and request.shard.local_rank is not None:
        device = pick_device(f"cuda:{request.shard.local_rank}")
    checkpoint = read_checkpoint(request.model_path)
    if not request.legacy_model and not checkpoint.own:
        mark = "no format mark" if checkpoint.format is None else f"the format mark {checkpoint.format!r}"
        raise RequestError(
            f"{request.model_path} has {mark}, so this project's trainer did not write it; "
            "if it is a legacy checkpoint, add --legacy_model"
        )
    if request.legacy_batches and checkpoint.own:
        # No error: the legacy code loads such a checkpoint too, and mixes samples when it does.
        logger.warning(
            "%s was written by this project's trainer, which validates every sample alone: --legacy_batches gives what "
            "the legacy code would predict with it, not what was saved beside it",
            request.model_path,
        )
    config = None if request.config_path is None else read_options_file(request.config_path)
    recognition = recognised(checkpoint, config, asked=request.family)

    def settings_as(family: str) -> Settings:
        return settings_of(checkpoint, replace(recognition, asked=family), config)  # as trained

    settings = settings_of(checkpoint, recognition, config, gating_type=request.gating_type)
    spec = FeatureSpec.from_options(settings.options, settings.architecture)
    if request.timeline and not dataset_of(spec.dset_name).moments:
        raise RequestError(
            "--timeline shows what made the predicted windows, and on this data set a model is trained on "
            "saliency alone; leave it out"
        )
    every_query = read_annotations(request.data_path, spec.dset_name, spec.dset_domain)
    chosen = select_queries(every_query, request.analyze_samples, request.max_samples)
    _check_comparison(request, chosen)
    own_slices = read_slices(request.slice, [query.qid for query in chosen])
    labelled = [query for query in chosen if query.labelled]
    if labelled:
        benchmark_of(spec.dset_name).check(labelled, spec.clip_length_s)
    samples = open_samples(
        spec,
        request.sources,
        every_query if request.legacy_batches else chosen,
        skip_missing=request.skip_missing,
        missing_list=request.missing_list,
        progress=not request.quiet,
    )
    if request.legacy_batches and samples.left_out:
        logger.warning("with queries left out, the batches are not those of the whole file")
    chosen_ids = {query.qid for query in chosen}
    wanted = [p for p, query in enumerate(samples.queries) if query.qid in chosen_ids]
    if not wanted:
        raise RequestError("none of the samples asked for has all its features; nothing is left to analyse")
    _check_comparison(request, [samples.queries[p] for p in wanted])
    decided = told_by_predictions(
        checkpoint,
        settings_as,
        recognition,
        every_query,
        lambda queries: check_samples(queries, samples.folders, samples.spec, skip_missing=True),
        lambda as_one: build_model(checkpoint, replace(as_one, disagreements=[]), device),
    )
    settings = settings_of(checkpoint, decided, config, gating_type=request.gating_type)
    if decided.undecided:
        logger.warning("%s: %s", request.model_path, decided.undecided)
    default_size = settings.options["eval_bsz"] if request.legacy_batches else DEFAULT_BATCH_SIZE
    batch_size = request.batch_size or default_size
    model = build_model(checkpoint, settings, device)
    return PreparedRun(
        request=request,
        checkpoint=checkpoint,
        settings=settings,
        model=model,
        own_slices=own_slices,
        conditions=_conditions(request, model.avigate_fusion),
        samples=_in_batches(samples, batch_size, request.legacy_batches, wanted),
        wanted=wanted,
        batch_size=batch_size,
        pass_settings=PassSettings(
            legacy_batches=request.legacy_batches,
            postprocessing=PostprocessingOptions.from_options(settings.options, own=checkpoint.own),
        ),
        total_annotated=len(every_query),
        hashes={"checkpoint": file_sha256(request.model_path), "annotations": file_sha256(request.data_path)},
    )


def _conditions(request: AnalysisRequest, fusion: AVIGATEFusionCustom) -> list[Condition]:
    """Return what is to be run beside the model as it is, the baseline first; nothing where nothing is to be run."""
    asked: list[Intervention] = []
    if request.interventions is not None:
        asked += read_interventions(request.interventions, fusion.facts)
    if request.ablate:
        asked += standard_sweep(fusion.facts)
    if not asked and not request.audio and request.no_effects:
        return []
    return conditions_of(asked, request.audio, request.seed, share=not request.no_effects)


def _check_comparison(request: AnalysisRequest, queries: Sequence[Query]) -> None:
    known = {str(query.qid) for query in queries}
    unknown = [one for one in request.compare_samples or () if one not in known]
    if unknown:
        raise RequestError(
            f"--compare_samples: {first_few(unknown)} not among the {len(known)} samples analysed "
            f"({first_few(sorted(known))})"
        )


def _in_batches(samples: Samples, batch_size: int, legacy_batches: bool, wanted: Sequence[int]) -> Samples:
    """Return the samples in the run's batches, leaving out those that hold no wanted one."""
    planned = samples.planned(batch_size, mixed_lengths=legacy_batches)
    return planned.in_batches([batch for batch in planned.batches if not set(wanted).isdisjoint(batch)])
