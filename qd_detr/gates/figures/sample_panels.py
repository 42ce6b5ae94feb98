"""The panels of a sample's figure: each is laid out once, and then shown one sample's values after another.

Everything a sample changes is a *moving* artist that lies above all that stays (axes, labels, legends), so that what
stays can be drawn once. Every moving artist gets a new value with each sample: nothing of the one before is left.

Letters: C clips, D channels.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import ArrayLike

from qd_detr.gates.figures import style
from qd_detr.gates.figures.sample_data import FloatArray, SampleData
from qd_detr.gates.figures.sample_key import PLOT_IN, SIDE_IN, LayoutKey, StillKey
from qd_detr.gates.figures.style import FigureScale
from qd_detr.gates.figures.text import text_width_in

BEHIND, ABOVE = 2.6, 3.0  # all that moves lies above all that stays (axes frame 2.0, names 2.5 and below)
_SIDE = 1 + SIDE_IN / PLOT_IN  # where the numbers at the right begin, in widths of the axes
_Artist = TypeVar("_Artist", bound=Artist)


def stairs(edges: FloatArray, values: FloatArray) -> FloatArray:
    """Give the corner points of a step line, (2C, 2): a clip's value holds from its start to its end."""
    return np.column_stack([np.repeat(edges, 2)[1:-1], np.repeat(values, 2)])


def bars(windows: FloatArray, rows: ArrayLike, half_height: float | FloatArray) -> list[FloatArray]:
    """Give the corners of a bar per window, (4, 2) each."""
    start, end = windows[:, 0], windows[:, 1]
    middle = np.asarray(rows, dtype=float)
    low, high = middle - half_height, middle + half_height
    corners = [np.stack(corner, 1) for corner in ((start, low), (end, low), (end, high), (start, high))]
    return list(np.stack(corners, 1))


def between_own_ends(values: FloatArray) -> tuple[FloatArray, list[tuple[float, float | None]]]:
    """Give values as heights from 0 (their least) to 1 (their largest), and what is written at two heights.

    Values that are all one lie in the middle, with that one beside them; NaN stays.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)
    # What is below 1e-6 is the noise of float32, no course over time.
    if high - low > 1e-6 * max(1.0, abs(low), abs(high)):
        return (values - low) / (high - low), [(0.0, low), (1.0, high)]
    return np.where(np.isfinite(values), 0.5, np.nan), [(0.5, low), (1.0, None)]


class SamplePanel:
    """Axes with what moves on them."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale) -> None:
        self.axes, self.key, self.scale, self.texts = axes, key, scale, scale.texts
        self.moving: list[Artist] = []
        for spine in axes.spines.values():
            spine.set_zorder(2.0)

    def limit(self, still: StillKey) -> None:
        """Set the axis limits that samples share."""

    def update(self, data: SampleData) -> None:
        """Show a sample's values."""
        raise NotImplementedError

    def move(self, artist: _Artist, zorder: float = ABOVE) -> _Artist:
        """Note that `artist` changes from sample to sample."""
        artist.set_zorder(zorder)
        self.moving.append(artist)
        return artist

    def add_bars(self, zorder: float = ABOVE, **look: object) -> PolyCollection:
        """Add filled polygons that move."""
        artist = PolyCollection([], **look)  # type: ignore[arg-type]
        self.axes.add_collection(artist, autolim=False)
        return self.move(artist, zorder)

    def add_lines(self, zorder: float = ABOVE, **look: object) -> LineCollection:
        """Add lines that move."""
        artist = LineCollection([], **look)  # type: ignore[arg-type]
        self.axes.add_collection(artist, autolim=False)
        return self.move(artist, zorder)

    def title(self, title: str, hint: str = "") -> None:
        """Write a bold title, and after it in small what it means."""
        self.axes.set_title(title)
        if hint:
            offset = 72 * text_width_in(title, 8.5, "bold") + 7
            self.axes.annotate(
                hint,
                (0, 1),
                xycoords="axes fraction",
                xytext=(offset, 5),
                textcoords="offset points",
                size=7,
                color=style.NEUTRAL_COLOUR,
                va="baseline",
            )

    def side_title(self, text: str) -> None:
        """Say what the numbers at the right are."""
        self.axes.annotate(
            text,
            (_SIDE, 1),
            xycoords="axes fraction",
            xytext=(0, 5),
            textcoords="offset points",
            size=7,
            color=style.NEUTRAL_COLOUR,
            va="baseline",
        )

    def side_texts(self, rows: int, x: float = _SIDE, size: float = 7.2) -> list[Text]:
        """Add a number at the right of each row 0, 1, ..."""
        place = self.axes.get_yaxis_transform()
        return [
            self.move(self.axes.text(x, row, "", transform=place, va="center_baseline", size=size))
            for row in range(rows)
        ]

    def end_texts(self, *heights: float, ink: str = "black") -> list[Text]:
        """Add numbers at the left of the axis that move with the sample, in the place of ticks."""
        place = self.axes.get_yaxis_transform()
        return [
            self.move(self.axes.text(-0.012, y, "", transform=place, va="center", ha="right", size=7.2, color=ink))
            for y in heights
        ]

    def side_legend(self, height_in: float) -> list[Text]:
        """Name the layers' lines at the right, with room for numbers after each name."""
        axes, texts = self.axes, []
        step = min(0.16, height_in / self.key.n_layers) / height_in
        for layer_idx, colour in enumerate(style.layer_colours(self.key.n_layers)):
            y = 1 - step * (layer_idx + 0.5)
            swatch = Line2D([_SIDE, _SIDE + 0.025], [y, y], color=colour, linewidth=2, transform=axes.transAxes)
            swatch.set_clip_on(False)
            axes.add_artist(swatch)
            name = self.texts("layer", layer=layer_idx)
            axes.text(_SIDE + 0.035, y, name, transform=axes.transAxes, va="center_baseline", size=7.2)
            number = axes.text(_SIDE + 0.137, y, "", transform=axes.transAxes, va="center_baseline", size=7.2)
            texts.append(self.move(number))
        return texts

    def layer_rows(self) -> None:
        """Label a row per layer."""
        style.set_row_ticks(self.axes, self.texts.layers(self.key.n_layers))


class TruthMarks(SamplePanel):
    """Edges of the ground-truth windows, and where lines are drawn also a shade, on another panel's axes."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale, on_colours: bool) -> None:
        super().__init__(axes, key, scale)
        self._shade = None
        if not on_colours:
            self._shade = self.add_bars(BEHIND, facecolors=to_rgb(style.TRUTH_COLOUR), alpha=0.10, linewidths=0)
            self._shade.set_transform(axes.get_xaxis_transform())
        ink = "black" if on_colours else style.TRUTH_COLOUR
        self._edges = self.add_lines(ABOVE + 0.5, colors=ink, linewidths=0.9, linestyles=(0, (1, 1.6)))
        self._edges.set_transform(axes.get_xaxis_transform())

    def update(self, data: SampleData) -> None:
        """Show a sample's windows."""
        truth = data.windows("true_windows_s", 2)
        assert truth is not None
        # Two windows that touch share an edge: dotted lines drawn twice would close their gaps.
        self._edges.set_segments([[(x, 0.0), (x, 1.0)] for x in np.unique(truth)])
        if self._shade is not None:
            self._shade.set_verts(bars(truth, np.full(len(truth), 0.5), 0.5))


class MomentsPanel(SamplePanel):
    """Ground-truth windows, and a row per predicted window with its score."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale) -> None:
        super().__init__(axes, key, scale)
        axes.grid(axis="x")
        labels = [self.texts("sample.truth")] if key.truth else []
        ranks = [str(rank) for rank in range(1, key.n_predictions + 1)]
        labels += [self.texts("sample.predicted", rank=rank) if rank == "1" else rank for rank in ranks]
        axes.set_ylim(len(labels) - 0.45, -0.55)
        style.set_row_ticks(axes, labels)
        axes.spines["left"].set_visible(False)
        self.title(self.texts("sample.moments"))
        if key.n_predictions:
            self.side_title(self.texts("sample.score"))
        self._bars = self.add_bars(linewidths=0)
        self._texts = self.side_texts(len(labels))

    def update(self, data: SampleData) -> None:
        """Show a sample's windows."""
        verts: list[FloatArray] = []
        colours: list[tuple[float, float, float, float]] = []
        texts = [""] * len(self._texts)
        truth, predictions = data.windows("true_windows_s", 2), data.windows("predicted_windows", 3)
        if truth is not None:
            verts += bars(truth, np.zeros(len(truth)), 0.4)
            colours += [(*to_rgb(style.TRUTH_COLOUR), 1.0)] * len(truth)
            texts[0] = self.texts.counted(len(truth), "window") if len(truth) else self.texts("sample.none")
        if predictions is not None:
            shown = predictions[: self.key.n_predictions]
            rows = np.arange(len(shown)) + int(self.key.truth)
            verts += bars(shown, rows, 0.4)
            for row, score in zip(rows, shown[:, 2], strict=True):
                # The score is written beside the bar; its shade only says the same again, and never vanishes.
                strength = 0.25 + 0.75 * float(np.clip(np.nan_to_num(score), 0, 1))
                colours.append((*to_rgb(style.PREDICTION_COLOUR), strength))
                texts[row] = style.plain(float(score))
            if not len(shown):
                texts[int(self.key.truth)] = self.texts("sample.none")
        self._bars.set_verts(verts)
        if colours:
            self._bars.set_facecolor(colours)
        for artist, text in zip(self._texts, texts, strict=True):
            artist.set_text(text)


class SaliencyPanel(SamplePanel):
    """Predicted saliency as a line between its own ends, annotated saliency as an area on the annotators' scale."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale) -> None:
        super().__init__(axes, key, scale)
        axes.grid(axis="x")
        axes.set_ylim(-0.06, 1.06)
        axes.set_yticks([])
        predicted, annotated = key.saliency
        hints = [self.texts("sample.saliency.line")] if predicted else []
        hints += [self.texts("sample.saliency.area", top=f"{key.saliency_max:g}")] if annotated else []
        self.title(self.texts("sample.saliency"), "; ".join(hints))
        names = []
        if annotated:
            self._annotated = self.add_bars(facecolors="#a8d5c3", linewidths=0)
        if predicted:
            self._predicted = self.move(
                axes.add_line(Line2D([], [], color=style.PREDICTION_COLOUR, linewidth=1.1)), ABOVE + 0.6
            )
            ink = style.PREDICTION_COLOUR
            self._ends = self.end_texts(0, 1, ink=ink)
            names.append((self.texts("sample.saliency.predicted"), ink))
        if annotated:
            names.append((self.texts("sample.saliency.annotated"), "#007553"))
        for row, (name, colour) in enumerate(names):
            y = 0.88 - 0.26 * row
            axes.text(_SIDE, y, name, transform=axes.transAxes, va="center_baseline", size=7.2, color=colour)

    def update(self, data: SampleData) -> None:
        """Show a sample's saliency."""
        edges = data.clip_edges_s
        annotated, predicted = data.per_clip("annotated_saliency"), data.per_clip("predicted_saliency")
        if annotated is not None:
            shown = np.isfinite(annotated) & (annotated > 0)
            half = annotated[shown] / self.key.saliency_max / 2
            self._annotated.set_verts(bars(np.column_stack([edges[:-1], edges[1:]])[shown], half, half))
        if predicted is None:
            return
        height, ends = between_own_ends(predicted)
        self._predicted.set_data(*stairs(edges, height).T)
        for artist, (y, end) in zip(self._ends, ends, strict=True):
            artist.set_y(y)
            artist.set_text("" if end is None else style.plain(end))


class ContributionPanel(SamplePanel):
    """The audio timeline: what each clip's audio contributed to the prediction, a line per layer around 0."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale, height_in: float) -> None:
        super().__init__(axes, key, scale)
        axes.grid(axis="x")
        axes.set_ylim(-1.06, 1.06)
        axes.set_yticks([])
        axes.axhline(0, color=style.FAINT_COLOUR, linewidth=0.6, zorder=1)
        self.title(self.texts("sample.timeline"), self.texts("sample.timeline.about"))
        self.side_title(self.texts("sample.sum"))
        self._lines = self.add_lines(ABOVE + 0.6, linewidths=1.1, colors=style.layer_colours(key.n_layers))
        self._texts = self.side_legend(height_in)
        self._ends = self.end_texts(-1, 1)

    def update(self, data: SampleData) -> None:
        """Show a sample's contributions, up to its own largest: samples differ by orders of magnitude."""
        found = data.timeline()
        assert found is not None
        top = float(np.abs(found).max())
        height = found / top if top > 0 else found
        self._lines.set_segments([stairs(data.clip_edges_s, row) for row in height])
        for artist, row in zip(self._texts, found, strict=True):
            artist.set_text(style.signed(float(row.sum()), 3))
        for artist, end in zip(self._ends, (-top, top), strict=True):
            artist.set_text(style.signed(end, 3) if top > 0 else "")


class InjectionPanel(SamplePanel):
    """What a gate lets through, a line per layer, on the scale that all samples share."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale, kind: str, height_in: float) -> None:
        super().__init__(axes, key, scale)
        axes.grid(axis="x")
        self._kind = kind
        hint = f"{self.texts.role(kind)}: {style.INJECTION_FORMULA}"
        self.title(self.texts("sample.injection", gate=self.texts.gate_title(kind)), hint)
        self.side_title(self.texts("sample.mean_max"))
        self._lines = self.add_lines(ABOVE + 0.6, linewidths=1.1, colors=style.layer_colours(key.n_layers))
        self._texts = self.side_legend(height_in)

    def limit(self, still: StillKey) -> None:
        """Set the top of the injection axis."""
        top = dict(still.injection_max)[self._kind]
        self.axes.set_ylim(0, top)
        self.axes.set_yticks([0, top / 2, top], [f"{tick:.3g}" for tick in (0, top / 2, top)])

    def update(self, data: SampleData) -> None:
        """Show a sample's injection."""
        injection = data.injection_of(self._kind)
        assert injection is not None
        self._lines.set_segments([stairs(data.clip_edges_s, row) for row in injection])
        for artist, row in zip(self._texts, injection, strict=True):
            finite = row[np.isfinite(row)]
            artist.set_text(f"{finite.mean():.2f} ({finite.max():.2f})" if finite.size else self.texts("not_known"))


class OwnScalePanel(SamplePanel):
    """The same injection between the sample's own ends: where little audio enters, when it does is seen all the same."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale, kind: str) -> None:
        super().__init__(axes, key, scale)
        axes.grid(axis="x")
        axes.set_ylim(-0.06, 1.06)
        axes.set_yticks([])
        self._kind = kind
        self.title("", self.texts("sample.own_scale"))
        self._lines = self.add_lines(ABOVE + 0.6, linewidths=1.1, colors=style.layer_colours(key.n_layers))
        self._ends = self.end_texts(0, 1)

    def update(self, data: SampleData) -> None:
        """Show a sample's injection."""
        injection = data.injection_of(self._kind)
        assert injection is not None
        heights, ends = between_own_ends(injection)
        self._lines.set_segments([stairs(data.clip_edges_s, row) for row in heights])
        for artist, (y, end) in zip(self._ends, ends, strict=True):
            artist.set_y(y)
            artist.set_text("" if end is None else self.texts("not_known") if np.isnan(end) else style.brief(end))


class StripPanel(SamplePanel):
    """A gate's values over time as colours, a row (or of channels, a block of rows) per layer."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale, kind: str) -> None:
        super().__init__(axes, key, scale)
        self._kind, n = kind, key.n_layers
        axes.set_ylim(n - 0.5, -0.5)
        self.layer_rows()
        self._image = AxesImage(
            axes,
            cmap=style.GATE_COLOURS,
            norm=scale.gate_norm,
            origin="upper",
            extent=(0, 1, n - 0.5, -0.5),
            interpolation="nearest",
        )
        self._image.set_data(np.zeros((1, 1)))
        self._image.set_clip_path(axes.patch)
        axes.add_image(self._image)
        self.move(self._image)
        rules = self.add_lines(ABOVE + 0.1, colors="white", linewidths=1.5, transform=axes.get_yaxis_transform())
        rules.set_segments([[(0, row - 0.5), (1, row - 0.5)] for row in range(1, n)])
        self._texts = self.side_texts(n)

    def show(self, values: FloatArray, data: SampleData) -> None:
        """Set the colours, (rows, C)."""
        n = self.key.n_layers
        self._image.set_data(values)
        self._image.set_extent((0, data.n_clips * data.clip_length_s, n - 0.5, -0.5))


class ClipwiseStrip(StripPanel):
    """Clipwise gates: the colour again as a line in its row, for the eye to read small changes."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale, kind: str) -> None:
        super().__init__(axes, key, scale, kind)
        self.title(self.texts.gate_title(kind), self.texts("sample.clipwise"))
        self.side_title(self.texts("sample.mean_range"))
        # Black on white, so that the line is seen on the darkest colours.
        self._traces = [
            self.add_lines(ABOVE + above, colors=colour, linewidths=width)
            for above, colour, width in ((0.3, "white", 2.2), (0.4, "black", 0.9))
        ]

    def update(self, data: SampleData) -> None:
        """Show a sample's gates."""
        gates = data.gates(self._kind)
        self.show(np.stack(gates), data)
        segments = [
            stairs(data.clip_edges_s, layer_idx + 0.38 - 0.76 * between_own_ends(gate)[0])
            for layer_idx, gate in enumerate(gates)
        ]
        for trace in self._traces:
            trace.set_segments(segments)
        for artist, gate in zip(self._texts, gates, strict=True):
            finite = gate[np.isfinite(gate)]
            if not finite.size:
                artist.set_text(self.texts("not_known"))
                continue
            low, high = style.signed(float(finite.min())), style.signed(float(finite.max()))
            mean = style.signed(float(finite.mean()))
            artist.set_text(self.texts("sample.mean_range.values", mean=mean, low=low, high=high))


class ChannelStrip(StripPanel):
    """Elementwise gates: a heatmap of channels x time per layer."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale, kind: str) -> None:
        super().__init__(axes, key, scale, kind)
        self.title(self.texts.gate_title(kind), self.texts("sample.channels"))
        self.side_title(self.texts("sample.mean_magnitude"))

    def update(self, data: SampleData) -> None:
        """Show a sample's gates."""
        blocks = []
        for artist, gate in zip(self._texts, data.gates(self._kind), strict=True):  # gate: (C, D)
            # Non-finite values count in no number; the heatmap shows them in grey.
            known = np.isfinite(gate)
            filled = np.where(known, gate, 0.0)
            blocks.append(gate.T[np.argsort(-filled.sum(axis=0), kind="stable")])  # (D, C)
            mean = style.plain(float(np.abs(filled).sum() / known.sum())) if known.any() else self.texts("not_known")
            artist.set_text(mean)
        self.show(np.concatenate(blocks), data)


class SpreadPanel(SamplePanel):
    """Elementwise gates: mean and standard deviation over the channels of a clip, two lines per layer.

    The axis has the sample's own ends, 0 among them; the colours below it are on the scale that all samples share.
    """

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale, kind: str, height_in: float) -> None:
        super().__init__(axes, key, scale)
        axes.grid(axis="x")
        self._kind = kind
        axes.set_ylim(-0.06, 1.06)
        axes.set_yticks([])
        self._zero = self.add_lines(ABOVE, linewidths=0.6, colors=style.FAINT_COLOUR)
        self._zero.set_transform(axes.get_yaxis_transform())
        self.title(self.texts.gate_title(kind), self.texts("sample.spread"))
        self.side_title(self.texts("sample.mean_std"))
        colours = style.layer_colours(key.n_layers)
        self._means = self.add_lines(ABOVE + 0.6, linewidths=1.1, colors=colours)
        self._stds = self.add_lines(ABOVE + 0.6, linewidths=1.1, colors=colours, linestyles=[(0, (3, 1.5))])
        self._texts = self.side_legend(height_in)
        self._ends = self.end_texts(0, 1)

    def update(self, data: SampleData) -> None:
        """Show a sample's gates."""
        means, stds = [], []
        for artist, gate in zip(self._texts, data.gates(self._kind), strict=True):  # gate: (C, D)
            known = np.isfinite(gate)
            count = known.sum(axis=1).astype(float)
            filled = np.where(known, gate, 0.0)
            count[count == 0] = np.nan
            mean = filled.sum(axis=1) / count  # (C,)
            std = np.sqrt((np.where(known, gate - mean[:, None], 0.0) ** 2).sum(axis=1) / count)
            means.append(mean)
            stds.append(std)
            if np.isfinite(mean).any():
                artist.set_text(f"{style.signed(float(np.nanmean(mean)))}, {np.nanmean(std):.2f}")
            else:
                artist.set_text(self.texts("not_known"))
        low, high = -style.largest(*(-mean for mean in means)), style.largest(*means, *stds)
        room = high - low or 1.0
        for lines, values in ((self._means, means), (self._stds, stds)):
            lines.set_segments([stairs(data.clip_edges_s, (row - low) / room) for row in values])
        self._zero.set_segments([[(0.0, -low / room), (1.0, -low / room)]])
        for artist, end in zip(self._ends, (low, high), strict=True):
            artist.set_text(style.brief(end + 0.0))


class GlobalPanel(SamplePanel):
    """Global gates: one value per layer, so a bar each and no line over time."""

    def __init__(self, axes: Axes, key: LayoutKey, scale: FigureScale, kind: str) -> None:
        super().__init__(axes, key, scale)
        self._kind = kind
        style.set_gate_ticks(axes, scale.gate_limit)
        axes.set_ylim(key.n_layers - 0.4, -0.6)
        self.layer_rows()
        axes.tick_params(axis="y", labelleft=kind == key.gates[0][0])
        axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=1)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        told = self.texts("sample.global")
        beside = len(key.gates) <= 2  # with more, the next title is where it would stand
        axes.set_xlabel(self.texts("gate") if beside else f"{self.texts('gate')}: {told}", labelpad=1)
        self.title(self.texts.gate_title(kind), told if beside else "")
        self._bars = self.add_bars(edgecolors="#333333", linewidths=0.5)
        self._texts = self.side_texts(key.n_layers, 1.03, 7.5)

    def update(self, data: SampleData) -> None:
        """Show a sample's gates."""
        values = np.array([gate[0] for gate in data.gates(self._kind)])
        ends = np.column_stack([np.zeros(len(values)), np.nan_to_num(values)])
        self._bars.set_verts(bars(ends, np.arange(len(values)), 0.36))
        self._bars.set_facecolor(style.GATE_COLOURS(self.scale.gate_norm(values)))
        for artist, value in zip(self._texts, values, strict=True):
            artist.set_text(style.signed(float(value), 3))
