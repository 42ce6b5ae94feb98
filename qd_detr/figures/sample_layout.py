"""The laid-out figure of one sample, whose parts can be given another sample's values.

Everything a sample changes is a *moving* artist that lies above all that stays (axes, labels, legends).
So a writer may draw what stays once, and per sample only what moves, and get the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import ArrayLike

from qd_detr.figures import style
from qd_detr.figures.sample_data import FloatArray, SampleData
from qd_detr.figures.style import FigureScale
from qd_detr.figures.text import MISSING, MISSING_NOTE, printable, put_text, shorten, text_width_in, wrap

SHOWN_PREDICTIONS = 5
KINDS = ("attention", "ffn")
KIND_TITLES = {"attention": "Attention gate", "ffn": "FFN gate"}
INJECTION_HINTS = {
    "attention": "how much audio enters: |g \N{DOT OPERATOR} branch| / |residual|",
    "ffn": "refinement, not audio: |g \N{DOT OPERATOR} branch| / |residual|",
}

LEFT_IN, PLOT_IN, SIDE_IN = 0.82, 4.78, 0.08  # y labels, the time axis, the gap before the numbers at the right
TITLE_IN, GAP_IN = 0.23, 0.11
QUERY_PT, QUERY_LINES = 9.5, 4
_BEHIND, _ABOVE = 2.6, 3.0  # all that moves lies above all that stays (axes frame 2.5 and below)


@dataclass(frozen=True)
class LayoutKey:
    """What decides where everything lies; samples with equal keys share a layout."""

    gating_type: str
    n_layers: int
    n_query_lines: int
    truth: bool
    n_predictions: int
    saliency: tuple[bool, bool]
    injection: tuple[bool, bool]
    saliency_max: float

    @classmethod
    def of(cls, data: SampleData) -> LayoutKey:
        """Give the key of a sample."""
        predictions = data.windows("predicted_windows", 3)
        return cls(
            data.gating_type,
            data.n_layers,
            len(_query_lines(data)),
            data.true_windows_s is not None,
            0 if predictions is None else max(1, min(SHOWN_PREDICTIONS, len(predictions))),
            (data.predicted_saliency is not None, data.annotated_saliency is not None),
            (data.attention_injection is not None, data.ffn_injection is not None),
            data.annotated_saliency_max,
        )


@dataclass(frozen=True)
class StillKey:
    """What stays the same within a layout for samples that share it: the limits of the axes."""

    end_s: float
    attention_injection_max: float
    ffn_injection_max: float

    @classmethod
    def of(cls, data: SampleData, scale: FigureScale) -> StillKey:
        """Give the axis limits of a sample."""
        return cls(
            data.end_s,
            scale.attention_injection_max or style.round_up(style.largest(data.attention_injection)),
            scale.ffn_injection_max or style.round_up(style.largest(data.ffn_injection)),
        )


def _query_lines(data: SampleData) -> list[str]:
    if data.query is None:
        return []
    room = style.PAGE_WIDTH_IN - 0.3
    return wrap(printable(data.query) or "(empty query)", room, QUERY_PT, "bold", QUERY_LINES)


def _stairs(edges: FloatArray, values: FloatArray) -> FloatArray:
    """Give the corner points of a step line, (2C, 2): a clip's value holds from its start to its end."""
    return np.column_stack([np.repeat(edges, 2)[1:-1], np.repeat(values, 2)])


def _bars(windows: FloatArray, rows: ArrayLike, half_height: float | FloatArray) -> list[FloatArray]:
    """Give the corners of a bar per window, (4, 2) each."""
    start, end = windows[:, 0], windows[:, 1]
    middle = np.asarray(rows, dtype=float)
    low, high = middle - half_height, middle + half_height
    corners = [np.stack(corner, 1) for corner in ((start, low), (end, low), (end, high), (start, high))]
    return list(np.stack(corners, 1))


class SampleLayout:
    """The figure of one `LayoutKey`. Build and update it under `style.house_style`."""

    def __init__(self, key: LayoutKey, scale: FigureScale, dpi: float) -> None:
        self.key = key
        self.scale = scale
        self.moving: list[Artist] = []
        self._time_axes: list[Axes] = []
        self._truth_edges: list[LineCollection] = []
        self._truth_shades: list[PolyCollection] = []
        self._colours = style.layer_colours(key.n_layers)
        self._still: StillKey | None = None
        heights = self._panel_heights()
        self._top = 0.12 + key.n_query_lines * 0.18 + (0.06 if key.n_query_lines else 0) + 0.32
        time_axis = 0.3 if heights else 0.0
        compact = self._compact_height()
        total = self._top + sum(h + TITLE_IN + GAP_IN for h in heights.values()) + time_axis + compact + 0.3
        self.figure = style.new_figure(total, dpi=dpi)
        self._add_heading()
        top = self._top
        for name, height in heights.items():
            top += TITLE_IN
            axes = style.add_axes_inches(self.figure, LEFT_IN, top, PLOT_IN, height)
            self._time_axes.append(axes)
            self._add_panel(name, axes, height)
            top += height + GAP_IN
        for axes in self._time_axes:
            axes.tick_params(labelbottom=axes is self._time_axes[-1])
        if self._time_axes:
            self._time_axes[-1].set_xlabel("time (s)", labelpad=1.5)
        if compact:
            self._add_compact_gates(top + time_axis)
        else:
            self._add_colour_bar(top - GAP_IN + 0.1)
        self._add_footer(total)

    # --- where things lie -------------------------------------------------------------------------------------

    def _panel_heights(self) -> dict[str, float]:
        key, n = self.key, self.key.n_layers
        heights: dict[str, float] = {}
        if key.truth or key.n_predictions:
            heights["windows"] = 0.06 + 0.135 * (int(key.truth) + key.n_predictions)
        if any(key.saliency):
            heights["saliency"] = 0.62
        for kind, given in zip(KINDS, key.injection, strict=True):
            if given:
                heights[f"{kind}_injection"] = max(0.78, 0.135 * n)
            if key.gating_type == "clipwise":
                heights[f"{kind}_strip"] = n * (0.3 if n <= 4 else 0.19)
            elif key.gating_type == "elementwise":
                heights[f"{kind}_spread"] = max(0.72, 0.135 * n)
                heights[f"{kind}_strip"] = n * (0.46 if n <= 4 else 0.24)
        return heights

    def _compact_height(self) -> float:
        return TITLE_IN + 0.19 * self.key.n_layers + 0.4 if self.key.gating_type == "global" else 0.0

    def _move(self, artist: Artist, zorder: float) -> Artist:
        artist.set_zorder(zorder)
        self.moving.append(artist)
        return artist

    def _figure_text(self, left_in: float, top_in: float, size: float, moving: bool = True, **kwargs: object) -> Text:
        width, height = self.figure.get_size_inches()
        text = self.figure.text(left_in / width, 1 - top_in / height, "", size=size, va="top", **kwargs)  # type: ignore[arg-type]
        if moving:
            self._move(text, _ABOVE)
        return text

    def _add_heading(self) -> None:
        self._query = [
            self._figure_text(0.12, 0.12 + line * 0.18, QUERY_PT, weight="bold") for line in range(self.key.n_query_lines)
        ]
        below = 0.12 + self.key.n_query_lines * 0.18 + (0.06 if self._query else 0)
        self._facts = [self._figure_text(0.12, below + line * 0.15, 7.5, color=style.NEUTRAL_COLOUR) for line in range(2)]

    def _add_footer(self, total: float) -> None:
        edges = "Dotted lines: edges of the ground-truth windows. " if self.key.truth and self._time_axes else ""
        text = self._figure_text(0.12, total - 0.2, 7, moving=False, color=style.NEUTRAL_COLOUR)
        text.set_text(edges + style.SIGN_CAVEAT)

    def _add_colour_bar(self, top: float) -> None:
        axes = style.add_axes_inches(self.figure, LEFT_IN + PLOT_IN + 0.3, top, 1.0, 0.08)
        limit = self.scale.gate_limit
        axes.imshow(
            np.linspace(-limit, limit, 256)[None], cmap=style.GATE_COLOURS, norm=self.scale.gate_norm,
            aspect="auto", extent=(-limit, limit, 0, 1),
        )  # fmt: skip
        axes.set_yticks([])
        axes.set_xticks([-limit, 0, limit], [style.plain(-limit, 1), "0", style.plain(limit, 1)])
        axes.tick_params(labelsize=7, pad=1.5)
        axes.set_xlabel("gate", fontsize=7, labelpad=1)
        axes.spines[["top", "right"]].set_visible(True)

    # --- panels over time -------------------------------------------------------------------------------------

    def _add_panel(self, name: str, axes: Axes, height: float) -> None:
        axes.grid(axis="x")
        for spine in axes.spines.values():
            spine.set_zorder(2.0)
        if name == "windows":
            self._add_windows(axes)
            return
        if self.key.truth:
            shaded = not name.endswith("strip")
            if shaded:
                shade = PolyCollection([], facecolors=to_rgb(style.TRUTH_COLOUR), alpha=0.10, linewidths=0)
                shade.set_transform(axes.get_xaxis_transform())
                axes.add_collection(shade, autolim=False)
                self._truth_shades.append(shade)
                self._move(shade, _BEHIND)
            ink = "black" if name.endswith("strip") else style.TRUTH_COLOUR
            edges = LineCollection([], colors=ink, linewidths=0.9, linestyles=(0, (1, 1.6)))
            edges.set_transform(axes.get_xaxis_transform())
            axes.add_collection(edges, autolim=False)
            self._truth_edges.append(edges)
            self._move(edges, _ABOVE + 0.5)
        if name == "saliency":
            self._add_saliency(axes)
            return
        kind, part = name.split("_")
        if part == "strip":
            self._add_strip(kind, axes)
        else:
            self._add_lines(kind, part, axes, height)

    def _side_texts(self, axes: Axes, rows: int, ink: str = "black") -> list[Text]:
        """Add a number at the right of each row 0, 1, ... of `axes`."""
        place = axes.get_yaxis_transform()
        offset = 1 + SIDE_IN / PLOT_IN
        texts = [
            axes.text(offset, row, "", transform=place, va="center_baseline", size=7.2, color=ink) for row in range(rows)
        ]
        for text in texts:
            self._move(text, _ABOVE)
        return texts

    def _side_legend(self, axes: Axes, height: float) -> list[Text]:
        """Name the layers' lines at the right of `axes`, with room for numbers after each name."""
        n = self.key.n_layers
        step = min(0.16, height / n) / height
        texts = []
        for layer_idx, colour in enumerate(self._colours):
            y = 1 - step * (layer_idx + 0.5)
            left = 1 + SIDE_IN / PLOT_IN
            swatch = Line2D([left, left + 0.025], [y, y], color=colour, linewidth=2, transform=axes.transAxes)
            swatch.set_clip_on(False)
            axes.add_artist(swatch)
            axes.text(left + 0.035, y, f"layer {layer_idx}", transform=axes.transAxes, va="center_baseline", size=7.2)
            text = axes.text(left + 0.137, y, "", transform=axes.transAxes, va="center_baseline", size=7.2)
            self._move(text, _ABOVE)
            texts.append(text)
        return texts

    def _title(self, axes: Axes, title: str, hint: str = "") -> None:
        axes.set_title(title)
        if not hint:
            return
        offset = 72 * text_width_in(title, 8.5, "bold") + 7
        axes.annotate(
            hint, (0, 1), xycoords="axes fraction", xytext=(offset, 5), textcoords="offset points", size=7,
            color=style.NEUTRAL_COLOUR, va="baseline",
        )  # fmt: skip

    def _side_title(self, axes: Axes, text: str) -> None:
        axes.annotate(
            text, (1 + SIDE_IN / PLOT_IN, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points",
            size=7, color=style.NEUTRAL_COLOUR, va="baseline",
        )  # fmt: skip

    def _add_windows(self, axes: Axes) -> None:
        key = self.key
        labels = ["ground truth"] if key.truth else []
        labels += [f"predicted {rank}" if rank == 1 else str(rank) for rank in range(1, key.n_predictions + 1)]
        axes.set_ylim(len(labels) - 0.45, -0.55)
        style.set_row_ticks(axes, labels)
        self._title(axes, "Moments")
        axes.spines["left"].set_visible(False)
        self._window_bars = PolyCollection([], linewidths=0)
        axes.add_collection(self._window_bars, autolim=False)
        self._move(self._window_bars, _ABOVE)
        if key.n_predictions:
            self._side_title(axes, "score")
        self._window_texts = self._side_texts(axes, len(labels))

    def _add_saliency(self, axes: Axes) -> None:
        axes.set_ylim(-0.06, 1.06)
        axes.set_yticks([])
        predicted, annotated = self.key.saliency
        hints = ["line: predicted, in the model's own unit"] if predicted else []
        hints += [f"area: annotated, 0 to {self.key.saliency_max:g}"] if annotated else []
        self._title(axes, "Saliency", "; ".join(hints))
        place = axes.get_yaxis_transform()
        self._saliency_ends: list[Text] = []
        if annotated:
            self._annotated = PolyCollection([], facecolors="#a8d5c3", linewidths=0)
            axes.add_collection(self._annotated, autolim=False)
            self._move(self._annotated, _ABOVE)
        if predicted:
            self._predicted = axes.add_line(Line2D([], [], color=style.PREDICTION_COLOUR, linewidth=1.1))
            self._move(self._predicted, _ABOVE + 0.6)
            for y in (0.0, 1.0):
                end = axes.text(-0.012, y, "", transform=place, va="center", ha="right", size=7.2)
                end.set_color(style.PREDICTION_COLOUR)
                self._saliency_ends.append(end)
                self._move(end, _ABOVE)
        offset = 1 + SIDE_IN / PLOT_IN
        named = [("predicted", style.PREDICTION_COLOUR)] if predicted else []
        named += [("annotated", "#007553")] if annotated else []
        for row, (name, colour) in enumerate(named):
            y = 0.88 - 0.26 * row
            axes.text(offset, y, name, transform=axes.transAxes, va="center_baseline", size=7.2, color=colour)

    def _add_lines(self, kind: str, part: str, axes: Axes, height: float) -> None:
        lines = LineCollection([], linewidths=1.1)
        axes.add_collection(lines, autolim=False)
        self._move(lines, _ABOVE + 0.6)
        if part == "spread":
            limit = self.scale.gate_limit
            axes.set_ylim(-1.06 * limit, 1.06 * limit)
            axes.axhline(0, color=style.FAINT_COLOUR, linewidth=0.6, zorder=1)
            self._title(axes, KIND_TITLES[kind], "over the channels of a clip: mean (solid), standard deviation (dashed)")
            self._side_title(axes, "mean, std")
        else:
            self._title(axes, f"{KIND_TITLES[kind]}: injection", INJECTION_HINTS[kind])
            self._side_title(axes, "mean (max)")
        texts = self._side_legend(axes, height)
        setattr(self, f"_{kind}_{part}", (axes, lines, texts))

    def _add_strip(self, kind: str, axes: Axes) -> None:
        n = self.key.n_layers
        axes.grid(visible=False)
        axes.set_ylim(n - 0.5, -0.5)
        style.set_row_ticks(axes, [f"layer {layer_idx}" for layer_idx in range(n)])
        image = AxesImage(
            axes, cmap=style.GATE_COLOURS, norm=self.scale.gate_norm, origin="upper", extent=(0, 1, n - 0.5, -0.5),
            interpolation="nearest",
        )  # fmt: skip
        image.set_data(np.zeros((1, 1)))
        image.set_clip_path(axes.patch)
        axes.add_image(image)
        self._move(image, _ABOVE)
        rules = LineCollection(
            [[(0, row - 0.5), (1, row - 0.5)] for row in range(1, n)], colors="white", linewidths=1.5,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        axes.add_collection(rules, autolim=False)
        self._move(rules, _ABOVE + 0.1)
        traces: list[LineCollection] = []
        if self.key.gating_type == "clipwise":
            limit = self.scale.gate_limit
            low, high = style.plain(-limit, 1), style.plain(limit, 1)
            self._title(axes, KIND_TITLES[kind], f"of each clip, as colour and as line (a row reaches from {low} to {high})")
            for colour, width in (("white", 2.2), ("black", 0.9)):
                trace = LineCollection([], colors=colour, linewidths=width)
                axes.add_collection(trace, autolim=False)
                traces.append(trace)
                self._move(trace, _ABOVE + 0.2 + 0.1 * len(traces))
            self._side_title(axes, "mean (min \N{HORIZONTAL ELLIPSIS} max)")
        else:
            self._title(axes, KIND_TITLES[kind], "of each channel, in the order of its mean over time")
            self._side_title(axes, "mean |g|")
        texts = self._side_texts(axes, n)
        setattr(self, f"_{kind}_strip", (image, traces, texts))

    # --- global gates: one value each -------------------------------------------------------------------------

    def _add_compact_gates(self, top: float) -> None:
        n, limit = self.key.n_layers, self.scale.gate_limit
        width, gap = 2.35, 0.78
        self._compact = {}
        for column, kind in enumerate(KINDS):
            left = LEFT_IN + column * (width + gap)
            axes = style.add_axes_inches(self.figure, left, top + TITLE_IN, width, 0.19 * n)
            axes.set_xlim(-limit, limit)
            axes.set_ylim(n - 0.4, -0.6)
            style.set_row_ticks(axes, [f"layer {layer_idx}" for layer_idx in range(n)])
            axes.tick_params(axis="y", labelleft=column == 0)
            axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=1)
            axes.grid(axis="x")
            axes.spines["left"].set_visible(False)
            for spine in axes.spines.values():
                spine.set_zorder(2.0)
            self._title(axes, KIND_TITLES[kind], "one value for the video")
            axes.set_xlabel("gate", labelpad=1)
            bars = PolyCollection([], edgecolors="#333333", linewidths=0.5)
            axes.add_collection(bars, autolim=False)
            self._move(bars, _ABOVE)
            place = axes.get_yaxis_transform()
            texts = [axes.text(1.03, row, "", transform=place, va="center", size=7.5) for row in range(n)]
            for text in texts:
                self._move(text, _ABOVE)
            self._compact[kind] = (bars, texts)

    # --- a sample's values ------------------------------------------------------------------------------------

    def set_still(self, still: StillKey) -> None:
        """Set the axis limits; what stays has to be drawn again after a change."""
        if still == self._still:
            return
        for axes in self._time_axes:
            axes.set_xlim(0, still.end_s)
            axes.set_xticks(style.time_ticks(still.end_s))
        for kind, top in (("attention", still.attention_injection_max), ("ffn", still.ffn_injection_max)):
            panel = getattr(self, f"_{kind}_injection", None)
            if panel is not None:
                panel[0].set_ylim(0, top)
        self._still = still

    def update(self, data: SampleData) -> None:
        """Show `data`; every moving artist gets a new value, so nothing of the sample before is left."""
        for artist, line in zip(self._query, _query_lines(data), strict=True):
            put_text(artist, line)
        for artist, line in zip(self._facts, self._fact_lines(data), strict=True):
            put_text(artist, line)
        self._update_moments(data)
        if any(self.key.saliency):
            self._update_saliency(data)
        for kind in KINDS:
            injection = data.per_clip(f"{kind}_injection")
            if injection is not None:
                self._update_injection(kind, data, injection)
            getattr(self, f"_update_{self.key.gating_type}")(kind, data, data.gates(kind))

    def _fact_lines(self, data: SampleData) -> list[str]:
        parts = [f"sample {printable(data.sample_id)}"]
        if data.vid is not None:
            parts.append(f"video {printable(data.vid)}")
        room = style.PAGE_WIDTH_IN - 0.3
        first = shorten("  \N{MIDDLE DOT}  ".join(parts), room, 7.5)
        parts = [
            f"n = {style.counted(data.n_clips, 'clip')} of {data.clip_length_s:g} s",
            f"{self.key.gating_type} gates, {style.counted(self.key.n_layers, 'layer')}",
        ]
        if data.duration_s is not None:
            parts.insert(0, f"{data.duration_s:g} s")
        predictions = data.windows("predicted_windows", 3)
        if predictions is not None and len(predictions) > SHOWN_PREDICTIONS:
            parts.append(f"the best {SHOWN_PREDICTIONS} of {len(predictions)} predicted windows")
        odd = sum(int((~np.isfinite(gate)).sum()) for kind in KINDS for gate in data.gates(kind))
        if odd:
            parts.append(f"{style.counted(odd, 'gate value')} not finite (grey)")
        if MISSING in first or any(MISSING in line for line in _query_lines(data)):
            parts.append(MISSING_NOTE)
        return [first, shorten("  \N{MIDDLE DOT}  ".join(parts), room, 7.5)]

    def _update_moments(self, data: SampleData) -> None:
        truth = data.windows("true_windows_s", 2)
        if truth is not None:
            # Two windows that touch share an edge: dotted lines drawn twice would close their gaps.
            segments = [[(x, 0.0), (x, 1.0)] for x in np.unique(truth)]
            for edges in self._truth_edges:
                edges.set_segments(segments)
            bars = _bars(truth, np.full(len(truth), 0.5), 0.5)
            for shade in self._truth_shades:
                shade.set_verts(bars)
        if not (self.key.truth or self.key.n_predictions):
            return
        predictions = data.windows("predicted_windows", 3)
        verts: list[FloatArray] = []
        colours: list[tuple[float, float, float, float]] = []
        texts = [""] * len(self._window_texts)
        if truth is not None:
            verts += _bars(truth, np.zeros(len(truth)), 0.4)
            colours += [(*to_rgb(style.TRUTH_COLOUR), 1.0)] * len(truth)
            texts[0] = style.counted(len(truth), "window") if len(truth) else "none"
        if predictions is not None:
            shown = predictions[: self.key.n_predictions]
            rows = np.arange(len(shown)) + int(self.key.truth)
            verts += _bars(shown, rows, 0.4)
            for row, score in zip(rows, shown[:, 2], strict=True):
                # The score is written beside the bar; its shade only says the same again, and never vanishes.
                strength = 0.25 + 0.75 * float(np.clip(np.nan_to_num(score), 0, 1))
                colours.append((*to_rgb(style.PREDICTION_COLOUR), strength))
                texts[row] = style.plain(float(score))
            if not len(shown):
                texts[int(self.key.truth)] = "none"
        self._window_bars.set_verts(verts)
        if colours:
            self._window_bars.set_facecolor(colours)
        for artist, text in zip(self._window_texts, texts, strict=True):
            artist.set_text(text)

    def _update_saliency(self, data: SampleData) -> None:
        edges = data.clip_edges_s
        annotated = data.per_clip("annotated_saliency")
        if annotated is not None:
            shown = np.isfinite(annotated) & (annotated > 0)
            spans = np.column_stack([edges[:-1], edges[1:]])[shown]
            half = annotated[shown] / self.key.saliency_max / 2
            self._annotated.set_verts(_bars(spans, half, half))
        predicted = data.per_clip("predicted_saliency")
        if predicted is not None:
            finite = predicted[np.isfinite(predicted)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
            # A constant line lies in the middle, and its one value is written once.
            height = (predicted - low) / (high - low) if high > low else np.where(np.isfinite(predicted), 0.5, np.nan)
            self._predicted.set_data(*_stairs(edges, height).T)
            ends = [style.plain(low), style.plain(high)] if high > low else ["", ""]
            if high == low and finite.size:
                ends = [f"all {style.plain(low)}", ""]
            for artist, text in zip(self._saliency_ends, ends, strict=True):
                artist.set_text(text)

    def _update_injection(self, kind: str, data: SampleData, injection: FloatArray) -> None:
        _, lines, texts = getattr(self, f"_{kind}_injection")
        lines.set_segments([_stairs(data.clip_edges_s, row) for row in injection])
        lines.set_color(self._colours)
        for artist, row in zip(texts, injection, strict=True):
            finite = row[np.isfinite(row)]
            numbers = f"{finite.mean():.2f} ({finite.max():.2f})" if finite.size else "n/a"
            artist.set_text(numbers)

    def _update_global(self, kind: str, data: SampleData, gates: list[FloatArray]) -> None:
        bars, texts = self._compact[kind]
        values = np.array([gate[0] for gate in gates])
        ends = np.column_stack([np.zeros(len(values)), np.nan_to_num(values)])
        bars.set_verts(_bars(ends, np.arange(len(values)), 0.36))
        bars.set_facecolor(style.GATE_COLOURS(self.scale.gate_norm(values)))
        for artist, value in zip(texts, values, strict=True):
            artist.set_text(style.signed(float(value), 3))

    def _update_clipwise(self, kind: str, data: SampleData, gates: list[FloatArray]) -> None:
        image, traces, texts = getattr(self, f"_{kind}_strip")
        self._show_image(image, np.stack(gates), data)
        edges, limit = data.clip_edges_s, self.scale.gate_limit
        segments = [
            _stairs(edges, layer_idx - 0.42 * np.clip(gate / limit, -1, 1)) for layer_idx, gate in enumerate(gates)
        ]
        for trace in traces:
            trace.set_segments(segments)
        for artist, gate in zip(texts, gates, strict=True):
            finite = gate[np.isfinite(gate)]
            if not finite.size:
                artist.set_text("n/a")
                continue
            low, high = style.signed(float(finite.min())), style.signed(float(finite.max()))
            artist.set_text(f"{style.signed(float(finite.mean()))} ({low} \N{HORIZONTAL ELLIPSIS} {high})")

    def _update_elementwise(self, kind: str, data: SampleData, gates: list[FloatArray]) -> None:
        image, _, texts = getattr(self, f"_{kind}_strip")
        blocks: list[FloatArray] = []
        segments: tuple[list[FloatArray], list[FloatArray]] = ([], [])
        _, lines, side = getattr(self, f"_{kind}_spread")
        for layer_idx, gate in enumerate(gates):
            # Non-finite values count in no summary; the heatmap shows them in grey.
            known = np.isfinite(gate)
            filled = np.where(known, gate, 0.0)
            count = np.maximum(known.sum(axis=1), 1)
            mean = filled.sum(axis=1) / count  # (C,)
            spread = np.sqrt(np.maximum((filled**2).sum(axis=1) / count - mean**2, 0))
            order = np.argsort(-filled.sum(axis=0), kind="stable")
            blocks.append(gate.T[order])  # (D, C)
            segments[0].append(_stairs(data.clip_edges_s, mean))
            segments[1].append(_stairs(data.clip_edges_s, spread))
            texts[layer_idx].set_text(style.plain(float(np.abs(filled).sum() / max(known.sum(), 1))))
            side[layer_idx].set_text(f"{style.signed(float(mean.mean()))}, {spread.mean():.2f}")
        lines.set_segments(segments[0] + segments[1])
        lines.set_color(self._colours * 2)
        lines.set_linestyle(["-"] * len(gates) + [(0, (3, 1.5))] * len(gates))
        self._show_image(image, np.concatenate(blocks), data)

    def _show_image(self, image: AxesImage, values: FloatArray, data: SampleData) -> None:
        image.set_data(values)
        n = self.key.n_layers
        image.set_extent((0, data.n_clips * data.clip_length_s, n - 0.5, -0.5))


