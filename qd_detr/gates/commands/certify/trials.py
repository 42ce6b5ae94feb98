"""Forwards of the loaded model, on real samples or random inputs, and what they show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qd_detr.gates.commands.certify.forwards import (
    REFERENCE_TOLERANCE,
    TrackingProof,
    random_batch,
    reference_gap,
    singles,
    tracked_and_untracked,
)
from qd_detr.gates.commands.certify.reference_families import reference_for
from qd_detr.gates.commands.certify.saved_trial import compare_with_saved
from qd_detr.gates.commands.certify.subject import Subject
from qd_detr.gates.commands.certify.weights import widen
from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.batches import collate
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.errors import first_few
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.agreement import OwnPrediction, compare
from qd_detr.gates.runs.postprocess import PostprocessingOptions, ranked_windows, submission_lines
from qd_detr.gates.runs.saved import find_saved, own_predictions, saved_order
from qd_detr.gates.weights.options import DEFAULTS, Settings

ALONE = 8  # samples that are also run alone and by the second implementation


def try_on_random_inputs(subject: Subject, model: QDDETR, settings: Settings) -> None:
    """Ask what can be asked without data."""
    longest = settings.options["max_v_l"]
    batch = random_batch(settings.architecture, DEFAULTS["max_v_l"] if longest == -1 else longest)
    proof = TrackingProof()
    _reference(subject, model, settings, singles(batch), "random", proof)
    proof.add(tracked_and_untracked(model, batch)[1])
    proof.add(tracked_and_untracked(model, batch, legacy_batch=True)[1], counted=False)
    _tracking(subject, proof, "random")
    for name in ("samples", "predictions", "batches"):
        subject.certificate.leave_open(name, "no_data")


def try_on_samples(subject: Subject, model: QDDETR, settings: Settings, samples: Samples) -> None:
    """Ask everything, on the user's data."""
    options = PostprocessingOptions.from_options(settings.options, own=subject.checkpoint.own)
    eval_bsz = settings.options["eval_bsz"]
    proof = TrackingProof()
    picked = _spread(len(samples), ALONE)
    alone = [collate([(query, samples.reader.read(query))]) for query in _queries(samples, picked)]
    _reference(subject, model, settings, alone, "real", proof)
    own = _own_values(subject, model, samples, options, proof)
    saved, reason = find_saved(subject.request.model_path, settings.options["dset_name"])
    order = None if saved is None else saved_order(saved, samples)
    if saved is not None and order is None:
        reason = "other_queries"
    in_order = order or list(range(len(samples)))
    _legacy_batch_tracking(model, samples, in_order[:eval_bsz], proof)
    _tracking(subject, proof, "real")
    _samples(subject, samples)
    legacy = compare_with_saved(subject, model, settings, samples, saved if order else None, in_order, reason, own)
    _batches(subject, model, samples, own, legacy, picked, options, eval_bsz)


def _reference(
    subject: Subject,
    model: QDDETR,
    settings: Settings,
    inputs: Iterable[dict[str, Any]],
    kind: str,
    proof: TrackingProof,
) -> None:
    """Hold the model against its second implementation, each sample alone."""
    arrays = {key: widen(tensor, torch.float64) for key, tensor in subject.checkpoint.weights.items()}
    reference = reference_for(arrays, settings.architecture)
    if reference is None:
        subject.certificate.leave_open("reference", "absent", family=settings.architecture.family)
    gaps: dict[str, float] = {}
    for single in inputs:
        outputs, one, gates = tracked_and_untracked(model, single, every_mode=True)
        proof.add(one, counted=False)
        (qid,) = single["qid"]
        if reference is not None:
            gaps[str(qid)] = reference_gap(reference, single, outputs, gates[qid]) if qid in gates else float("inf")
    if reference is None:
        return
    worst = max(gaps.values())
    facts = {
        "inputs": kind,
        "samples": len(gaps),
        "largest_gap": _finite(worst),
        "allowed": REFERENCE_TOLERANCE,
        "each": {qid: _finite(gap) for qid, gap in gaps.items()},
    }
    subject.certificate.answer("reference", worst <= REFERENCE_TOLERANCE, facts=facts, gap=worst)


def _own_values(
    subject: Subject, model: QDDETR, samples: Samples, options: PostprocessingOptions, proof: TrackingProof
) -> dict[int, OwnPrediction]:
    """Run every sample in batches of equal length, tracked and untracked; return its prediction by position."""
    own: dict[int, OwnPrediction] = {}
    with subject.progress(len(samples), "forward") as done:
        for positions, batch in samples.read_batches():
            outputs, one, _ = tracked_and_untracked(model, batch)
            queries = _queries(samples, positions)
            submission_lines(queries, outputs, options)  # raises RunError on NaN or Inf
            proof.add(one)
            own |= dict(zip(positions, own_predictions(queries, outputs), strict=True))
            done(len(positions))
    return own


def _legacy_batch_tracking(model: QDDETR, samples: Samples, positions: Sequence[int], proof: TrackingProof) -> None:
    """Prove the same for one legacy batch, with its padding and its mixed masks."""
    for _, batch in samples.in_batches([positions]).read_batches():
        mixed = tracked_and_untracked(model, batch, legacy_batch=True)[1]
        mixed.changed = [f"{name}, legacy batch" for name in mixed.changed]
        proof.add(mixed, counted=False)


def _tracking(subject: Subject, proof: TrackingProof, kind: str) -> None:
    subject.certificate.answer(
        "tracking",
        not proof.changed and not proof.unrecorded,
        "unrecorded" if proof.unrecorded and not proof.changed else None,
        facts={
            "inputs": kind,
            "samples": proof.samples,
            "outputs": proof.outputs,
            "changed": proof.changed,
            "gates_not_recorded": [str(qid) for qid in proof.unrecorded],
        },
        which_changed=first_few(proof.changed),
        unrecorded=first_few(proof.unrecorded),
        count=len(proof.unrecorded),
    )


def _samples(subject: Subject, samples: Samples) -> None:
    clips = samples.clip_counts
    data_path = subject.request.data_path
    assert data_path is not None
    facts = {
        "path": str(data_path.resolve()),
        "annotated": len(samples) + len(samples.left_out),
        "examined": len(samples),
        "videos": len({query.vid for query in samples.queries}),
        "clips": {"fewest": min(clips), "most": max(clips)},
        "feature_folders": {
            "video": [str(folder.resolve()) for folder in samples.folders.video],
            "text": str(samples.folders.text.resolve()),
            "audio": str(samples.folders.audio.resolve()),
        },
    }
    subject.certificate.answer("samples", True, facts=facts)


def _batches(
    subject: Subject,
    model: QDDETR,
    samples: Samples,
    own: dict[int, OwnPrediction],
    legacy: dict[int, OwnPrediction] | None,
    picked: Sequence[int],
    options: PostprocessingOptions,
    eval_bsz: int,
) -> None:
    """Compare samples alone, in batches of equal length, and, where there was a legacy run, in its batches."""
    alone = []
    for positions, batch in samples.in_batches([[position] for position in picked]).read_batches():
        with torch.inference_mode():
            (line,) = submission_lines(_queries(samples, positions), model(batch), options)
        alone.append(compare(line, own[positions[0]], options))
    agree = sum(comparison.agrees for comparison in alone)
    facts = {
        "alone": len(alone),
        "alone_agree": agree,
        "alone_disagreeing": [{"qid": c.qid, "differences": c.differences} for c in alone if not c.agrees],
    }
    if legacy is not None:
        facts |= _legacy_changes(own, legacy, options, eval_bsz)
    details = [f"qid {c.qid}: {first_few(c.differences, 2)}" for c in alone if not c.agrees]
    variant = "passed_alone" if legacy is None and not details else None
    subject.certificate.answer("batches", not details, variant, details, facts)


def _legacy_changes(
    own: Mapping[int, OwnPrediction], legacy: Mapping[int, OwnPrediction], options: PostprocessingOptions, eval_bsz: int
) -> dict[str, Any]:
    """Return what a legacy run's batches change of each sample's own value."""
    changed = [compare(_as_line(legacy[position], options), mine, options) for position, mine in own.items()]
    moved = [comparison for comparison in changed if not comparison.agrees]
    return {
        "eval_bsz": eval_bsz,
        "queries": len(changed),
        "changed_by_legacy_batches": len(moved),
        "largest_score_change": max(comparison.largest_score for comparison in changed),
        "largest_saliency_change": max(comparison.largest_saliency for comparison in changed),
        "changed_queries": [comparison.qid for comparison in moved],
    }


def _as_line(prediction: OwnPrediction, options: PostprocessingOptions) -> dict[str, Any]:
    return {
        "qid": prediction.query.qid,
        "vid": prediction.query.vid,
        "pred_relevant_windows": ranked_windows(
            prediction.score, prediction.span_cxw, prediction.query.duration_s, options
        ),
        "pred_saliency_scores": prediction.saliency.astype(float).tolist(),
    }


def _queries(samples: Samples, positions: Sequence[int]) -> list[Query]:
    return [samples.queries[position] for position in positions]


def _spread(count: int, wanted: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
