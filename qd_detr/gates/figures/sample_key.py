"""What samples' figures have in common: keys of what is shared, and the measures of the page."""

from __future__ import annotations

from dataclasses import dataclass

from qd_detr.gates.figures import style
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.style import FigureScale
from qd_detr.gates.figures.text import printable, wrap
from qd_detr.gates.gating import GatingType, gating_named

SHOWN_PREDICTIONS = 5

MARGIN_IN = 0.12
LEFT_IN, PLOT_IN, SIDE_IN = 0.82, 4.78, 0.08  # y labels, the time axis, the gap before the numbers at the right
TITLE_IN, GAP_IN = 0.23, 0.11
QUERY_PT, QUERY_LINE_IN, QUERY_LINES = 9.5, 0.18, 4


@dataclass(frozen=True)
class LayoutKey:
    """What decides where everything lies; samples with equal keys share a layout."""

    gating_type: str
    n_layers: int
    n_query_lines: int
    truth: bool
    n_predictions: int
    saliency: tuple[bool, bool]
    contributions: bool
    gates: tuple[tuple[str, bool], ...]  # kind, and whether its injection is shown
    saliency_max: float

    @property
    def gating(self) -> GatingType:
        """The type of the gates."""
        return gating_named(self.gating_type)

    @classmethod
    def of(cls, data: SampleData) -> LayoutKey:
        """Give the key of a sample."""
        predictions = data.windows("predicted_windows", 3)
        return cls(
            data.gating_type,
            data.n_layers,
            len(query_lines(data)),
            data.true_windows_s is not None,
            0 if predictions is None else max(1, min(SHOWN_PREDICTIONS, len(predictions))),
            (data.predicted_saliency is not None, data.annotated_saliency is not None),
            data.contributions is not None,
            tuple((kind, kind in data.injection) for kind in data.values),
            data.annotated_saliency_max,
        )


@dataclass(frozen=True)
class StillKey:
    """What stays the same within a layout for samples that share it: the limits of the axes."""

    end_s: float
    injection_max: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, data: SampleData, scale: FigureScale) -> StillKey:
        """Give the axis limits of a sample."""
        return cls(
            data.end_s,
            tuple((kind, scale.injection_top(kind, data.injection.get(kind))) for kind in data.values),
        )


def query_lines(data: SampleData) -> list[str]:
    """Give the query, wrapped to the page; nothing where there is none, an empty line for an empty one."""
    if data.query is None:
        return []
    room = style.PAGE_WIDTH_IN - 0.3
    return wrap(printable(data.query), room, QUERY_PT, "bold", QUERY_LINES) or [""]
