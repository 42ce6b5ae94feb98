"""The model against the legacy run's own predictions, and the other readings of its weights against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qd_detr.certificate import claims
from qd_detr.certificate.agreement import OwnPrediction
from qd_detr.certificate.forwards import predictions
from qd_detr.certificate.inputs import Samples
from qd_detr.certificate.request import FAILED, NOT_CHECKED, PASSED
from qd_detr.certificate.saved import Agreement, SavedPredictions, agreement_with
from qd_detr.certificate.subject import Subject
from qd_detr.checkpoint import file_sha256
from qd_detr.errors import first_few
from qd_detr.model import QDDETR
from qd_detr.options import Settings
from qd_detr.running.postprocess import PostprocessingOptions

_DETAILS_SHOWN = 8


def compare_with_saved(
    subject: Subject,
    model: QDDETR,
    settings: Settings,
    samples: Samples,
    saved: SavedPredictions | None,
    order: Sequence[int],
    reason: str,
) -> dict[int, OwnPrediction]:
    """Compare query by query; return what the model gives in legacy batches, by position, compared or not.

    Args:
        order: the legacy run's order of the samples. reason: why `saved` is None, a variant of the check's text.
    """
    options = PostprocessingOptions.from_options(settings.options)
    eval_bsz = settings.options["eval_bsz"]
    if saved is None:
        subject.facts["predictions"] = None
        subject.certificate.add("predictions", NOT_CHECKED, reason, evaluated=subject.evaluated_on)
        batches = [list(order[start : start + eval_bsz]) for start in range(0, len(order), eval_bsz)]
        own: dict[int, OwnPrediction] = {}
        with subject.progress(len(samples), "legacy batches") as done:
            for results in predictions(model, samples.index, samples.reader, batches, legacy_batches=True):
                own |= dict(results)
                done(len(results))
        return own
    with subject.progress(len(samples), "legacy batches") as done:
        agreement, own = agreement_with(saved, model, samples, order, eval_bsz, options, progress=done)
    _answer(subject, agreement, saved, eval_bsz)
    if agreement.agreeing == len(agreement.comparisons):
        _confirm_settings(subject)
    else:
        try_readings(subject, claims.other_readings(subject.checkpoint, settings), samples, saved, order)
    return own


def _answer(subject: Subject, agreement: Agreement, saved: SavedPredictions, eval_bsz: int) -> None:
    comparisons = agreement.comparisons
    apart = [comparison for comparison in comparisons if not comparison.agrees]
    facts = subject.facts["predictions"] = {
        "path": str(saved.path.resolve()),
        "sha256": file_sha256(saved.path),
        "eval_bsz": eval_bsz,
        "after_nms": agreement.suppressed,
        "queries": len(comparisons),
        "agree": agreement.agreeing,
        "edge_steps": sum(comparison.edge_steps for comparison in comparisons),
        "swapped": sum(comparison.swapped for comparison in comparisons),
        "largest_score_difference": max(comparison.largest_score for comparison in comparisons),
        "largest_saliency_difference": max(comparison.largest_saliency for comparison in comparisons),
        "disagreeing": [{"qid": c.qid, "differences": c.differences} for c in apart],
    }
    subject.certificate.add(
        "predictions",
        FAILED if apart else PASSED,
        "failed" if apart else "passed",
        tuple(f"qid {c.qid}: {first_few(c.differences, 2)}" for c in apart[:_DETAILS_SHOWN]),
        agree=agreement.agreeing,
        queries=len(comparisons),
        eval_bsz=eval_bsz,
        file=saved.path.name,
        score=f"{facts['largest_score_difference']:.1e}",
        saliency=f"{facts['largest_saliency_difference']:.1e}",
        edges=facts["edge_steps"],
        swapped=facts["swapped"],
    )


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
    """Hold readings against the first legacy batch of saved predictions; the report lists the best first."""
    found: list[tuple[claims.Reading, Agreement]] = []
    with subject.progress(len(readings), "readings") as done:
        for reading in readings:
            settings = claims.settings_for(subject.checkpoint, subject.config, reading)
            options = PostprocessingOptions.from_options(settings.options)
            agreement, _ = agreement_with(
                saved, subject.build(settings), samples, order, settings.options["eval_bsz"], options, most_batches=1
            )
            found.append((reading, agreement))
            done(1)
    found.sort(key=lambda pair: (-pair[1].agreeing, pair[1].distance))
    subject.facts["readings"] = [
        {
            "reading": reading,
            "queries": len(agreement.comparisons),
            "agree": agreement.agreeing,
            "mean_saliency_distance": agreement.distance if np.isfinite(agreement.distance) else None,
        }
        for reading, agreement in found
    ]
