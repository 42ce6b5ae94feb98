"""The audio timeline of a run, summarised and put into its tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qd_detr.gates.analysis.timeline import contribution_arrays, timeline_columns, timeline_section
from qd_detr.gates.commands.analyse.request import PreparedRun
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.runs.timeline import SampleTimeline
from qd_detr.gates.tracking.entries import SampleId


def add_timeline(
    prepared: PreparedRun, findings: RunFindings, tree: ResultsTree, timelines: Sequence[SampleTimeline]
) -> dict[str, dict[SampleId, Any]]:
    """Add the timelines of the samples asked for to the findings; return their columns for samples.csv.

    The contributions themselves go to `timeline.npz`; the section "timeline" and the findings hold the rest.
    """
    clip_length_s = float(prepared.settings.options["clip_length"])
    section = timeline_section(timelines, clip_length_s, prepared.request.seed)
    findings.sections["timeline"] = section
    findings.contributions = {one.query.qid: one.targets["prediction"].values for one in timelines}
    np.savez(tree.path("timeline.npz"), **contribution_arrays(timelines))  # type: ignore[arg-type]
    return timeline_columns(section)
