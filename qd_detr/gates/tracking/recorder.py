"""From the tensors of a forward to entries of a history, without stalling the model.

On the CPU nothing is copied: a gate is a tensor nobody writes to again. On a GPU the gates of a batch are packed
into one asynchronous copy, which is waited for when the next batch comes or when somebody reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qd_detr.gates.tracking.entries import COSINE_KEYS, GATE_KEYS, INJECTION_KEYS, GateEntry, SampleId
from qd_detr.gates.tracking.history import GateHistory

__all__ = ["GateRecorder", "LayerGates", "SampleId"]


@dataclass
class LayerGates:
    """One layer's gates (B, *G) as the forward used them, and what they let through (B, L) if it was measured."""

    attention: Tensor
    ffn: Tensor
    attention_injection: Tensor | None = None
    ffn_injection: Tensor | None = None
    attention_cosine: Tensor | None = None
    ffn_cosine: Tensor | None = None


_FIELDS = {
    GATE_KEYS["attention"]: "attention",
    GATE_KEYS["ffn"]: "ffn",
    INJECTION_KEYS["attention"]: "attention_injection",
    INJECTION_KEYS["ffn"]: "ffn_injection",
    COSINE_KEYS["attention"]: "attention_cosine",
    COSINE_KEYS["ffn"]: "ffn_cosine",
}


class GateRecorder:
    """Stores the gates of forwards under sample ids."""

    def __init__(self, gating_type: str, hidden_dim: int) -> None:
        self.gating_type = gating_type
        self.hidden_dim = hidden_dim
        self.tracking = False
        self.measure = False
        self.current_sample_id: SampleId | list[SampleId] | None = None
        self._history = GateHistory()
        self._pending: Callable[[], None] | None = None
        self._next_automatic = 0
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        # A copy or a pickle must hold the last batch itself: what is pending would go to the history of the original.
        self._finish_pending()
        return self.__dict__.copy()

    def start(self, history: GateHistory, *, measure: bool, warn: bool = True) -> None:
        """Record from now on, into `history`; automatic ids count from 0 again, and are warned of once if `warn`."""
        self._pending = None  # what the last recording left unread belongs to a history nobody asked for any more
        self._history = history
        self.tracking, self.measure = True, measure
        self._next_automatic, self._warned = 0, not warn

    def stop(self) -> None:
        """Record no more; what was recorded stays."""
        self.tracking = False

    def read(self) -> GateHistory:
        """Return the history, complete up to the last forward."""
        self._finish_pending()
        return self._history

    def set_sample_id(self, sample_id: Any) -> None:
        """Take one id, a sequence of ids, or None; see `AVIGATEFusionCustom.set_current_sample_id`."""
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
        if replica:
            raise RuntimeError(
                "gates cannot be tracked inside the replicas of a multi-GPU DataParallel; run the wrapped model "
                "(model.module) on one device while tracking"
            )
        ids = self.current_sample_id
        if isinstance(ids, list) and len(ids) != batch_size:
            raise ValueError(
                f"{len(ids)} sample ids are set, but the batch has {batch_size} samples; "
                "call set_current_sample_id with one id per sample, or with one id for the batch"
            )

    def record(self, layers: list[LayerGates], pad_mask: Tensor | None, n_clips: int) -> None:
        """Store one batch: gates per layer (B, *G), pad_mask (B, L) with True = padding, or None."""
        ids = self._ids_for(len(layers[0].attention))
        there = [(key, field) for key, field in _FIELDS.items() if getattr(layers[0], field) is not None]
        # What is measured was perhaps measured for another recorder.
        names = there if self.measure else [(key, field) for key, field in there if field in ("attention", "ffn")]
        tensors = [getattr(layer, field).detach() for _, field in names for layer in layers]
        if pad_mask is not None:
            tensors.append(pad_mask)
        self._finish_pending()
        fetch = _begin_copy(tensors)

        def store() -> None:
            arrays = fetch()
            n_layers = len(layers)
            fields: GateEntry = {key: arrays[i * n_layers : (i + 1) * n_layers] for i, (key, _) in enumerate(names)}
            batch = len(fields["attention_gates"][0])
            valid = np.ones((batch, n_clips), bool) if pad_mask is None else arrays[-1] == 0
            self._store(ids, fields, valid)

        if tensors[0].device.type == "cpu":
            store()
        else:
            self._pending = store

    def _finish_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending()

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
        first = self._next_automatic
        self._next_automatic += batch_size
        return [f"sample_{i}" for i in range(first, first + batch_size)]

    def _store(self, ids: SampleId | list[SampleId], fields: GateEntry, valid: np.ndarray) -> None:
        if not isinstance(ids, list):
            self._history[ids] = self._entry(fields, valid)
            return
        for b, sample_id in enumerate(ids):
            real = valid[b]
            length = int(real.sum())
            rows: Any = slice(0, length) if real[:length].all() else np.flatnonzero(real)
            cut = {
                key: [a[b : b + 1] if a.shape[1] != len(real) else a[b : b + 1, rows] for a in arrays]
                for key, arrays in fields.items()
            }
            self._history[sample_id] = self._entry(cut, np.ones((1, length), bool))

    def _entry(self, fields: GateEntry, valid: np.ndarray) -> GateEntry:
        info = {
            "gating_type": self.gating_type,
            "sequence_length": valid.shape[1],
            "batch_size": valid.shape[0],
            "hidden_dim": self.hidden_dim,
        }
        n_layers = len(fields["attention_gates"])
        return {
            **fields,
            "layer_info": [{"layer_idx": layer, **info} for layer in range(n_layers)],
            "valid_clips": valid,
            "valid_lengths": valid.sum(axis=1),
        }


def _plain_id(value: Any) -> SampleId:
    if isinstance(value, (Tensor, np.generic)) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"a sample id must be an int or a str; got {type(value).__name__}: {value!r}")
    return value


def _begin_copy(tensors: list[Tensor]) -> Callable[[], list[np.ndarray]]:
    """Start bringing tensors to the host as float32 arrays; the function returned waits and gives them."""
    if tensors[0].device.type == "cpu":
        arrays = [_host_array(t) for t in tensors]
        return lambda: arrays
    shapes = [t.shape for t in tensors]
    flat = torch.cat([t.reshape(-1).float() for t in tensors])
    if flat.device.type == "cuda":
        host = torch.empty(flat.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(flat, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(flat.device))
    else:
        host, done = flat.cpu(), None

    def fetch() -> list[np.ndarray]:
        if done is not None:
            done.synchronize()
        # Copied once more, out of pinned memory, which a long history must not hold.
        values = host.numpy().copy()
        ends = np.cumsum([shape.numel() for shape in shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(values, ends), shapes, strict=True)]

    return fetch


def _host_array(tensor: Tensor) -> np.ndarray:
    if tensor.dtype != torch.float32:
        return tensor.float().numpy()
    # While gradients are on, autograd keeps the gate for the backward pass; what the user does to the array
    # must not reach it.
    return tensor.clone().numpy() if torch.is_grad_enabled() else tensor.numpy()
