"""The figure `gate_comparison`: up to eight chosen samples side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.text import printable, put_text, shorten
from qd_detr.gates.figures.wording import FigureTexts, headed
from qd_detr.gates.gating import ATTENTION

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
    """Draw samples side by side: one quantity for all gates, per layer with its spread, and over time where it varies.

    It is the injection where that was measured, else the gates' magnitude.

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
    texts = (scale or FigureScale()).texts
    quantity = "injection" if any(sample.injection for sample in samples) else "magnitude"
    shown = [kind for kind in kinds if quantity == "magnitude" or any(kind in sample.injection for sample in samples)]
    values = {kind: [_values(sample, kind, quantity) for sample in samples] for kind in shown}
    strips = {kind: [_strip(sample, kind, quantity) for sample in samples] for kind in shown}
    leading = ATTENTION.kind if ATTENTION.kind in shown else shown[0]
    over_time = any(strip is not None for strip in strips[leading])
    strip = max(0.3, n_layers * (0.15 if n_layers <= 4 else 0.085))
    n_rows = int(np.ceil(len(samples) / 2)) if over_time else 0
    summary_height = max(0.6, 0.055 * n_layers * (len(samples) + 1.5))
    top = 0.42 + 0.17 * len(samples) + 0.42
    cell = 0.44 + strip
    caption = style.caption_lines(
        texts,
        texts("comparison.about", samples=texts.counted(len(samples), "sample"), gating=gating_type),
        texts("patterns.about_injection", formula=style.INJECTION_FORMULA) if quantity == "injection" else "",
        data.chosen,
    )
    # An odd last strip leaves room for the colour bar beside it; else it has a row of its own.
    foot = 0.2 if len(samples) % 2 else 0.58
    height = (
        top + summary_height + 0.5 + (0.35 + n_rows * cell + foot if over_time else 0) + style.caption_height(caption)
    )
    figure = style.new_figure(height)
    style.add_heading(figure, texts("comparison.heading"))
    _draw_legend(figure, samples)
    gap = 0.3
    width = min((style.PAGE_WIDTH_IN - 0.85 - gap * (len(shown) - 1) - 0.2) / len(shown), 3.6)
    # Panels side by side have one scale, up to the spread of all.
    ends = [high for of_kind in values.values() for layers in of_kind if layers for high in _layer_marks(layers)[2]]
    limit = 1.05 * style.largest(ends) or 1.0
    for column, kind in enumerate(shown):
        axes = style.add_axes_inches(figure, 0.72 + column * (width + gap), top, width, summary_height)
        _draw_layers(axes, values[kind], n_layers, texts)
        axes.set_xlim(0, limit)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.set_title(texts.gate_title(kind))
        axes.set_xlabel(texts(f"clustering.{quantity}"))
        axes.tick_params(labelleft=column == 0)
    if over_time:
        title = texts(f"comparison.{quantity}", gate=texts.gate(leading))
        found = _Strips(samples, strips[leading], headed(title), texts(f"clustering.{quantity}"), texts)
        _draw_strips(figure, found, top + summary_height + 0.5, strip, cell)
    style.add_caption(figure, caption)
    return figure


@dataclass(frozen=True, eq=False)
class _Strips:
    """Strips of layers over seconds, (layers, clips) each, one per sample."""

    samples: Sequence[SampleData]
    values: Sequence[FloatArray | None]
    title: str
    unit: str
    texts: FigureTexts


def _values(sample: SampleData, kind: str, quantity: str) -> list[FloatArray]:
    """Give a sample's values of the quantity per layer; none where it was not measured."""
    if quantity == "injection":
        injection = sample.injection_of(kind)
        return [] if injection is None else list(injection)
    return [np.abs(gate).ravel() for gate in sample.gates(kind)]


def _strip(sample: SampleData, kind: str, quantity: str) -> FloatArray | None:
    """Give a sample's quantity over time, (layers, clips); None where it was not measured, or does not follow time."""
    if quantity == "injection":
        return sample.injection_of(kind)
    if not sample.gating.per_clip:
        return None
    gates = np.abs(np.stack(sample.gates(kind)))
    return gates.mean(axis=2) if sample.gating.per_channel else gates


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


def _draw_layers(axes: Axes, samples: Sequence[list[FloatArray]], n_layers: int, texts: FigureTexts) -> None:
    step = 0.8 / max(len(samples), 2)
    for index, layers in enumerate(samples):
        if not layers:
            continue
        mean, low, high = _layer_marks(layers)
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
            clip_on=False,
        )
    axes.set_ylim(n_layers - 0.45, -0.55)
    style.set_row_ticks(axes, texts.layers(n_layers))
    axes.grid(axis="x")
    for row in range(1, n_layers):
        axes.axhline(row - 0.5, color="#dddddd", linewidth=0.6, zorder=1)


def _draw_strips(figure: Figure, found: _Strips, top: float, strip: float, cell: float) -> None:
    """Draw a strip of layers over seconds per sample, two in a row, ground truth above it."""
    samples, texts = found.samples, found.texts
    height = figure.get_size_inches()[1]
    limit = style.round_up(style.largest(*found.values))
    top += 0.12
    figure.text(0.12 / style.PAGE_WIDTH_IN, 1 - top / height, found.title, size=8.5, weight="bold", va="center")
    if any(sample.true_windows_s is not None for sample in samples):
        figure.text(
            1 - 0.12 / style.PAGE_WIDTH_IN,
            1 - top / height,
            texts("comparison.green"),
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
        values = found.values[index]
        n_layers = sample.n_layers
        axes.set_xlim(0, end_s)
        axes.set_ylim(n_layers - 0.5, -0.5)
        if values is not None:
            image = axes.imshow(
                values,
                aspect="auto",
                interpolation="nearest",
                cmap=style.MAGNITUDE_COLOURS,
                vmin=0,
                vmax=limit,
                extent=(0, sample.n_clips * sample.clip_length_s, n_layers - 0.5, -0.5),
            )
            axes.set_xlim(0, end_s)
        axes.set_xticks(style.time_ticks(end_s, most=6))
        named = range(n_layers) if n_layers <= 4 else range(0, n_layers, 3)
        names = texts.layers(n_layers)
        axes.set_yticks(list(named), [names[one] if column == 0 else "" for one in named], fontsize=7)
        axes.tick_params(axis="y", length=0)
        below_is_empty = index + 2 >= len(samples)
        axes.tick_params(labelbottom=below_is_empty)
        if below_is_empty:
            axes.set_xlabel(texts("time"), labelpad=1)
    if image is not None:
        bar_top = top + (last_row + 1) * cell + 0.22
        right = len(samples) % 2 == 1
        # Beside the last strip where that place is free, else at the right end of the time axis's row.
        bar_left = left + width + gap + 0.3 if right else style.PAGE_WIDTH_IN - 1.4
        bar_axes = style.add_axes_inches(figure, bar_left, bar_top - (0.5 if right else -0.06), 1.1, 0.08)
        bar = figure.colorbar(image, cax=bar_axes, orientation="horizontal")
        ticks = [0, limit / 2, limit]
        bar.set_ticks(ticks, labels=[style.brief(tick) for tick in ticks])
        bar.ax.tick_params(labelsize=6.8, pad=1.5)
        bar.ax.set_title(found.unit, fontsize=7, fontweight="normal", pad=2, loc="center")
