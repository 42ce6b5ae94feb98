"""The figure `gate_comparison`: up to eight chosen samples side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.text import printable, put_text, shorten
from qd_detr.gates.figures.wording import figure_texts
from qd_detr.gates.gating import ATTENTION, GATES

MAX_COMPARED = 8
FloatArray = NDArray[np.float64]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b4c9a", "#4d4d4d")


@dataclass(frozen=True, eq=False)
class ComparisonData:
    """What `gate_comparison` shows.

    Attributes:
        samples: One to eight samples of one gating type and one number of layers.
        chosen: How they were chosen, for the caption, as "chosen by the user".
    """

    samples: Sequence[SampleData]
    chosen: str = ""


def _layer_marks(values: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Give mean, 5th and 95th percentile per layer, non-finite values left out."""
    marks = []
    for layer in values:
        known = layer[np.isfinite(layer)]
        marks.append((known.mean(), *np.percentile(known, (5, 95))) if known.size else (np.nan,) * 3)
    mean, low, high = np.array(marks, dtype=float).T
    return mean, low, high


@in_house_style
def plot_comparison(data: ComparisonData, scale: FigureScale | None = None) -> Figure:
    """Draw samples side by side: per layer both gates and the injection with spread; over time where gates vary.

    Raises:
        ValueError: There are none or more than eight samples, or they differ in gating type or number of layers.
    """
    samples = list(data.samples)
    if not 1 <= len(samples) <= MAX_COMPARED:
        raise ValueError(f"a comparison takes 1 to {MAX_COMPARED} samples, got {len(samples)}")
    fusions = {(sample.gating_type, sample.n_layers, tuple(sample.values)) for sample in samples}
    if len(fusions) > 1:
        raise ValueError(f"samples of one gating type and number of layers can be compared, got {sorted(fusions)}")
    ((gating_type, n_layers, kinds),) = fusions
    scale = scale or FigureScale()
    injections = [sample.injection_of(ATTENTION.kind) for sample in samples]
    with_injection = any(injection is not None for injection in injections)
    ceiling = scale.injection_top(ATTENTION.kind, *injections)
    over_time = samples[0].gating.per_clip or with_injection
    strip = max(0.3, n_layers * (0.15 if n_layers <= 4 else 0.085))
    n_rows = int(np.ceil(len(samples) / 2)) if over_time else 0
    summary_height = max(0.6, 0.055 * n_layers * (len(samples) + 1.5))
    legend_height = 0.17 * len(samples)
    top = 0.42 + legend_height + 0.42
    cell = 0.44 + strip
    chosen = f" {data.chosen}" if data.chosen else ""
    caption = style.caption_lines(
        scale.texts,
        f"n = {figure_texts('en').counted(len(samples), 'sample')}; {gating_type} gates.{chosen} "
        "Points: mean over a sample's values; lines: 5\N{EN DASH}95 %.",
        scale.texts("sign_caveat"),
    )
    # An odd last strip leaves room for the colour bar beside it; else it has a row of its own.
    foot = 0.2 if len(samples) % 2 else 0.58
    height = (
        top + summary_height + 0.5 + (0.35 + n_rows * cell + foot if over_time else 0) + style.caption_height(caption)
    )
    figure = style.new_figure(height)
    style.add_heading(figure, "Samples compared")
    _draw_legend(figure, samples)
    columns = [_INJECTION, *kinds] if with_injection else list(kinds)
    gap = 0.3
    width = (style.PAGE_WIDTH_IN - 0.85 - gap * (len(columns) - 1) - 0.2) / len(columns)
    for column, name in enumerate(columns):
        axes = style.add_axes_inches(figure, 0.72 + column * (width + gap), top, width, summary_height)
        _draw_layers(axes, samples, name, n_layers)
        if name == _INJECTION:
            axes.set_xlim(0, ceiling)
            axes.set_title("Attention injection")
            axes.set_xlabel("|g \N{DOT OPERATOR} branch| / |residual|")
        else:
            style.set_gate_ticks(axes, scale.gate_limit)
            axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=1)
            axes.set_title(GATES[name].title)
            axes.set_xlabel("gate")
        axes.tick_params(labelleft=column == 0)
    if over_time:
        _draw_strips(figure, samples, top + summary_height + 0.5, strip, cell, scale, ceiling)
    style.add_caption(figure, caption)
    return figure


_INJECTION = "attention injection"  # the column beside those of the gates


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _draw_legend(figure: Figure, samples: Sequence[SampleData]) -> None:
    width, height = figure.get_size_inches()
    for index, sample in enumerate(samples):
        y = 1 - (0.46 + 0.17 * index) / height
        figure.add_artist(
            Line2D([0.2 / width], [y], marker=_MARKERS[index], color=_COLOURS[index], markersize=5, linestyle="none")
        )
        words = f"{_letter(index)}  {printable(sample.sample_id)}"
        if sample.query:
            words += f":  {printable(sample.query)}"
        artist = figure.text(0.3 / width, y, "", size=7.8, va="center_baseline")
        put_text(artist, shorten(words, width - 0.45, 7.8))


def _draw_layers(axes: Axes, samples: Sequence[SampleData], name: str, n_layers: int) -> None:
    step = 0.8 / max(len(samples), 2)
    for index, sample in enumerate(samples):
        if name == _INJECTION:
            injection = sample.injection_of(ATTENTION.kind)
            if injection is None:
                continue
            values = list(injection)
        else:
            values = [layer.ravel() for layer in sample.gates(name)]
        mean, low, high = _layer_marks(values)
        rows = np.arange(n_layers) + (index - (len(samples) - 1) / 2) * step
        axes.hlines(rows, low, high, color=_COLOURS[index], linewidth=1.3, alpha=0.75, zorder=2)
        axes.plot(
            mean,
            rows,
            _MARKERS[index],
            color=_COLOURS[index],
            markersize=4.2,
            zorder=3,
            markeredgecolor="white",
            markeredgewidth=0.4,
        )
    axes.set_ylim(n_layers - 0.45, -0.55)
    style.set_row_ticks(axes, [f"layer {layer_idx}" for layer_idx in range(n_layers)])
    axes.grid(axis="x")
    for row in range(1, n_layers):
        axes.axhline(row - 0.5, color="#dddddd", linewidth=0.6, zorder=1)


def _draw_strips(
    figure: Figure,
    samples: Sequence[SampleData],
    top: float,
    strip: float,
    cell: float,
    scale: FigureScale,
    ceiling: float,
) -> None:
    """Draw a strip of layers over seconds per sample, two in a row, ground truth above it."""
    height = figure.get_size_inches()[1]
    title, unit, colours, limits = {
        "clipwise": ("Attention gate over time", "gate", style.GATE_COLOURS, (-scale.gate_limit, scale.gate_limit)),
        "elementwise": (
            "Attention gate over time: mean |gate| over the channels",
            "|gate|",
            style.MAGNITUDE_COLOURS,
            (0.0, scale.gate_limit),
        ),
        "global": (
            "Injection of the attention gate over time (the gate itself is one value)",
            "injection",
            style.MAGNITUDE_COLOURS,
            (0.0, ceiling),
        ),
    }[samples[0].gating.form]
    top += 0.12
    figure.text(0.12 / style.PAGE_WIDTH_IN, 1 - top / height, title, size=8.5, weight="bold", va="center")
    if any(sample.true_windows_s is not None for sample in samples):
        figure.text(
            1 - 0.12 / style.PAGE_WIDTH_IN,
            1 - top / height,
            "green bars: ground-truth windows",
            size=7.2,
            va="center",
            ha="right",
            color="#007553",
        )
    top += 0.2
    width, left, gap = 2.85, 0.72, 0.45
    image = None
    end_s = max(sample.end_s for sample in samples)
    last_row = (len(samples) - 1) // 2
    for index, sample in enumerate(samples):
        row, column = divmod(index, 2)
        place = (left + column * (width + gap), top + row * cell)
        bars = style.add_axes_inches(figure, place[0], place[1] + 0.14, width, 0.1)
        bars.set_xlim(0, end_s)
        bars.axis("off")
        windows = sample.windows("true_windows_s", 2)
        if windows is not None and len(windows):
            segments = [[(start, 0.5), (end, 0.5)] for start, end in windows]
            bars.add_collection(
                LineCollection(segments, colors=style.TRUTH_COLOUR, linewidths=4, capstyle="butt"), autolim=False
            )
        bars.text(
            -0.012,
            0.5,
            _letter(index),
            transform=bars.transAxes,
            ha="right",
            va="center_baseline",
            size=8,
            weight="bold",
            color=_COLOURS[index],
        )
        axes = style.add_axes_inches(figure, place[0], place[1] + 0.26, width, strip)
        values = _strip_values(sample)
        n_layers = sample.n_layers
        axes.set_xlim(0, end_s)
        axes.set_ylim(n_layers - 0.5, -0.5)
        if values is not None:
            image = axes.imshow(
                values,
                aspect="auto",
                interpolation="nearest",
                cmap=colours,
                vmin=limits[0],
                vmax=limits[1],
                extent=(0, sample.n_clips * sample.clip_length_s, n_layers - 0.5, -0.5),
            )
            axes.set_xlim(0, end_s)
        axes.set_xticks(style.time_ticks(end_s, most=6))
        named = range(n_layers) if n_layers <= 4 else range(0, n_layers, 3)
        axes.set_yticks(list(named), [f"layer {layer_idx}" if column == 0 else "" for layer_idx in named], fontsize=7)
        axes.tick_params(axis="y", length=0)
        below_is_empty = index + 2 >= len(samples)
        axes.tick_params(labelbottom=below_is_empty)
        if below_is_empty:
            axes.set_xlabel("time (s)", labelpad=1)
    if image is not None:
        bar_top = top + (last_row + 1) * cell + 0.22
        right = len(samples) % 2 == 1
        # Beside the last strip where that place is free, else at the right end of the time axis's row.
        bar_left = left + width + gap + 0.3 if right else style.PAGE_WIDTH_IN - 1.4
        bar_axes = style.add_axes_inches(figure, bar_left, bar_top - (0.5 if right else -0.06), 1.1, 0.08)
        bar = figure.colorbar(
            image, cax=bar_axes, orientation="horizontal", ticks=[limits[0], sum(limits) / 2, limits[1]]
        )
        bar.ax.tick_params(labelsize=6.8, pad=1.5)
        bar.ax.set_title(unit, fontsize=7, fontweight="normal", pad=2, loc="center")


def _strip_values(sample: SampleData) -> FloatArray | None:
    """Give what the strip shows, (layers, clips)."""
    if not sample.gating.per_clip:
        return sample.injection_of(ATTENTION.kind)
    gates = np.stack(sample.gates(ATTENTION.kind))
    return np.abs(gates).mean(axis=2) if sample.gating.per_channel else gates
