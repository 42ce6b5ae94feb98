"""Dead gates: channels whose value is the same for every clip of every sample.

Shapes: A layers, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

DEAD_SPREAD = 1e-6
"""A gate whose greatest and least value over all samples differ by no more than this is dead."""

MAX_LISTED = 32
"""Dead channels that a readout lists by index."""


class DeadGates:
    """Least and greatest value of each gate over all samples; exact, and merging in any order.

    Args:
        num_layers: A.
        channels: C (1 but for elementwise gates).
    """

    def __init__(self, num_layers: int, channels: int) -> None:
        self.samples = 0
        self._low = np.full((num_layers, channels), np.inf)
        self._high = np.full((num_layers, channels), -np.inf)

    def add(self, low: np.ndarray, high: np.ndarray) -> None:
        """Take in one sample's least and greatest value per layer and channel, both (A, C)."""
        np.minimum(self._low, low, out=self._low)
        np.maximum(self._high, high, out=self._high)
        self.samples += 1

    def merge(self, other: DeadGates) -> DeadGates:
        """Take in all that `other` has seen (which stays as it is) and return self."""
        if other._low.shape != self._low.shape:
            raise ValueError(f"cannot merge dead gates of {other._low.shape} into those of {self._low.shape}")
        np.minimum(self._low, other._low, out=self._low)
        np.maximum(self._high, other._high, out=self._high)
        self.samples += other.samples
        return self

    def readout(self) -> dict[str, Any]:
        """Return {gates, dead_count, dead_share, layers: {"0": {..., dead_channels}}}, ready for JSON.

        `dead_channels` lists the first MAX_LISTED. With fewer than two samples nothing can be said: None.
        """
        known = self.samples >= 2
        # Where nothing was added the difference would be -inf.
        dead = self._high - self._low <= DEAD_SPREAD if known else np.zeros(self._low.shape, dtype=bool)  # (A, C)
        result = _counted(dead, known)
        result["layers"] = {}
        for layer_idx, of_layer in enumerate(dead):
            entry = _counted(of_layer, known)
            entry["dead_channels"] = np.flatnonzero(of_layer)[:MAX_LISTED].tolist() if known else None
            result["layers"][str(layer_idx)] = entry
        return result


def _counted(dead: np.ndarray, known: bool) -> dict[str, Any]:
    count = int(np.count_nonzero(dead))
    if not known:
        return {"gates": dead.size, "dead_count": None, "dead_share": None}
    return {"gates": dead.size, "dead_count": count, "dead_share": count / dead.size}
