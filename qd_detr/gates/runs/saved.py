"""A training run's own predictions: found beside a checkpoint, and held against what a model gives for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.errors import RequestError
from qd_detr.gates.evaluation.submission import prediction_qid, read_submission
from qd_detr.gates.model.qd_detr import QDDETR, Outputs
from qd_detr.gates.runs.agreement import Comparison, OwnPrediction, compare, is_numbers
from qd_detr.gates.runs.postprocess import PostprocessingOptions, raw_predictions

Line = dict[str, Any]
BEST_CHECKPOINT = "model_best"


@dataclass(frozen=True)
class SavedPredictions:
    """The lines of a saved file in its order, which is that of the run."""

    path: Path
    lines: list[Line]


@dataclass(frozen=True)
class Agreement:
    """How many queries' saved predictions a model repeats.

    Attributes:
        distance: the mean distance of the saliency scores, to rank readings none of which agrees; inf if not comparable.
        suppressed: whether our windows were compared after temporal NMS.
        legacy_eval_bsz: size of the legacy batches that were repeated; None if every sample had its value alone.
    """

    comparisons: list[Comparison]
    distance: float
    suppressed: bool
    legacy_eval_bsz: int | None

    @property
    def agreeing(self) -> int:
        """The number of queries that agree."""
        return sum(comparison.agrees for comparison in self.comparisons)

    @property
    def whole(self) -> bool:
        """True if every query agrees."""
        return self.agreeing == len(self.comparisons)


def find_saved(checkpoint_path: Path, dset_name: str) -> tuple[SavedPredictions | None, str]:
    """Return the predictions beside a checkpoint that are its own, or None and why: a variant of the check's text."""
    path = checkpoint_path.parent / f"best_{dset_name}_val_preds.jsonl"
    if not path.is_file():
        return None, "absent"
    # They are those of model_best; another epoch's checkpoint in the same folder gave others.
    bests = [p for p in checkpoint_path.parent.glob(f"{BEST_CHECKPOINT}.*") if p.suffix in (".ckpt", ".pth")]
    if bests and checkpoint_path.stem != BEST_CHECKPOINT:
        return None, "of_best"
    try:
        lines = read_submission(path)
        for line in lines:
            prediction_qid(line)
    except RequestError:
        return None, "unreadable"
    return SavedPredictions(path, lines), ""


def saved_order(saved: SavedPredictions, samples: Samples) -> list[int] | None:
    """Return the positions of the samples in the order in which the run saved them, or None.

    None: the data file's queries are not the saved ones, so the batches cannot be repeated.
    """
    positions = {str(query.qid): position for position, query in enumerate(samples.queries)}
    ids = [str(line["qid"]) for line in saved.lines]
    if len(set(ids)) != len(ids) or set(ids) != set(positions):
        return None
    return [positions[qid] for qid in ids]


def own_predictions(queries: Sequence[Query], outputs: Outputs) -> list[OwnPrediction]:
    """Return what a batch's outputs say of each query, before rounding."""
    raw = raw_predictions(outputs)
    return [
        OwnPrediction(query, raw.score[b], raw.span_cxw[b], raw.saliency[b, : raw.clip_counts[b]])
        for b, query in enumerate(queries)
    ]


def predictions(model: QDDETR, samples: Samples, *, legacy_batches: bool) -> Iterator[list[tuple[int, OwnPrediction]]]:
    """Yield (position in the index, prediction) of every query, batch by batch, untracked."""
    for positions, batch in samples.read_batches():
        with torch.inference_mode():
            outputs = model(batch, legacy_batch_mask=legacy_batches)
        queries = [samples.queries[position] for position in positions]
        yield list(zip(positions, own_predictions(queries, outputs), strict=True))


def legacy_values(
    model: QDDETR,
    samples: Samples,
    order: Sequence[int],
    eval_bsz: int,
    *,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[int, OwnPrediction]:
    """Return what a model gives in the batches of a legacy run that took the samples in this order, by position."""
    batches = [list(order[start : start + eval_bsz]) for start in range(0, len(order), eval_bsz)]
    return _values(model, samples.in_batches(batches), legacy_batches=True, progress=progress)


def values_alone(model: QDDETR, samples: Samples, chosen: Sequence[int]) -> dict[int, OwnPrediction]:
    """Return what a model gives each chosen sample at batch size 1, by position."""
    return _values(model, samples.chosen(chosen), legacy_batches=False)


def _values(
    model: QDDETR,
    samples: Samples,
    *,
    legacy_batches: bool,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[int, OwnPrediction]:
    values: dict[int, OwnPrediction] = {}
    for results in predictions(model, samples, legacy_batches=legacy_batches):
        values |= dict(results)
        progress(len(results))
    return values


def agreement_with(
    saved: SavedPredictions,
    order: Sequence[int],
    values: Mapping[int, OwnPrediction],
    options: PostprocessingOptions,
    legacy_eval_bsz: int | None = None,
) -> Agreement:
    """Compare the saved predictions of the samples in `values`, query by query; legacy_eval_bsz as in `Agreement`.

    A run with temporal NMS may have saved its predictions before or after it: the saved file is taken as the one of
    the two with which more queries agree, which cannot make a wrong model agree.
    """
    pairs = [(line, values[position]) for line, position in zip(saved.lines, order, strict=True) if position in values]
    variants = [options] if options.nms_thd < 0 else [options, replace(options, nms_thd=-1)]
    found = [
        Agreement(
            [compare(line, mine, variant) for line, mine in pairs],
            _distance(pairs),
            variant.nms_thd >= 0,
            legacy_eval_bsz,
        )
        for variant in variants
    ]
    return max(found, key=lambda agreement: agreement.agreeing)


def _distance(pairs: Sequence[tuple[Line, OwnPrediction]]) -> float:
    gaps = []
    for line, mine in pairs:
        saliency = line.get("pred_saliency_scores")
        if not isinstance(saliency, list) or not is_numbers(saliency) or len(saliency) != len(mine.saliency):
            return float("inf")
        gaps.append(float(np.abs(np.asarray(saliency, float) - mine.saliency.astype(float)).mean()))
    return float(np.mean(gaps)) if gaps else float("inf")
