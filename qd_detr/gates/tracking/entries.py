"""What is recorded of one sample, or of one batch under one id.

An entry is a dict: "attention_gates" and "ffn_gates" (a float32 array (B, *G) per layer), "layer_info" (a dict per
layer), "valid_clips" ((B, L) bool, True = real) and "valid_lengths" ((B,) int); with injection tracking also
"attention_injection", "ffn_injection", "attention_cosine" and "ffn_cosine" (a float32 array (B, L) per layer).
B is 1 for entries of one sample, whose arrays hold valid clips only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

SampleId = int | str
GateEntry = dict[str, Any]

GATE_KINDS = ("attention", "ffn")
GATE_KEYS = {"attention": "attention_gates", "ffn": "ffn_gates"}
INJECTION_KEYS = {"attention": "attention_injection", "ffn": "ffn_injection"}
COSINE_KEYS = {"attention": "attention_cosine", "ffn": "ffn_cosine"}
ARRAY_KEYS = (*GATE_KEYS.values(), *INJECTION_KEYS.values(), *COSINE_KEYS.values())


def valid_values(entry: GateEntry, kind: str, layer_idx: int) -> np.ndarray:
    """Return one gate's values over real clips only, (N, C): N samples (global) or real clips, C channels or 1."""
    return _valid_rows(entry[GATE_KEYS[kind]][layer_idx], entry["valid_clips"])


def samples_of(entry: GateEntry) -> Iterator[dict[str, list[np.ndarray]]]:
    """Yield, per sample of an entry, its arrays per layer over real clips, without the batch axis: (1 or n, C), (n,)."""
    valid = entry["valid_clips"]
    for b, real in enumerate(valid):
        yield {
            key: [a[b] if a.shape[1] != len(real) or real.all() else a[b][real] for a in entry[key]]
            for key in ARRAY_KEYS
            if key in entry
        }


def entry_nbytes(entry: GateEntry) -> int:
    """Return the bytes of an entry's arrays."""
    return sum(array.nbytes for key in ARRAY_KEYS for array in entry.get(key, ()))


def _valid_rows(values: np.ndarray, valid_clips: np.ndarray) -> np.ndarray:
    if values.shape[1] != valid_clips.shape[1] or valid_clips.all():
        return values.reshape(-1, values.shape[-1])  # global gates have no clip axis
    return values[valid_clips]
