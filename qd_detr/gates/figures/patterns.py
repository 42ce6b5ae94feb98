"""The figure `activation_patterns`: every sample as a row, every layer as a column.

Letters: S samples, N layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.text import printable, put_text, shorten
from qd_detr.gates.figures.wording import figure_texts
from qd_detr.gates.gating import ATTENTION, GATES

_QUANTITIES = ("injection", "gates", "magnitudes")
_LABEL_IN, _TALL_IN = 1.25, 4.6
NAMED_ROWS = 40  # above this, labels of rows would overlap
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PatternData:
    """A sample's mean gates and injection per layer; all arrays (S, N), NaN where there is no value.

    Attributes:
        sample_ids: The ids, in the order of the rows.
        gating_type: A name from `gating.GATING_TYPES`.
        gates: By kind of gate the mean gate.
        magnitudes: By kind the mean |gate|; where channels cancel in the mean it is the one to look at.
        injection: By kind the mean injection.
        n_videos: Videos behind the samples, if known.
    """

    sample_ids: Sequence[str]
    gating_type: str
    gates: Mapping[str, ArrayLike]
    magnitudes: Mapping[str, ArrayLike] = field(default_factory=dict)
    injection: Mapping[str, ArrayLike] = field(default_factory=dict)
    n_videos: int | None = None

    def matrices(self) -> dict[tuple[str, str], FloatArray]:
        """Give what there is to show as (S, N) arrays by kind of gate and quantity, in the order of the panels."""
        found = {
            (kind, quantity): np.asarray(getattr(self, quantity)[kind], dtype=float)
            for kind in self.gates
            for quantity in _QUANTITIES
            if kind in getattr(self, quantity)
        }
        for (kind, quantity), array in found.items():
            if array.ndim != 2 or len(array) != len(self.sample_ids):
                raise ValueError(
                    f"{quantity} of the {kind} gate must have the shape ({len(self.sample_ids)}, layers), got {array.shape}"
                )
        return found


def order_rows(data: PatternData) -> tuple[NDArray[np.intp], str]:
    """Give the order of the rows, and in words by what: attention injection if it is there, else mean |attention gate|."""
    shown = data.matrices()
    injection = shown.get((ATTENTION.kind, "injection"))
    if injection is not None:
        values, words = injection, "by the attention gate's injection, summed over layers (most audio first)"
    else:
        values = shown.get((ATTENTION.kind, "magnitudes"), shown[ATTENTION.kind, "gates"])
        words = "by mean |attention gate| over layers, largest first"
    return np.argsort(-np.nansum(np.abs(values), axis=1), kind="stable"), words


@in_house_style
def plot_activation_patterns(data: PatternData, scale: FigureScale | None = None) -> Figure:
    """Draw samples x layers: injection of every gate, and their mean values.

    Args:
        data: One row per sample.
        scale: The report's scale; injection up to the data's largest where it gives no limit.

    Raises:
        ValueError: There are no samples, or an array's shape does not fit.
    """
    scale = scale or FigureScale()
    n = len(data.sample_ids)
    if not n:
        raise ValueError("activation patterns need at least one sample")
    order, words = order_rows(data)
    panels = data.matrices()
    named = n <= NAMED_ROWS
    # With more rows than pixels, neighbours are averaged; drawing each would leave some out.
    pooled = 1 if named else int(np.ceil(n / (_TALL_IN * style.FIGURE_DPI)))
    caption = _caption(scale, data, panels, words, pooled)
    top, below = 0.82, 0.94 + style.caption_height(caption)
    body = max(0.3, 0.16 * n) if named else _TALL_IN
    figure = style.new_figure(top + body + below)
    style.add_heading(figure, "Gate patterns: samples and layers")
    labels = [shorten(printable(data.sample_ids[row]), _LABEL_IN - 0.2, 7.5) for row in order] if named else []
    left, gap = (_LABEL_IN if named else 0.72), 0.14
    between = 0.3
    room = style.PAGE_WIDTH_IN - left - 0.15 - between * (len(data.gates) - 1)
    width = min((room - gap * (len(panels) - 1)) / len(panels), 2.0)
    place, kind_before = left, ""
    for (kind, quantity), values in panels.items():
        if kind_before and kind != kind_before:
            place += between
        axes = style.add_axes_inches(figure, place, top, width, body)
        limits, colours = _limits(kind, quantity, values, scale)
        shown = _pool_rows(values[order], pooled)
        image = axes.imshow(
            shown,
            aspect="auto",
            cmap=colours,
            vmin=limits[0],
            vmax=limits[1],
            interpolation="nearest",
            extent=(-0.5, values.shape[1] - 0.5, n - 0.5, -0.5),
        )
        axes.set_title(
            {"injection": "injection", "gates": "mean", "magnitudes": "mean |gate|"}[quantity],
            fontsize=8,
            fontweight="normal",
            pad=3,
        )
        if kind != kind_before:
            axes.annotate(
                GATES[kind].title,
                (0, 1),
                xycoords="axes fraction",
                xytext=(0, 16),
                textcoords="offset points",
                size=8.5,
                weight="bold",
            )
        _layer_ticks(axes, values.shape[1], width)
        axes.spines[:].set_visible(False)
        bar_axes = style.add_axes_inches(figure, place + 0.06, top + body + 0.5, width - 0.12, 0.08)
        bar = figure.colorbar(image, cax=bar_axes, orientation="horizontal")
        ticks = [limits[0], sum(limits) / 2, limits[1]]
        bar.set_ticks(ticks, labels=[style.plain(x, 3).rstrip("0").rstrip(".") or "0" for x in ticks])
        bar_axes.tick_params(labelsize=6.8, pad=1.5)
        unit = {"injection": "injection", "gates": "gate", "magnitudes": "|gate|"}[quantity]
        bar_axes.set_xlabel(unit, fontsize=7, labelpad=1)
        _name_rows(axes, n, labels, first=place == left)
        place += width + gap
        kind_before = kind
    style.add_caption(figure, caption)
    return figure


def _caption(
    scale: FigureScale, data: PatternData, panels: Mapping[tuple[str, str], FloatArray], words: str, pooled: int
) -> list[str]:
    videos = f" of {figure_texts('en').counted(data.n_videos, 'video')}" if data.n_videos is not None else ""
    pooling = f" A line is the mean of {pooled} neighbouring samples." if pooled > 1 else ""
    odd = any(not np.isfinite(values).all() for values in panels.values())
    gaps = " Grey: no value." if odd else ""
    injected = "Injection: |g \N{DOT OPERATOR} branch| / |residual|, for the attention gate how much audio enters."
    return style.caption_lines(
        scale.texts,
        f"n = {figure_texts('en').counted(len(data.sample_ids), 'sample')}{videos}; {data.gating_type} gates. Rows {words}."
        f"{pooling}{gaps}",
        injected if data.injection else "",
        scale.texts("sign_caveat"),
    )


def _limits(kind: str, quantity: str, values: FloatArray, scale: FigureScale) -> tuple[tuple[float, float], Colormap]:
    if quantity == "gates":
        return (-scale.gate_limit, scale.gate_limit), style.GATE_COLOURS
    if quantity == "magnitudes":
        return (0.0, scale.gate_limit), style.MAGNITUDE_COLOURS
    return (0.0, scale.injection_top(kind, values)), style.MAGNITUDE_COLOURS


def _pool_rows(values: FloatArray, size: int) -> FloatArray:
    """Give the means of `size` rows each, non-finite values left out; the last group may be smaller."""
    if size == 1:
        return np.where(np.isfinite(values), values, np.nan)
    starts = np.arange(0, len(values), size)
    known = np.isfinite(values)
    count = np.add.reduceat(known, starts, axis=0, dtype=float)
    total = np.add.reduceat(np.where(known, values, 0.0), starts, axis=0)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _name_rows(axes: Axes, n: int, labels: Sequence[str], first: bool) -> None:
    if not first:
        axes.set_yticks([])
        return
    if labels:
        style.set_row_ticks(axes, labels)
        for artist, label in zip(axes.get_yticklabels(), labels, strict=True):
            put_text(artist, label)
        return
    step = style.round_up(n / 6)
    ticks = np.unique(np.concatenate([[0], np.arange(step, n - step / 3, step) - 1, [n - 1]])).astype(int)
    axes.set_yticks(ticks, [f"{tick + 1:,}" for tick in ticks])
    axes.set_ylabel("samples, ranked")


def _layer_ticks(axes: Axes, n_layers: int, width_in: float) -> None:
    step = max(1, int(np.ceil(n_layers * 0.16 / width_in)))
    axes.set_xticks(np.arange(0, n_layers, step))
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("layer", labelpad=1)
