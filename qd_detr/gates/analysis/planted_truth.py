"""Does the analysis find what was planted? Share, injection and the raw audio against the truth of a planted dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.ranks import average_ranks
from qd_detr.gates.analysis.statistics import SampleRow
from qd_detr.gates.gating import ATTENTION


def auc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Return the probability that a positive scores above a negative, ties counting half; None without either."""
    mask = np.asarray(positive, bool)
    n_positive, n_negative = int(mask.sum()), int((~mask).sum())
    if not n_positive or not n_negative:
        return None
    ranks = average_ranks(np.asarray(scores, float))
    return float((ranks[mask].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def planted_findings(
    rows: Sequence[SampleRow],
    kinds: Mapping[Any, str],
    shares: Mapping[Any, float | None] | None,
    audio: Mapping[Any, NDArray[np.floating]],
    useful: str = "useful",
) -> dict[str, Any]:
    """Return how well the audio's share of the prediction, and other readings, separate videos worth listening to.

    Args:
        rows: of the analysis. kinds: what each sample's audio was planted as.
        shares: the audio's share of each sample's prediction, None where it hardly moves; None if not computed.
        audio: per sample its audio features (A,), means over clips.

    Returns:
        {"n", "share_n", "share_auc", "auc" (of the attention injection, mean over layers), "raw_audio_auc" (of
        `audio` itself, see `raw_audio_scores`), each of `useful` against the rest, None without both kinds or
        what it is computed from, "kinds": {kind: {"n", "share", "injection"}}}, means
    """
    known = [row for row in rows if row.sample_id in kinds and row.gates[ATTENTION.kind][0].injection_mean is not None]
    injection = [float(np.mean([gate.injection_mean for gate in row.gates[ATTENTION.kind]])) for row in known]
    share = [None if shares is None else shares.get(row.sample_id) for row in known]
    of = [kinds[row.sample_id] for row in known]
    moved = [i for i, value in enumerate(share) if value is not None]
    positive = np.array([kind == useful for kind in of], dtype=bool)
    raw = raw_audio_scores(np.array([audio[row.sample_id] for row in known], dtype=np.float64), positive)
    table: dict[str, Any] = {}
    for kind in dict.fromkeys(of):
        mine = [i for i, other in enumerate(of) if other == kind]
        given = [value for i in mine if (value := share[i]) is not None]
        table[kind] = {
            "n": len(mine),
            "share": float(np.mean(given)) if given else None,
            "injection": float(np.mean([injection[i] for i in mine])),
        }
    return {
        "n": len(known),
        "share_n": len(moved),
        "share_auc": auc([share[i] or 0.0 for i in moved], [of[i] == useful for i in moved]),
        "auc": auc(injection, positive.tolist()),
        "raw_audio_auc": None if raw is None else auc(raw.tolist(), positive.tolist()),
        "kinds": table,
    }


def raw_audio_scores(features: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """Return how much each sample's audio (N, A) is like that of the others of its kind: what can be told without a model.

    A sample's score (N,) is its projection on the difference of the two kinds' means, which are those of all other
    samples. None with fewer than two samples of a kind.
    """
    counts = np.array([positive.sum(), (~positive).sum()])
    if counts.min() < 2:
        return None
    sums = np.stack([features[positive].sum(axis=0), features[~positive].sum(axis=0)])  # (2, A)
    scores = np.empty(len(features))
    for i, own in enumerate(features):
        mine = 0 if positive[i] else 1
        without = np.arange(2)[:, None] == mine
        means = (sums - np.where(without, own, 0.0)) / (counts[:, None] - without)
        direction = means[0] - means[1]
        scores[i] = (own - means.mean(axis=0)) @ direction
    return scores
