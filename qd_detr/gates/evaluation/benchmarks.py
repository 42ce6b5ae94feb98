"""Each data set's own metrics, behind one face.

Letters: N queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.datasets import dataset_of
from qd_detr.gates.evaluation.report import headline_columns
from qd_detr.gates.evaluation.scoring import check_labels, check_ratings, evaluate, evaluate_tvsum, evaluate_youtube
from qd_detr.gates.evaluation.tvsum import TvsumPerQuery

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Scores:
    """What predictions score on labelled queries, in the order of the predictions.

    Attributes:
        metrics: the report in the field's layout, JSON-ready, in percent.
        columns: for each headline metric (N,) in percent, whose mean the metric is.
        per_query: columns for samples.csv, (N,), as fractions.
        ap, best_iou: average precision and highest IoU, (N,), as fractions; None where only saliency is judged.
    """

    metrics: dict[str, Any]
    columns: Mapping[str, np.ndarray]
    per_query: Mapping[str, np.ndarray]
    ap: np.ndarray
    best_iou: np.ndarray | None


@dataclass(frozen=True)
class Benchmark:
    """How a data set judges predictions.

    Attributes:
        primary: the headline metric that chooses a checkpoint and that a verdict speaks of.
        score: from (predictions, labelled queries, clip_length_s); raises DataError for what cannot be judged.
        check: from (labelled queries, clip_length_s): raises the DataError that `score` would for labels alone.
    """

    primary: str
    score: Callable[[Lines, Sequence[Query], float], Scores]
    check: Callable[[Sequence[Query], float], None]


def benchmark_of(dset_name: str) -> Benchmark:
    """Return how predictions on a data set are judged.

    Raises:
        RequestError: an unknown data set.
    """
    return _BENCHMARKS[dataset_of(dset_name).name]


def _moments(lines: Lines, queries: Sequence[Query], clip_length_s: float) -> Scores:
    evaluation = evaluate(lines, queries, clip_length_s)
    found = evaluation.per_query
    per_query = {"ap": found.ap, "best_iou": found.best_iou, "r1_iou": found.r1_iou}
    if found.highlights is not None:
        per_query |= {"hl_ap": found.hl_ap["VeryGood"], "hit1": found.hit1["VeryGood"]}
    return Scores(evaluation.metrics, headline_columns(found), per_query, found.ap, found.best_iou)


def _ratings(metrics: dict[str, Any], found: TvsumPerQuery) -> Scores:
    return Scores(metrics, {"mAP": 100.0 * found.ap}, {"ap": found.ap}, found.ap, None)


def _tvsum(lines: Lines, queries: Sequence[Query], clip_length_s: float) -> Scores:
    evaluation = evaluate_tvsum(lines, queries)
    return _ratings(evaluation.metrics, evaluation.per_query)


def _youtube(lines: Lines, queries: Sequence[Query], clip_length_s: float) -> Scores:
    evaluation = evaluate_youtube(lines, queries)
    return _ratings(evaluation.metrics, evaluation.per_query)


_BENCHMARKS = {
    "hl": Benchmark("MR-full-mAP", _moments, check_labels),
    "tvsum": Benchmark("mAP", _tvsum, check_ratings),
    "youtube_highlight": Benchmark("mAP", _youtube, check_ratings),
}
