"""The audio timeline of a run: made, summarised, and put into its tree."""

from __future__ import annotations

from typing import Any

import numpy as np

from qd_detr.gates.analysis.timeline import contribution_arrays, timeline_columns, timeline_section
from qd_detr.gates.command_line import progress
from qd_detr.gates.commands.analyse.request import PreparedRun
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.runs.timeline import EXPECTED_FORWARDS, TimelineSettings, run_timeline
from qd_detr.gates.tracking.entries import SampleId


def add_timeline(prepared: PreparedRun, findings: RunFindings, tree: ResultsTree) -> dict[str, dict[SampleId, Any]]:
    """Run the timeline of every sample asked for; return its columns for samples.csv.

    The contributions themselves go to `timeline.npz`; the section "timeline" and the findings hold the rest.
    """
    request = prepared.request
    what = f"timeline, about {EXPECTED_FORWARDS} forwards a sample"
    with progress(len(prepared.wanted), what, "sample", quiet=request.quiet) as advance:
        settings = TimelineSettings(seed=request.seed, progress=advance)
        timelines = list(run_timeline(prepared.model, prepared.samples, prepared.wanted, findings.history, settings))
    clip_length_s = float(prepared.settings.options["clip_length"])
    section = timeline_section(timelines, clip_length_s, request.seed)
    findings.sections["timeline"] = section
    findings.contributions = {one.query.qid: one.targets["prediction"].values for one in timelines}
    np.savez(tree.path("timeline.npz"), **contribution_arrays(timelines))  # type: ignore[arg-type]
    return timeline_columns(section)
