"""Figures over all samples: `overall_statistics` and `layer_distributions`, from counts and summaries, never from raw values.

Letters: N layers, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.wording import figure_texts
from qd_detr.gates.gating import GATES

FloatArray = NDArray[np.float64]
SHOWN_BINS = 50


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
        injection: By kind, per-sample mean injection, summarised over samples; empty leaves it out.
    """

    gating_type: str
    n_samples: int
    gates: Mapping[str, GateDistribution]
    n_videos: int | None = None
    injection: Mapping[str, LayerSummary] = field(default_factory=dict)

    @property
    def first(self) -> GateDistribution:
        """The distribution of the first kind of gate."""
        return next(iter(self.gates.values()))

    def caption(self) -> str:
        """Say what n is."""
        n = figure_texts("en").counted(self.n_samples, "sample")
        if self.n_videos is not None:
            n += f" of {figure_texts('en').counted(self.n_videos, 'video')}"
        values = int(np.asarray(self.first.counts).sum())
        layers = figure_texts("en").counted(self.first.n_layers, "layer")
        return f"n = {n}; {values:,} values of each gate; {self.gating_type} gates, {layers}."


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


def draw_layer_summary(axes: Axes, summary: LayerSummary, colour: str, limits: tuple[float, float]) -> None:
    """Draw mean and spread per layer as rows: thin bar 5 to 95 %, thick bar 25 to 75 %, tick median, diamond mean."""
    mean = summary.column("mean")
    rows = np.arange(len(mean))
    axes.hlines(rows, summary.column("p05"), summary.column("p95"), color=colour, linewidth=1.2, zorder=2)
    axes.hlines(rows, summary.column("p25"), summary.column("p75"), color=colour, linewidth=5, alpha=0.45, zorder=3)
    axes.plot(summary.column("median"), rows, "|", color=colour, markersize=9, markeredgewidth=1.6, zorder=4)
    axes.plot(mean, rows, "D", color=colour, markersize=4.2, markeredgecolor="white", markeredgewidth=0.7, zorder=5)
    axes.set_xlim(*limits)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    style.set_row_ticks(axes, [f"layer {row}" for row in rows])
    axes.grid(axis="x")
    for row, value in enumerate(mean):
        axes.annotate(
            style.plain(float(value), 2 if limits[1] >= 0.1 else 3),
            (1.015, row),
            xycoords=axes.get_yaxis_transform(),
            va="center_baseline",
            size=7.2,
            annotation_clip=False,
        )


def _summary_legend() -> list[Line2D | Patch]:
    grey = style.NEUTRAL_COLOUR
    return [
        Line2D([], [], color=grey, marker="D", markersize=4.2, linestyle="none", label="mean (number at the right)"),
        Line2D([], [], color=grey, marker="|", markersize=8, markeredgewidth=1.6, linestyle="none", label="median"),
        Line2D([], [], color=grey, linewidth=5, alpha=0.45, label="25\N{EN DASH}75 %"),
        Line2D([], [], color=grey, linewidth=1.2, label="5\N{EN DASH}95 %"),
    ]


def _histogram(axes: Axes, data: OverallData, limit: float, magnitude: bool) -> None:
    for kind, gate in data.gates.items():
        colour, label = style.ROLE_COLOURS[GATES[kind].role], f"{GATES[kind].label} gate"
        edges, counts = gate.magnitudes(limit) if magnitude else gate.binned(limit)
        share = _shares(counts.sum(axis=0))
        axes.stairs(share, edges, color=colour, linewidth=1.2, fill=False, label=label, zorder=3)
        axes.stairs(share, edges, color=colour, alpha=0.18, fill=True, zorder=2)
    if magnitude:
        axes.set_xlim(0, limit)
    else:
        style.set_gate_ticks(axes, limit)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.08)
    axes.grid(axis="y")
    axes.set_ylabel("% of values")
    axes.set_xlabel("magnitude |gate|" if magnitude else "gate")


@in_house_style
def plot_overall(data: OverallData, scale: FigureScale | None = None) -> Figure:
    """Draw the gates of a whole run: injection per layer first, gates per layer, then all values.

    Args:
        data: Counts and summaries over all valid values.
        scale: The report's scale.
    """
    scale = scale or FigureScale()
    limit, n = scale.gate_limit, data.first.n_layers
    with_injection = bool(data.injection)
    row_height = 0.3 + 0.2 * max(n, 2)
    tops = ([row_height] if with_injection else []) + [row_height, 1.55]
    injected = "Injection: of each sample's mean over its clips." if with_injection else ""
    caption = style.caption_lines(scale.texts, f"{data.caption()} {injected}", scale.texts("sign_caveat"))
    height = 0.55 + sum(tops) + 0.72 * len(tops) + style.caption_height(caption) - 0.1
    figure = style.new_figure(height)
    style.add_heading(figure, "Gates over all samples")
    share = 2 / max(2, len(data.gates))  # of the width that each column has where there are two
    columns = {kind: 0.75 + 3.53 * share * i for i, kind in enumerate(data.gates)}
    width = 3.53 * share - 1.13
    top = 0.62
    if with_injection:
        for kind, summary in data.injection.items():
            gate = GATES[kind]
            axes = style.add_axes_inches(figure, columns[kind], top, width, row_height)
            ceiling = scale.injection_top(kind, summary.p95, summary.mean)
            draw_layer_summary(axes, summary, style.ROLE_COLOURS[gate.role], (0, ceiling))
            axes.set_title(f"Injection of the {gate.label} gate")
            axes.set_xlabel(f"|g \N{DOT OPERATOR} branch| / |residual|: {scale.texts.role(kind)}")
        top += row_height + 0.72
    for kind, distribution in data.gates.items():
        axes = style.add_axes_inches(figure, columns[kind], top, width, row_height)
        draw_layer_summary(axes, distribution.summary, style.ROLE_COLOURS[GATES[kind].role], (-limit, limit))
        style.set_gate_ticks(axes, limit)
        axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=1)
        axes.set_title(GATES[kind].title)
        axes.set_xlabel("gate")
    figure.legend(
        handles=_summary_legend(),
        loc="upper right",
        ncols=4,
        bbox_to_anchor=(0.985, 1 - 0.08 / height),
        columnspacing=1.1,
        handletextpad=0.5,
        fontsize=7.2,
    )
    top += row_height + 0.72
    for left, magnitude, title in ((0.75, False, "All gate values"), (4.28, True, "Their magnitude")):
        axes = style.add_axes_inches(figure, left, top, 2.6, 1.55)
        _histogram(axes, data, limit, magnitude)
        axes.set_title(title)
    axes.legend(loc="best")
    style.add_caption(figure, caption)
    return figure


@in_house_style
def plot_layer_distributions(data: OverallData, scale: FigureScale | None = None) -> Figure:
    """Draw the distribution of each layer's gates, a column for every kind.

    Bars are coloured by the gate's value, as in every other figure; heights are per cent of the layer's values.
    """
    scale = scale or FigureScale()
    limit, n = scale.gate_limit, data.first.n_layers
    row = 0.85 if n <= 4 else 0.5
    gap = 0.2
    caption = style.caption_lines(
        scale.texts, f"{data.caption()} Heights: % of a layer's values; triangle: mean.", scale.texts("sign_caveat")
    )
    height = 0.62 + n * (row + gap) + 0.3 + style.caption_height(caption)
    figure = style.new_figure(height)
    style.add_heading(figure, "Gate values per layer")
    share = 2 / max(2, len(data.gates))  # of the width that each column has where there are two
    for column, (kind, gate) in enumerate(data.gates.items()):
        edges, counts = gate.binned(limit)
        shares = _shares(counts)
        middles = (edges[:-1] + edges[1:]) / 2
        colours = style.GATE_COLOURS(scale.gate_norm(middles))
        for layer_idx in range(n):
            left, width = 0.95 + 3.4 * share * column, 3.4 * share - 0.75
            axes = style.add_axes_inches(figure, left, 0.62 + layer_idx * (row + gap), width, row)
            bars = [
                Rectangle((edges[i], 0), edges[i + 1] - edges[i], share) for i, share in enumerate(shares[layer_idx])
            ]
            axes.add_collection(PatchCollection(bars, facecolors=colours, edgecolors="none", zorder=2), autolim=False)
            axes.stairs(shares[layer_idx], edges, color="#333333", linewidth=0.6, zorder=3)
            axes.axvline(0, color=style.FAINT_COLOUR, linewidth=0.7, zorder=1)
            style.set_gate_ticks(axes, limit)
            top = style.round_up(float(shares[layer_idx].max()) * 1.05)
            axes.set_ylim(0, top)
            axes.set_yticks([0, top], ["0", f"{top:g} %"])
            axes.tick_params(labelbottom=layer_idx == n - 1)
            median, mean = gate.summary.column("median")[layer_idx], gate.summary.column("mean")[layer_idx]
            axes.plot([mean], [0], marker=7, color="black", markersize=4.5, clip_on=False, zorder=5)
            # Above the axes: wherever it stood inside, some distribution would run under it.
            axes.text(
                1.0,
                1.03,
                f"mean {style.signed(float(mean))}, median {style.signed(float(median))}",
                transform=axes.transAxes,
                ha="right",
                va="bottom",
                size=7.2,
            )
            if column == 0:
                axes.set_ylabel(f"layer {layer_idx}", rotation=0, ha="right", va="center", labelpad=3)
            if layer_idx == 0:
                axes.set_title(GATES[kind].title)
            if layer_idx == n - 1:
                axes.set_xlabel("gate")
    style.add_caption(figure, caption)
    return figure
