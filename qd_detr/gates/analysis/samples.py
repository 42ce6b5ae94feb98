"""One sample at a time: what the tracking API of a fusion gives for recorded samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qd_detr.gates.analysis.statistics import describe
from qd_detr.gates.gating import Gate
from qd_detr.gates.tracking.entries import SampleGates, SampleId
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.wording import for_terminal


def chosen_ids(history: GateHistory, sample_id: SampleId | None) -> list[SampleId]:
    """Return one id or all of them.

    Raises:
        KeyError: that id is not there, or nothing has been recorded.
    """
    if sample_id is not None:
        history[sample_id]
        return [sample_id]
    if not len(history):
        raise KeyError("nothing has been recorded yet; call enable_gate_tracking() and run a forward")
    return list(history)


def layer_statistics(entry: SampleGates, gate: Gate, layer_idx: int) -> dict[str, Any]:
    """Return `describe` of one gate over real clips, with the recorded array's own shape."""
    statistics = describe(entry.values_of(gate.kind, layer_idx), gate.value_range)
    return {**statistics, "shape": list(entry.gates[gate.kind][layer_idx].shape)}


def gate_statistics(
    history: GateHistory, gates: Sequence[Gate], sample_id: SampleId | None = None
) -> dict[SampleId, dict[str, Any]]:
    """Return {id: {"attention_stats": [per layer], "ffn_stats": [per layer], "layer_info": [per layer]}}."""
    result: dict[SampleId, dict[str, Any]] = {}
    for one in chosen_ids(history, sample_id):
        entry = history[one]
        result[one] = {
            f"{gate.kind}_stats": [layer_statistics(entry, gate, layer) for layer in range(entry.n_layers)]
            for gate in gates
        } | {"layer_info": entry.layer_info}
    return result


def sample_details(sample_id: SampleId, entry: SampleGates, gates: Sequence[Gate]) -> dict[str, Any]:
    """Return what `{id}_details.json` holds of a sample's gates."""
    layers = []
    for layer_idx in range(entry.n_layers):
        layer: dict[str, Any] = {"layer_index": layer_idx}
        layer |= {f"{gate.kind}_gate": layer_statistics(entry, gate, layer_idx) for gate in gates}
        for kind, injection in entry.injection.items():
            layer[f"{kind}_injection"] = describe(injection[layer_idx][entry.valid_clips])
        layers.append(layer)
    return {
        "sample_id": sample_id,
        "gating_type": entry.gating_type,
        "num_layers": len(layers),
        "valid_lengths": entry.valid_lengths.tolist(),
        "layer_analysis": layers,
    }


def summary_text(history: GateHistory, gates: Sequence[Gate], sample_id: SampleId | None = None) -> str:
    """Return a table with a line per sample, layer and gate."""
    lines = [f"{'sample':<24} {'layer':>5} {'gate':<9} {'mean':>8} {'std':>8} {'min':>8} {'max':>8} {'mean |g|':>8}"]
    for one in chosen_ids(history, sample_id):
        entry = history[one]
        for layer_idx in range(entry.n_layers):
            for gate in gates:
                s = layer_statistics(entry, gate, layer_idx)
                lines.append(
                    f"{for_terminal(one)[:24]:<24} {layer_idx:>5} {gate.kind:<9} {s['mean']:>8.4f} {s['std']:>8.4f} "
                    f"{s['min']:>8.4f} {s['max']:>8.4f} {s['magnitude']['mean']:>8.4f}"
                )
    return "\n".join(lines)


def layer_means(
    history: GateHistory, gates: Sequence[Gate], sample_ids: Sequence[SampleId] | SampleId
) -> dict[SampleId, dict[str, list[float]]]:
    """Return {id: {"att_means": [per layer], "ffn_means": [per layer]}}.

    Raises:
        KeyError: an id that was not recorded. ValueError: no ids.
    """
    if isinstance(sample_ids, (str, int)):  # one id is no list of its letters
        sample_ids = [sample_ids]
    if not sample_ids:
        raise ValueError("no sample ids to compare; give at least one")
    entries = {one: history[one] for one in sample_ids}
    return {
        one: {
            f"{gate.short}_means": [
                float(np.mean(entry.values_of(gate.kind, layer), dtype=np.float64)) for layer in range(entry.n_layers)
            ]
            for gate in gates
        }
        for one, entry in entries.items()
    }
