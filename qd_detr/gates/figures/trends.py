"""Figures of lines: `gate_evolution` over epochs, `dose_response` against the gates' strength."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.text import printable, put_text, shorten, text_width_in

FloatArray = NDArray[np.float64]
_LEFT_IN, _RIGHT_IN, _GAP_IN = 0.72, 0.2, 0.3
_LINE_STYLES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
_LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b4c9a", "#4d4d4d")
_DOSE_COLUMNS = 3
_LEGEND_PT = 7.5


@dataclass(frozen=True, eq=False)
class Series:
    """A line with an optional band; NaN leaves a gap.

    Attributes:
        name: What it is; empty for no entry in the legend.
        x: Places on the x axis.
        y: Values.
        low: Lower end of the band (an interval or a spread, as the caption says).
        high: Upper end.
        layer_idx: Set for a layer's line: layers have their colours in every figure.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    layer_idx: int | None = None

    def points(self) -> tuple[FloatArray, FloatArray]:
        """Give x and y as arrays."""
        return np.asarray(self.x, dtype=float), np.asarray(self.y, dtype=float)


@dataclass(frozen=True)
class Mark:
    """A symbol at a point of a layer's line: x, y, a matplotlib marker, the layer whose colour it has."""

    x: float
    y: float
    symbol: str
    layer_idx: int


@dataclass(frozen=True, eq=False)
class Panel:
    """Axes with lines.

    Attributes:
        title: What it shows.
        y_label: Quantity and unit.
        series: The lines.
        y_limits: Ends of the y axis; from the data if None.
        zero_line: Whether 0 is marked.
        marks: Points that stand out; the caption says why.
    """

    title: str
    y_label: str
    series: Sequence[Series]
    y_limits: tuple[float, float] | None = None
    zero_line: bool = False
    marks: Sequence[Mark] = ()

    @property
    def empty(self) -> bool:
        """Whether it has no value to show."""
        return not any(np.isfinite(series.points()[1]).any() for series in self.series)


@dataclass(frozen=True, eq=False)
class EvolutionData:
    """Figures over the epochs of a training.

    Attributes:
        rows: From top to bottom, panels side by side that show the same lines; x is the epoch. A panel without a value
            is left out, and the others of its row stay where they are.
        caption: n, and what bands and marks are.
        title: Heading of the figure.
        x_label: Of the shared x axis.
    """

    rows: Sequence[Sequence[Panel]]
    caption: str
    title: str = "Gates over training"
    x_label: str = "epoch"


@dataclass(frozen=True, eq=False)
class DoseData:
    """Metrics against how much of something was given (a gate's strength, the audio's level), a panel each.

    Attributes:
        panels: The curves, of one unit: they share the ends of their y axes.
        x_label: The dose and its unit.
        caption: n, and what bands are.
        title: Heading of the figure.
        reference_x: The dose as trained, marked by a line; None for none.
    """

    panels: Sequence[Panel]
    x_label: str
    caption: str
    title: str
    reference_x: float | None = None


@in_house_style
def plot_evolution(data: EvolutionData, scale: FigureScale | None = None) -> Figure:
    """Draw rows of panels over a shared axis of epochs, the panels of a row with one y axis.

    A column's panels stand over each other, so that an epoch is found in all of them. The layers' colours are told
    once, above; other lines in their own panel.

    Raises:
        ValueError: There are no panels with a value.
    """
    texts = (scale or FigureScale()).texts
    rows = [row for row in data.rows if not all(panel.empty for panel in row)]
    if not rows:
        raise ValueError("the evolution needs at least one panel with a value")
    panels = [panel for row in rows for panel in row]
    layers = {
        series.layer_idx: series.name for panel in panels for series in panel.series if series.layer_idx is not None
    }
    legend = _layer_legend(layers)
    columns = max(len(row) for row in rows)
    width = (style.PAGE_WIDTH_IN - _LEFT_IN - _RIGHT_IN - (columns - 1) * _GAP_IN) / columns
    heights = [1.15 if _of_layers(row) else max(1.15, 0.165 * len(row[0].series) + 0.2) for row in rows]
    top = 0.42 + 0.17 * len(legend)
    caption = style.caption_lines(texts, data.caption)
    figure = style.new_figure(top + sum(heights) + 0.36 * len(heights) + 0.36 + style.caption_height(caption))
    style.add_heading(figure, data.title)
    for line, names in enumerate(legend):
        _write_legend(figure, names, layers, 0.5 + 0.17 * line)
    places = np.concatenate([series.points()[0] for panel in panels for series in panel.series])
    span = float(places.max() - places.min()) if places.size else 0.0
    margin = 0.03 * span or 1.0
    for index, (row, height) in enumerate(zip(rows, heights, strict=True)):
        top += 0.3
        first = next(column for column, panel in enumerate(row) if not panel.empty)
        for column, panel in enumerate(row):
            if panel.empty:
                continue
            axes = style.add_axes_inches(figure, _LEFT_IN + column * (width + _GAP_IN), top, width, height)
            _draw_panel(axes, panel, 1 + max(layers, default=0))
            axes.set_title(shorten(panel.title, width, 8.5, "bold"))
            axes.set_ylabel(row[0].y_label if column == first else "")
            axes.set_xlim(places.min() - margin, places.max() + margin)
            if np.allclose(places, np.round(places)):
                axes.xaxis.set_major_locator(MaxNLocator(10 // columns, integer=True, steps=[1, 2, 5, 10]))
            _name_lines(axes, panel)
            last = not any(column < len(below) and not below[column].empty for below in rows[index + 1 :])
            axes.tick_params(labelbottom=last, labelleft=column == first)
            if last:
                axes.set_xlabel(data.x_label)
        top += height + 0.06
    style.add_caption(figure, caption)
    return figure


@in_house_style
def plot_dose_curve(data: DoseData, scale: FigureScale | None = None) -> Figure:
    """Draw a panel per metric against a dose, the dose as trained marked.

    Raises:
        ValueError: There are no panels.
    """
    if not data.panels:
        raise ValueError("a dose curve needs at least one panel")
    texts = (scale or FigureScale()).texts
    columns = min(_DOSE_COLUMNS, len(data.panels))
    rows = -(-len(data.panels) // columns)
    # One panel keeps the width of a line of text's half.
    width = (style.PAGE_WIDTH_IN - _LEFT_IN - _RIGHT_IN - (_DOSE_COLUMNS - 1) * _GAP_IN) / max(columns, 2)
    height, pitch = 1.3, 1.3 + 0.42
    caption = style.caption_lines(texts, data.caption)
    figure = style.new_figure(0.42 + rows * pitch + 0.32 + style.caption_height(caption))
    style.add_heading(figure, data.title)
    ends = _shared_limits(data.panels)
    for index, panel in enumerate(data.panels):
        row, column = divmod(index, columns)
        axes = style.add_axes_inches(figure, _LEFT_IN + column * (width + _GAP_IN), 0.72 + row * pitch, width, height)
        _draw_panel(axes, panel, 0)
        axes.set_title(panel.title)
        axes.set_ylim(*ends)
        axes.set_ylabel(panel.y_label if column == 0 else "")
        lowest = index + columns >= len(data.panels)
        axes.tick_params(labelleft=column == 0, labelbottom=lowest)
        if lowest:
            axes.set_xlabel(data.x_label)
        axes.margins(x=0.04)
        if data.reference_x is not None:
            axes.axvline(data.reference_x, color=style.NEUTRAL_COLOUR, linestyle=(0, (3, 2)), linewidth=0.9, zorder=1)
    style.add_caption(figure, caption)
    return figure


def _of_layers(row: Iterable[Panel]) -> bool:
    return all(series.layer_idx is not None for panel in row for series in panel.series)


def _shared_limits(panels: Sequence[Panel]) -> tuple[float, float]:
    parts = [
        np.asarray(part, dtype=float)
        for p in panels
        for s in p.series
        for part in (s.y, s.low, s.high)
        if part is not None
    ]
    values = np.concatenate([part[np.isfinite(part)] for part in parts] + [np.zeros(1)])
    room = 0.06 * float(values.max() - values.min()) or 1.0
    return float(values.min()) - room, float(values.max()) + room


def _draw_panel(axes: Axes, panel: Panel, n_layers: int) -> None:
    of_layers = style.layer_colours(max(1, n_layers))
    for index, series in enumerate(panel.series):
        x, y = series.points()
        colour = _LINE_COLOURS[index % 8] if series.layer_idx is None else of_layers[series.layer_idx]
        axes.plot(
            x,
            y,
            color=colour,
            linewidth=1.3,
            marker="o" if len(x) <= 30 else None,
            markersize=3.2,
            linestyle=_LINE_STYLES[index % 4] if series.layer_idx is None else "-",
            zorder=3,
        )
        if series.low is not None and series.high is not None:
            low, high = np.asarray(series.low, dtype=float), np.asarray(series.high, dtype=float)
            if len(x) == 1:
                axes.vlines(x, low, high, color=colour, linewidth=1.2, zorder=2)
            else:
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
    for mark in panel.marks:
        axes.plot(
            mark.x,
            mark.y,
            marker=mark.symbol,
            markersize=6.5,
            color=of_layers[mark.layer_idx],
            clip_on=False,
            markeredgecolor="white",
            markeredgewidth=0.8,
            linestyle="none",
            zorder=4,
        )
    if panel.zero_line:
        axes.axhline(0, color=style.NEUTRAL_COLOUR, linewidth=0.7, zorder=1)
    if panel.y_limits is not None:
        axes.set_ylim(*panel.y_limits)
    axes.grid(axis="y")


def _name_lines(axes: Axes, panel: Panel) -> None:
    """Name the lines that are no layers' inside the panel: one in its title, several in a legend where there is room."""
    named = [index for index, series in enumerate(panel.series) if series.name and series.layer_idx is None]
    inches = axes.get_position().width * style.PAGE_WIDTH_IN
    if len(named) == 1:
        title = f"{panel.title}: {printable(panel.series[named[0]].name)}"
        put_text(axes.set_title(""), shorten(title, inches, 8.5, "bold"))
    elif named:
        handles = [
            Line2D([], [], color=_LINE_COLOURS[one % 8], linestyle=_LINE_STYLES[one % 4], linewidth=1.3)
            for one in named
        ]
        names = [shorten(printable(panel.series[one].name), 0.5 * inches, _LEGEND_PT) for one in named]
        entries = axes.legend(handles, names, loc="best", labelspacing=0.25)
        for artist, name in zip(entries.get_texts(), names, strict=True):
            put_text(artist, name)


def _layer_legend(layers: dict[int, str]) -> list[list[int]]:
    """Give the layers, as many on a line as fit the page."""
    lines: list[list[int]] = []
    used = 0.0
    for layer_idx in sorted(layers):
        width = text_width_in(layers[layer_idx], _LEGEND_PT) + 0.42
        if not lines or used + width > style.PAGE_WIDTH_IN - 0.3:
            lines.append([])
            used = 0.0
        lines[-1].append(layer_idx)
        used += width
    return lines


def _write_legend(figure: Figure, line: Sequence[int], layers: dict[int, str], top: float) -> None:
    width, height = figure.get_size_inches()
    colours = style.layer_colours(1 + max(layers))
    left = 0.16
    for layer_idx in line:
        y = 1 - top / height
        figure.add_artist(Line2D([left / width, (left + 0.16) / width], [y, y], color=colours[layer_idx], linewidth=2))
        figure.text((left + 0.22) / width, y, layers[layer_idx], size=_LEGEND_PT, va="center_baseline")
        left += text_width_in(layers[layer_idx], _LEGEND_PT) + 0.42
