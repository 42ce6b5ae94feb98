"""The statistics of a whole run: all gates of every fusion layer, over all samples, in one pass.

Shapes: A layers, n clips (1 for one gate a sequence), C channels (hidden_dim for a gate per channel, else 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qd_detr.gates.analysis.statistics.dead import DeadGates
from qd_detr.gates.analysis.statistics.values import ValueStatistics, check_values, checked_range
from qd_detr.gates.analysis.statistics.variance import VariancePartition
from qd_detr.gates.gating import FusionFacts, ValueRange

COSINE_RANGE = (-1.0, 1.0)
HISTOGRAM_BINS = 100
"""Bins of the histograms in a readout: a multiple of what figures show, so that their bins fall together."""


class GateRow(NamedTuple):
    """One gate of one layer in one sample: figures over its valid clips (and channels)."""

    layer_idx: int
    mean: float
    std: float
    min: float
    max: float
    abs_mean: float
    injection_mean: float | None
    cosine_mean: float | None


class SampleRow(NamedTuple):
    """One sample's row of the table per sample: by kind of gate a GateRow per layer."""

    sample_id: int | str
    gates: dict[str, list[GateRow]]


class _Measured(NamedTuple):
    """One checked quantity of a sample, all layers: values (A, n, C), least and greatest per channel (A, C)."""

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


class _Kind:
    """The statistics of one kind of gate, all layers."""

    def __init__(self, num_layers: int, channels: int, value_range: ValueRange | None) -> None:
        self.gates = [ValueStatistics(value_range) for _ in range(num_layers)]
        self.injection = [ValueStatistics(None) for _ in range(num_layers)]
        self.cosine = [ValueStatistics(COSINE_RANGE) for _ in range(num_layers)]
        self.variance = VariancePartition(num_layers, channels, value_range)
        self.dead = DeadGates(num_layers, channels)

    def add(self, gates: _Measured, injection: _Measured | None, cosine: _Measured | None) -> list[GateRow]:
        """Take in one sample's checked values and return its rows."""
        self.dead.add(gates.low, gates.high)
        mean, squares = self.variance.add(gates.values)  # (A, C) each
        means = mean.mean(axis=1)  # (A,)
        mean -= means[:, None]
        variances = squares.mean(axis=1) / gates.values.shape[1] + np.square(mean).mean(axis=1)
        lows, highs = _add_all(self.gates, gates)
        absent: list[None] = [None] * means.size
        columns = (
            means.tolist(),
            np.sqrt(variances).tolist(),
            lows,
            highs,
            np.abs(gates.values).mean(axis=(1, 2), dtype=np.float64).tolist(),
            self._add_beside(self.injection, injection) or absent,
            self._add_beside(self.cosine, cosine) or absent,
        )
        return [GateRow(layer_idx, *row) for layer_idx, row in enumerate(zip(*columns, strict=True))]

    def merge(self, other: _Kind) -> None:
        """Take in all that `other` has seen."""
        for mine, theirs in ((self.gates, other.gates), (self.injection, other.injection), (self.cosine, other.cosine)):
            for own, others in zip(mine, theirs, strict=True):
                own.merge(others)
        self.variance.merge(other.variance)
        self.dead.merge(other.dead)

    def readout(self, histogram_bins: int | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the entries over all layers and for each layer."""
        variance, dead = self.variance.readout(), self.dead.readout()
        of_layers = []
        for layer_idx, gate in enumerate(self.gates):
            of_layers.append(
                {
                    **gate.readout(histogram_bins),
                    "variance": variance["layers"][str(layer_idx)],
                    "dead": dead["layers"][str(layer_idx)],
                    "injection": _readout_or_none(self.injection[layer_idx], histogram_bins),
                    "cosine": _readout_or_none(self.cosine[layer_idx], histogram_bins),
                }
            )
        overall = {
            **_merged(self.gates).readout(histogram_bins),
            "variance": {key: value for key, value in variance.items() if key != "layers"},
            "dead": {key: value for key, value in dead.items() if key != "layers"},
            "injection": _readout_or_none(_merged(self.injection), histogram_bins),
            "cosine": _readout_or_none(_merged(self.cosine), histogram_bins),
        }
        return overall, of_layers

    @staticmethod
    def _add_beside(streams: list[ValueStatistics], measured: _Measured | None) -> list[float] | None:
        if measured is None:
            return None
        _add_all(streams, measured)
        means: list[float] = measured.values.mean(axis=(1, 2), dtype=np.float64).tolist()
        return means


ByKind = Mapping[str, np.ndarray]


class GateStatistics:
    """Statistics of all gates over all samples: streamed once, never kept, and mergeable.

    Every value counts alike: a longer video has more clips and so more weight. Samples may share a video; each counts.

    Args:
        facts: of the fusion: its gates with their ranges, its gating, its sizes.
    """

    def __init__(self, facts: FusionFacts) -> None:
        if facts.num_layers < 1 or (facts.hidden_dim is not None and facts.hidden_dim < 1):
            raise ValueError(
                f"expected at least 1 layer and 1 channel, got num_layers {facts.num_layers}, "
                f"hidden_dim {facts.hidden_dim}"
            )
        self.facts = facts
        self.num_layers = facts.num_layers
        self.channels = facts.gating.channels(facts.hidden_dim)
        self.total_samples = 0
        self._ranges = {gate.kind: checked_range(gate.value_range) for gate in facts.gates}
        self._kinds = {kind: _Kind(self.num_layers, self.channels, limits) for kind, limits in self._ranges.items()}

    def add(
        self, sample_id: int | str, gates: ByKind, *, injection: ByKind | None = None, cosine: ByKind | None = None
    ) -> SampleRow:
        """Take in one sample, cut to its valid clips, and return its row.

        Args:
            sample_id: Names the sample in its row and in errors; adding an id twice counts it twice.
            gates: By kind of gate (A, n, C), n and C as the gating says; a batch axis of 1 after A is allowed here and
                below.
            injection: By kind (A, n), |g * branch| / |residual| of every clip, >= 0.
            cosine: By kind (A, n), the injected vector's cosine to the residual.

        Raises:
            ValueError: A wrong kind, number of layers or shape, or a value that is not finite or out of range. Names
                sample, quantity and layer; nothing is taken in then.
        """
        if set(gates) != set(self._kinds):
            raise ValueError(f"sample {sample_id!r}: gates {', '.join(gates)}, expected {', '.join(self._kinds)}")
        measured = {kind: self._gates(sample_id, kind, gates[kind]) for kind in self._kinds}
        clips = {kind: found.values.shape[1] for kind, found in measured.items()}
        if len(set(clips.values())) > 1:
            shown = ", ".join(f"{kind} gates {n}" for kind, n in clips.items())
            raise ValueError(f"sample {sample_id!r}: the gates differ in their number of clips: {shown}")
        beside = {
            kind: tuple(
                self._per_clip(sample_id, f"{kind} {name}", (given or {}).get(kind), limits, clips[kind])
                for name, given, limits in (("injection", injection, None), ("cosine", cosine, COSINE_RANGE))
            )
            for kind in self._kinds
        }
        self.total_samples += 1
        return SampleRow(
            sample_id, {kind: of_kind.add(measured[kind], *beside[kind]) for kind, of_kind in self._kinds.items()}
        )

    def merge(self, other: GateStatistics) -> GateStatistics:
        """Take in all that `other` has seen (which stays as it is) and return self."""
        for name in ("gating_type", "num_layers", "gates", "hidden_dim"):
            mine, theirs = getattr(self.facts, name), getattr(other.facts, name)
            if mine != theirs:
                raise ValueError(f"cannot merge statistics with {name} {theirs!r} into those with {mine!r}")
        for kind, of_kind in self._kinds.items():
            of_kind.merge(other._kinds[kind])
        self.total_samples += other.total_samples
        return self

    def streams(self, kind: str, layer_idx: int | None = None) -> ValueStatistics:
        """Return the gate values of a kind in one layer, or a merged copy of all layers'."""
        if kind not in self._kinds:
            raise ValueError(f"kind: expected one of {', '.join(self._kinds)}, got {kind!r}")
        streams = self._kinds[kind].gates
        return _merged(streams) if layer_idx is None else streams[layer_idx]

    def readout(self, histogram_bins: int | None = HISTOGRAM_BINS) -> dict[str, Any]:
        """Return everything as plain Python numbers, ready for JSON: None stands where there is no figure, never NaN.

        Keys: total_samples, gating_type, num_layers, hidden_dim, value_range, `{kind}_gates` of every gate (over all
        layers), layer_statistics by layer index: `{kind}_` mean, std, min, max, median, abs_mean, injection_mean and
        cosine_mean, and the full entries under `{kind}`. A full entry is ValueStatistics.readout plus variance, dead,
        injection and cosine (the last two are ValueStatistics readouts, None if never given).
        """
        facts = self.facts
        read = {kind: of_kind.readout(histogram_bins) for kind, of_kind in self._kinds.items()}
        layer_statistics: dict[str, Any] = {}
        for layer_idx in range(self.num_layers):
            layer: dict[str, Any] = {}
            for kind, (_, of_layers) in read.items():
                entry = of_layers[layer_idx]
                layer |= {f"{kind}_{name}": entry[name] for name in ("mean", "std", "min", "max", "median")}
                layer[f"{kind}_abs_mean"] = entry["magnitude"]["mean"]
                for name in ("injection", "cosine"):
                    layer[f"{kind}_{name}_mean"] = entry[name]["mean"] if entry[name] else None
                layer[kind] = entry
            layer_statistics[str(layer_idx)] = layer
        return {
            "total_samples": self.total_samples,
            "gating_type": facts.gating_type,
            "num_layers": self.num_layers,
            "hidden_dim": facts.hidden_dim,
            "value_range": list(facts.gate_range) if facts.gate_range else None,
            **{gate.gates_key: read[gate.kind][0] for gate in facts.gates},
            "layer_statistics": layer_statistics,
        }

    def _gates(self, sample_id: int | str, kind: str, given: np.ndarray) -> _Measured:
        name = f"{kind} gate"
        values = self._stacked(sample_id, name, given, gate_axes=2)  # (A, n, C)
        per_clip = self.facts.gating.per_clip
        clips_fit = values.shape[1] >= 1 if per_clip else values.shape[1] == 1
        if not clips_fit or values.shape[2] != self.channels:
            expected = f"({'clips' if per_clip else 1}, {self.channels})"
            raise ValueError(
                f"sample {sample_id!r}: a {self.facts.gating_type} {name} has the shape {expected}, "
                f"got {values.shape[1:]}"
            )
        return self._measured(sample_id, name, values, self._ranges[kind])

    def _per_clip(
        self,
        sample_id: int | str,
        name: str,
        given: np.ndarray | None,
        value_range: ValueRange | None,
        gate_clips: int,
    ) -> _Measured | None:
        if given is None:
            return None
        values = self._stacked(sample_id, name, given, gate_axes=1)[:, :, None]  # (A, n, 1)
        per_clip = self.facts.gating.per_clip
        if values.shape[1] < 1 or (per_clip and values.shape[1] != gate_clips):
            expected = str(gate_clips) if per_clip else "at least one"
            raise ValueError(
                f"sample {sample_id!r}: {name} of {values.shape[1]} clips, expected {expected}, as many as are valid"
            )
        measured = self._measured(sample_id, name, values, value_range)
        if value_range is None and measured.low.min() < 0:
            raise ValueError(f"sample {sample_id!r}: {name} is a ratio of norms, got {measured.low.min():.6g}")
        return measured

    def _stacked(self, sample_id: int | str, name: str, given: np.ndarray, gate_axes: int) -> np.ndarray:
        """Return the layers' values without their batch axis of 1, checked."""
        if len(given) != self.num_layers:
            raise ValueError(f"sample {sample_id!r}: {name} of {len(given)} layers, expected {self.num_layers}")
        values = given[:, 0] if given.ndim == gate_axes + 2 and given.shape[1] == 1 else given
        if values.ndim != gate_axes + 1 or values.dtype.kind != "f":
            raise ValueError(
                f"sample {sample_id!r}: {name}: expected float arrays of {gate_axes} axes a layer (and perhaps a "
                f"leading batch axis of 1; add the samples of a batch one by one), "
                f"got {values.dtype} {values.shape[1:]}"
            )
        return np.ascontiguousarray(values)  # sums do not depend on where the sample lay in its batch

    def _measured(
        self, sample_id: int | str, name: str, values: np.ndarray, value_range: ValueRange | None
    ) -> _Measured:
        low, high = values.min(axis=1), values.max(axis=1)  # (A, C); NaN stays NaN
        try:
            check_values(float(low.min()), float(high.max()), value_range)
        except ValueError:
            for layer_idx in range(self.num_layers):  # now say where
                check_values(
                    float(low[layer_idx].min()),
                    float(high[layer_idx].max()),
                    value_range,
                    f"sample {sample_id!r}, layer {layer_idx}, {name}",
                )
            raise
        return _Measured(values, low, high)


def _add_all(streams: list[ValueStatistics], measured: _Measured) -> tuple[list[float], list[float]]:
    """Give each layer's values to its stream; return their least and greatest values."""
    lows: list[float] = measured.low.min(axis=1).tolist()
    highs: list[float] = measured.high.max(axis=1).tolist()
    for stream, values, low, high in zip(streams, measured.values, lows, highs, strict=True):
        stream.add_checked(values, low, high)
    return lows, highs


def _merged(streams: list[ValueStatistics]) -> ValueStatistics:
    result = ValueStatistics(streams[0].value_range)
    for stream in streams:
        result.merge(stream)
    return result


def _readout_or_none(stream: ValueStatistics, histogram_bins: int | None) -> dict[str, Any] | None:
    return stream.readout(histogram_bins) if stream.count else None
