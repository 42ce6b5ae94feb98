"""The model against its training run's own predictions, and the other readings of its weights against them.

A legacy run saved what its batches gave; this project's trainer saves what each sample has alone. A file that carries the
trainer's mark is held to the latter. One without it is held to the former, but may be a copy of a trainer's checkpoint in
the legacy format: where legacy batches do not repeat the predictions and the samples alone repeat every one, they count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qd_detr.gates.commands.certify import claims
from qd_detr.gates.commands.certify.request import PASSED
from qd_detr.gates.commands.certify.subject import Subject
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.errors import first_few
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.agreement import OwnPrediction
from qd_detr.gates.runs.postprocess import PostprocessingOptions
from qd_detr.gates.runs.saved import (
    Agreement,
    SavedPredictions,
    agreement_with,
    legacy_values,
    values_alone,
)
from qd_detr.gates.weights.checkpoint import file_sha256
from qd_detr.gates.weights.options import Settings

_DETAILS_SHOWN = 8


def compare_with_saved(
    subject: Subject,
    model: QDDETR,
    settings: Settings,
    samples: Samples,
    saved: SavedPredictions | None,
    order: Sequence[int],
    reason: str,
    alone: Mapping[int, OwnPrediction],
) -> dict[int, OwnPrediction] | None:
    """Compare query by query.

    Args:
        order: the run's order of the samples. reason: why `saved` is None, a variant of the check's text.
        alone: what the model gives each sample alone, by position.

    Returns:
        What the model gives in legacy batches, by position, compared or not; None if no legacy run made the checkpoint.
    """
    options = PostprocessingOptions.from_options(settings.options, own=subject.checkpoint.own)
    eval_bsz = settings.options["eval_bsz"]
    legacy = None
    if not subject.checkpoint.own:
        with subject.progress(len(samples), "legacy batches") as done:
            legacy = legacy_values(model, samples, order, eval_bsz, progress=done)
    if saved is None:
        subject.facts["predictions"] = None
        subject.certificate.leave_open("predictions", reason, evaluated=subject.evaluated_on)
        return legacy
    found = [agreement_with(saved, order, alone, options)]
    if legacy is not None:
        found.insert(0, agreement_with(saved, order, legacy, options, eval_bsz))
    agreement = next((one for one in found if one.whole), found[0])
    _answer(subject, agreement, saved)
    if agreement.whole:
        _confirm_settings(subject)
    else:
        try_readings(subject, claims.other_readings(subject.checkpoint, settings), samples, saved, order)
    return None if agreement.legacy_eval_bsz is None else legacy


def _answer(subject: Subject, agreement: Agreement, saved: SavedPredictions) -> None:
    comparisons = agreement.comparisons
    apart = [comparison for comparison in comparisons if not comparison.agrees]
    facts = {
        "path": str(saved.path.resolve()),
        "sha256": file_sha256(saved.path),
        "eval_bsz": agreement.legacy_eval_bsz,
        "after_nms": agreement.suppressed,
        "queries": len(comparisons),
        "agree": agreement.agreeing,
        "edge_steps": sum(comparison.edge_steps for comparison in comparisons),
        "swapped": sum(comparison.swapped for comparison in comparisons),
        "largest_score_difference": max(comparison.largest_score for comparison in comparisons),
        "largest_saliency_difference": max(comparison.largest_saliency for comparison in comparisons),
        "disagreeing": [{"qid": c.qid, "differences": c.differences} for c in apart],
    }
    variant = ("failed" if apart else "passed") + ("_alone" if agreement.legacy_eval_bsz is None else "")
    details = [f"qid {c.qid}: {first_few(c.differences, 2)}" for c in apart[:_DETAILS_SHOWN]]
    subject.certificate.answer("predictions", not apart, variant, details, facts, file=saved.path.name)


def _confirm_settings(subject: Subject) -> None:
    """Settle a conflict between sources: the saved predictions come out as the values taken say."""
    checks = subject.certificate.checks
    for place, check in enumerate(checks):
        if check.text == "settings.conflict":
            checks[place] = replace(check, outcome=PASSED, text="settings.confirmed")


def try_readings(
    subject: Subject,
    readings: Sequence[claims.Reading],
    samples: Samples,
    saved: SavedPredictions,
    order: Sequence[int],
) -> None:
    """Hold readings against the first saved predictions, one legacy batch of them; the report lists the best first."""
    found: list[tuple[claims.Reading, Agreement]] = []
    for alone in [True] if subject.checkpoint.own else [False, True]:
        tried = _tried(subject, readings, samples, saved, order, alone=alone)
        found = found or tried
        if tried[0][1].whole:
            found = tried
            break
    subject.facts["readings"] = [
        {
            "reading": reading,
            "queries": len(agreement.comparisons),
            "agree": agreement.agreeing,
            "mean_saliency_distance": agreement.distance if np.isfinite(agreement.distance) else None,
        }
        for reading, agreement in found
    ]


def _tried(
    subject: Subject,
    readings: Sequence[claims.Reading],
    samples: Samples,
    saved: SavedPredictions,
    order: Sequence[int],
    *,
    alone: bool,
) -> list[tuple[claims.Reading, Agreement]]:
    """Return readings with their agreement, the best first: every sample alone, or in the legacy run's first batch."""
    found: list[tuple[claims.Reading, Agreement]] = []
    with subject.progress(len(readings), "readings") as done:
        for reading in readings:
            settings = claims.settings_for(subject.checkpoint, subject.config, reading, subject.recognition)
            options = PostprocessingOptions.from_options(settings.options, own=subject.checkpoint.own)
            eval_bsz = settings.options["eval_bsz"]
            model, first = subject.build(settings), order[:eval_bsz]
            values = values_alone(model, samples, first) if alone else legacy_values(model, samples, first, eval_bsz)
            found.append((reading, agreement_with(saved, order, values, options, None if alone else eval_bsz)))
            done(1)
    return sorted(found, key=lambda pair: (-pair[1].agreeing, pair[1].distance))
