"""From predictions and annotated queries to an evaluation: pairs the two by qid, checks both, then computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.errors import DataError, first_few
from qd_detr.gates.evaluation.highlights import clip_scores, highlight_figures
from qd_detr.gates.evaluation.moments import moment_figures
from qd_detr.gates.evaluation.report import PerQuery, official_metrics, tvsum_metrics
from qd_detr.gates.evaluation.submission import predicted_saliency, predicted_windows, prediction_qid
from qd_detr.gates.evaluation.tvsum import TvsumPerQuery, tvsum_average_precision, youtube_average_precision


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`metrics`: the report in the field's layout, rounded; `per_query`: what it is the mean of."""

    metrics: dict[str, Any]
    per_query: PerQuery


@dataclass(frozen=True, eq=False)
class TvsumEvaluation:
    """`metrics`: `{"brief": {"mAP"}}`, percent, rounded; `per_query`: what it is the mean of."""

    metrics: dict[str, Any]
    per_query: TvsumPerQuery


def evaluate(
    predictions: Sequence[Mapping[str, Any]], queries: Sequence[Query], clip_length_s: float = 2.0
) -> Evaluation:
    """Evaluate a QVHighlights submission against its annotations.

    Args:
        predictions: Submission objects: qid, pred_relevant_windows, pred_saliency_scores. Order is free.
        queries: The labelled annotations of exactly the same qids. Windows alone are labels: unless all have scored
            clips, highlights are not judged.
        clip_length_s: Seconds per saliency clip.

    Raises:
        DataError: Qids that are missing, unknown or there twice; queries without windows; values that are no
            windows or scores.
    """
    qids, paired = pair_by_qid(predictions, queries)
    _refuse_unlabelled([query.qid for query in paired if not query.relevant_windows], len(paired), "relevant_windows")
    moments = moment_figures(
        [predicted_windows(prediction) for prediction in predictions],
        [np.array(query.relevant_windows, dtype=np.float64) for query in paired],
    )
    highlights = None
    if all(query.has_saliency for query in paired):
        highlights = highlight_figures(
            [predicted_saliency(prediction) for prediction in predictions],
            [_annotated_clips(query, clip_length_s) for query in paired],
        )
    per_query = PerQuery(qid=qids, moments=moments, highlights=highlights)
    return Evaluation(metrics=official_metrics(per_query), per_query=per_query)


def check_labels(queries: Sequence[Query], clip_length_s: float = 2.0) -> None:
    """Raise the DataError that `evaluate` would raise for these labels, whatever the predictions."""
    _refuse_unlabelled([query.qid for query in queries if not query.relevant_windows], len(queries), "relevant_windows")
    for query in queries:
        if query.has_saliency:
            _annotated_clips(query, clip_length_s)


def check_ratings(queries: Sequence[Query], clip_length_s: float = 2.0) -> None:
    """Raise the DataError that `evaluate_tvsum` would raise for these labels, whatever the predictions."""
    _refuse_unlabelled([query.qid for query in queries if query.rater_labels is None], len(queries), "label")


def saliency_missing(queries: Sequence[Query]) -> int:
    """Return how many of the labelled queries have windows alone: with one of them, highlights are not judged."""
    return sum(query.labelled and not query.has_saliency for query in queries)


def evaluate_tvsum(predictions: Sequence[Mapping[str, Any]], queries: Sequence[Query]) -> TvsumEvaluation:
    """Evaluate the saliency of a TVSum submission: qid and pred_saliency_scores are read, windows are not.

    Raises:
        DataError: As `evaluate`.
    """
    return _evaluate_ratings(predictions, queries, tvsum_average_precision)


def evaluate_youtube(predictions: Sequence[Mapping[str, Any]], queries: Sequence[Query]) -> TvsumEvaluation:
    """Evaluate the saliency of a YouTube Highlights submission, as `evaluate_tvsum`."""
    return _evaluate_ratings(predictions, queries, youtube_average_precision)


def _evaluate_ratings(
    predictions: Sequence[Mapping[str, Any]],
    queries: Sequence[Query],
    average_precision: Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], np.ndarray],
) -> TvsumEvaluation:
    qids, paired = pair_by_qid(predictions, queries)
    check_ratings(paired)
    labels = [query.rater_labels for query in paired if query.rater_labels is not None]
    saliency = [predicted_saliency(prediction) for prediction in predictions]
    per_query = TvsumPerQuery(qid=qids, ap_by_rater=average_precision(saliency, labels))
    return TvsumEvaluation(metrics=tvsum_metrics(per_query), per_query=per_query)


def pair_by_qid(predictions: Sequence[Mapping[str, Any]], queries: Sequence[Query]) -> tuple[np.ndarray, list[Query]]:
    """Return the annotations' qids (N,), as objects, and the queries, both in the order of the predictions.

    Qids are compared as text: they name files and results, where 1 and "1" are one name.

    Raises:
        DataError: A qid twice on either side, or on one side only.
    """
    predicted = [str(prediction_qid(prediction)) for prediction in predictions]
    annotated = {str(query.qid): query for query in queries}
    _refuse_duplicates(predicted, "the submission")
    _refuse_duplicates([str(query.qid) for query in queries], "the annotations")
    if not predicted and not annotated:
        raise DataError("no predictions and no annotations were given; expected at least one of each")
    given = set(predicted)
    missing = [qid for qid in annotated if qid not in given]
    unknown = [qid for qid in predicted if qid not in annotated]
    if missing:
        raise DataError(
            f"the submission lacks {len(missing)} of {len(annotated)} annotated qids: {first_few(missing)}; "
            "predict all, or give the annotations of the predicted ones"
        )
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(predicted)} predicted qids are not among the annotations: {first_few(unknown)}; "
            "give the annotations of the same split"
        )
    paired = [annotated[qid] for qid in predicted]
    qids = np.empty(len(paired), dtype=object)
    qids[:] = [query.qid for query in paired]
    return qids, paired


def _annotated_clips(query: Query, clip_length_s: float) -> np.ndarray:
    """Return the annotators' scores of every clip, (C, A)."""
    clip_ids, scores = query.relevant_clip_ids or (), query.saliency_scores or ()
    n_clips = int(query.duration_s / clip_length_s)
    where = f"annotation of qid {query.qid}"
    if n_clips < 1:
        raise DataError(f"{where}: {query.duration_s:g} s hold no clip of {clip_length_s:g} s")
    if len(clip_ids) != len(scores):
        raise DataError(f"{where}: {len(scores)} saliency_scores for {len(clip_ids)} relevant_clip_ids")
    if clip_ids and max(clip_ids) >= n_clips:
        raise DataError(
            f"{where}: relevant clip {max(clip_ids)} lies past the end of the video, which has {n_clips} clips of "
            f"{clip_length_s:g} s; correct duration or relevant_clip_ids"
        )
    return clip_scores(n_clips, clip_ids, scores)


def _refuse_unlabelled(qids: Sequence[int | str], n_queries: int, fields: str) -> None:
    if qids:
        raise DataError(
            f"{len(qids)} of {n_queries} annotations have no labels ({fields}): qid {first_few(qids)}; "
            "give the annotations of a labelled split"
        )


def _refuse_duplicates(qids: Sequence[str], place: str) -> None:
    twice = [qid for qid, count in Counter(qids).items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} qids are more than once in {place}: {first_few(twice)}; keep one of each")
