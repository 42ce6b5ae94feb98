"""Figures over all samples: `overall_statistics` and `layer_distributions`, from counts and a value per sample.

Letters: P points (videos or samples), N layers, K bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.text import text_width_in
from qd_detr.gates.figures.wording import FigureTexts, headed
from qd_detr.gates.gating import GATES

FloatArray = NDArray[np.float64]
SHOWN_BINS = 50
_TITLE_PT = 8.5


@dataclass(frozen=True, eq=False)
class LayerSummary:
    """A quantity's mean and spread per layer, each (N,); NaN where there is no value.

    Attributes:
        mean: Mean.
        p05: 5th percentile.
        p25: 25th percentile.
        median: Median.
        p75: 75th percentile.
        p95: 95th percentile.
    """

    mean: ArrayLike
    p05: ArrayLike
    p25: ArrayLike
    median: ArrayLike
    p75: ArrayLike
    p95: ArrayLike

    @classmethod
    def of_values(cls, values: ArrayLike) -> LayerSummary:
        """Summarise values given per layer along the last axis, (samples, N), leaving non-finite ones out."""
        array = np.asarray(values, dtype=float)
        array = np.where(np.isfinite(array), array, np.nan)
        columns = [column[np.isfinite(column)] for column in array.T]
        if not all(column.size for column in columns):
            columns = [column if column.size else np.array([np.nan]) for column in columns]
        marks = np.array([np.percentile(column, (5, 25, 50, 75, 95)) for column in columns]).T
        return cls(np.array([column.mean() for column in columns]), *marks)

    def column(self, name: str) -> FloatArray:
        """Give one of the figures as an array."""
        return np.asarray(getattr(self, name), dtype=float)


@dataclass(frozen=True, eq=False)
class GateDistribution:
    """How the values of one kind of gate are distributed, per layer.

    Attributes:
        edges: Bin edges of the signed gate, (K + 1,).
        counts: Values per layer and bin, (N, K).
        summary: Mean and percentiles per layer.
        magnitude_edges: Bin edges of |g|; None: folded from `edges` if they are symmetric about 0.
        magnitude_counts: (N, K'); with `magnitude_edges`.
    """

    edges: ArrayLike
    counts: ArrayLike
    summary: LayerSummary
    magnitude_edges: ArrayLike | None = None
    magnitude_counts: ArrayLike | None = None

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(np.asarray(self.counts))

    def binned(self, limit: float, n_bins: int = SHOWN_BINS) -> tuple[FloatArray, FloatArray]:
        """Give edges and counts (N, n_bins) of the signed gate from -limit to limit."""
        return rebin(self.edges, self.counts, np.linspace(-limit, limit, n_bins + 1))

    def magnitudes(self, limit: float, n_bins: int = SHOWN_BINS // 2) -> tuple[FloatArray, FloatArray]:
        """Give edges and counts (N, n_bins) of |g| from 0 to limit.

        Raises:
            ValueError: There are no magnitude counts, and the bins of the signed gate cannot be folded.
        """
        edges, counts = np.asarray(self.edges, dtype=float), np.asarray(self.counts, dtype=float)
        if self.magnitude_edges is not None and self.magnitude_counts is not None:
            edges, counts = (
                np.asarray(self.magnitude_edges, dtype=float),
                np.asarray(self.magnitude_counts, dtype=float),
            )
        elif np.allclose(edges, -edges[::-1]):
            counts = counts + counts[:, ::-1]
            half = counts.shape[1] // 2
            if counts.shape[1] % 2:  # the middle bin lies on both sides of 0 and was counted twice
                edges = np.concatenate([[0.0], edges[half + 1 :]])
                counts = counts[:, half:] * np.where(np.arange(half + 1) == 0, 0.5, 1.0)
            else:
                edges, counts = edges[half:], counts[:, half:]
        else:
            raise ValueError("give magnitude_edges and magnitude_counts: these gate bins are not symmetric about 0")
        return rebin(edges, counts, np.linspace(0, limit, n_bins + 1))


@dataclass(frozen=True, eq=False)
class OverallData:
    """What `overall_statistics` and `layer_distributions` show.

    Attributes:
        gating_type: A name from `gating.GATING_TYPES`.
        n_samples: Samples (queries) behind the counts.
        n_videos: Videos behind them: the true n where gates do not depend on the query. None if not known.
        gates: By kind of gate.
        magnitude: By kind the mean |gate| of every point, (P, N); NaN where there is no value.
        injection: By kind the mean injection of every point, (P, N); empty leaves it out.
        points: What a point is: "video" or "sample".
    """

    gating_type: str
    n_samples: int
    gates: Mapping[str, GateDistribution]
    n_videos: int | None = None
    magnitude: Mapping[str, ArrayLike] = field(default_factory=dict)
    injection: Mapping[str, ArrayLike] = field(default_factory=dict)
    points: str = "sample"

    @property
    def first(self) -> GateDistribution:
        """The distribution of the first kind of gate."""
        return next(iter(self.gates.values()))

    def n(self, texts: FigureTexts) -> str:
        """Say what n is."""
        values = int(np.asarray(self.first.counts).sum())
        return texts(
            "overall.n",
            samples=texts.n_samples(self.n_samples, self.n_videos),
            values=f"{values:,}",
            gating=self.gating_type,
            layers=texts.counted(self.first.n_layers, "layer"),
        )


def rebin(edges: ArrayLike, counts: ArrayLike, target_edges: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Sum fine counts (N, K) into coarser bins; a fine bin goes where its middle lies, those outside to the end bins.

    Totals are kept. Where the target bins are not coarser than the fine ones, the fine ones are returned.
    """
    fine = np.asarray(edges, dtype=float)
    values = np.asarray(counts, dtype=float)
    target = np.asarray(target_edges, dtype=float)
    if len(fine) <= len(target):
        return fine, values
    middles = (fine[:-1] + fine[1:]) / 2
    place = np.clip(np.searchsorted(target, middles, side="right") - 1, 0, len(target) - 2)
    summed = np.zeros((values.shape[0], len(target) - 1))
    for row, row_counts in zip(summed, values, strict=True):
        np.add.at(row, place, row_counts)
    return target, summed


def _shares(counts: FloatArray) -> FloatArray:
    """Give per cent of a row's total; zeros for an empty row."""
    total = counts.sum(axis=-1, keepdims=True)
    return np.divide(100 * counts, total, out=np.zeros_like(counts), where=total > 0)


def draw_points(axes: Axes, values: FloatArray, colour: str, top: float, texts: FigureTexts) -> None:
    """Draw a row per layer: a dot per point over its box (25 to 75 %, median) and whiskers (5 to 95 %), the mean at the right."""
    n_points, n_layers = values.shape
    marks = LayerSummary.of_values(values)
    # The golden ratio's multiples fill a row evenly, and stay where they are from run to run.
    apart = 0.62 * ((np.arange(n_points) * 0.6180339887) % 1 - 0.5)
    size, alpha = (9, 0.75) if n_points <= 60 else (5, 0.5) if n_points <= 400 else (2.5, 0.3)
    for row in range(n_layers):
        low, box_low, median, box_high, high = (
            marks.column(name)[row] for name in ("p05", "p25", "median", "p75", "p95")
        )
        axes.add_patch(
            Rectangle((box_low, row - 0.36), box_high - box_low, 0.72, facecolor=colour, alpha=0.16, zorder=2)
        )
        axes.hlines(row, low, high, color=colour, linewidth=0.8, zorder=2)
        axes.vlines(median, row - 0.36, row + 0.36, color=colour, linewidth=1.6, zorder=3)
        order = np.argsort(values[:, row], kind="stable")  # neighbours in value lie apart
        axes.scatter(values[order, row], row + apart, s=size, color=colour, alpha=alpha, linewidths=0, zorder=4)
        mean = marks.column("mean")[row]
        axes.plot(
            [mean], [row], "D", color="white", markersize=4.4, markeredgecolor=colour, markeredgewidth=1.1, zorder=5
        )
        axes.annotate(
            style.plain(mean, 2 if top >= 1 else 3) if np.isfinite(mean) else texts("not_known"),
            (1.015, row),
            xycoords=axes.get_yaxis_transform(),
            va="center_baseline",
            size=7.2,
            annotation_clip=False,
        )
    axes.set_xlim(-0.015 * top, top)
    axes.set_ylim(n_layers - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    style.set_row_ticks(axes, texts.layers(n_layers))
    axes.grid(axis="x")


def _points_legend(texts: FigureTexts, points: str) -> list[Line2D | Patch]:
    grey = style.NEUTRAL_COLOUR
    return [
        Line2D([], [], color=grey, marker="o", markersize=3, linestyle="none", label=texts(f"overall.{points}")),
        Line2D(
            [],
            [],
            color="white",
            marker="D",
            markersize=4.4,
            markeredgecolor=grey,
            linestyle="none",
            label=texts("overall.mean"),
        ),
        Line2D(
            [],
            [],
            color=grey,
            marker="|",
            markersize=8,
            markeredgewidth=1.6,
            linestyle="none",
            label=texts("overall.median"),
        ),
        Patch(facecolor=grey, alpha=0.25, label=texts("percentiles", low=25, high=75)),
        Line2D([], [], color=grey, linewidth=0.8, label=texts("percentiles", low=5, high=95)),
    ]


def _histogram(axes: Axes, data: OverallData, limits: tuple[float, float], texts: FigureTexts, magnitude: bool) -> None:
    low, high = limits
    reach = max(abs(low), abs(high))
    for kind, gate in data.gates.items():
        colour = style.ROLE_COLOURS[GATES[kind].role]
        edges, counts = gate.magnitudes(reach) if magnitude else gate.binned(reach)
        share = _shares(counts.sum(axis=0))
        axes.stairs(share, edges, color=colour, linewidth=1.2, fill=False, label=texts.gate(kind), zorder=3)
        axes.stairs(share, edges, color=colour, alpha=0.18, fill=True, zorder=2)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if low < 0:
        axes.axvline(0, color=style.FAINT_COLOUR, linewidth=0.7, zorder=1)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.08)
    axes.grid(axis="y")
    axes.set_ylabel(texts("overall.share"))
    axes.set_xlabel(texts("overall.magnitude_axis" if magnitude else "overall.gate_axis"))


def _signed_limits(gates: Iterable[GateDistribution]) -> tuple[float, float]:
    """Give the ends of the bins that hold values, 0 among them, moved out to round numbers: no axis is half empty."""
    low = high = 0.0
    for gate in gates:
        edges = np.asarray(gate.edges, dtype=float)
        filled = np.flatnonzero(np.asarray(gate.counts).sum(axis=0))
        if filled.size:
            low, high = min(low, edges[filled[0]]), max(high, edges[filled[-1] + 1])
    return -style.round_up(-low) if low < 0 else 0.0, style.round_up(high) if high > 0 else 0.0


@in_house_style
def plot_overall(data: OverallData, scale: FigureScale | None = None) -> Figure:
    """Draw the gates of a whole run: injection and magnitude of every video per layer, all values, signed ones last.

    Panels side by side have one scale.

    Args:
        data: A value per video or sample, and counts of all valid values.
        scale: The report's scale.
    """
    texts = (scale or FigureScale()).texts
    n = data.first.n_layers
    rows = [
        (name, {kind: np.asarray(values, dtype=float) for kind, values in found.items()})
        for name, found in (("injection", data.injection), ("magnitude", data.magnitude))
        if found
    ]
    row_height = 0.14 + 0.3 * n if n <= 4 else 0.14 + 0.22 * n
    injected = texts("patterns.about_injection", formula=style.INJECTION_FORMULA) if data.injection else ""
    caption = style.caption_lines(texts, f"{data.n(texts)} {texts('overall.about')}", injected, texts("sign_caveat"))
    height = 0.86 + len(rows) * (row_height + 0.72) + 1.35 + 0.4 + style.caption_height(caption)
    figure = style.new_figure(height)
    style.add_heading(figure, texts("overall.heading"))
    columns = max(2, len(data.gates))
    pitch = 7.06 / columns
    width = pitch - 1.13
    # At the right of the last column nothing is left for a title to run into: all titles get a size at which it fits.
    room = style.PAGE_WIDTH_IN - 0.15 - (0.75 + pitch * (len(data.gates) - 1))
    last = [headed(texts(f"overall.{name}", gate=texts.gate(list(data.gates)[-1]))) for name, _ in rows]
    title_pt = min([_TITLE_PT, *(room / text_width_in(title, 1, "bold") for title in last)])
    top = 0.86
    for name, found in rows:
        end = 1.04 * style.largest(*found.values()) or 1.0
        for column, (kind, values) in enumerate(found.items()):
            axes = style.add_axes_inches(figure, 0.75 + pitch * column, top, width, row_height)
            draw_points(axes, values, style.ROLE_COLOURS[GATES[kind].role], end, texts)
            axes.set_title(headed(texts(f"overall.{name}", gate=texts.gate(kind))), size=title_pt)
            axes.set_xlabel(texts.role(kind) if name == "injection" else texts("overall.magnitude_axis"))
        top += row_height + 0.72
    figure.legend(
        handles=_points_legend(texts, data.points),
        loc="upper left",
        ncols=5,
        bbox_to_anchor=(0.1 / style.PAGE_WIDTH_IN, 1 - 0.34 / height),
        columnspacing=1.3,
        handletextpad=0.5,
        fontsize=7.2,
    )
    limits = _signed_limits(data.gates.values())
    reach = max(map(abs, limits)) or 1.0
    panels = (((0.0, reach), True, "all_magnitudes"), (limits, False, "all_values"))
    for left, (ends, magnitude, title) in zip((0.75, 4.28), panels, strict=True):
        axes = style.add_axes_inches(figure, left, top, 2.55, 1.35)
        _histogram(axes, data, ends, texts, magnitude)
        axes.set_title(texts(f"overall.{title}"))
        if magnitude:
            axes.legend(loc="best")
    style.add_caption(figure, caption)
    return figure


@in_house_style
def plot_layer_distributions(data: OverallData, scale: FigureScale | None = None) -> Figure:
    """Draw the distribution of each layer's gates, a column for every kind.

    Bars are coloured by the gate's value, as in every other figure; heights are per cent of the layer's values.
    """
    scale = scale or FigureScale()
    texts, limit, n = scale.texts, scale.gate_limit, data.first.n_layers
    row = 0.85 if n <= 4 else 0.5
    gap = 0.2
    caption = style.caption_lines(texts, data.n(texts) + " " + texts("layers.about"), texts("sign_caveat"))
    # Over the first row stand what is written over each row, and above that the gates' names.
    top = 0.76
    height = top + n * (row + gap) + 0.3 + style.caption_height(caption)
    figure = style.new_figure(height)
    style.add_heading(figure, texts("layers.heading"))
    share = 2 / max(2, len(data.gates))  # of the width that each column has where there are two
    for column, (kind, gate) in enumerate(data.gates.items()):
        edges, counts = gate.binned(limit)
        shares = _shares(counts)
        middles = (edges[:-1] + edges[1:]) / 2
        colours = style.GATE_COLOURS(scale.gate_norm(middles))
        for layer_idx in range(n):
            left, width = 0.95 + 3.4 * share * column, 3.4 * share - 0.75
            axes = style.add_axes_inches(figure, left, top + layer_idx * (row + gap), width, row)
            bars = [
                Rectangle((edges[i], 0), edges[i + 1] - edges[i], share) for i, share in enumerate(shares[layer_idx])
            ]
            axes.add_collection(PatchCollection(bars, facecolors=colours, edgecolors="none", zorder=2), autolim=False)
            axes.stairs(shares[layer_idx], edges, color="#333333", linewidth=0.6, zorder=3)
            axes.axvline(0, color=style.FAINT_COLOUR, linewidth=0.7, zorder=1)
            style.set_gate_ticks(axes, limit)
            most = style.round_up(float(shares[layer_idx].max()) * 1.05)
            axes.set_ylim(0, most)
            axes.set_yticks([0, most], ["0", texts("percent", value=f"{most:g}")])
            axes.tick_params(labelbottom=layer_idx == n - 1)
            median, mean = gate.summary.column("median")[layer_idx], gate.summary.column("mean")[layer_idx]
            axes.plot([mean], [0], marker=7, color="black", markersize=4.5, clip_on=False, zorder=5)
            # Above the axes: wherever it stood inside, some distribution would run under it.
            axes.text(
                1.0,
                1.03,
                texts("layers.marks", mean=style.signed(float(mean)), median=style.signed(float(median))),
                transform=axes.transAxes,
                ha="right",
                va="bottom",
                size=7.2,
            )
            if column == 0:
                axes.set_ylabel(texts("layer", layer=layer_idx), rotation=0, ha="right", va="center", labelpad=3)
            if layer_idx == 0:
                axes.set_title(texts.gate_title(kind), pad=15)
            if layer_idx == n - 1:
                axes.set_xlabel(texts("gate"))
    style.add_caption(figure, caption)
    return figure
