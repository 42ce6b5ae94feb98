"""What a sweep found, as plain arrays: predictions per condition and how far the gates moved.

Letters: N samples, layers, K kinds of gate in the order of `FusionFacts.kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.runs.interventions.conditions import Condition
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.runs.postprocess import RawPrediction

GATES_RECORDED = "after"  # gates stand in results as the forward used them, after the intervention on them

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GateFigures:
    """Gates under one condition, means over a sample's clips (and channels), each (N, layers, K).

    Attributes:
        magnitude: mean |g|, after the intervention. change: mean |g - g of the baseline|.
        injection: mean of what a gate lets through; injection_change: mean |injection - that of the baseline|. None
            where it was not measured. Clips whose injection is infinite in either are left out of the mean.
    """

    magnitude: Array
    change: Array
    injection: Array | None = None
    injection_change: Array | None = None


@dataclass(frozen=True, eq=False)
class SweepRun:
    """Predictions and gates of every condition for the same samples.

    Attributes:
        queries: the N samples, in annotation order, with their positions in the index.
        conditions: as asked for, the baseline first.
        same_as: for each condition that was not run because it comes to the same as another, that other's name.
        lines: per condition that was run, N predictions in the order of `queries`: qid, pred_relevant_windows (P, 3)
            and pred_saliency_scores (n,) as arrays, which `qd_detr.gates.evaluation` takes as it takes lists.
        gates: per condition that was run, but those of `mean_video`. kinds: the kinds of their last axis.
        raw: per condition that was run, the N predictions before postprocessing.
    """

    queries: Sequence[Query]
    positions: Sequence[int]
    conditions: Sequence[Condition]
    same_as: Mapping[str, str]
    lines: Mapping[str, Sequence[Mapping[str, Any]]]
    gates: Mapping[str, GateFigures]
    kinds: tuple[str, ...]
    raw: Mapping[str, Sequence[RawPrediction]] = field(default_factory=dict)

    def of_audio(self) -> SweepRun:
        """Return the run without the conditions of `mean_video`: what is left are effects of gates and audio."""
        return replace(self, conditions=[condition for condition in self.conditions if not condition.mean_video])

    def run_name(self, name: str) -> str:
        """Return the name under which the results of a condition stand."""
        return self.same_as.get(name, name)

    def lines_of(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return a condition's predictions."""
        return self.lines[self.run_name(name)]

    def gates_of(self, name: str) -> GateFigures:
        """Return a condition's gate figures."""
        return self.gates[self.run_name(name)]

    def has(self, name: str) -> bool:
        """Return whether there is a condition of this name."""
        return any(condition.name == name for condition in self.conditions)

    @property
    def baseline(self) -> GateFigures:
        """The gates of the model as it is."""
        return self.gates[BASELINE]


def submission_line(query: Query, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a compact prediction as a line of a QVHighlights submission."""
    return {
        "qid": query.qid,
        "query": query.query,
        "vid": query.vid,
        "pred_relevant_windows": np.asarray(line["pred_relevant_windows"]).tolist(),
        "pred_saliency_scores": np.asarray(line["pred_saliency_scores"], dtype=np.float64).tolist(),
    }


def compact_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a submission line predicts, in a tenth of the memory; nothing is rounded."""
    return {
        "qid": line["qid"],
        "pred_relevant_windows": np.array(line["pred_relevant_windows"], dtype=np.float64).reshape(-1, 3),
        # Submissions hold saliency that was float16; it is kept as such without loss.
        "pred_saliency_scores": np.array(line["pred_saliency_scores"], dtype=np.float16),
    }
