"""What has been recorded, by sample: a dict-like history of gates.

An entry is a dict: "attention_gates" and "ffn_gates" (a float32 array (B, *G) per layer), "layer_info" (a dict per
layer), "valid_clips" ((B, L) bool, True = real) and "valid_lengths" ((B,) int); with injection tracking also
"attention_injection", "ffn_injection", "attention_cosine" and "ffn_cosine" (a float32 array (B, L) per layer).
B is 1 for entries of one sample, whose arrays hold valid clips only.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

from qd_detr.errors import first_few

SampleId = int | str
GateEntry = dict[str, Any]

GATE_KINDS = ("attention", "ffn")
GATE_KEYS = {"attention": "attention_gates", "ffn": "ffn_gates"}
INJECTION_KEYS = {"attention": "attention_injection", "ffn": "ffn_injection"}
COSINE_KEYS = {"attention": "attention_cosine", "ffn": "ffn_cosine"}


class GateHistory(MutableMapping[SampleId, GateEntry]):
    """Recorded gates by sample id, in the order of first recording; kept in memory.

    Looking up an id that is not there raises a KeyError that names some that are.
    """

    def __init__(self) -> None:
        self._entries: dict[SampleId, GateEntry] = {}

    def __getitem__(self, sample_id: SampleId) -> GateEntry:
        try:
            return self._entries[sample_id]
        except KeyError:
            raise KeyError(self._no_such(sample_id)) from None

    def __setitem__(self, sample_id: SampleId, entry: GateEntry) -> None:
        self._entries[sample_id] = entry

    def __delitem__(self, sample_id: SampleId) -> None:
        if sample_id not in self._entries:
            raise KeyError(self._no_such(sample_id))
        del self._entries[sample_id]

    def __iter__(self) -> Iterator[SampleId]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._entries

    def __repr__(self) -> str:
        return f"GateHistory of {len(self)} samples: {first_few([repr(i) for i in self])}"

    def _no_such(self, sample_id: object) -> str:
        if not len(self):
            return (
                f"no gates of sample {sample_id!r}: nothing has been recorded yet; "
                "call enable_gate_tracking() and run a forward"
            )
        return f"no gates of sample {sample_id!r}; there are {len(self)}: {first_few([repr(i) for i in self])}"


def valid_values(entry: GateEntry, kind: str, layer_idx: int) -> np.ndarray:
    """Return one gate's values over real clips only, (N, C): N samples (global) or real clips, C channels or 1."""
    gate = entry[GATE_KEYS[kind]][layer_idx]
    return valid_rows(gate, entry["valid_clips"])


def valid_rows(values: np.ndarray, valid_clips: np.ndarray) -> np.ndarray:
    """Return the rows of values (B, 1 or L, C) that stand for real clips, as (N, C)."""
    if values.shape[1] != valid_clips.shape[1] or valid_clips.all():
        return values.reshape(-1, values.shape[-1])  # global gates have no clip axis
    return values[valid_clips]
