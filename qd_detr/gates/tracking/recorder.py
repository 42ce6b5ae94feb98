"""From the tensors of a forward to entries, without stalling the model.

The gates of a batch become one block of memory, once: on the CPU as they come, on a GPU by one asynchronous copy, which
is waited for when the next batch comes or when somebody reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qd_detr.gates.tracking.entries import SampleGates, SampleId
from qd_detr.gates.tracking.memory import Blocks

Sink = Callable[[SampleId, SampleGates], object]
"""Takes an entry under its id."""


@dataclass
class GateUse:
    """One gate as a forward used it: its kind and value (B, n, C), and what it let through (B, L) if it was measured."""

    kind: str
    gate: Tensor
    injection: Tensor | None = None
    cosine: Tensor | None = None


@dataclass(frozen=True)
class Forward:
    """What a fusion's forward leaves to be recorded.

    Attributes:
        layers: per layer its gates, in the order of use.
        pad_mask: (B, L), True = padding; None if there is none. n_clips: L.
        gating_type, hidden_dim: of the fusion.
    """

    layers: Sequence[Sequence[GateUse]]
    pad_mask: Tensor | None
    n_clips: int
    gating_type: str
    hidden_dim: int


class GateRecorder:
    """Hands the gates of forwards to a sink, under sample ids.

    Attributes:
        sink: where entries go; None: what a forward does is not recorded.
        measure: whether what the gates let through is wanted too.
        beside: it watches beside the fusion's own tracking. It never raises into the forward that it watches then: it
            stops at its first failure, and keeps it.
        failure: that failure.
    """

    def __init__(self, sink: Sink | None, *, measure: bool = True, beside: bool = False) -> None:
        self.sink = sink
        self.measure = measure
        self.beside = beside
        self.failure: Exception | None = None
        self.current_sample_id: SampleId | list[SampleId] | None = None
        self._pending: Callable[[], None] | None = None
        self._blocks = Blocks()
        self._automatic = 0
        self._warned = beside

    def __getstate__(self) -> dict[str, Any]:
        # A copy or a pickle must hold the last batch itself: what is pending would go to the history of the original.
        self.finish()
        return self.__dict__.copy()

    def count_from(self, first: int) -> None:
        """Name samples without an id from `sample_{first}` on, and warn of it again."""
        self._pending = None  # what the last recording left unread belongs to a history nobody asks for any more
        self._automatic, self._warned = first, self.beside

    def set_sample_id(self, sample_id: Any) -> None:
        """Take one id, a sequence of ids, or None; see `GateTracking.set_current_sample_id`."""
        if isinstance(sample_id, (Tensor, np.ndarray)):
            sample_id = sample_id.tolist()
        if isinstance(sample_id, Sequence) and not isinstance(sample_id, (str, bytes)):
            ids = [_plain_id(one) for one in sample_id]
            twice = sorted({str(one) for one in ids if ids.count(one) > 1})
            if twice:
                raise ValueError(f"the ids of a batch must differ; more than once: {', '.join(twice)}")
            self.current_sample_id = ids
        else:
            self.current_sample_id = None if sample_id is None else _plain_id(sample_id)

    def check_batch(self, batch_size: int, *, replica: bool) -> None:
        """Raise before anything is computed if this batch could not be recorded."""
        problem: Exception
        ids = self.current_sample_id
        if replica:
            problem = RuntimeError(
                "gates cannot be tracked inside the replicas of a multi-GPU DataParallel; run the wrapped model "
                "(model.module) on one device while tracking"
            )
        elif isinstance(ids, list) and len(ids) != batch_size:
            problem = ValueError(
                f"{len(ids)} sample ids are set, but the batch has {batch_size} samples; "
                "call set_current_sample_id with one id per sample, or with one id for the batch"
            )
        else:
            return
        self._fail(problem)

    def record(self, forward: Forward) -> None:
        """Take one forward."""
        if self.sink is None:
            return
        try:
            ids = self._ids_for(len(forward.layers[0][0].gate))
            self.finish()
            fetch = self._begin_copy(forward)
            sink = self.sink

            def store() -> None:
                batch = fetch()
                if isinstance(ids, list):
                    for b, sample_id in enumerate(ids):
                        sink(sample_id, batch.sample(b))
                else:
                    sink(ids, batch)

            if forward.layers[0][0].gate.device.type == "cpu":
                store()
            else:
                self._pending = store
        except Exception as error:
            self._fail(error)

    def finish(self) -> None:
        """Take in what is still on its way from the device."""
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending()
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self.beside:
            raise error
        self.failure, self.sink = self.failure or error, None

    def _ids_for(self, batch_size: int) -> SampleId | list[SampleId]:
        if self.current_sample_id is not None:
            return self.current_sample_id
        if not self._warned:
            self._warned = True
            warnings.warn(
                "no sample id is set; gates are stored as sample_0, sample_1, ... - "
                "call set_current_sample_id before the forward to name them",
                stacklevel=5,
            )
        first = self._automatic
        self._automatic += batch_size
        return [f"sample_{i}" for i in range(first, first + batch_size)]

    def _begin_copy(self, forward: Forward) -> Callable[[], SampleGates]:
        """Start bringing the tensors to the host; the function returned waits and gives the batch."""
        layers = forward.layers
        # What is measured was perhaps measured for another recorder.
        names = ("gate", "injection", "cosine") if self.measure else ("gate",)
        columns = [
            (name, uses[0].kind, [getattr(use, name).detach() for use in uses])
            for name in names
            for uses in zip(*layers, strict=True)
            if getattr(uses[0], name) is not None
        ]
        tensors = [tensor for _, _, of_layers in columns for tensor in of_layers]
        if forward.pad_mask is not None:
            tensors.append(forward.pad_mask)
        fetch = _to_host(tensors, self._blocks)

        def batch() -> SampleGates:
            block, start = fetch(), 0
            found: dict[str, dict[str, NDArray[np.float32]]] = {"gate": {}, "injection": {}, "cosine": {}}
            for name, kind, of_layers in columns:
                end = start + len(of_layers) * of_layers[0].numel()
                found[name][kind] = block[start:end].reshape(len(of_layers), *of_layers[0].shape)
                start = end
            shape = (len(layers[0][0].gate), forward.n_clips)
            valid = np.ones(shape, bool) if forward.pad_mask is None else block[start:].reshape(shape) == 0
            return SampleGates(
                found["gate"], valid, forward.gating_type, forward.hidden_dim, found["injection"], found["cosine"]
            )

        return batch


def _plain_id(value: Any) -> SampleId:
    if isinstance(value, (Tensor, np.generic)) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"a sample id must be an int or a str; got {type(value).__name__}: {value!r}")
    return value


def _to_host(tensors: Sequence[Tensor], blocks: Blocks) -> Callable[[], NDArray[np.float32]]:
    """Start copying tensors into one float32 array, one after the other; the function returned waits and gives it."""
    size = sum(tensor.numel() for tensor in tensors)
    flat = [tensor.reshape(-1) for tensor in tensors]
    if tensors[0].device.type == "cpu":
        array = blocks.take(size)
        torch.cat(flat, out=torch.from_numpy(array))
        return lambda: array
    packed = torch.cat([tensor.float() for tensor in flat])
    if packed.device.type != "cuda":
        return lambda: _copied(packed.cpu(), blocks)
    host = torch.empty(packed.shape, dtype=torch.float32, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(packed.device))

    def fetch() -> NDArray[np.float32]:
        done.synchronize()
        return _copied(host, blocks)  # out of pinned memory, which a long history must not hold

    return fetch


def _copied(values: Tensor, blocks: Blocks) -> NDArray[np.float32]:
    array = blocks.take(values.numel())
    array[...] = values.numpy()
    return array
