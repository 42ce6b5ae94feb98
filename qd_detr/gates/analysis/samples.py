"""One sample at a time: what the tracking API of a fusion gives for recorded samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qd_detr.gates.analysis.statistics import describe
from qd_detr.gates.tracking.entries import GATE_KEYS, GATE_KINDS, INJECTION_KEYS, GateEntry, SampleId, valid_values
from qd_detr.gates.tracking.history import GateHistory

ValueRange = tuple[float, float] | None

# The percentiles that details files and API statistics have had from the start; the rest stand beside them.
_DETAIL_NAMES = {"attention": "attention_gate", "ffn": "ffn_gate"}


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


def layer_statistics(entry: GateEntry, kind: str, layer_idx: int, value_range: ValueRange) -> dict[str, Any]:
    """Return `describe` of one gate over real clips, with the recorded array's own shape."""
    statistics = describe(valid_values(entry, kind, layer_idx), value_range)
    return {**statistics, "shape": list(entry[GATE_KEYS[kind]][layer_idx].shape)}


def gate_statistics(
    history: GateHistory, sample_id: SampleId | None = None, value_range: ValueRange = None
) -> dict[SampleId, dict[str, Any]]:
    """Return {id: {"attention_stats": [per layer], "ffn_stats": [per layer], "layer_info": [per layer]}}."""
    result: dict[SampleId, dict[str, Any]] = {}
    for one in chosen_ids(history, sample_id):
        entry = history[one]
        layers = range(len(entry["layer_info"]))
        result[one] = {
            f"{kind}_stats": [layer_statistics(entry, kind, layer, value_range) for layer in layers]
            for kind in GATE_KINDS
        } | {"layer_info": [dict(info) for info in entry["layer_info"]]}
    return result


def sample_details(sample_id: SampleId, entry: GateEntry, value_range: ValueRange = None) -> dict[str, Any]:
    """Return what `{id}_details.json` holds of a sample's gates."""
    layers = []
    for layer_idx in range(len(entry["layer_info"])):
        layer: dict[str, Any] = {"layer_index": layer_idx}
        for kind, name in _DETAIL_NAMES.items():
            layer[name] = layer_statistics(entry, kind, layer_idx, value_range)
        for kind in GATE_KINDS:
            if INJECTION_KEYS[kind] in entry:
                injection = entry[INJECTION_KEYS[kind]][layer_idx][entry["valid_clips"]]
                layer[f"{kind}_injection"] = describe(injection)
        layers.append(layer)
    return {
        "sample_id": sample_id,
        "gating_type": entry["layer_info"][0]["gating_type"],
        "num_layers": len(layers),
        "valid_lengths": [int(n) for n in entry["valid_lengths"]],
        "layer_analysis": layers,
    }


def summary_text(history: GateHistory, sample_id: SampleId | None = None, value_range: ValueRange = None) -> str:
    """Return a table with a line per sample, layer and gate."""
    lines = [f"{'sample':<24} {'layer':>5} {'gate':<9} {'mean':>8} {'std':>8} {'min':>8} {'max':>8} {'mean |g|':>8}"]
    for one in chosen_ids(history, sample_id):
        entry = history[one]
        for layer_idx in range(len(entry["layer_info"])):
            for kind in GATE_KINDS:
                s = layer_statistics(entry, kind, layer_idx, value_range)
                lines.append(
                    f"{str(one)[:24]:<24} {layer_idx:>5} {kind:<9} {s['mean']:>8.4f} {s['std']:>8.4f} "
                    f"{s['min']:>8.4f} {s['max']:>8.4f} {s['magnitude']['mean']:>8.4f}"
                )
    return "\n".join(lines)


def layer_means(history: GateHistory, sample_ids: Sequence[SampleId]) -> dict[SampleId, dict[str, list[float]]]:
    """Return {id: {"att_means": [per layer], "ffn_means": [per layer]}}.

    Raises:
        KeyError: an id that was not recorded. ValueError: no ids.
    """
    if not sample_ids:
        raise ValueError("no sample ids to compare; give at least one")
    entries = {one: history[one] for one in sample_ids}
    return {
        one: {
            f"{short}_means": [
                float(np.mean(valid_values(entry, kind, layer), dtype=np.float64))
                for layer in range(len(entry["layer_info"]))
            ]
            for kind, short in (("attention", "att"), ("ffn", "ffn"))
        }
        for one, entry in entries.items()
    }
