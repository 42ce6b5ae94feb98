"""Videos in two groups, open and closed to the audio, and the effect within each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.effects import ScoredSweep
from qd_detr.gates.analysis.gate_relations import gate_figures_of_queries
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, contrast_bootstrap, ratio_bootstrap
from qd_detr.gates.analysis.two_groups import BOUND, two_groups
from qd_detr.gates.analysis.verdicts import MARGIN_POINTS, controlled, verdict_of
from qd_detr.gates.tracking.entries import SampleId

Array = NDArray[np.float64]


def group_effects(
    sweep: ScoredSweep,
    shares: Mapping[SampleId, float | None] | None,
    seed: int,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    margin: float = MARGIN_POINTS,
) -> list[dict[str, Any]]:
    """Return whether videos fall into two groups, and what the audio is worth in each.

    Args:
        sweep: the scores.
        shares: per qid the audio's share of the prediction, None where it hardly moves; None if not computed.
        seed: of the resampling. draws, level: likewise.
        margin: of the verdicts.

    Returns:
        For the mean magnitude of a video's attention gates, then for its audio share where given {"of" ("gates",
        "audio_share"), "n_videos", "statistic", "bound" (see `two_groups`), "threshold" (None: one group), "open",
        "closed" (None with one group)}. A group is {"vids", "n_queries", "mean" (of what it is told by), "effects"},
        its effects, per contrast on the primary metric, {"without", "metric", "effect" (an interval), "difference" (an
        interval: the effect in this group minus that in all other queries), "adjusted_p" (of the effect, over groups
        and contrasts), "verdict"}.
    """
    told: dict[str, Array] = {}
    if sweep.run.gates:
        told["gates"] = gate_figures_of_queries(sweep.run)["magnitude"]
    if shares is not None:
        known = [shares.get(query.qid) for query in sweep.run.queries]
        told["audio_share"] = np.array([np.nan if one is None else one for one in known], dtype=np.float64)
    found = []
    for of, values in told.items():
        of_video = _per_video(sweep, values)
        groups = two_groups(list(of_video.values()))
        record: dict[str, Any] = {"of": of, "n_videos": len(of_video), "statistic": groups.statistic, "bound": BOUND}
        record |= {"threshold": groups.threshold, "open": None, "closed": None}
        if groups.threshold is not None:
            cut = groups.threshold
            sides = {
                "open": {vid: value for vid, value in of_video.items() if value > cut},
                "closed": {vid: value for vid, value in of_video.items() if value <= cut},
            }
            record |= _sides(sweep, sides, {"seed": seed, "draws": draws, "level": level}, margin)
        found.append(record)
    return found


def _per_video(sweep: ScoredSweep, values: Array) -> dict[str, float]:
    """Return the mean over a video's queries that have a value."""
    of_video: dict[str, list[float]] = {}
    for query, value in zip(sweep.run.queries, values.tolist(), strict=True):
        if not np.isnan(value):
            of_video.setdefault(query.vid, []).append(value)
    return {vid: float(np.mean(mine)) for vid, mine in of_video.items()}


def _sides(
    sweep: ScoredSweep, sides: Mapping[str, Mapping[str, float]], settings: dict[str, Any], margin: float
) -> dict[str, Any]:
    records: dict[str, Any] = {
        side: {
            "vids": list(videos),
            "n_queries": sum(query.vid in videos for query in sweep.run.queries),
            "mean": float(np.mean(list(videos.values()))),
            "effects": [],
        }
        for side, videos in sides.items()
    }
    metric = sweep.primary
    if metric is None or not sweep.contrasts:
        return records
    keys = [(side, contrast) for side in sides for contrast in sweep.contrasts]
    masks = np.stack([[query.vid in sides[side] for query in sweep.labelled_queries] for side, _ in keys], axis=1)
    effects = np.stack([sweep.effect(contrast, metric) for _, contrast in keys], axis=1)
    clusters = sweep.labelled_clusters
    inside = ratio_bootstrap(np.where(masks, effects, 0.0), masks.astype(np.float64), clusters, **settings)
    apart = contrast_bootstrap(effects, masks, clusters, **settings)
    control = controlled(inside)
    for i, (side, contrast) in enumerate(keys):
        adjusted = control["adjusted"][i]
        records[side]["effects"].append(
            {
                "without": contrast,
                "metric": metric,
                "effect": inside[i],
                "difference": apart[i],
                "adjusted_p": adjusted,
                "verdict": verdict_of(inside[i], margin=margin, adjusted_p=adjusted),
            }
        )
    return records


def telling_groups(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the record of `group_effects` to speak of: the last that has two groups; None if none has."""
    return next((record for record in reversed(records) if record["threshold"] is not None), None)


def groups_of_videos(record: dict[str, Any] | None) -> dict[str, str]:
    """Return {vid: "open" or "closed"} of a record with two groups; {} of none."""
    return {} if record is None else {vid: side for side in ("open", "closed") for vid in record[side]["vids"]}
