"""How the variance of a gate splits: between layers, channels, videos and the clips of a video.

Shapes: A layers, n clips (1 for a global gate), C channels (1 but for elementwise gates).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qd_detr.gates.analysis.statistics.values import checked_range

CONSTANT_LIMIT = 0.01
"""A gate whose std over videos and clips is below this share of its range's half-width is called constant."""

CONSTANT = "constant"
VIDEO_LEVEL = "video-level"
CLIP_LEVEL = "clip-level"


class VariancePartition:
    """Streaming nested partition of a gate's variance (ddof 0, every value counts alike).

    - layers: each layer's mean around the overall mean;
    - channels: each channel's mean, over all samples, around its layer's mean: a constant offset;
    - videos: each sample's mean, per layer and channel, around the channel's mean;
    - clips: each value around its sample's mean, per layer and channel.

    The parts are sums of squares that are each accumulated as such, so none can be negative and they add up to the
    total variance. Without channels (C = 1) that part is 0, for a global gate (n = 1) clips is 0. The unit of "videos"
    is the sample: two queries on one video are two samples, which does not enlarge the part but lends the video more
    weight.

    The verdict is "constant" if sqrt(videos + clips) is below CONSTANT_LIMIT times the half-width of the range (of an
    unknown range: times the largest magnitude seen), else "video-level" if videos >= clips, else "clip-level".

    Args:
        num_layers: A.
        channels: C.
        value_range: The gate's range, or None.
    """

    def __init__(self, num_layers: int, channels: int, value_range: tuple[float, float] | None) -> None:
        self.value_range = checked_range(value_range)
        self.samples = 0
        self._weight = 0  # clips seen so far
        self._mean = np.zeros((num_layers, channels))  # (A, C), with what rounding lost beside it
        self._mean_rest = np.zeros((num_layers, channels))
        self._videos = np.zeros((num_layers, channels))  # sums of squares
        self._clips = np.zeros((num_layers, channels))
        self._magnitude = 0.0

    def add(self, gates: np.ndarray | Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Take in one sample: finite gates (A, n, C), or A arrays (n, C).

        Returns:
            The sample's mean per layer and channel (A, C), and the sum of squares around it (A, C).
        """
        values = np.array(gates, dtype=np.float64)  # (A, n, C), a copy
        if values.ndim != 3 or values[:, 0].shape != self._mean.shape:
            raise ValueError(
                f"gates of a sample: expected (layers, clips, channels) with "
                f"{self._mean.shape[0]} layers and {self._mean.shape[1]} channels, got {values.shape}"
            )
        if self.value_range is None:
            self._magnitude = max(self._magnitude, float(np.abs(values).max()))
        clips = values.shape[1]
        mean = values.sum(axis=1)
        mean /= clips  # (A, C)
        values -= mean[:, None]
        squares = np.einsum("anc,anc->ac", values, values)
        self._absorb(clips, mean, np.zeros_like(mean), None, squares)
        self.samples += 1
        return mean, squares

    def merge(self, other: VariancePartition) -> VariancePartition:
        """Take in all that `other` has seen (which stays as it is) and return self."""
        if other.value_range != self.value_range or other._mean.shape != self._mean.shape:
            raise ValueError(
                f"cannot merge a partition of {other._mean.shape} gates, range {other.value_range}, "
                f"into one of {self._mean.shape}, range {self.value_range}"
            )
        if other._weight:
            self._absorb(other._weight, other._mean, other._mean_rest, other._videos, other._clips)
        self.samples += other.samples
        self._magnitude = max(self._magnitude, other._magnitude)
        return self

    def readout(self) -> dict[str, Any]:
        """Return the partition over all layers, ready for JSON; "layers" holds that within each layer by its index.

        Keys: total_variance, parts and shares {layers, channels, videos, clips}, std_videos_and_clips, verdict.
        All None before the first sample; shares None where the total is 0.
        """
        result = self._entry(slice(None))
        result["layers"] = {
            str(layer_idx): self._entry(slice(layer_idx, layer_idx + 1)) for layer_idx in range(self._mean.shape[0])
        }
        return result

    @property
    def verdict(self) -> str | None:
        """The verdict over all layers; None before the first sample."""
        verdict: str | None = self._entry(slice(None))["verdict"]
        return verdict

    def _absorb(
        self, weight: int, mean: np.ndarray, mean_rest: np.ndarray, videos: np.ndarray | None, clips: np.ndarray
    ) -> None:
        """Merge by the formula of Chan, Golub and LeVeque (1979), the mean kept in two floats.

        With a mean in one float, differences of 1e-6 around -0.995 would keep ten digits only, and depend on the order.
        """
        total = self._weight + weight
        delta = mean - self._mean
        delta += mean_rest
        delta -= self._mean_rest
        if videos is not None:
            self._videos += videos
        self._videos += delta * delta * (self._weight * weight / total)
        self._clips += clips
        delta *= weight / total
        moved = self._mean + delta  # Knuth's TwoSum: moved + lost is the sum, exactly
        back = moved - self._mean
        lost = (self._mean - (moved - back)) + (delta - back)
        self._mean = moved
        self._mean_rest += lost
        self._weight = total

    def _entry(self, layers: slice) -> dict[str, Any]:
        names = ("layers", "channels", "videos", "clips")
        if not self._weight:
            return {
                "total_variance": None,
                "parts": dict.fromkeys(names),
                "shares": dict.fromkeys(names),
                "std_videos_and_clips": None,
                "verdict": None,
            }
        anchor = self._mean[layers].flat[0]
        offset = (self._mean[layers] - anchor) + self._mean_rest[layers]  # (A', C): small where the means are close
        layer_offset = offset.mean(axis=1, keepdims=True)
        parts = {
            "layers": float(np.square(layer_offset - layer_offset.mean()).mean()),
            "channels": float(np.square(offset - layer_offset).mean()),
            "videos": float(self._videos[layers].mean() / self._weight),
            "clips": float(self._clips[layers].mean() / self._weight),
        }
        total = math.fsum(parts.values())
        spread = math.sqrt(parts["videos"] + parts["clips"])
        return {
            "total_variance": total,
            "parts": parts,
            "shares": {name: part / total if total else None for name, part in parts.items()},
            "std_videos_and_clips": spread,
            "verdict": self._verdict(spread, parts["videos"] >= parts["clips"]),
        }

    def _verdict(self, spread: float, videos_lead: bool) -> str:
        scale = (self.value_range[1] - self.value_range[0]) / 2 if self.value_range else self._magnitude
        if spread < CONSTANT_LIMIT * scale or spread == 0.0:
            return CONSTANT
        return VIDEO_LEVEL if videos_lead else CLIP_LEVEL
