"""From a plan to an edit of one batch's gates. An edit is a value given to a forward; nothing of it stays on the model.

Letters: B batch, L clips (padded), C channels, G gate shape after the batch axis: (1, 1), (L, 1) or (L, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qd_detr.gates.fusion import GateEdit, GateSite
from qd_detr.gates.runs.interventions.partners import fitted_rows, generator
from qd_detr.gates.runs.interventions.plans import Plan, Site, Step, Steps
from qd_detr.gates.runs.interventions.recorded import RecordedGates


@dataclass(frozen=True)
class BatchFacts:
    """What edits need to know of a batch: its samples' ids and videos (B), and which clips are real (B, L)."""

    qids: Sequence[int | str]
    vids: Sequence[str]
    vid_mask: Tensor

    @cached_property
    def real_clips(self) -> list[NDArray[np.intp]]:
        """Per sample the places of its real clips, on the host."""
        return [np.flatnonzero(mask) for mask in self.vid_mask.cpu().numpy()]


def bind(plan: Plan, batch: BatchFacts, recorded: RecordedGates | None = None) -> GateEdit:
    """Return the edit that a plan makes of one batch's gates, for `model(batch, gate_edit=...)`.

    Gates that the plan leaves alone are returned as they are. `recorded` is needed where `plans.needs_recorded(plan)`.
    """

    def edit(site: GateSite, gate: Tensor) -> Tensor:
        key = (site.layer_idx, site.kind)
        return edited(plan.get(key, ()), key, gate, batch, recorded)

    return edit


def edited(steps: Steps, site: Site, gate: Tensor, batch: BatchFacts, recorded: RecordedGates | None) -> Tensor:
    """Return a gate (B, *G) after some steps; the gate itself if there are none."""
    for step in steps:
        gate = _one(step, site, gate, batch, recorded)
    return gate


def _one(step: Step, site: Site, gate: Tensor, batch: BatchFacts, recorded: RecordedGates | None) -> Tensor:
    value = step.value
    if step.op == "scale" and isinstance(value, float):
        return gate * value
    if step.op == "set" and isinstance(value, float):
        return torch.full_like(gate, value)
    if step.op == "clamp" and isinstance(value, tuple):
        return gate.clamp(*value)
    if step.op == "mean" and value == "sample":
        return _mean_over_clips(gate, batch.vid_mask)
    if step.op == "shuffle" and step.seed is not None:
        return _shuffled(gate, batch, step.seed)
    if recorded is None:
        raise ValueError(f"{step.op} takes the gates of other samples; record a run without interventions first")
    if step.op == "mean":
        return torch.from_numpy(recorded.mean(site)).to(gate).expand_as(gate)
    if step.op == "swap" and step.seed is not None:
        return _swapped(gate, site, batch, step.seed, recorded)
    raise ValueError(f"no operation {step} on gates is known")


def _mean_over_clips(gate: Tensor, vid_mask: Tensor) -> Tensor:
    if gate.shape[1] == 1:
        return gate
    real = vid_mask[..., None].to(gate.dtype)  # (B, L, 1)
    return ((gate * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)).expand_as(gate)


def _shuffled(gate: Tensor, batch: BatchFacts, seed: int) -> Tensor:
    if gate.shape[1] == 1:
        return gate
    rows = np.tile(np.arange(gate.shape[1]), (gate.shape[0], 1))  # (B, L)
    for b, qid in enumerate(batch.qids):
        real = batch.real_clips[b]
        rows[b, real] = real[generator(seed, qid).permutation(len(real))]
    index = torch.from_numpy(rows).to(gate.device)[..., None].expand_as(gate)
    return gate.gather(1, index)


def _swapped(gate: Tensor, site: Site, batch: BatchFacts, seed: int, recorded: RecordedGates) -> Tensor:
    swapped = gate.clone()
    for b, vid in enumerate(batch.vids):
        values = torch.from_numpy(np.array(recorded.swapped(vid, seed, site))).to(gate)  # (n, C)
        if gate.shape[1] == 1:
            swapped[b] = values
        else:
            real = batch.real_clips[b]
            swapped[b, real] = values[fitted_rows(len(values), len(real))]
    return swapped
