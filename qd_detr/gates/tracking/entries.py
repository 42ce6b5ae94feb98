"""What is recorded of one sample, or of one batch under one id.

Letters: A fusion layers, B batch, L clips, n the clips of a gate (L, or 1 where it has one value for all of them),
C its channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SampleId = int | str
ByKind = Mapping[str, NDArray[np.float32]]
_MEASURED = ("gates", "injection", "cosine")


@dataclass(frozen=True, eq=False)
class SampleGates(Mapping[str, Any]):
    """The gates of one sample, or of a batch under one id. B is 1 for one sample, whose arrays hold valid clips only.

    Attributes:
        gates: by kind of gate (A, B, n, C), in the order in which a layer uses them.
        valid_clips: (B, L), True = real.
        gating_type, hidden_dim: of the fusion; hidden_dim is None where nothing tells it, as in a log of gates.
        injection, cosine: by kind (A, B, L), what the gates let through; empty where it was not measured.

    It reads as a dict as well: `{kind}_gates`, `{kind}_injection`, `{kind}_cosine` are these arrays, whose index is the
    layer; `layer_info` is a dict per layer; `valid_clips` and `valid_lengths` (B,) say which clips are real.
    """

    gates: ByKind
    valid_clips: NDArray[np.bool_]
    gating_type: str
    hidden_dim: int | None
    injection: ByKind = field(default_factory=dict)
    cosine: ByKind = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """A, the fusion layers."""
        return len(next(iter(self.gates.values())))

    @property
    def valid_lengths(self) -> NDArray[np.intp]:
        """The real clips of each sample (B,)."""
        return self.valid_clips.sum(axis=1)

    @property
    def layer_info(self) -> list[dict[str, Any]]:
        """A dict per layer: layer_idx, gating_type, sequence_length, batch_size, hidden_dim."""
        batch, length = self.valid_clips.shape
        info = {
            "gating_type": self.gating_type,
            "sequence_length": length,
            "batch_size": batch,
            "hidden_dim": self.hidden_dim,
        }
        return [{"layer_idx": layer, **info} for layer in range(self.n_layers)]

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The recorded arrays by their keys: gates first, then injection, then cosine, each kind by kind."""
        return {f"{kind}_{name}": a for name in _MEASURED for kind, a in getattr(self, name).items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the recorded arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def __getitem__(self, key: str) -> Any:
        kind, _, name = key.rpartition("_")
        if name in _MEASURED and kind in getattr(self, name):
            return getattr(self, name)[kind]
        if key in _FACTS:
            return getattr(self, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter((*self.arrays, *_FACTS))

    def __len__(self) -> int:
        return len(self.arrays) + len(_FACTS)

    def values_of(self, kind: str, layer_idx: int) -> NDArray[np.float32]:
        """Return one gate's values over real clips only, (N, C): N samples (one value a sequence) or real clips."""
        values = self.gates[kind][layer_idx]
        if values.shape[1] != self.valid_clips.shape[1] or self.valid_clips.all():
            return values.reshape(-1, values.shape[-1])
        return values[self.valid_clips]

    def copied(self) -> SampleGates:
        """Return the same values in arrays of their own."""
        own: list[dict[str, NDArray[np.float32]]] = [
            {kind: np.array(array) for kind, array in arrays.items()}
            for arrays in (self.gates, self.injection, self.cosine)
        ]
        return SampleGates(own[0], self.valid_clips.copy(), self.gating_type, self.hidden_dim, own[1], own[2])

    def samples(self) -> Iterator[SampleGates]:
        """Yield each sample by itself (B = 1), cut to its real clips."""
        if len(self.valid_clips) == 1 and self.valid_clips.all():
            yield self
            return
        for b in range(len(self.valid_clips)):
            yield self.sample(b)

    def sample(self, b: int) -> SampleGates:
        """Return sample b by itself (B = 1), cut to its real clips; its arrays are views where they can be."""
        real = self.valid_clips[b]
        length = int(real.sum())
        rows: Any = slice(0, length) if real[:length].all() else np.flatnonzero(real)

        def cut(arrays: ByKind) -> dict[str, NDArray[np.float32]]:
            return {
                kind: a[:, b : b + 1] if a.shape[2] != len(real) else a[:, b : b + 1, rows]
                for kind, a in arrays.items()
            }

        return SampleGates(
            cut(self.gates),
            np.ones((1, length), bool),
            self.gating_type,
            self.hidden_dim,
            cut(self.injection),
            cut(self.cosine),
        )


_FACTS = ("layer_info", "valid_clips", "valid_lengths")
