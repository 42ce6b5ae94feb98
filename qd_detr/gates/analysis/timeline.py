"""What the audio timelines of a run say: effects, completeness, when, and whether the order of clips can be trusted.

Letters: N samples, A fusion layers, n clips of a sample, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.alignment import MomentAlignment, SeriesKey, clips_inside
from qd_detr.gates.analysis.ranks import average_ranks
from qd_detr.gates.analysis.resampling import paired_bootstrap
from qd_detr.gates.data.video_names import source_video
from qd_detr.gates.runs.contributions import ABSOLUTE_BOUND, MOST_STEPS, RELATIVE_BOUND, Contributions
from qd_detr.gates.runs.timeline import (
    EXPECTED_FORWARDS,
    FRACTIONS,
    OCCLUDED_CLIPS,
    SampleTimeline,
    occluding_windows,
)
from qd_detr.gates.tracking.entries import SampleId
from qd_detr.gates.wording import Reason

TARGETS = ("prediction", "annotation")
LEAST_SIZE = 0.01

Array = NDArray[np.float64]


def by_clip(found: Contributions) -> Array:
    """Return the contributions of each clip, summed over layers, (n,)."""
    return found.values.sum(axis=0)


def share_inside(found: Contributions, inside: NDArray[np.bool_]) -> float | None:
    """Return the share of |C| that lies in the clips `inside` (n,); None where nothing contributes."""
    size = np.abs(found.values).sum(axis=0)
    return float(size[inside].sum() / size.sum()) if size.sum() > 0 else None


def peak_s(found: Contributions, clip_length_s: float) -> float:
    """Return the second at which the clip of the largest contribution begins (the first of equals)."""
    return float(np.argmax(by_clip(found)) * clip_length_s)


def timeline_section(timelines: Sequence[SampleTimeline], clip_length_s: float, seed: int) -> dict[str, Any]:
    """Return the section "timeline", JSON-ready; its keys are those of timeline.json in docs/schemas.md."""
    return {
        "bound": {"absolute": ABSOLUTE_BOUND, "relative": RELATIVE_BOUND, "most_steps": MOST_STEPS},
        "cost": {
            "expected_forwards": EXPECTED_FORWARDS,
            "forwards": float(np.mean([one.forwards for one in timelines])),
        },
        "targets": {
            name: _target(timelines, name, seed) for name in TARGETS if any(name in t.targets for t in timelines)
        },
        "moments": _moments(timelines, clip_length_s, seed),
        "faithfulness": _faithfulness(timelines, seed),
        "occlusion": _occlusion(timelines),
        "samples": [_record(one, clip_length_s) for one in timelines],
    }


def _clusters(timelines: Sequence[SampleTimeline]) -> list[str]:
    return [source_video(one.query.vid) for one in timelines]


def _target(timelines: Sequence[SampleTimeline], name: str, seed: int) -> dict[str, Any]:
    given = [one for one in timelines if name in one.targets]
    found = [one.targets[name] for one in given]
    (effect,) = paired_bootstrap([one.effect for one in found], _clusters(given), seed=seed)
    return {
        "n": len(found),
        "n_complete": sum(one.complete for one in found),
        "effect": effect,
        "mean_size": float(np.mean([abs(one.effect) for one in found])),
        "mean_residual": float(np.mean([abs(one.residual) for one in found])),
        "largest_residual": float(max(abs(one.residual) for one in found)),
        "nodes": float(np.mean([one.nodes for one in found])),
    }


def _moments(timelines: Sequence[SampleTimeline], clip_length_s: float, seed: int) -> dict[str, Any]:
    """Return how contributions lie about the annotated windows, against circular shifts of themselves.

    Every sample weighs the same: its series is divided by its mean |C|. Samples whose |C| sum to less than `LEAST_SIZE`
    are left out and counted; shares of next to nothing say nothing.
    """
    # Contributions have a clip axis whatever the gates have.
    alignment = MomentAlignment(clip_length_s, "clipwise")
    shares, expected, too_small = [], [], 0
    for one in timelines:
        found, query = one.targets["prediction"], one.query
        size = np.abs(found.values).sum(axis=0)
        if not query.relevant_windows:
            continue
        if size.sum() < LEAST_SIZE:
            too_small += 1
            continue
        inside = clips_inside(query.relevant_windows, len(size), clip_length_s)
        shares.append(size[inside].sum() / size.sum())
        expected.append(inside.mean())
        series = {"contribution": by_clip(found) / size.mean(), "size": size / size.mean()}
        alignment.add(
            str(query.qid),
            query.vid,
            {SeriesKey(0, "attention", name): values for name, values in series.items()},
            windows_s=query.relevant_windows,
        )
    if not shares:
        return {"applies": False, "reason": Reason("timeline.no_moments")}
    readout = alignment.readout(seed)
    return {
        "applies": True,
        "n": len(shares),
        "n_too_small": too_small,
        "least_size": LEAST_SIZE,
        "share_inside": float(np.mean(shares)),
        "share_of_clips": float(np.mean(expected)),
        "draws": readout["draws"],
        **{record["series"]: record["inside_minus_outside"] for record in readout["annotation"]["series"]},
    }


def _faithfulness(timelines: Sequence[SampleTimeline], seed: int) -> dict[str, Any] | None:
    """Return the mean curve of F per order, the area under it, and by how much the other orders' areas are larger."""
    orders = list(timelines[0].curves)
    if not orders:
        return None
    curves = np.array([[one.curves[order] for order in orders] for one in timelines])  # (N, orders, P)
    areas = np.trapezoid(curves, FRACTIONS, axis=-1)  # (N, orders)
    clusters = _clusters(timelines)
    intervals = paired_bootstrap(areas, clusters, seed=seed)
    first = orders.index("contributions")
    others = [order for order in orders if order != "contributions"]
    more = areas[:, [orders.index(order) for order in others]] - areas[:, [first]]
    return {
        "fractions": list(FRACTIONS),
        "orders": {
            order: {"curve": curves[:, i].mean(axis=0).tolist(), "area": intervals[i]} for i, order in enumerate(orders)
        },
        "advantage": dict(zip(others, paired_bootstrap(more, clusters, seed=seed), strict=True)),
    }


def _occlusion(timelines: Sequence[SampleTimeline]) -> dict[str, Any] | None:
    """Return Spearman's correlation, within samples, of occlusion with the contributions of the same clips."""
    correlations = []
    for one in timelines:
        if one.occlusion is not None:
            summed = occluding_windows(len(one.occlusion)) @ by_clip(one.targets["prediction"])
            correlations.append(_spearman(one.occlusion, summed))
    known = [value for value in correlations if value is not None]
    if not known:
        return None
    return {
        "clips": OCCLUDED_CLIPS,
        "n": len(known),
        "mean": float(np.mean(known)),
        "median": float(np.median(known)),
        "lowest": float(min(known)),
    }


def _spearman(a: Array, b: Array) -> float | None:
    ranks = [average_ranks(one) - (len(one) + 1) / 2 for one in (a, b)]
    size = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float(ranks[0] @ ranks[1] / size) if size > 0 else None


def _record(one: SampleTimeline, clip_length_s: float) -> dict[str, Any]:
    found, query = one.targets["prediction"], one.query
    n = found.values.shape[1]
    inside = clips_inside(query.relevant_windows, n, clip_length_s) if query.relevant_windows else None
    return {
        "qid": query.qid,
        "n_clips": n,
        "share_inside": None if inside is None else share_inside(found, inside),
        "peak_s": peak_s(found, clip_length_s),
        "targets": {
            name: {
                "effect": target.effect,
                "with_audio": target.with_audio,
                "without_audio": target.without_audio,
                "residual": target.residual,
                "complete": target.complete,
                "nodes": target.nodes,
                "layers": target.values.sum(axis=1).tolist(),
            }
            for name, target in one.targets.items()
        },
    }


def timeline_columns(section: dict[str, Any]) -> dict[str, dict[SampleId, Any]]:
    """Return columns for samples.csv from the section."""
    samples: Sequence[dict[str, Any]] = section["samples"]
    columns: dict[str, dict[SampleId, Any]] = {
        "timeline_effect": {one["qid"]: one["targets"]["prediction"]["effect"] for one in samples},
        "timeline_share_inside": {one["qid"]: one["share_inside"] for one in samples},
        "timeline_peak_s": {one["qid"]: one["peak_s"] for one in samples},
        "timeline_complete": {one["qid"]: int(all(t["complete"] for t in one["targets"].values())) for one in samples},
    }
    if "annotation" in section["targets"]:
        given = [one for one in samples if "annotation" in one["targets"]]
        columns["timeline_effect_annotation"] = {one["qid"]: one["targets"]["annotation"]["effect"] for one in given}
    return columns


def contribution_arrays(timelines: Sequence[SampleTimeline]) -> dict[str, NDArray[Any]]:
    """Return what timeline.npz holds: the ids, where each sample begins, and C (A, all clips) per target as float32."""
    counts = [one.targets["prediction"].values.shape[1] for one in timelines]
    arrays: dict[str, NDArray[Any]] = {
        "qids": np.array([str(one.query.qid) for one in timelines]),
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
    }
    for name in TARGETS:
        if any(name in one.targets for one in timelines):
            arrays[name] = np.concatenate(
                [
                    one.targets[name].values
                    if name in one.targets
                    else np.full_like(one.targets["prediction"].values, np.nan)
                    for one in timelines
                ],
                axis=1,
            ).astype(np.float32)
    return arrays
