"""Small extra runs of the model that check what the analysis would otherwise have to assume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from qd_detr.gates.analysis.audit import gate_distance, prediction_changes, shared_videos
from qd_detr.gates.data.batches import collate
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.inference import PassSettings, run_pass
from qd_detr.gates.runs.postprocess import PostprocessingOptions
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.wording import Reason

# Enough for a share with a useful margin; a whole second pass over a large split would double the run.
MAX_LEGACY_BATCHES = 3
PROBED_SAMPLES = 8
PROBED_VIDEOS = 4


class Probes:
    """The extra runs, over the same data as the run they check."""

    def __init__(
        self, model: QDDETR, samples: Samples, postprocessing: PostprocessingOptions, history: GateHistory
    ) -> None:
        self.model = model
        self.samples = samples
        self.postprocessing = postprocessing
        self.history = history

    def batch_effects(
        self, lines: Mapping[int, Mapping[str, Any]], eval_bsz: int, wanted: Sequence[int]
    ) -> dict[str, Any]:
        """Compare each sample's own value with what the legacy run's batches would have given it.

        lines: this run's predictions by position, made batch-1-like. At most 3 legacy batches are run.
        """
        planned = self.samples.planned(eval_bsz, mixed_lengths=True)
        first = planned.in_batches(planned.batches[:MAX_LEGACY_BATCHES])
        settings = PassSettings(legacy_batches=True, postprocessing=self.postprocessing, track=False)
        legacy: dict[int, dict[str, Any]] = {}
        for results in run_pass(self.model, first, settings):
            legacy |= {result.position: result.line for result in results}
        both = [position for position in sorted(legacy) if position in lines]
        changes = prediction_changes([lines[p] for p in both], [legacy[p] for p in both])
        return {**changes, "eval_bsz": eval_bsz, "of": len(wanted)}

    def noise_floor(self, lines: Mapping[int, Mapping[str, Any]], positions: Sequence[int]) -> dict[str, Any]:
        """Run a few samples alone and return the largest differences to this run: rounding, and nothing else."""
        chosen = _spread(positions, PROBED_SAMPLES)
        settings = PassSettings(postprocessing=self.postprocessing, injection=False)
        gates = 0.0
        alone = []
        for (result,) in run_pass(self.model, self.samples.in_batches([[p] for p in chosen]), settings):
            assert result.gates is not None
            gates = max(gates, gate_distance(result.gates, self.history[result.query.qid]))
            alone.append(result.line)
        changes = prediction_changes([lines[p] for p in chosen], alone)
        return {
            "samples": len(chosen),
            "gates": gates,
            "scores": changes["largest_score_change"],
            "saliency": changes["largest_saliency_change"],
        }

    def query_independence(self, positions: Sequence[int]) -> dict[str, Any]:
        """Check whether gates depend on the query: on queries that share a video, else with another query's text."""
        vids = {self.samples.queries[p].qid: self.samples.queries[p].vid for p in positions}
        # A fusion without text ran once for the queries of a video: only another text can show that it reads none.
        shared = shared_videos(vids) if self.model.fusion_reads_text else {}
        if shared:
            worst = max(
                gate_distance(self.history[ids[0]], self.history[other]) for ids in shared.values() for other in ids[1:]
            )
            return {
                "how": Reason("how.shared"),
                "compared": sum(len(ids) - 1 for ids in shared.values()),
                "videos": len(set(vids.values())),
                "largest_gate_change": worst,
            }
        chosen = _spread(positions, PROBED_VIDEOS)
        if len(chosen) < 2:
            nothing = {"how": Reason("how.one"), "compared": 0, "largest_gate_change": None}
            return {**nothing, "videos": len(set(vids.values()))}
        features = [self.samples.reader.read(self.samples.queries[p]) for p in chosen]
        swapped = GateHistory()
        with self.model.avigate_fusion.recording(swapped.__setitem__, measure=False) as recording:
            for i, position in enumerate(chosen):
                query = self.samples.queries[position]
                recording.set_sample_id([query.qid])
                with torch.inference_mode():
                    self.model(collate([(query, replace(features[i], text=features[i - 1].text))]))
        worst = max(gate_distance(entry, self.history[qid]) for qid, entry in swapped.items())
        return {
            "how": Reason("how.swapped"),
            "compared": len(chosen),
            "videos": len(set(vids.values())),
            "largest_gate_change": worst,
        }


def _spread(positions: Sequence[int], count: int) -> list[int]:
    picks = np.unique(np.linspace(0, len(positions) - 1, min(count, len(positions))).round().astype(int))
    return [positions[i] for i in picks]
