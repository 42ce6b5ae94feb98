"""One validation pass: losses, submission lines and metrics, as every sample has them at batch size 1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.batches import plan_batches
from qd_detr.gates.evaluation import benchmark_of
from qd_detr.gates.fusion import AVIGATEFusionCustom
from qd_detr.gates.model.qd_detr import QDDETR, Outputs, Projected
from qd_detr.gates.runs.postprocess import PostprocessingOptions, submission_lines
from qd_detr.gates.train.data import Split
from qd_detr.gates.train.losses import Criterion
from qd_detr.gates.train.matching import NotFiniteError


@dataclass(frozen=True)
class Validation:
    """What a validation pass gave.

    Attributes:
        losses: mean weighted terms over the queries, and loss_overall. The other text of the saliency is that of the
            next query in the batch, as in training; of a query alone in its batch, that of the next one in the file.
        metrics: in the field's layout. lines: a submission line per query, in file order.
        score: the metric by which the best checkpoint is chosen, in percent; score_name: its name.
    """

    losses: dict[str, float]
    metrics: dict[str, Any]
    lines: list[dict[str, Any]]
    score: float
    score_name: str


def score_predictions(
    lines: Sequence[Mapping[str, Any]], queries: Sequence[Query], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metrics of the run's data set.

    Raises:
        DataError: annotations that cannot be evaluated.
    """
    return benchmark_of(options["dset_name"]).score(lines, queries, float(options["clip_length"])).metrics


def check_annotations(queries: Sequence[Query], options: Mapping[str, Any]) -> None:
    """Raise DataError now, rather than after the first epochs, if these annotations cannot be evaluated."""
    benchmark_of(options["dset_name"]).check(queries, float(options["clip_length"]))


@torch.no_grad()
def validate(model: QDDETR, criterion: Criterion, split: Split, options: Mapping[str, Any]) -> Validation:
    """Validate in float32, in batches of equal clip count. The model is left in eval mode.

    Draws no random number, so that a run does not depend on how often it is validated. If the fusion is recording, each
    sample is recorded under its qid.

    Raises:
        NotFiniteError: predictions or losses are NaN or infinite.
    """
    model.eval()
    postprocessing = PostprocessingOptions.from_options(options, own=True)
    sums: dict[str, float] = {}
    lines: list[dict[str, Any]] = [{} for _ in split.queries]
    plan = plan_batches(split.samples.clip_counts, options["eval_bsz"])
    for positions, batch, targets in split.batches(plan, options["seed"], 0):
        projected = model.project(
            batch["src_txt"], batch["src_txt_mask"], batch["src_vid"], batch["src_vid_mask"], batch["src_aud"]
        )
        queries = [split.queries[position] for position in positions]
        with _named(model.fusion, queries):
            fused = model.fusion.fuse(projected.video, projected.audio, projected.vid_mask)
        outputs = model.decode(fused, projected, training_extras=True)
        if len(positions) == 1 and len(split.queries) > 1:
            other = split.queries[(positions[0] + 1) % len(split.queries)]
            outputs["saliency_scores_neg"] = _saliency_by_text_of(other, split, model, fused, projected)
        losses = criterion.weighted(criterion(outputs, targets.to(fused.device)))
        losses["loss_overall"] = criterion.total(losses)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(positions)
        if not math.isfinite(sums["loss_overall"]):
            raise NotFiniteError("the validation loss is not finite")
        for position, line in zip(positions, submission_lines(queries, outputs, postprocessing), strict=True):
            lines[position] = line
    metrics = score_predictions(lines, split.queries, options)
    score_name = benchmark_of(options["dset_name"]).primary
    return Validation(
        losses={name: total / len(lines) for name, total in sums.items()},
        metrics=metrics,
        lines=lines,
        score=metrics["brief"][score_name],
        score_name=score_name,
    )


@contextmanager
def _named(fusion: AVIGATEFusionCustom, queries: Sequence[Query]) -> Iterator[None]:
    """Name the samples of one forward by their qids if it is recorded; the id that was set is put back."""
    if not fusion.is_recorded:
        yield
        return
    before = fusion.current_sample_id
    fusion.set_current_sample_id([query.qid for query in queries])
    try:
        yield
    finally:
        fusion.set_current_sample_id(before)


def _saliency_by_text_of(other: Query, split: Split, model: QDDETR, fused: Tensor, projected: Projected) -> Tensor:
    """Return the saliency (1, L) of one fused video by another query's text.

    A batch of one would give its own text for the other, which training never means to push down.
    """
    text = torch.tensor(split.samples.reader.read(other).text)[None]  # (1, T, Dt)
    mask = text.new_ones(text.shape[:2])
    brought = model.input_txt_proj(text.to(fused.device, model.dtype))
    outputs: Outputs = model.decode(fused, replace(projected, text=brought, txt_mask=mask.to(fused.device)))
    return outputs["saliency_scores"]
