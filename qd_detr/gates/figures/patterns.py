"""The figure `activation_patterns`: every sample as a row, every layer as a column.

Letters: S samples, N layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.text import printable, put_text, shorten, wrap
from qd_detr.gates.figures.wording import FigureTexts
from qd_detr.gates.gating import ATTENTION, gating_named

_LABEL_IN, _TALL_IN = 1.25, 4.6
_GROUP_IN = 0.16  # the strip that marks the groups
NAMED_ROWS = 40  # above this, labels of rows would overlap
_TOP_SHARE = 99  # percentile of the data that a scale of magnitudes reaches
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
        groups: The group of each sample as in `gate_clustering`, 0 the largest; None where there are none.
    """

    sample_ids: Sequence[str]
    gating_type: str
    gates: Mapping[str, ArrayLike]
    magnitudes: Mapping[str, ArrayLike] = field(default_factory=dict)
    injection: Mapping[str, ArrayLike] = field(default_factory=dict)
    n_videos: int | None = None
    groups: NDArray[np.intp] | None = None

    def matrices(self) -> dict[tuple[str, str], FloatArray]:
        """Give what is shown as (S, N) arrays by quantity and kind of gate, in the order of the panels.

        The mean over channels that cancel is no quantity to show: gates with channels have their magnitudes, others
        their means.
        """
        gates = "magnitudes" if gating_named(self.gating_type).per_channel and self.magnitudes else "gates"
        found = {
            (quantity, kind): np.asarray(getattr(self, quantity)[kind], dtype=float)
            for quantity in ("injection", gates)
            for kind in self.gates
            if kind in getattr(self, quantity)
        }
        for (quantity, kind), array in found.items():
            if array.ndim != 2 or len(array) != len(self.sample_ids):
                raise ValueError(
                    f"{quantity} of the {kind} gate must have the shape ({len(self.sample_ids)}, layers), got {array.shape}"
                )
        return found


def order_rows(data: PatternData) -> tuple[NDArray[np.intp], str]:
    """Give the order of the rows, and by what: attention injection if it is there, else |attention gate|; group by group."""
    shown = data.matrices()
    by = "injection" if ("injection", ATTENTION.kind) in shown else "magnitude"
    values = (
        shown["injection", ATTENTION.kind]
        if by == "injection"
        else np.asarray(data.magnitudes.get(ATTENTION.kind, data.gates[ATTENTION.kind]), dtype=float)
    )
    amount = np.nansum(np.abs(values), axis=1)
    if data.groups is None:
        return np.argsort(-amount, kind="stable"), by
    of_groups = np.array([amount[data.groups == group].mean() for group in range(data.groups.max() + 1)])
    rank = np.argsort(np.argsort(-of_groups, kind="stable"))
    return np.lexsort((-amount, rank[data.groups])), by


@in_house_style
def plot_activation_patterns(data: PatternData, scale: FigureScale | None = None) -> Figure:
    """Draw samples x layers: injection of every gate, then the gates; panels of one quantity share scale and colour bar.

    Args:
        data: One row per sample.
        scale: The report's scale; that of magnitudes and injection comes from the data.

    Raises:
        ValueError: There are no samples, or an array's shape does not fit.
    """
    scale = scale or FigureScale()
    texts = scale.texts
    n = len(data.sample_ids)
    if not n:
        raise ValueError("activation patterns need at least one sample")
    order, by = order_rows(data)
    panels = data.matrices()
    quantities = list(dict.fromkeys(quantity for quantity, _ in panels))
    named = n <= NAMED_ROWS
    # With more rows than pixels, neighbours are averaged; drawing each would leave some out.
    pooled = 1 if named else int(np.ceil(n / (_TALL_IN * style.FIGURE_DPI)))
    caption = _caption(texts, data, panels, by, pooled)
    top, below = 0.99, 0.94 + style.caption_height(caption)
    body = max(0.3, 0.16 * n) if named else _TALL_IN
    figure = style.new_figure(top + body + below)
    style.add_heading(figure, texts("patterns.heading"))
    labels = [shorten(printable(data.sample_ids[row]), _LABEL_IN - 0.2, 7.5) for row in order] if named else []
    left, gap, between = (_LABEL_IN if named else 0.72), 0.14, 0.45
    if data.groups is not None:
        axes = style.add_axes_inches(figure, left, top, _GROUP_IN, body)
        _mark_groups(axes, data.groups[order])
        _name_rows(axes, n, labels, texts)
        left += _GROUP_IN + 0.05
    room = style.PAGE_WIDTH_IN - left - 0.2 - between * (len(quantities) - 1)
    width = min((room - gap * (len(panels) - len(quantities))) / len(panels), 2.2)
    place = left
    for quantity in quantities:
        of_quantity = {kind: values[order] for (name, kind), values in panels.items() if name == quantity}
        limits, colours, above = _limits(quantity, list(of_quantity.values()), scale)
        begin = place
        for kind, values in of_quantity.items():
            axes = style.add_axes_inches(figure, place, top, width, body)
            image = axes.imshow(
                _pool_rows(values, pooled),
                cmap=colours,
                vmin=limits[0],
                vmax=limits[1],
                aspect="auto",
                interpolation="nearest",
                extent=(-0.5, values.shape[1] - 0.5, n - 0.5, -0.5),
            )
            title = wrap(texts.gate_title(kind), width, 8, max_lines=2)
            axes.set_title("\n".join(title), fontsize=8, fontweight="normal", pad=3)
            _layer_ticks(axes, values.shape[1], width, texts)
            axes.spines[:].set_visible(False)
            if data.groups is not None:
                for edge in np.flatnonzero(np.diff(data.groups[order])):
                    axes.axhline(edge + 0.5, color="white", linewidth=1.4)
            _name_rows(axes, n, labels if place == left and data.groups is None else None, texts)
            place += width + gap
        place += between - gap
        figure.text(
            begin / style.PAGE_WIDTH_IN,
            1 - (top - 0.33) / figure.get_size_inches()[1],
            texts(f"patterns.{quantity}"),
            size=8.5,
            weight="bold",
            va="bottom",
        )
        length = min(place - between - begin, 1.9)
        bar_axes = style.add_axes_inches(figure, begin, top + body + 0.5, length, 0.08)
        bar = figure.colorbar(image, cax=bar_axes, orientation="horizontal", extend="max" if above else "neither")
        ticks = [limits[0], sum(limits) / 2, limits[1]]
        bar.set_ticks(ticks, labels=[style.brief(tick) for tick in ticks])
        bar_axes.tick_params(labelsize=6.8, pad=1.5)
        bar_axes.set_xlabel(texts(f"patterns.{quantity}.unit"), fontsize=7, labelpad=1)
    style.add_caption(figure, caption)
    return figure


def _caption(
    texts: FigureTexts, data: PatternData, panels: Mapping[tuple[str, str], FloatArray], by: str, pooled: int
) -> list[str]:
    n = texts.n_samples(len(data.sample_ids), data.n_videos)
    parts = [texts("patterns.n", samples=n, gating=data.gating_type), texts(f"patterns.by_{by}")]
    if data.groups is not None:
        parts.append(texts("patterns.groups"))
    if pooled > 1:
        parts.append(texts("patterns.pooled", n=pooled))
    if any(not np.isfinite(values).all() for values in panels.values()):
        parts.append(texts("patterns.no_value"))
    injected = texts("patterns.about_injection", formula=style.INJECTION_FORMULA) if data.injection else ""
    signed = any(quantity == "gates" for quantity, _ in panels)
    return style.caption_lines(texts, " ".join(parts), injected, texts("sign_caveat") if signed else "")


def _limits(
    quantity: str, values: Sequence[FloatArray], scale: FigureScale
) -> tuple[tuple[float, float], Colormap, bool]:
    """Give the ends of a quantity's scale, its colours, and whether some values lie above."""
    if quantity == "gates":
        return (-scale.gate_limit, scale.gate_limit), style.GATE_COLOURS, False
    known = np.concatenate([array[np.isfinite(array)] for array in values])
    top = style.round_up(float(np.percentile(known, _TOP_SHARE))) if known.size else 1.0
    return (0.0, top), style.MAGNITUDE_COLOURS, style.largest(known) > top


def _mark_groups(axes: Axes, groups: NDArray[np.intp]) -> None:
    """Draw the groups of the rows, from the top down, as blocks of their colours with their letters."""
    n = len(groups)
    axes.set_xlim(0, 1)
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1), n]
    for begin, end in pairwise(edges):
        group = int(groups[begin])
        axes.add_patch(
            Rectangle(
                (0, begin - 0.5), 1, end - begin, facecolor=style.group_colour(group), edgecolor="white", linewidth=1.4
            )
        )
        letter = style.group_letter(group)
        axes.text(
            0.5,
            (begin + end - 1) / 2,
            letter,
            size=7.5,
            weight="bold",
            color="white",
            ha="center",
            va="center_baseline",
        )


def _pool_rows(values: FloatArray, size: int) -> FloatArray:
    """Give the means of `size` rows each, non-finite values left out; the last group may be smaller."""
    if size == 1:
        return np.where(np.isfinite(values), values, np.nan)
    starts = np.arange(0, len(values), size)
    known = np.isfinite(values)
    count = np.add.reduceat(known, starts, axis=0, dtype=float)
    total = np.add.reduceat(np.where(known, values, 0.0), starts, axis=0)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _name_rows(axes: Axes, n: int, labels: Sequence[str] | None, texts: FigureTexts) -> None:
    """Label the rows: with the ids given, or without any with counts; None leaves them out."""
    if labels is None:
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
    axes.set_ylabel(texts("patterns.rows"))


def _layer_ticks(axes: Axes, n_layers: int, width_in: float, texts: FigureTexts) -> None:
    step = max(1, int(np.ceil(n_layers * 0.16 / width_in)))
    axes.set_xticks(np.arange(0, n_layers, step))
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel(texts("layers_axis"), labelpad=1)
