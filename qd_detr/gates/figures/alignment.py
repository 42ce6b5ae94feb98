"""The figure `moment_alignment`: a quantity around the edges of windows, against a null from circular time shifts.

Letters: N layers, O offsets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.wording import FigureTexts, headed

FloatArray = NDArray[np.float64]
_LEFT_IN, _WIDTH_IN, _GAP_IN = 1.1, 2.8, 0.14
_TOP_IN = 0.68
_LINE_COLOUR = (
    style.ATTENTION_COLOUR
)  # one for every layer: none is told by its colour here, and on green and grey it is seen


@dataclass(frozen=True, eq=False)
class AlignmentData:
    """A quantity around window edges, and inside minus outside, each with a null from circular time shifts.

    Attributes:
        kind: The gate.
        series: Which of its quantities: "injection" or "magnitude".
        offsets_s: Seconds from the edge, one per clip, (O,).
        start: Mean around window starts per layer, less the sample's mean, (N, O).
        start_null: Ends of the null's central 95 %, (2, N, O).
        end: Mean around window ends, less the sample's mean, (N, O).
        end_null: (2, N, O).
        contrast: Inside minus outside, (N,).
        contrast_null: Ends of the null's central 95 %, (2, N).
        n_samples: Samples.
        n_windows: Windows behind it, if known.
        windows: Which windows: "annotation" or "prediction".
        n_shifts: Circular shifts behind the null.
    """

    kind: str
    series: str
    offsets_s: ArrayLike
    start: ArrayLike
    start_null: ArrayLike
    end: ArrayLike
    end_null: ArrayLike
    contrast: ArrayLike
    contrast_null: ArrayLike
    n_samples: int
    n_windows: int | None = None
    windows: str = "annotation"
    n_shifts: int | None = None

    def checked(self) -> tuple[FloatArray, ...]:
        """Give offsets, start, its null, end, its null, contrast and its null as arrays.

        Raises:
            ValueError: Their shapes do not fit together.
        """
        given = (
            self.offsets_s,
            self.start,
            self.start_null,
            self.end,
            self.end_null,
            self.contrast,
            self.contrast_null,
        )
        arrays = tuple(np.asarray(one, dtype=float) for one in given)
        n, o = len(arrays[5]), len(arrays[0])
        expected = [(o,), (n, o), (2, n, o), (n, o), (2, n, o), (n,), (2, n)]
        found = [array.shape for array in arrays]
        if found != expected:
            raise ValueError(
                f"offsets, starts, ends, contrast and their nulls must have shapes {expected}, got {found}"
            )
        return arrays


@in_house_style
def plot_alignment(data: AlignmentData, scale: FigureScale | None = None) -> Figure:
    """Draw a quantity around window starts and ends per layer, and inside minus outside, each against its null."""
    texts = (scale or FigureScale()).texts
    offsets, start, start_null, end, end_null, contrast, null = data.checked()
    n_layers = len(contrast)
    row = 0.78 if n_layers <= 4 else 0.5
    body = n_layers * (row + _GAP_IN) - _GAP_IN
    contrast_height = max(0.35, 0.26 * n_layers)
    shifts = texts("alignment.shifts", n=f"{data.n_shifts:,}") if data.n_shifts else ""
    n = texts.counted(data.n_samples, "sample")
    if data.n_windows is not None:
        n += f", {texts.counted(data.n_windows, 'window')}"
    caption = style.caption_lines(texts, texts("alignment.caption", n=n, shifts=shifts))
    figure = style.new_figure(_TOP_IN + body + 0.86 + contrast_height + 0.48 + style.caption_height(caption))
    quantity = texts(f"alignment.{data.series}", gate=texts.gate(data.kind))
    windows = texts(f"windows.{data.windows}")
    style.add_heading(figure, headed(texts("alignment.heading", quantity=quantity, windows=windows)))
    columns = (
        (_LEFT_IN, start, start_null, "alignment.starts", (0.0, np.inf)),
        (_LEFT_IN + _WIDTH_IN + 0.3, end, end_null, "alignment.ends", (-np.inf, 0.0)),
    )
    for layer_idx in range(n_layers):
        both = np.concatenate([array[..., layer_idx, :].ravel() for array in (start, start_null, end, end_null)])
        for column, (left, values, band, title, inside) in enumerate(columns):
            axes = style.add_axes_inches(figure, left, _TOP_IN + layer_idx * (row + _GAP_IN), _WIDTH_IN, row)
            _draw_around_edge(axes, offsets, values[layer_idx], band[:, layer_idx], inside)
            room = 0.1 * (np.nanmax(both) - np.nanmin(both)) or 0.05
            axes.set_ylim(np.nanmin(both) - room, np.nanmax(both) + room)
            last = layer_idx == n_layers - 1
            axes.tick_params(labelbottom=last, labelleft=column == 0)
            if layer_idx == 0:
                axes.set_title(texts(title))
            if column == 0:
                x = -(_LEFT_IN - 0.3) / _WIDTH_IN
                axes.text(x, 0.5, texts("layer", layer=layer_idx), transform=axes.transAxes, va="center", size=7.8)
            if last:
                axes.set_xlabel(texts("alignment.seconds"))
    middle = 1 - (_TOP_IN + body / 2) / figure.get_size_inches()[1]
    relative = texts("alignment.relative")
    figure.text(0.15 / style.PAGE_WIDTH_IN, middle, relative, size=7.2, rotation=90, ha="center", va="center")
    axes = style.add_axes_inches(figure, _LEFT_IN, _TOP_IN + body + 0.86, 5.0, contrast_height)
    _draw_contrast(axes, contrast, null, texts)
    axes.set_xlabel(texts("alignment.difference", quantity=quantity))
    style.add_caption(figure, caption)
    return figure


def _draw_around_edge(
    axes: Axes, offsets: FloatArray, values: FloatArray, band: FloatArray, inside: tuple[float, float]
) -> None:
    """Draw a layer's course around an edge: grey null, green where the window is; the outermost markers are whole."""
    step = float(np.diff(offsets).min()) if len(offsets) > 1 else 1.0
    ends = (offsets.min() - 0.4 * step, offsets.max() + 0.4 * step)
    axes.axvspan(*np.clip(inside, *ends), color=style.TRUTH_COLOUR, alpha=0.1, linewidth=0, zorder=0)
    axes.fill_between(offsets, *band, color=style.NULL_COLOUR, linewidth=0, alpha=0.8, zorder=1)
    axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=2)
    marker = "o" if len(offsets) <= 25 else None
    axes.plot(offsets, values, color=_LINE_COLOUR, linewidth=1.4, marker=marker, markersize=3, zorder=3)
    axes.set_xlim(*ends)
    # Ticks where clips begin, and at the edge itself.
    apart = int(np.ceil(len(offsets) / 7))
    edge = int(np.argmin(np.abs(offsets)))
    ticks = offsets[edge % apart :: apart]
    axes.set_xticks(ticks, [style.brief(tick) for tick in ticks])
    axes.yaxis.set_major_locator(MaxNLocator(3))


def _draw_contrast(axes: Axes, contrast: FloatArray, null: FloatArray, texts: FigureTexts) -> None:
    n_layers = len(contrast)
    rows = np.arange(n_layers)
    axes.hlines(rows, null[0], null[1], color=style.NULL_COLOUR, linewidth=7, zorder=1)
    axes.scatter(contrast, rows, s=34, marker="D", color=_LINE_COLOUR, zorder=3, linewidths=0.6, edgecolors="white")
    axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=2)
    axes.set_ylim(n_layers - 0.4, -0.6)
    style.set_row_ticks(axes, texts.layers(n_layers))
    axes.margins(x=0.08)
    axes.grid(axis="x")
    axes.set_title(texts("alignment.contrast"))
    for layer_idx, value in enumerate(contrast):
        axes.text(
            1.02,
            layer_idx,
            style.signed(float(value), 3),
            transform=axes.get_yaxis_transform(),
            va="center_baseline",
            size=7.4,
        )
