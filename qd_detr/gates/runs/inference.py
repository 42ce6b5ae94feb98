"""One pass over the data: batches in, per sample a prediction and its recorded gates out.

Whatever is to be different about a run - legacy batches, an intervention on the gates - is a value this pass is
given. It leaves nothing on the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.fusion import GateEdit
from qd_detr.gates.model.qd_detr import QDDETR, SharedVideos
from qd_detr.gates.runs.postprocess import PostprocessingOptions, RawPrediction, lines_of, raw_predictions
from qd_detr.gates.tracking.entries import SampleGates, SampleId


@dataclass(frozen=True)
class SampleResult:
    """What one sample gave.

    Attributes:
        position: its place in the queries. line: its submission line. gates: None if untracked.
        raw: its prediction before postprocessing.
        marks: a mark of its video features and one of its audio features; equal features have equal marks.
    """

    position: int
    query: Query
    line: dict[str, Any]
    gates: SampleGates | None
    raw: RawPrediction
    marks: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class PassSettings:
    """How to run a pass.

    Attributes:
        legacy_batches: mix masks between the samples of a batch, as the legacy run did. Off, every sample of a batch of
            equal clip count has its batch-1 value.
        postprocessing: how predictions are made of outputs.
        track: record gates. injection: also what they let through.
        gate_edit: an intervention on the gates.
    """

    legacy_batches: bool = False
    postprocessing: PostprocessingOptions = field(default_factory=PostprocessingOptions)
    track: bool = True
    injection: bool = True
    gate_edit: GateEdit | None = None


def run_pass(model: QDDETR, samples: Samples, settings: PassSettings) -> Iterator[list[SampleResult]]:
    """Yield the results of one batch after another.

    Args:
        samples: in the batches that are to be run; for `legacy_batches`, in those of mixed lengths.

    The model is put in eval mode; its mode is put back when the pass ends, however it ends. The fusion's own tracking
    rests meanwhile.
    """
    recorded: dict[SampleId, SampleGates] = {}
    sink = recorded.__setitem__ if settings.track else None
    was_training = model.training
    model.eval()
    try:
        with model.avigate_fusion.recording(sink, measure=settings.injection) as recording:
            for positions, batch in samples.read_batches():
                queries = [samples.queries[p] for p in positions]
                shared = shared_by(model, queries, settings)
                first = range(len(queries)) if shared is None else shared.first[shared.of].tolist()
                recording.set_sample_id([queries[b].qid for b in dict.fromkeys(first)])
                with torch.inference_mode():
                    outputs = model(
                        batch,
                        gate_edit=settings.gate_edit,
                        legacy_batch_mask=settings.legacy_batches,
                        shared=shared,
                    )
                    raw = raw_predictions(outputs)
                lines = lines_of(queries, raw, settings.postprocessing)
                recording.finish()
                results = [
                    SampleResult(p, query, line, recorded.get(queries[first[b]].qid), raw.sample(b), _marks(batch, b))
                    for b, (p, query, line) in enumerate(zip(positions, queries, lines, strict=True))
                ]
                recorded.clear()
                yield results
    finally:
        model.train(was_training)


def shared_by(model: QDDETR, queries: Sequence[Query], settings: PassSettings) -> SharedVideos | None:
    """Return what the queries of a batch can share; None if nothing, or if each has to run by itself.

    In legacy batches too: their videos are padded alike, and what mixes samples comes after the fusion.
    """
    if model.fusion_reads_text or settings.gate_edit is not None:
        return None
    return SharedVideos.among([query.vid for query in queries])


def _marks(batch: dict[str, Any], b: int) -> tuple[str, str]:
    """Return marks of one sample's features, from three clips: cheap, and different features differ there."""
    clips = int(batch["src_vid_mask"][b].sum())
    picks = sorted({0, clips // 2, clips - 1})
    video, audio = (batch[key][b, picks].numpy().tobytes() for key in ("src_vid", "src_aud"))
    size = clips.to_bytes(4, "little")
    return tuple(hashlib.blake2b(size + data, digest_size=12).hexdigest() for data in (video, audio))  # type: ignore[return-value]
