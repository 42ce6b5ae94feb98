"""Forwards that prove something: tracked against untracked, the model against its second implementation.

Letters: B batch, n clips, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qd_detr.gates.commands.certify.reference import Array, Reference, ReferenceOutputs
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR, Outputs
from qd_detr.gates.tracking.entries import SampleGates, SampleId

# Largest difference between float32 and float64 arithmetic that passes, relative to the largest magnitude there
# (at least 1). Measured on trained checkpoints: 1e-5; a wrong head count or gating type gives 1e-2 and more.
REFERENCE_TOLERANCE = 5e-4
RANDOM_INPUTS = 4
_SEED = 0


@dataclass
class TrackingProof:
    """Whether tracking changed any output.

    Attributes:
        samples: how many were compared. outputs: how many tensors of each.
        changed: which outputs differ in a bit, and in which mode.
        unrecorded: ids of samples for which not every layer's gates were recorded in their type's shape.
    """

    samples: int = 0
    outputs: int = 0
    changed: list[str] = field(default_factory=list)
    unrecorded: list[int | str] = field(default_factory=list)

    def add(self, other: TrackingProof, *, counted: bool = True) -> None:
        """Take in what another forward gave; not counted if its samples are counted in another one."""
        self.samples += other.samples if counted else 0
        self.outputs = max(self.outputs, other.outputs)
        self.changed += [name for name in other.changed if name not in self.changed]
        self.unrecorded += [qid for qid in other.unrecorded if qid not in self.unrecorded]


def tracked_and_untracked(
    model: QDDETR, batch: Mapping[str, Any], *, legacy_batch: bool = False, every_mode: bool = False
) -> tuple[Outputs, TrackingProof, dict[int | str, SampleGates]]:
    """Run a batch untracked, then tracked with injection; with `every_mode` also tracked without, and off again.

    Returns:
        The first run's outputs, how the others compare with them, and the gates recorded, by qid.
    """
    fusion = model.avigate_fusion
    ids = list(batch["qid"])

    def run() -> Outputs:
        with torch.inference_mode():
            outputs = model(batch, legacy_batch_mask=legacy_batch)
            if every_mode:
                projected = model.project(*(batch[key] for key in _PROJECT_INPUTS))
                outputs["fused_video"] = model.fuse(projected)
        return outputs

    def tracked(measure: bool) -> tuple[Outputs, dict[SampleId, SampleGates]]:
        found: dict[SampleId, SampleGates] = {}
        with fusion.recording(found.__setitem__, measure=measure) as recording:
            recording.set_sample_id(ids)
            return run(), found

    with fusion.recording(None):
        first = run()
        proof = TrackingProof(samples=len(ids), outputs=len(first))
        if every_mode:
            _note_changes(proof, "tracked without injection", first, tracked(False)[0])
        outputs, gates = tracked(True)
        _note_changes(proof, "tracked", first, outputs)
        if every_mode:
            _note_changes(proof, "tracking switched off again", first, run())
    lengths = batch["src_vid_mask"].sum(dim=1).int().tolist()
    proof.unrecorded = [
        qid for qid, clips in zip(ids, lengths, strict=True) if not _recorded(gates.get(qid), clips, model)
    ]
    return first, proof, gates


_PROJECT_INPUTS = ("src_txt", "src_txt_mask", "src_vid", "src_vid_mask", "src_aud")


def _note_changes(proof: TrackingProof, mode: str, first: Outputs, again: Outputs) -> None:
    for name in sorted({*first, *again}):
        if name not in first or name not in again or not _same_bits(first[name], again[name]):
            proof.changed.append(f"{name} ({mode})")


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.cpu().numpy().tobytes() == other.cpu().numpy().tobytes()


def _recorded(entry: SampleGates | None, clips: int, model: QDDETR) -> bool:
    claims = model.architecture
    shape = (1, *model.avigate_fusion.gating.shape(clips, claims.hidden_dim))
    return entry is not None and all(
        entry.gates[kind].shape == (claims.fusion_layers, *shape) for kind in model.avigate_fusion.facts.kinds
    )


def random_batch(sizes: Architecture, max_v_l: int) -> dict[str, Any]:
    """Return seeded inputs of the model's sizes: videos and texts of different length, padded together."""
    generator = torch.Generator().manual_seed(_SEED)
    clips = [max(2, max_v_l * (RANDOM_INPUTS - b) // RANDOM_INPUTS) for b in range(RANDOM_INPUTS)]
    tokens = [max(1, sizes.max_q_l * (b + 1) // RANDOM_INPUTS) for b in range(RANDOM_INPUTS)]

    def padded(lengths: list[int], columns: int) -> tuple[Tensor, Tensor]:
        features = torch.zeros(RANDOM_INPUTS, max(lengths), columns)
        mask = torch.zeros(RANDOM_INPUTS, max(lengths))
        for b, length in enumerate(lengths):
            # Unit length, as features come once they are normalised.
            rows = torch.randn(length, columns, generator=generator)
            features[b, :length] = rows / rows.norm(dim=1, keepdim=True)
            mask[b, :length] = 1
        return features, mask

    text, text_mask = padded(tokens, sizes.text_dim)
    video, video_mask = padded(clips, sizes.video_dim)
    audio, _ = padded(clips, sizes.audio_dim)
    return {
        "qid": [f"random_{b}" for b in range(RANDOM_INPUTS)],
        "src_txt": text,
        "src_txt_mask": text_mask,
        "src_vid": video,
        "src_vid_mask": video_mask,
        "src_aud": audio,
        "src_aud_mask": video_mask,
    }


def singles(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each sample of a batch as a batch of its own, without padding."""
    for b, qid in enumerate(batch["qid"]):
        clips, tokens = int(batch["src_vid_mask"][b].sum()), int(batch["src_txt_mask"][b].sum())
        one: dict[str, Any] = {"qid": [qid]}
        for key in ("src_txt", "src_txt_mask"):
            one[key] = batch[key][b : b + 1, :tokens]
        for key in ("src_vid", "src_vid_mask", "src_aud", "src_aud_mask"):
            one[key] = batch[key][b : b + 1, :clips]
        yield one


def reference_gap(reference: Reference, single: Mapping[str, Any], outputs: Outputs, gates: SampleGates) -> float:
    """Return by how much a query's outputs and gates differ from the second implementation's, relatively.

    single, outputs: of batch size 1. The gap of an array is its largest difference over its largest magnitude, or
    over 1 if that is less; the largest gap of all arrays is returned.
    """

    def array(tensor: Tensor) -> Array:
        return tensor[0].detach().double().cpu().numpy()

    wanted: ReferenceOutputs = reference.forward(*(array(single[key]) for key in ("src_vid", "src_aud", "src_txt")))
    pairs = [(array(outputs[name]), getattr(wanted, name)) for name in ("pred_logits", "pred_spans", "saliency_scores")]
    for kind, theirs in wanted.gates.items():
        ours = [gate[0].astype(float) for gate in gates[f"{kind}_gates"]]
        if len(ours) != len(theirs):
            return float("inf")
        pairs += list(zip(ours, theirs, strict=True))
    return max(_gap(ours, theirs) for ours, theirs in pairs)


def _gap(ours: Array, theirs: Array) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    gap = float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(theirs).max()))
    return gap if np.isfinite(gap) else float("inf")
