"""Figures for what the numbers come to: over epochs, around moments, against a dose, and effects with intervals.

Letters: N layers, E epochs, O offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.style import in_house_style
from qd_detr.gates.figures.text import printable, put_text, shorten, text_width_in
from qd_detr.gates.figures.wording import figure_texts

FloatArray = NDArray[np.float64]
_EVOLUTION_WIDTH_IN = 5.1
_EVOLUTION_GAP_IN = 0.22
_LINE_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
_LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b4c9a", "#4d4d4d")


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


@dataclass(frozen=True, eq=False)
class EvolutionData:
    """Figures over the epochs of a training.

    Attributes:
        rows: From top to bottom, one panel or two side by side that show the same lines; x is the epoch.
        caption: n, and what bands and marks are.
        x_label: Of the shared x axis.
    """

    rows: Sequence[Sequence[Panel]]
    caption: str
    x_label: str = "epoch"


@dataclass(frozen=True, eq=False)
class DoseData:
    """A metric against how much of something was given (a gate's strength, the audio's level).

    Attributes:
        panel: The curves.
        x_label: The dose and its unit.
        caption: n, and what bands are.
        reference_x: The dose as trained, marked by a line; None for none.
        reference_name: What is written at it.
        title: Heading of the figure.
    """

    panel: Panel
    x_label: str
    caption: str
    reference_x: float | None = None
    reference_name: str = "as trained"
    title: str = "Dose and response"


@dataclass(frozen=True)
class Effect:
    """An estimate with its 95 % interval.

    Attributes:
        name: What was compared.
        estimate: The effect; NaN where it could not be measured.
        low: Lower end of the interval.
        high: Upper end.
        n: Number behind it.
        group: Effects of one group stand together under its name.
    """

    name: str
    estimate: float
    low: float
    high: float
    n: int | None = None
    group: str = ""


@dataclass(frozen=True)
class EffectsData:
    """What a forest plot shows.

    Attributes:
        effects: From top to bottom.
        x_label: Quantity and unit, and against what.
        caption: What intervals are, and n.
        title: Heading of the figure.
        better: Where better lies, written under the axis, as "with audio better" at the right; None for none.
        worse: The same for the left.
    """

    effects: Sequence[Effect]
    x_label: str
    caption: str
    title: str = "Effects with 95 % intervals"
    better: str | None = None
    worse: str | None = None


@dataclass(frozen=True, eq=False)
class AlignmentData:
    """A quantity around window edges, and inside minus outside, each with a null from circular time shifts.

    Attributes:
        quantity: Name and unit, as "attention injection" or "attention gate".
        offsets_s: Seconds from the edge, (O,).
        start: Mean around window starts per layer, (N, O).
        start_null: Ends of the null's central 95 %, (2, N, O).
        end: Mean around window ends, (N, O).
        end_null: (2, N, O).
        contrast: Inside minus outside, (N,).
        contrast_null: Ends of the null's central 95 %, (2, N).
        n_samples: Samples.
        n_windows: Windows behind it, if known.
        windows: Which windows, as "ground-truth" or "predicted".
        n_shifts: Circular shifts behind the null.
    """

    quantity: str
    offsets_s: ArrayLike
    start: ArrayLike
    start_null: ArrayLike
    end: ArrayLike
    end_null: ArrayLike
    contrast: ArrayLike
    contrast_null: ArrayLike
    n_samples: int
    n_windows: int | None = None
    windows: str = "ground-truth"
    n_shifts: int | None = None


def _draw_panel(axes: Axes, panel: Panel, legend: bool = True) -> None:
    n_layers = 1 + max((s.layer_idx for s in panel.series if s.layer_idx is not None), default=0)
    of_layers = style.layer_colours(n_layers)
    for index, series in enumerate(panel.series):
        x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
        colour = _LINE_COLOURS[index % 8] if series.layer_idx is None else of_layers[series.layer_idx]
        marker = "o" if len(x) <= 30 else None
        axes.plot(
            x,
            y,
            color=colour,
            linewidth=1.3,
            marker=marker,
            markersize=3.2,
            label=printable(series.name) or None,
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
    axes.set_title(panel.title)
    axes.set_ylabel(panel.y_label)
    if legend and any(series.name for series in panel.series):
        entries = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), labelspacing=0.25)
        for artist in entries.get_texts():
            put_text(artist, shorten(artist.get_text(), 1.05, 7.5))


@in_house_style
def plot_evolution(data: EvolutionData, title: str = "Gates over training") -> Figure:
    """Draw rows of panels over a shared axis of epochs. Two panels of a row share their y axis and their legend.

    A column's panels stand over each other, so that an epoch is found in all of them.

    Raises:
        ValueError: There are no panels.
    """
    if not data.rows or not all(data.rows):
        raise ValueError("the evolution needs at least one panel")
    body = [max(1.15, 0.165 * len(row[0].series)) for row in data.rows]
    caption = style.caption_lines(figure_texts("en"), data.caption)
    figure = style.new_figure(0.42 + sum(body) + 0.36 * len(body) + 0.36 + style.caption_height(caption))
    style.add_heading(figure, title)
    top = 0.42
    lines = [series for row in data.rows for panel in row for series in panel.series]
    places = np.concatenate([np.asarray(series.x, dtype=float) for series in lines] or [np.zeros(1)])
    span = float(places.max() - places.min()) if places.size else 0.0
    margin = 0.03 * span or 1.0
    columns = max(len(row) for row in data.rows)
    width = (_EVOLUTION_WIDTH_IN - (columns - 1) * _EVOLUTION_GAP_IN) / columns
    legend_told: list[str] = []
    for index, (row, height) in enumerate(zip(data.rows, body, strict=True)):
        top += 0.3
        for column, panel in enumerate(row):
            axes = style.add_axes_inches(figure, 0.72 + column * (width + _EVOLUTION_GAP_IN), top, width, height)
            names = [series.name for series in panel.series]
            # The same names have the same colours in every row: they are told once.
            told = column == len(row) - 1 and names != legend_told
            _draw_panel(axes, panel, legend=told)
            legend_told = names if told else legend_told
            axes.set_xlim(places.min() - margin, places.max() + margin)
            if np.allclose(places, np.round(places)):
                axes.xaxis.set_major_locator(MaxNLocator(10 // columns, integer=True, steps=[1, 2, 5, 10]))
            last = not any(column < len(below) for below in data.rows[index + 1 :])
            axes.tick_params(labelbottom=last, labelleft=column == 0)
            if last:
                axes.set_xlabel(data.x_label)
        top += height + 0.06
    style.add_caption(figure, caption)
    return figure


@in_house_style
def plot_dose_curve(data: DoseData) -> Figure:
    """Draw a metric against a dose, the dose as trained marked."""
    caption = style.caption_lines(figure_texts("en"), data.caption)
    figure = style.new_figure(0.72 + 2.4 + 0.45 + style.caption_height(caption))
    style.add_heading(figure, data.title)
    axes = style.add_axes_inches(figure, 0.72, 0.72, 5.1, 2.4)
    _draw_panel(axes, data.panel)
    axes.set_xlabel(data.x_label)
    axes.margins(x=0.04)
    if data.reference_x is not None:
        axes.axvline(data.reference_x, color=style.NEUTRAL_COLOUR, linestyle=(0, (3, 2)), linewidth=0.9, zorder=1)
        low, high = axes.get_xlim()
        leftwards = data.reference_x > (low + high) / 2
        axes.annotate(
            data.reference_name,
            (data.reference_x, 0.02),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-4 if leftwards else 4, 0),
            textcoords="offset points",
            ha="right" if leftwards else "left",
            size=7.2,
            color=style.NEUTRAL_COLOUR,
        )
    style.add_caption(figure, caption)
    return figure


@in_house_style
def plot_effects(data: EffectsData) -> Figure:
    """Draw a forest plot: an estimate and its 95 % interval a row; filled where the interval leaves 0 out.

    Raises:
        ValueError: There are no effects.
    """
    if not data.effects:
        raise ValueError("a forest plot needs at least one effect")
    rows: list[tuple[str, Effect | None]] = []
    group = ""
    for given in data.effects:
        if given.group and given.group != group:
            rows.append((given.group, None))
        group = given.group
        rows.append((given.name, given))
    room = 2.9
    left = 0.2 + min(room, max(text_width_in(printable(name), 7.8, "bold") for name, _ in rows) + 0.12)
    right = 1.95
    body = max(0.4, 0.2 * len(rows))
    directed = bool(data.better or data.worse)
    caption = style.caption_lines(figure_texts("en"), data.caption)
    height = 0.58 + body + 0.46 + (0.18 if directed else 0) + style.caption_height(caption)
    figure = style.new_figure(height)
    style.add_heading(figure, data.title)
    axes = style.add_axes_inches(figure, left, 0.58, style.PAGE_WIDTH_IN - left - right, body)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=1)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    place = axes.get_yaxis_transform()
    most = style.largest(*([abs(e.estimate), abs(e.low), abs(e.high)] for e in data.effects))
    digits = 2 if most >= 1 else 3 if most >= 0.1 else 4
    inches = style.PAGE_WIDTH_IN - left - right
    for row, (name, effect) in enumerate(rows):
        indent = 0.1 if effect is not None and effect.group else 0.0
        weight = "normal" if effect is not None else "bold"
        label = axes.text(-(left - 0.12 - indent) / inches, row, "", transform=place, va="center_baseline", size=7.8)
        label.set_fontweight(weight)
        put_text(label, shorten(printable(name), left - 0.2 - indent, 7.8, weight))
        if effect is None:
            continue
        if not np.isfinite(effect.estimate):
            words = "not measured"
        else:
            apart = effect.low > 0 or effect.high < 0
            axes.plot(
                [effect.low, effect.high],
                [row, row],
                color=style.ATTENTION_COLOUR,
                linewidth=1.5,
                zorder=2,
                solid_capstyle="butt",
            )
            axes.plot(
                [effect.estimate],
                [row],
                "s",
                markersize=5,
                color=style.ATTENTION_COLOUR,
                zorder=3,
                markerfacecolor=style.ATTENTION_COLOUR if apart else "white",
            )
            low, high = style.plain(effect.low, digits), style.plain(effect.high, digits)
            words = f"{style.signed(effect.estimate, digits)} [{low}, {high}]"
        axes.text(1.02, row, words, transform=place, va="center_baseline", size=7.4)
        if effect.n is not None:
            axes.text(
                1 + (right - 0.12) / inches,
                row,
                f"{effect.n:,}",
                transform=place,
                va="center_baseline",
                ha="right",
                size=7.4,
            )
    for x, words, side in ((1.02, "effect [95 % interval]", "left"), (1 + (right - 0.12) / inches, "n", "right")):
        axes.annotate(
            words,
            (x, 1),
            xycoords="axes fraction",
            xytext=(0, 4),
            textcoords="offset points",
            size=7.2,
            ha=side,
            color=style.NEUTRAL_COLOUR,
        )
    axes.margins(x=0.06)
    axes.set_xlabel(data.x_label, labelpad=2)
    if directed:
        for x, toward, side in ((0, data.worse, "left"), (1, data.better, "right")):
            if toward:
                arrow = f"\N{LEFTWARDS ARROW} {toward}" if side == "left" else f"{toward} \N{RIGHTWARDS ARROW}"
                axes.annotate(
                    arrow,
                    (x, 0),
                    xycoords="axes fraction",
                    xytext=(0, -40),
                    textcoords="offset points",
                    size=7.2,
                    ha=side,
                    color=style.NEUTRAL_COLOUR,
                )
    style.add_caption(figure, caption)
    return figure


@in_house_style
def plot_alignment(data: AlignmentData) -> Figure:
    """Draw a quantity around window starts and ends per layer, and inside minus outside, each against its null."""
    offsets = np.asarray(data.offsets_s, dtype=float)
    start, end = np.asarray(data.start, dtype=float), np.asarray(data.end, dtype=float)
    start_null, end_null = np.asarray(data.start_null, dtype=float), np.asarray(data.end_null, dtype=float)
    contrast, null = np.asarray(data.contrast, dtype=float), np.asarray(data.contrast_null, dtype=float)
    n_layers = len(contrast)
    if start.shape != (n_layers, len(offsets)) or start_null.shape != (2, n_layers, len(offsets)):
        raise ValueError(
            f"around window starts: expected ({n_layers}, {len(offsets)}) and its null (2, {n_layers}, {len(offsets)}), "
            f"got {start.shape} and {start_null.shape}"
        )
    if end.shape != start.shape or end_null.shape != start_null.shape or null.shape != (2, n_layers):
        raise ValueError(
            f"window ends and nulls must match the starts, got {end.shape}, {end_null.shape}, {null.shape}"
        )
    row = 0.78 if n_layers <= 4 else 0.5
    gap = 0.14
    body = n_layers * (row + gap) - gap
    contrast_height = max(0.35, 0.26 * n_layers)
    shifts = f" ({data.n_shifts:,} shifts)" if data.n_shifts else ""
    n = figure_texts("en").counted(data.n_samples, "sample")
    if data.n_windows is not None:
        n += f", {figure_texts('en').counted(data.n_windows, 'window')}"
    caption = style.caption_lines(
        figure_texts("en"), f"n = {n}. Grey: central 95 % of the null, from circular time shifts{shifts}."
    )
    figure = style.new_figure(0.68 + body + 0.8 + contrast_height + 0.48 + style.caption_height(caption))
    quantity = printable(data.quantity)
    if quantity[1:2].islower():  # "Attention gate", but not "FFN gate"
        quantity = quantity[0].lower() + quantity[1:]
    style.add_heading(figure, f"{quantity[:1].upper()}{quantity[1:]} at the edges of {data.windows} windows")
    colours = style.layer_colours(n_layers)
    for column, (left, values, band, title, inside) in enumerate(
        (
            (0.95, start, start_null, "Around window starts", (0.0, float(offsets.max()))),
            (4.2, end, end_null, "Around window ends", (float(offsets.min()), 0.0)),
        )
    ):
        for layer_idx in range(n_layers):
            axes = style.add_axes_inches(figure, left, 0.68 + layer_idx * (row + gap), 2.85, row)
            axes.axvspan(*inside, color=style.TRUTH_COLOUR, alpha=0.09, linewidth=0, zorder=0)
            axes.fill_between(offsets, *band[:, layer_idx], color=style.NULL_COLOUR, linewidth=0, alpha=0.8, zorder=1)
            axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=2)
            marker = "o" if len(offsets) <= 25 else None
            axes.plot(
                offsets,
                values[layer_idx],
                color=colours[layer_idx],
                linewidth=1.4,
                marker=marker,
                markersize=3,
                zorder=3,
            )
            both = np.concatenate([array[..., layer_idx, :].ravel() for array in (start, start_null, end, end_null)])
            low, high = np.nanmin(both), np.nanmax(both)
            room = 0.08 * (high - low) or 0.05
            axes.set_ylim(low - room, high + room)
            axes.set_xlim(offsets.min(), offsets.max())
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.tick_params(labelbottom=layer_idx == n_layers - 1, labelleft=column == 0)
            if layer_idx == 0:
                axes.set_title(title)
            if column == 0:
                axes.text(
                    -(left - 0.12) / 2.85, 0.5, f"layer {layer_idx}", transform=axes.transAxes, va="center", size=7.8
                )
            if layer_idx == n_layers - 1:
                axes.set_xlabel("seconds from the edge (green: inside the window)")
    axes = style.add_axes_inches(figure, 0.95, 0.68 + body + 0.8, 5.1, contrast_height)
    rows = np.arange(n_layers)
    axes.hlines(rows, null[0], null[1], color=style.NULL_COLOUR, linewidth=7, zorder=1)
    axes.scatter(contrast, rows, s=34, marker="D", c=colours, zorder=3, linewidths=0.6, edgecolors="white")
    axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=2)
    axes.set_ylim(n_layers - 0.4, -0.6)
    style.set_row_ticks(axes, [f"layer {layer_idx}" for layer_idx in rows])
    axes.margins(x=0.08)
    axes.grid(axis="x")
    axes.set_title("Inside minus outside")
    axes.set_xlabel(f"difference in {quantity}")
    for layer_idx, value in enumerate(contrast):
        axes.text(
            1.02,
            layer_idx,
            style.signed(float(value), 3),
            transform=axes.get_yaxis_transform(),
            va="center_baseline",
            size=7.4,
        )
    style.add_caption(figure, caption)
    return figure
