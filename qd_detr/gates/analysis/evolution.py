"""Gates over the epochs of a training: which opened, saturated or closed, and when.

A gate of a layer is "closed" in an epoch if at least 90 % of its values are near zero, "saturated" if at least half lie
within the outermost 2.5 % of its range, else "open". An event is a change of that state between two epochs looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from qd_detr.gates.gating import Gate

CLOSED_SHARE = 0.9
SATURATED_SHARE = 0.5
# By the state before and the state after: a gate that leaves saturation was not shut.
_EVENT_NAMES = {
    ("closed", "open"): "opened",
    ("saturated", "open"): "unsaturated",
    ("open", "closed"): "closed",
    ("saturated", "closed"): "closed",
    ("open", "saturated"): "saturated",
    ("closed", "saturated"): "saturated",
}


def epoch_record(
    epoch: int,
    statistics: Mapping[str, Any],
    gates: Sequence[Gate],
    metrics: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Return what an epoch adds to `gate_evolution.json`, from a readout of `GateStatistics`.

    Returns:
        {"epoch", "total_samples", "metrics", "layers": [{"layer", "attention": {"magnitude", "injection", "std",
        "share_near_zero", "share_saturated", "dead_share", "state"}, "ffn": {...}}]}
    """
    layers = []
    for layer, entry in statistics["layer_statistics"].items():
        layers.append({"layer": int(layer), **{gate.kind: _gate_record(entry[gate.kind]) for gate in gates}})
    return {
        "epoch": epoch,
        "total_samples": statistics["total_samples"],
        "metrics": dict(metrics or {}),
        "layers": layers,
    }


def _gate_record(entry: Mapping[str, Any]) -> dict[str, Any]:
    saturated = entry["share_saturated"]
    if entry["share_near_zero"] >= CLOSED_SHARE:
        state = "closed"
    elif saturated is not None and saturated >= SATURATED_SHARE:
        state = "saturated"
    else:
        state = "open"
    return {
        "magnitude": entry["magnitude"]["mean"],
        "injection": entry["injection"]["mean"] if entry["injection"] else None,
        "std": entry["std"],
        "share_near_zero": entry["share_near_zero"],
        "share_saturated": saturated,
        "dead_share": entry["dead"]["dead_share"],
        "state": state,
    }


def evolution(records: Sequence[Mapping[str, Any]], gating_type: str) -> dict[str, Any]:
    """Return the content of `gate_evolution.json`: the records by epoch, and the events between them."""
    ordered = sorted(records, key=lambda record: record["epoch"])
    return {
        "schema": "qd_detr-gates gate_evolution/1",
        "gating_type": gating_type,
        "epochs": ordered,
        "events": events(ordered),
    }


def kinds_of(layer: Mapping[str, Any]) -> list[str]:
    """Return the kinds of gate that a layer of a record has."""
    return [key for key in layer if key != "layer"]


def events(ordered: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return {"epoch", "layer", "kind", "event", "from", "since"} for every change of a gate's state.

    since: the epoch looked at before; the change came after it, and by `epoch` at the latest.
    """
    found = []
    for before, after in pairwise(ordered):
        for old, new in zip(before["layers"], after["layers"], strict=True):
            for kind in kinds_of(new):
                was, now = old[kind]["state"], new[kind]["state"]
                if was != now:
                    found.append(
                        {
                            "epoch": after["epoch"],
                            "since": before["epoch"],
                            "layer": new["layer"],
                            "kind": kind,
                            "event": _EVENT_NAMES[was, now],
                            "from": was,
                        }
                    )
    return found
