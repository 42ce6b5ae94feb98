"""The effect on slices of the queries, each compared with all other queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from qd_detr.gates.analysis.effects import ScoredSweep
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, contrast_bootstrap, false_discovery, ratio_bootstrap
from qd_detr.gates.analysis.slices import Slice, slices
from qd_detr.gates.data.datasets import dataset_of
from qd_detr.gates.wording import Reason


def slices_of(sweep: ScoredSweep, own: Mapping[str, Collection[str]] | None = None) -> dict[str, Slice]:
    """Return the slices that hold a labelled query, by name, each a mask over the n labelled queries.

    Args:
        sweep: the scores.
        own: per name the qids, as text, of a slice of one's own.
    """
    queries = sweep.labelled_queries
    windows = [query.relevant_windows or () for query in queries] if dataset_of(sweep.dset_name).moments else None
    parts = slices(windows, [query.duration_s for query in queries], [query.query for query in queries])
    for name, qids in (own or {}).items():
        parts[name] = Slice(
            Reason("slice.own", {"name": name}), np.array([str(query.qid) in qids for query in queries], dtype=bool)
        )
    return {name: part for name, part in parts.items() if part.mask.any()}


def slice_effects(
    sweep: ScoredSweep,
    seed: int,
    *,
    own: Mapping[str, Collection[str]] | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    rate: float = 0.05,
) -> list[dict[str, Any]]:
    """Return the effect on each slice of the labelled queries, and by how much it differs from that on the others.

    Returns:
        Per slice that holds a query, contrast and metric {"slice", "description", "without", "metric", "n", "effect"
        (an interval, percent points), "difference" (an interval: the effect on the slice minus that on all other
        queries; its n_clusters counts the smaller side), "adjusted_p", "significant"}. The last two speak of the
        difference: Benjamini-Hochberg over all of them, and its interval leaves 0 out. Slices may overlap.
    """
    if not sweep.scored or not sweep.contrasts:
        return []
    parts = slices_of(sweep, own)
    keys = [(name, contrast, metric) for name in parts for contrast in sweep.contrasts for metric in sweep.metrics]
    masks = np.stack([parts[name].mask for name, _, _ in keys], axis=1)  # (n, keys)
    effects = np.stack([sweep.effect(contrast, metric) for _, contrast, metric in keys], axis=1)
    settings = {"seed": seed, "draws": draws, "level": level}
    clusters = sweep.labelled_clusters
    inside = ratio_bootstrap(np.where(masks, effects, 0.0), masks.astype(np.float64), clusters, **settings)  # type: ignore[arg-type]
    differences = contrast_bootstrap(effects, masks, clusters, **settings)  # type: ignore[arg-type]
    control = false_discovery([interval["p"] for interval in differences], rate)
    records = []
    for i, (name, contrast, metric) in enumerate(keys):
        low, high, decided = differences[i]["low"], differences[i]["high"], control["significant"][i]
        agree = low is None or high is None or low > 0 or high < 0
        records.append(
            {
                "slice": name,
                "description": parts[name].description,
                "without": contrast,
                "metric": metric,
                "n": int(masks[:, i].sum()),
                "effect": inside[i],
                "difference": differences[i],
                "adjusted_p": control["adjusted"][i],
                "significant": None if decided is None else decided and agree,
            }
        )
    return records
