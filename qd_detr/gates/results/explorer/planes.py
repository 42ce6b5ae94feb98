"""What the explorer draws over time: the series of every sample, as float16.

Letters: N samples, S series, C clips of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.statistics.values import NEAR_ZERO
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.style import round_up
from qd_detr.gates.gating import ATTENTION

OPEN_FROM = NEAR_ZERO
"""A channel of a gate is open in a clip if its magnitude is at least this."""

SeriesName = tuple[str, int | None]
"""Name of a series, and its layer; None for a series of the whole model."""


def series_of(
    data: SampleData, contributions: NDArray[np.float64] | None = None
) -> Iterator[tuple[SeriesName, NDArray[np.float64] | None]]:
    """Yield a sample's series by name, each (C,), None where it is not known.

    A gate of one value per clip (or sequence) is given as it is, one per channel by its mean magnitude and its share of
    open channels. `contributions` are those of the audio timeline, (layers, C).
    """
    yield ("annotated_saliency", None), data.per_clip("annotated_saliency")
    yield ("predicted_saliency", None), data.per_clip("predicted_saliency")
    for layer in range(data.n_layers):
        yield (f"{ATTENTION.kind}_contribution", layer), None if contributions is None else contributions[layer]
    for kind in data.values:
        injection = data.injection_of(kind)
        for layer in range(data.n_layers):
            yield (f"{kind}_injection", layer), None if injection is None else injection[layer]
        gates = data.gates(kind)
        for name, of_gate in _shown_gates(kind, data.gating.per_channel).items():
            for layer, gate in enumerate(gates):
                yield (name, layer), np.broadcast_to(of_gate(gate), (data.n_clips,))


def _shown_gates(kind: str, per_channel: bool) -> dict[str, Callable[[NDArray], NDArray]]:
    if not per_channel:
        return {f"{kind}_gate": lambda gate: gate}
    return {
        f"{kind}_magnitude": lambda gate: np.abs(gate).mean(axis=-1),
        f"{kind}_open": lambda gate: (np.abs(gate) >= OPEN_FROM).mean(axis=-1),
    }


class Planes:
    """Takes samples one by one; a series that no sample has is left out at the end."""

    def __init__(self) -> None:
        self.names: list[SeriesName] = []
        self.clips: list[int] = []
        self._blocks: list[NDArray[np.float16]] = []
        self._known: NDArray[np.bool_] | None = None

    def add(self, data: SampleData, contributions: NDArray[np.float64] | None = None) -> None:
        """Take in a sample, with the contributions of its audio timeline if there is one.

        Raises:
            ValueError: it has other series than the samples before it.
        """
        found = list(series_of(data, contributions))
        names = [name for name, _ in found]
        if self._known is None:
            self.names, self._known = names, np.zeros(len(names), bool)
        if names != self.names:
            raise ValueError(f"sample {data.sample_id} has other series than the samples before it")
        nothing = np.full(data.n_clips, np.nan)
        with np.errstate(over="ignore"):  # beyond float16 a value is infinite, and the page says so
            block = np.stack([nothing if s is None else s for _, s in found]).astype(np.float16)  # (S, C)
        self._known |= [s is not None for _, s in found]
        self.clips.append(data.n_clips)
        self._blocks.append(block)

    def largest_shown(self, name: str) -> float:
        """Return the top of a series' scale, from the magnitudes of all its layers and samples; 1 if there is none.

        As in the figures: up to twice the 99th percentile nothing is cut; beyond, one outlier would flatten every
        other sample's line.
        """
        places = [i for i, (known, _) in enumerate(self.names) if known == name]
        sizes = np.abs(np.concatenate([block[places].ravel() for block in self._blocks])).astype(np.float64)
        sizes = sizes[np.isfinite(sizes)]
        return round_up(min(sizes.max(), 2 * np.percentile(sizes, 99))) if sizes.size else 1.0

    def packed(self) -> tuple[list[SeriesName], bytes]:
        """Return the names of the series that are known, S, and per sample its (S, C) block, one after another.

        All low bytes come before all high bytes: the high ones, alike from clip to clip, deflate to a fraction then.
        """
        if self._known is None:
            return [], b""
        kept = self._known
        flat = np.concatenate([block[kept].ravel() for block in self._blocks]).astype("<f2")
        pairs = flat.view(np.uint8).reshape(-1, 2)
        return [n for n, known in zip(self.names, kept, strict=True) if known], pairs.T.tobytes()
