"""What a sweep says beyond its effects.

Do layers stand in for each other, is wrong audio worse than none, and does the score tell what is right?
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qd_detr.gates.analysis.effects import POINTS, ScoredSweep
from qd_detr.gates.analysis.flips import THRESHOLDS
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, false_discovery, paired_bootstrap
from qd_detr.gates.analysis.verdicts import controlled
from qd_detr.gates.gating import ATTENTION
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, audio_name, off_name
from qd_detr.gates.runs.interventions.edits import BASELINE


def layer_interactions(
    sweep: ScoredSweep, seed: int, *, draws: int = DRAWS, level: float = LEVEL
) -> dict[str, Any] | None:
    """Return what all attention gates off costs beyond the sum of each layer's alone.

    Above 0 layers stand in for each other, below 0 one is of use only with another. None without labels, with a
    single layer, or where a layer was not switched off alone.

    Returns:
        {"layers", "metrics": {metric: {"together", "sum" (percent points), "interaction" (an interval: together minus
        sum), "adjusted_p", "significant"}}}
    """
    layers = 0
    while sweep.run.has(off_name(layers, ATTENTION.kind)):
        layers += 1
    if layers < 2 or not sweep.scored or not sweep.run.has(ATTENTION_OFF):
        return None
    before, all_off = sweep.of(BASELINE).columns, sweep.of(ATTENTION_OFF).columns
    each = [sweep.of(off_name(layer, ATTENTION.kind)).columns for layer in range(layers)]
    together = np.stack([before[metric] - all_off[metric] for metric in sweep.metrics], axis=1)
    alone = np.stack([sum(before[metric] - one[metric] for one in each) for metric in sweep.metrics], axis=1)
    limit = (layers + 1) * POINTS[1]
    intervals = paired_bootstrap(
        together - alone,
        sweep.labelled_clusters,
        seed=seed,
        draws=draws,
        level=level,
        bounds=[(-limit, limit)] * len(sweep.metrics),
    )
    control = false_discovery([interval["p"] for interval in intervals])
    return {
        "layers": layers,
        "metrics": {
            metric: {
                "together": float(together[:, i].mean()),
                "sum": float(alone[:, i].mean()),
                "interaction": intervals[i],
                "adjusted_p": control["adjusted"][i],
                "significant": control["significant"][i],
            }
            for i, metric in enumerate(sweep.metrics)
        },
    }


WRONG_AUDIO = ("shuffle", "shift", "mean")
"""The modes of `--audio` in which the model hears something that is not what its video sounds like."""


def wrong_audio(sweep: ScoredSweep, seed: int, *, draws: int = DRAWS, level: float = LEVEL) -> list[dict[str, Any]]:
    """Return what audio that is not the clip's own is worth beside no audio at all, on the primary metric.

    Returns:
        Per mode that was run and way to be without audio {"mode", "without", "metric", "difference" (an interval,
        percent points: with that audio minus without any), "adjusted_p", "significant"}; [] without labels. The last
        two are Benjamini-Hochberg's over these records; a difference that stands has an interval without 0, too.
    """
    metric = sweep.primary
    modes = [mode for mode in WRONG_AUDIO if sweep.run.has(audio_name(mode))]
    keys = [(mode, without) for mode in modes for without in sweep.contrasts]
    if metric is None or not keys:
        return []
    scores = {name: sweep.of(name).columns[metric] for name in (*map(audio_name, modes), *sweep.contrasts.values())}
    table = np.stack([scores[audio_name(mode)] - scores[sweep.contrasts[without]] for mode, without in keys], axis=1)
    bounds = [POINTS] * len(keys)
    intervals = paired_bootstrap(table, sweep.labelled_clusters, seed=seed, draws=draws, level=level, bounds=bounds)
    control = controlled(intervals)
    records = []
    for i, (mode, without) in enumerate(keys):
        low, high, decided = intervals[i]["low"], intervals[i]["high"], control["significant"][i]
        agree = low is not None and high is not None and (low > 0 or high < 0)
        records.append(
            {
                "mode": mode,
                "without": without,
                "metric": metric,
                "difference": intervals[i],
                "adjusted_p": control["adjusted"][i],
                "significant": None if decided is None else decided and agree,
            }
        )
    return records


def calibration(sweep: ScoredSweep, seed: int, *, draws: int = DRAWS, level: float = LEVEL) -> list[dict[str, Any]]:
    """Return the mean score of the first window beside how often that window is right.

    Returns:
        For the baseline and each contrast {"condition", "threshold", "mean_score", "right" (percent), "overconfidence"
        (an interval, percent points: score minus right)}; [] where windows are not judged or a score is no
        probability.
    """
    shown = {name: metric for name, metric in THRESHOLDS.items() if metric in sweep.metrics}
    names = dict.fromkeys([BASELINE, *(sweep.run.run_name(name) for name in sweep.contrasts.values())])
    rows = []
    for name in names if shown else ():
        kept = [line for line, has in zip(sweep.run.lines[name], sweep.labelled, strict=True) if has]
        firsts = [line["pred_relevant_windows"][:1] for line in kept]
        scores = np.array([100.0 * first[0][2] if len(first) else 0.0 for first in firsts])
        if (scores < 0).any() or (scores > 100).any():
            return []
        rows += [(name, threshold, scores, sweep.of(name).columns[metric]) for threshold, metric in shown.items()]
    if not rows:
        return []
    table = np.stack([scores - right for _, _, scores, right in rows], axis=1)
    bounds = [POINTS] * len(rows)
    intervals = paired_bootstrap(table, sweep.labelled_clusters, seed=seed, draws=draws, level=level, bounds=bounds)
    return [
        {
            "condition": name,
            "threshold": threshold,
            "mean_score": float(scores.mean()),
            "right": float(right.mean()),
            "overconfidence": interval,
        }
        for (name, threshold, scores, right), interval in zip(rows, intervals, strict=True)
    ]
