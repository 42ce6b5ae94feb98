"""One pass over the data: batches in, per sample a prediction and its recorded gates out.

Whatever is to be different about a run - legacy batches, an intervention on the gates - is a value this pass is
given. It leaves nothing on the model but the history that was asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.batches import iter_batches, plan_batches
from qd_detr.gates.data.features import FeatureIndex, FeatureReader
from qd_detr.gates.fusion import GateEdit
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.postprocess import PostprocessingOptions, submission_lines
from qd_detr.gates.tracking.entries import GateEntry
from qd_detr.gates.tracking.history import GateHistory

# Large enough for matrix products at full speed on two cores, small enough that a batch of elementwise gates is 20 MB.
DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True)
class SampleResult:
    """What one sample gave.

    Attributes:
        position: its place in the queries. line: its submission line. gates: None if untracked.
        marks: a mark of its video features and one of its audio features; equal features have equal marks.
    """

    position: int
    query: Query
    line: dict[str, Any]
    gates: GateEntry | None
    marks: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class PassSettings:
    """How to run a pass.

    Attributes:
        batch_size: samples per batch at most; results do not depend on it unless legacy_batches is on.
        legacy_batches: file order in chunks of batch_size, videos padded together, masks mixed between samples, as
            the legacy run evaluated. Off, batches hold samples of equal clip count: every sample's batch-1 value.
        track: record gates. injection: also what they let through.
        gate_edit: an intervention on the gates.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    legacy_batches: bool = False
    track: bool = True
    injection: bool = True
    gate_edit: GateEdit | None = None


def planned_batches(index: FeatureIndex, settings: PassSettings) -> list[list[int]]:
    """Return the positions of the samples of every batch, in the order they will run."""
    return plan_batches(index.clip_counts, settings.batch_size, mixed_lengths=settings.legacy_batches)


def run_pass(
    model: QDDETR,
    index: FeatureIndex,
    reader: FeatureReader,
    batches: Sequence[Sequence[int]],
    postprocessing: PostprocessingOptions,
    settings: PassSettings,
    history: GateHistory | None = None,
) -> Iterator[list[SampleResult]]:
    """Yield the results of one batch after another.

    Args:
        batches: positions in `index.queries`, as `planned_batches` gives them (or what is left of them).
        history: where gates are recorded, by qid; a new one in memory if not given.

    The model is put in eval mode; its mode, its tracking state and its sample id are put back when the pass ends,
    however it ends.
    """
    fusion = model.avigate_fusion
    was_training, old_recorder = model.training, fusion.swap_recorder(None)
    model.eval()
    try:
        if settings.track:
            fusion.enable_gate_tracking(injection=settings.injection, history=history)
        for positions, batch in iter_batches(index.queries, reader, batches):
            queries = [index.queries[p] for p in positions]
            if settings.track:
                fusion.set_current_sample_id([query.qid for query in queries])
            with torch.inference_mode():
                outputs = model(batch, gate_edit=settings.gate_edit, legacy_batch_mask=settings.legacy_batches)
                lines = submission_lines(queries, outputs, postprocessing)
            recorded = fusion.gate_history if settings.track else None
            yield [
                SampleResult(p, query, line, None if recorded is None else recorded[query.qid], _marks(batch, b))
                for b, (p, query, line) in enumerate(zip(positions, queries, lines, strict=True))
            ]
    finally:
        fusion.swap_recorder(old_recorder)
        model.train(was_training)


def _marks(batch: dict[str, Any], b: int) -> tuple[str, str]:
    """Return marks of one sample's features, from three clips: cheap, and different features differ there."""
    clips = int(batch["src_vid_mask"][b].sum())
    picks = sorted({0, clips // 2, clips - 1})
    video, audio = (batch[key][b, picks].numpy().tobytes() for key in ("src_vid", "src_aud"))
    size = clips.to_bytes(4, "little")
    return tuple(hashlib.blake2b(size + data, digest_size=12).hexdigest() for data in (video, audio))  # type: ignore[return-value]
