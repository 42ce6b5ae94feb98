"""What could mislead a reader of the analysis: checks on plain results, each with its size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qd_detr.gates.gating import Gate
from qd_detr.gates.tracking.entries import SampleGates, SampleId

Line = Mapping[str, Any]

# Two figures of one sample within these are the same: what rounding in another batch may do.
SCORE_TOLERANCE = 2e-4
NEVER_FIRED = 0.05


def prediction_changes(before: Sequence[Line], after: Sequence[Line]) -> dict[str, Any]:
    """Count in how many queries predictions differ between two runs over the same queries, in the same order.

    A window changes if its start or end differs (rank by rank); a score if it differs by more than 2e-4.
    """
    first = windows = scores = 0
    largest_score = largest_saliency = 0.0
    for one, other in zip(before, after, strict=True):
        a, b = (np.asarray(line["pred_relevant_windows"], float).reshape(-1, 3) for line in (one, other))
        if len(a) != len(b):
            first, windows, scores = first + 1, windows + 1, scores + 1
            continue
        moved = (a[:, :2] != b[:, :2]).any(axis=1)
        first += bool(moved[:1].any())
        windows += bool(moved.any())
        gap = np.abs(a[:, 2] - b[:, 2]).max(initial=0.0)
        scores += bool(gap > SCORE_TOLERANCE)
        largest_score = max(largest_score, float(gap))
        s, t = (np.asarray(line["pred_saliency_scores"], float) for line in (one, other))
        largest_saliency = max(largest_saliency, float(np.abs(s - t).max(initial=0.0)))
    return {
        "queries": len(before),
        "first_window_changes": first,
        "any_window_changes": windows,
        "any_score_changes": scores,
        "largest_score_change": largest_score,
        "largest_saliency_change": largest_saliency,
    }


def gate_distance(one: SampleGates, other: SampleGates) -> float:
    """Return the largest absolute difference between two samples' gates, inf if they differ in shape."""
    worst = 0.0
    for kind, a in one.gates.items():
        b = other.gates[kind]
        if a.shape != b.shape:
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max(initial=0.0)))
    return worst


def shared_videos(vids: Mapping[SampleId, str]) -> dict[str, list[SampleId]]:
    """Return {vid: its samples} for the videos that more than one sample is about."""
    groups: dict[str, list[SampleId]] = defaultdict(list)
    for sample_id, vid in vids.items():
        groups[vid].append(sample_id)
    return {vid: ids for vid, ids in groups.items() if len(ids) > 1}


def repeated(keys: Mapping[SampleId, Any]) -> list[list[SampleId]]:
    """Return the groups of samples that have the same key."""
    groups: dict[Any, list[SampleId]] = defaultdict(list)
    for sample_id, key in keys.items():
        groups[key].append(sample_id)
    return [ids for ids in groups.values() if len(ids) > 1]


def never_fired(statistics: Mapping[str, Any], gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """Return the gates whose magnitude never reached 0.05 in any sample: {layer, kind, largest_magnitude}.

    A gate that is off at another value than 0 (the g of a factor 1 + g) is open at 0, and left out.
    """
    found = []
    for layer, entry in statistics["layer_statistics"].items():
        for gate in gates:
            if gate.off not in (0.0, None):
                continue
            largest = max(abs(entry[f"{gate.kind}_min"]), abs(entry[f"{gate.kind}_max"]))
            if largest < NEVER_FIRED:
                found.append({"layer": int(layer), "kind": gate.kind, "largest_magnitude": largest})
    return found
