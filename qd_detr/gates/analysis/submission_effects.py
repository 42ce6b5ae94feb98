"""Paired effects from submission files alone, for any model: with the audio minus without it.

The same numbers as a sweep of a model with gates gives on the same predictions: both are `audio_help`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qd_detr.gates.analysis.audio_help import audio_help
from qd_detr.gates.analysis.effects import score_sweep
from qd_detr.gates.analysis.flips import flip_columns
from qd_detr.gates.analysis.gate_relations import per_query_effects
from qd_detr.gates.analysis.resampling import DRAWS
from qd_detr.gates.analysis.verdicts import MARGIN_POINTS
from qd_detr.gates.data.annotations import Query
from qd_detr.gates.errors import DataError
from qd_detr.gates.evaluation.benchmarks import benchmark_of
from qd_detr.gates.evaluation.scoring import pair_by_qid
from qd_detr.gates.evaluation.submission import prediction_qid
from qd_detr.gates.runs.interventions.conditions import Condition
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.runs.interventions.results import SweepRun

Lines = Sequence[Mapping[str, Any]]


def submission_effects(
    with_audio: Lines,
    without: Mapping[str, Lines],
    queries: Sequence[Query],
    *,
    dset_name: str = "hl",
    clip_length_s: float = 2.0,
    seed: int = 0,
    draws: int = DRAWS,
    margin: float = MARGIN_POINTS,
    own_slices: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Return what `audio_help` returns for predictions with and without the audio, JSON-ready.

    Args:
        with_audio: the submission's lines; lines of queries that are not annotated are left out.
        without: the lines of each submission to compare with, by name; the first is the primary contrast.
        queries: the annotations, all labelled.
        dset_name: decides the metrics.
        clip_length_s: seconds per saliency clip.
        seed: of the resampling. draws: likewise.
        margin: percent points within which an effect counts as none.
        own_slices: per name the qids, as text, of a slice of one's own.

    Returns:
        As `audio_help`, and "queries": per query {"qid", "vid", "audio_effect_AP_{name}", "audio_flip_..._{name}"}.

    Raises:
        DataError: submissions and annotations that do not go together, or cannot be judged.
    """
    benchmark_of(dset_name).check(queries, clip_length_s)
    run = SweepRun(
        queries=queries,
        positions=range(len(queries)),
        conditions=[Condition(name) for name in (BASELINE, *without)],
        same_as={},
        lines={name: _in_order(lines, queries, name) for name, lines in ((BASELINE, with_audio), *without.items())},
        gates={},
        kinds=(),
    )
    contrasts = {name: name for name in without}
    what: dict[str, Any] = {"dset_name": dset_name, "clip_length_s": clip_length_s, "contrasts": contrasts}
    found = audio_help(run, seed=seed, draws=draws, margin=margin, own_slices=own_slices, **what)
    sweep = score_sweep(run, **what)
    columns = {f"audio_effect_{score}_{name}": values for (name, score), values in per_query_effects(sweep).items()}
    columns |= flip_columns(sweep)
    found["queries"] = [
        {"qid": query.qid, "vid": query.vid} | {name: float(values[i]) for name, values in columns.items()}
        for i, query in enumerate(queries)
    ]
    return found


def _in_order(lines: Lines, queries: Sequence[Query], name: str) -> list[Mapping[str, Any]]:
    """Return the lines of the annotated queries, in their order."""
    annotated = {str(query.qid) for query in queries}
    kept = [line for line in lines if str(prediction_qid(line)) in annotated]
    try:
        pair_by_qid(kept, queries)
    except DataError as error:
        raise DataError(
            f"{'--submission' if name == BASELINE else name} does not fit the annotations: {error}"
        ) from None
    by_qid = {str(line["qid"]): line for line in kept}
    return [by_qid[str(query.qid)] for query in queries]
