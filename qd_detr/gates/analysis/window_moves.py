"""When, from the predictions: which clips come into the first window through the audio, and which leave it?

A clip is gained where the first window holds it with the audio and not without, lost the other way round. If the audio
points at the moments, more of what is gained lies inside them than of what is lost. No gate is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qd_detr.gates.analysis.alignment import clips_inside
from qd_detr.gates.analysis.effects import ScoredSweep
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, contrast_bootstrap
from qd_detr.gates.runs.interventions.edits import BASELINE


def window_moves(
    sweep: ScoredSweep, clip_length_s: float, seed: int, *, draws: int = DRAWS, level: float = LEVEL
) -> dict[str, Any] | None:
    """Return where the clips lie that the audio brings into the first window and takes out of it.

    Returns:
        For the primary contrast {"without", "n" (labelled queries), "n_moved" (those whose first window gains or loses
        a clip), "inside" (percent of all clips that lie inside annotated windows), "gained", "lost": {"seconds",
        "inside" (percent of them that lie inside annotated windows)}, "difference" (an interval, percent
        points: of the gained minus of the lost; its n counts clips)}. None without labels or a way to be without
        audio, where a sample has no annotated windows, where annotated windows hold every clip or none, and where no
        clip is gained or none lost.
    """
    queries = sweep.labelled_queries
    if not sweep.scored or not sweep.contrasts or any(query.relevant_windows is None for query in queries):
        return None
    without = next(iter(sweep.contrasts))
    lines = [sweep.run.lines_of(name) for name in (BASELINE, sweep.contrasts[without])]
    truths, gains, losses, clusters = [], [], [], []
    for position, cluster in zip(np.flatnonzero(sweep.labelled).tolist(), sweep.labelled_clusters, strict=True):
        n_clips = len(lines[0][position]["pred_saliency_scores"])
        held = [clips_inside(one[position]["pred_relevant_windows"][:1], n_clips, clip_length_s) for one in lines]
        truths.append(clips_inside(sweep.run.queries[position].relevant_windows or (), n_clips, clip_length_s))
        gains.append(held[0] & ~held[1])
        losses.append(held[1] & ~held[0])
        clusters += [cluster] * n_clips
    truth, gained, lost = (np.concatenate(one) for one in (truths, gains, losses))
    if truth.all() or not truth.any() or not gained.any() or not lost.any():
        return None
    moved = gained | lost
    (difference,) = contrast_bootstrap(
        100.0 * truth[moved],
        gained[moved],
        [cluster for cluster, one in zip(clusters, moved, strict=True) if one],
        seed=seed,
        draws=draws,
        level=level,
    )
    # Shares of time cannot differ by more than this, which a t interval does not know.
    if difference["low"] is not None and difference["high"] is not None:
        difference = difference | {"low": max(-100.0, difference["low"]), "high": min(100.0, difference["high"])}
    return {
        "without": without,
        "n": len(queries),
        "n_moved": sum(bool((gain | loss).any()) for gain, loss in zip(gains, losses, strict=True)),
        "inside": 100.0 * float(truth.mean()),
        **{
            name: {"seconds": clip_length_s * int(clips.sum()), "inside": 100.0 * float(truth[clips].mean())}
            for name, clips in (("gained", gained), ("lost", lost))
        },
        "difference": difference,
    }
