"""Does the analysis find what was planted? Audio injection against the truth of a planted dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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


def planted_findings(rows: Sequence[SampleRow], kinds: Mapping[Any, str], useful: str = "useful") -> dict[str, Any]:
    """Return how well the attention injection (mean over layers) separates videos whose audio is worth listening to.

    Args:
        rows: of the analysis. kinds: what each sample's audio was planted as.

    Returns:
        {"n", "auc" (of `useful` against the rest), "kinds": {kind: {"n", "injection"}}}
    """
    known = [row for row in rows if row.sample_id in kinds and row.gates[ATTENTION.kind][0].injection_mean is not None]
    scores = [float(np.mean([gate.injection_mean for gate in row.gates[ATTENTION.kind]])) for row in known]
    of = [kinds[row.sample_id] for row in known]
    groups = {kind: [s for s, k in zip(scores, of, strict=True) if k == kind] for kind in dict.fromkeys(of)}
    return {
        "n": len(known),
        "auc": auc(scores, [kind == useful for kind in of]),
        "kinds": {kind: {"n": len(values), "injection": float(np.mean(values))} for kind, values in groups.items()},
    }
