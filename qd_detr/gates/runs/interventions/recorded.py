"""Gates as a run without interventions recorded them, for the edits that put them in the place of others.

Letters: n clips of a sample, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.runs.interventions.partners import other_videos
from qd_detr.gates.runs.interventions.plans import Site
from qd_detr.gates.tracking.entries import SampleGates, SampleId


class RecordedGates:
    """Looks up what "mean" over the data set and "swap" need.

    The gates of a fusion depend on video and audio, not on the sentence, so a sample is given the gates of another
    *video*: of that video's first sample.

    Args:
        history: recorded gates by qid, one sample an entry.
        queries: the samples that are analysed; the data set of means and exchanges.

    Raises:
        KeyError: the gates of one of them were not recorded.
    """

    def __init__(self, history: Mapping[SampleId, SampleGates], queries: Sequence[Query]) -> None:
        self._history = history
        self._queries = list(queries)
        self._first_qid: dict[str, SampleId] = {}
        for query in self._queries:
            if query.qid not in history:
                raise KeyError(
                    f"no gates of sample {query.qid!r} were recorded; record a run without interventions first"
                )
            self._first_qid.setdefault(query.vid, query.qid)
        self._means: dict[Site, NDArray[np.float32]] = {}
        self._partners: dict[int, dict[str, str]] = {}

    def mean(self, site: Site) -> NDArray[np.float32]:
        """Return a gate's mean over the real clips of all samples, (1, C)."""
        if not self._means:
            self._means = self._all_means()
        return self._means[site]

    def swapped(self, vid: str, seed: int, site: Site) -> NDArray[np.float32]:
        """Return a gate of the sample that stands in for those of video `vid`, (n, C), or (1, C) if global."""
        if seed not in self._partners:
            self._partners[seed] = other_videos(list(self._first_qid), seed)
        layer_idx, kind = site
        return self._history[self._first_qid[self._partners[seed][vid]]].values_of(kind, layer_idx)

    def _all_means(self) -> dict[Site, NDArray[np.float32]]:
        sums: dict[Site, NDArray[np.float64]] = {}
        counts: dict[Site, int] = {}
        for query in self._queries:
            entry = self._history[query.qid]
            for kind in entry.gates:
                for layer_idx in range(entry.n_layers):
                    values = entry.values_of(kind, layer_idx)
                    site = (layer_idx, kind)
                    sums[site] = sums.get(site, 0.0) + values.sum(axis=0, dtype=np.float64, keepdims=True)
                    counts[site] = counts.get(site, 0) + len(values)
        return {site: (total / counts[site]).astype(np.float32) for site, total in sums.items()}
