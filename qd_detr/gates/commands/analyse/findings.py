"""What a run adds to the gates' own statistics: alignment with the moments, audits, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from qd_detr.gates.analysis.alignment import MomentAlignment, SeriesKey
from qd_detr.gates.analysis.audit import never_fired, repeated
from qd_detr.gates.evaluation import benchmark_of
from qd_detr.gates.evaluation.scoring import saliency_missing
from qd_detr.gates.gating import FusionFacts
from qd_detr.gates.results.context import RunFindings, SampleContext
from qd_detr.gates.runs.inference import SampleResult
from qd_detr.gates.runs.probes import Probes
from qd_detr.gates.tracking.entries import SampleGates, SampleId
from qd_detr.gates.wording import Reason

Columns = dict[str, dict[SampleId, Any]]


class AlignmentCollector:
    """Takes samples one by one and holds their gate series against annotated and predicted moments."""

    def __init__(self, facts: FusionFacts, clip_length_s: float) -> None:
        self._alignment = MomentAlignment(clip_length_s, facts.gating_type)

    def add(self, context: SampleContext, entry: SampleGates) -> None:
        """Take in a sample: magnitude (mean over channels) and injection of every gate, per clip."""
        if not self._alignment.gating.per_clip or context.query is None:
            return
        series: dict[SeriesKey, np.ndarray] = {}
        for layer in range(entry.n_layers):
            for kind in entry.gates:
                series[SeriesKey(layer, kind, "magnitude")] = np.abs(entry.values_of(kind, layer)).mean(axis=1)
            for kind, injection in entry.injection.items():
                series[SeriesKey(layer, kind, "injection")] = injection[layer][entry.valid_clips]
        query, line = context.query, context.line
        has_saliency = query.has_saliency and query.rater_labels is None
        self._alignment.add(
            str(context.sample_id),
            query.vid,
            series,
            windows_s=query.relevant_windows,
            relevant_clip_ids=query.relevant_clip_ids if has_saliency else None,
            saliency_scores=query.saliency_scores if has_saliency else None,
            predicted_windows_s=None if line is None else [w[:2] for w in line["pred_relevant_windows"][:1]],
            predicted_saliency=None if line is None else line["pred_saliency_scores"],
        )

    def readout(self, seed: int, groups: Mapping[str, str] | None) -> dict[str, Any]:
        """Return the effects with their nulls; see `MomentAlignment.readout`."""
        return self._alignment.readout(seed, groups=groups)


def audit(
    probes: Probes,
    findings: RunFindings,
    results: Sequence[SampleResult],
    *,
    own_values: bool,
    legacy_eval_bsz: int | None,
) -> dict[str, Any]:
    """Return what could mislead a reader of this run, each with its size.

    Args:
        own_values: whether every sample has its own value in this run; not so in legacy batches.
        legacy_eval_bsz: the legacy run's batch size, to measure what its batches would change; None if there was no
            legacy run.
    """
    positions = [result.position for result in results]
    lines = {result.position: result.line for result in results}
    vids = {result.query.qid: result.query.vid for result in results}
    of_video = {vid: next(r for r in results if r.query.vid == vid) for vid in dict.fromkeys(vids.values())}
    section: dict[str, Any] = {
        "checked_data": True,
        "coverage": asdict(probes.samples.coverage),
        "finite": True,  # reading, postprocessing and statistics raise on anything else
        "query_independence": probes.query_independence(positions),
        "repeated_pairs": repeated({r.query.qid: (r.query.vid, r.query.query) for r in results}),
        "identical_video_features": repeated({vid: r.marks[0] for vid, r in of_video.items()}),
        "identical_audio_features": repeated({vid: r.marks[1] for vid, r in of_video.items()}),
        "never_fired": never_fired(findings.analysis.statistics, findings.analysis.facts.gates),
    }
    if own_values and legacy_eval_bsz is not None:
        section["batch_effects"] = probes.batch_effects(lines, legacy_eval_bsz, positions)
    if own_values:
        section["noise_floor"] = probes.noise_floor(lines, positions)
    return section


def add_metrics(findings: RunFindings, options: Mapping[str, Any]) -> Columns:
    """Compute the benchmark's metrics where there are labels; return the per-query columns for samples.csv."""
    queries = [context.query for context in findings.contexts if context.query is not None]
    lines = list(findings.lines or [])
    unlabelled = sum(not query.labelled for query in queries)
    if unlabelled:
        findings.sections["metrics_reason"] = Reason("labels.missing", {"missing": unlabelled, "n": len(queries)})
        return {}
    ids = [query.qid for query in queries]
    scores = benchmark_of(options["dset_name"]).score(lines, queries, float(options["clip_length"]))
    findings.sections["metrics"] = scores.metrics
    unscored = saliency_missing(queries)
    if unscored:
        findings.sections["metrics_reason"] = Reason("labels.no_saliency", {"missing": unscored, "n": len(queries)})
    return {name: dict(zip(ids, array.tolist(), strict=True)) for name, array in scores.per_query.items()}
