"""Queries that change hands: right with the audio and wrong without it, or the other way round."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.effects import ScoredSweep, without_test
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, paired_bootstrap
from qd_detr.gates.runs.interventions.edits import BASELINE

Array = NDArray[np.float64]

THRESHOLDS = {"R1@0.5": "MR-full-R1@0.5", "R1@0.7": "MR-full-R1@0.7"}
_IN_NAMES = {"R1@0.5": "R1_50", "R1@0.7": "R1_70"}


def flip_columns(sweep: ScoredSweep) -> dict[str, Array]:
    """Return {"audio_flip_R1_50_{contrast}": (n,), "audio_flip_R1_70_..."}: 1 rescued by the audio, -1 harmed, 0 unmoved."""
    return {
        f"audio_flip_{_IN_NAMES[shown]}_{contrast}": np.sign(sweep.effect(contrast, metric))
        for contrast in sweep.contrasts
        for shown, metric in THRESHOLDS.items()
        if metric in sweep.metrics
    }


def flips(sweep: ScoredSweep, seed: int, *, draws: int = DRAWS, level: float = LEVEL) -> list[dict[str, Any]]:
    """Return how many queries the audio rescues and harms, the net of which is the effect on R1.

    Returns:
        Per contrast and threshold {"without", "threshold" ("R1@0.5", "R1@0.7"), "rescued", "harmed", "unmoved_right",
        "unmoved_wrong": {"count", "share" (an interval, percent of the labelled queries)}}.
    """
    keys = [
        (contrast, shown, metric)
        for contrast in sweep.contrasts
        for shown, metric in THRESHOLDS.items()
        if metric in sweep.metrics
    ]
    columns: list[tuple[int, str, NDArray[np.bool_]]] = []
    for place, (contrast, _, metric) in enumerate(keys):
        with_audio = sweep.of(BASELINE).columns[metric] > 0
        without = sweep.of(sweep.contrasts[contrast]).columns[metric] > 0
        columns += [
            (place, "rescued", with_audio & ~without),
            (place, "harmed", ~with_audio & without),
            (place, "unmoved_right", with_audio & without),
            (place, "unmoved_wrong", ~with_audio & ~without),
        ]
    if not columns:
        return []
    table = 100.0 * np.stack([column for _, _, column in columns], axis=1)
    bounds = [(0.0, 100.0)] * len(columns)
    shares = paired_bootstrap(table, sweep.labelled_clusters, seed=seed, draws=draws, level=level, bounds=bounds)
    records: list[dict[str, Any]] = [{"without": contrast, "threshold": shown} for contrast, shown, _ in keys]
    for (place, name, column), share in zip(columns, shares, strict=True):
        records[place][name] = {"count": int(column.sum()), "share": without_test(share)}
    return records
