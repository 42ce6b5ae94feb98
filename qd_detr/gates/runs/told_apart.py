"""Families with the same weights, told apart by the predictions that the training run saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.postprocess import PostprocessingOptions
from qd_detr.gates.runs.saved import SavedPredictions, agreement_with, find_saved, legacy_values, values_alone
from qd_detr.gates.weights.checkpoint import Checkpoint
from qd_detr.gates.weights.options import Settings
from qd_detr.gates.weights.recognition import Evidence, Recognition


def told_by_predictions(
    checkpoint: Checkpoint,
    settings_as: Callable[[str], Settings],
    recognition: Recognition,
    queries: Sequence[Query],
    open_for: Callable[[list[Query]], Samples],
    build: Callable[[Settings], QDDETR],
) -> Recognition:
    """Return what a checkpoint is once every candidate has been run on the first legacy batch of its saved predictions.

    Args:
        settings_as: the checkpoint's settings as a member of a family, by name. build: the model of some settings.
        queries: those of the data file. open_for: opens some of them.

    Nothing is run where it is certain already, or where no predictions lie beside the checkpoint that the data file
    covers. Predictions that no candidate repeats tell nothing: they may be another checkpoint's.

    Raises:
        RequestError: features that cannot be used; predictions that contradict the family asked for.
    """
    if recognition.certain or checkpoint.own:
        return recognition
    options = settings_as(recognition.candidates[0]).options
    saved, _ = find_saved(checkpoint.path, options["dset_name"])
    if saved is None:
        return recognition
    eval_bsz = options["eval_bsz"]
    by_id = {str(query.qid): query for query in queries}
    first = saved.lines[:eval_bsz]
    ids = [str(line["qid"]) for line in first]
    if not ids or len(set(ids)) < len(ids) or not set(ids) <= set(by_id):
        return recognition
    samples = open_for([by_id[one] for one in ids])
    if len(samples) < len(ids):
        return recognition  # with queries left out, the batch is not the legacy run's
    order = [[str(query.qid) for query in samples.queries].index(one) for one in ids]
    repeating = []
    for name in recognition.candidates:
        model = build(settings_as(name))
        lines, post = SavedPredictions(saved.path, first), PostprocessingOptions.from_options(options)
        legacy = agreement_with(lines, order, legacy_values(model, samples, order, eval_bsz), post, eval_bsz)
        # A copy of a checkpoint of this project's trainer, without its mark, has values of samples alone beside it.
        if legacy.whole or agreement_with(lines, order, values_alone(model, samples, order), post).whole:
            repeating.append(name)
    if not repeating:
        return recognition
    told = (
        f"of {' and '.join(recognition.candidates)}, {' and '.join(repeating)} repeats all {len(ids)} of the first "
        f"batch of {saved.path.name}"
    )
    return recognition.narrowed(Evidence("saved predictions", tuple(repeating), told))
