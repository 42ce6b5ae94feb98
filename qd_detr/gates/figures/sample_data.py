"""What the figure of one sample shows, as plain data.

Letters: C clips, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.gating import GatingType, gating_named

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SampleData:
    """One sample's gates and what happens around them.

    Attributes:
        sample_id: The id as the user knows it.
        gating_type: A name from `gating.GATING_TYPES`.
        values: By kind of gate one array per layer in its native shape, with or without leading axes of size 1:
            global (1,), clipwise (C, 1) or (C,), elementwise (C, D). Valid clips only.
        n_clips: Number of valid clips, C.
        clip_length_s: Length of a clip in seconds.
        duration_s: Length of the video in seconds, if known.
        query: The sentence; None leaves it out.
        vid: The video's name; None leaves it out.
        injection: By kind |g * branch| / |residual|, (layers, C).
        contributions: What each clip's audio contributed to the prediction, (layers, C): the audio timeline.
        contributions_complete: Whether they sum to the effect within the bound.
        true_windows_s: Ground-truth windows, (n, 2) seconds. None: the sample is not annotated.
        predicted_windows: Predicted windows, (n, 3): start and end in seconds, score; best first.
        predicted_saliency: (C,), in the model's own unit.
        annotated_saliency: (C,), mean of the annotators; NaN where a clip was not annotated.
        annotated_saliency_max: The top of the annotators' scale.
    """

    sample_id: str
    gating_type: str
    values: Mapping[str, Sequence[ArrayLike] | NDArray[np.float32]]
    n_clips: int
    clip_length_s: float = 2.0
    duration_s: float | None = None
    query: str | None = None
    vid: str | None = None
    injection: Mapping[str, ArrayLike] = field(default_factory=dict)
    contributions: ArrayLike | None = None
    contributions_complete: bool = True
    true_windows_s: ArrayLike | None = None
    predicted_windows: ArrayLike | None = None
    predicted_saliency: ArrayLike | None = None
    annotated_saliency: ArrayLike | None = None
    annotated_saliency_max: float = 4.0

    @property
    def gating(self) -> GatingType:
        """The type of the gates.

        Raises:
            ValueError: no type has that name.
        """
        return gating_named(self.gating_type)

    @property
    def n_layers(self) -> int:
        """Number of fusion layers."""
        return len(next(iter(self.values.values())))

    @property
    def end_s(self) -> float:
        """Where the time axis ends: the video's end, or that of the last clip if it is later."""
        return max(self.n_clips * self.clip_length_s, self.duration_s or 0.0)

    @property
    def clip_edges_s(self) -> FloatArray:
        """Start of each clip and end of the last, (C + 1,)."""
        return np.arange(self.n_clips + 1, dtype=np.float64) * self.clip_length_s

    def gates(self, kind: str) -> list[FloatArray]:
        """Give the gates of a kind per layer: (1,) global, (C,) clipwise, (C, D) elementwise.

        Raises:
            ValueError: A gate does not have the shape that the gating type says.
        """
        layers = self.values[kind]
        if self.n_clips < 1 or len(layers) != self.n_layers or not self.n_layers:
            raise ValueError(
                f"sample {self.sample_id}: needs at least one clip and as many gates of every kind, got {self.n_clips} "
                f"clips, {', '.join(f'{len(of_kind)} {name} gates' for name, of_kind in self.values.items())}"
            )
        return [self._native(layer_idx, np.asarray(gate, dtype=float), kind) for layer_idx, gate in enumerate(layers)]

    def _native(self, layer_idx: int, gate: FloatArray, kind: str) -> FloatArray:
        n = self.n_clips
        rows = n if self.gating.per_clip else 1
        if not self.gating.per_channel and gate.size == rows:
            return gate.reshape(rows)
        if self.gating.per_channel and gate.shape[-2:-1] == (rows,) and gate.size == rows * gate.shape[-1]:
            # Channels are drawn over time: one gate for the whole sequence stands at every clip.
            return np.broadcast_to(gate.reshape(rows, gate.shape[-1]), (n, gate.shape[-1]))
        raise ValueError(
            f"sample {self.sample_id}, layer {layer_idx}: a {self.gating_type} {kind} gate of {n} clips "
            f"cannot have the shape {gate.shape}"
        )

    def per_clip(self, name: str) -> FloatArray | None:
        """Give a (C,) attribute as an array, checked; None if it is not given."""
        return self._checked(name, getattr(self, name), (self.n_clips,))

    def injection_of(self, kind: str) -> FloatArray | None:
        """Give the injection of a kind of gate, (layers, C); None if it is not given."""
        return self._checked(f"{kind}_injection", self.injection.get(kind), (self.n_layers, self.n_clips))

    def timeline(self) -> FloatArray | None:
        """Give the contributions, (layers, C); None if they are not given."""
        return self._checked("contributions", self.contributions, (self.n_layers, self.n_clips))

    def _checked(self, name: str, value: ArrayLike | None, expected: tuple[int, ...]) -> FloatArray | None:
        if value is None:
            return None
        array = np.asarray(value, dtype=float)
        if array.shape != expected:
            raise ValueError(f"sample {self.sample_id}: {name} must have the shape {expected}, got {array.shape}")
        return array

    def windows(self, name: str, columns: int) -> FloatArray | None:
        """Give windows as an (n, columns) array, also for none at all; None if they are not given."""
        value = getattr(self, name)
        if value is None:
            return None
        array = np.asarray(value, dtype=float)
        if not array.size:
            return np.empty((0, columns))
        if array.ndim != 2 or array.shape[1] < columns:
            raise ValueError(f"sample {self.sample_id}: {name} must have the shape (n, {columns}), got {array.shape}")
        return array[:, :columns]
