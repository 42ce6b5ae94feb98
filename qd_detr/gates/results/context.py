"""What is known of a sample besides its gates, and what is known of a whole run: plain data for files and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.collect import GateAnalysis
from qd_detr.gates.command_line import progress
from qd_detr.gates.data.annotations import Query
from qd_detr.gates.tracking.entries import SampleId
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.wording import Reason


@dataclass(frozen=True)
class SampleContext:
    """A sample's annotation and prediction, as far as they are known.

    line is the sample's submission line; n_clips its valid clips of clip_length_s seconds each.
    """

    sample_id: SampleId
    query: Query | None = None
    n_clips: int | None = None
    clip_length_s: float = 2.0
    line: dict[str, Any] | None = None


@dataclass(frozen=True)
class OutputOptions:
    """Which files a run writes.

    compare: None for no comparison figure, () for a telling few samples, else ids as text. lang: the report's language.
        top: how many samples are listed at either end of a ranking, 0 for none. rank_by: its column of samples.csv.
    """

    figures: bool = True
    sample_figures: bool = True
    figure_format: str = "png"
    compare: tuple[str, ...] | None = None
    seed: int = 0
    quiet: bool = True
    lang: str = "en"
    explorer: bool = True
    top: int = 0
    rank_by: str | None = None

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        """Show a bar while something is done `total` times; the function yielded takes how many are done."""
        before = 0

        def reached(done: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        with progress(total, what, what.rstrip("s"), quiet=self.quiet) as advance:
            yield reached


@dataclass(frozen=True)
class ConditionWindows:
    """The first window of every sample under one condition, [start, end, score] by id; None where it predicts none.

    same_as names the condition that this one comes to, None if it was run.
    """

    name: str
    same_as: str | None
    first_windows: Mapping[SampleId, list[float] | None]


@dataclass
class RunFindings:
    """Everything computed in a run; figures and report only read it.

    Attributes:
        contexts: one per sample, in annotation order (recording order without annotations).
        conditions: what was run beside the model as it is, the model itself first; empty if nothing was.
        sections: further results by name, JSON-ready: "metrics", "alignment", "audit", ...
        notes: how the run was made; empty for gates recorded by a user's own loop.
        contributions: C (layers, clips) of the audio timeline to each sample's prediction; empty without --timeline.
        extra_figures: (relative path, caption) of figures that a user's own visualizations added.
    """

    analysis: GateAnalysis
    contexts: Sequence[SampleContext]
    history: GateHistory
    names: dict[SampleId, str]
    lines: Sequence[dict[str, Any]] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    contributions: dict[SampleId, NDArray[np.float64]] = field(default_factory=dict)
    conditions: Sequence[ConditionWindows] = ()
    extra_figures: list[tuple[str, Reason | str]] = field(default_factory=list)
