"""The laid-out figure of one sample, whose panels can be given another sample's values."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.text import Text

from qd_detr.gates.figures import style
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.sample_key import (
    GAP_IN,
    LEFT_IN,
    MARGIN_IN,
    PLOT_IN,
    QUERY_LINE_IN,
    QUERY_PT,
    SHOWN_PREDICTIONS,
    TITLE_IN,
    LayoutKey,
    StillKey,
    query_lines,
)
from qd_detr.gates.figures.sample_panels import (
    ABOVE,
    ChannelStrip,
    ClipwiseStrip,
    ContributionPanel,
    GlobalPanel,
    InjectionPanel,
    MomentsPanel,
    OwnScalePanel,
    SaliencyPanel,
    SamplePanel,
    SpreadPanel,
    TruthMarks,
)
from qd_detr.gates.figures.style import FigureScale
from qd_detr.gates.figures.text import MISSING, printable, put_text, shorten
from qd_detr.gates.figures.wording import FigureTexts

_FACTS_PT, _FACT_LINE_IN = 7.5, 0.15
_OWN_IN, _OWN_TITLE_IN = 0.5, 0.14
_BETWEEN = "  \N{MIDDLE DOT}  "
_GLOBAL_ROW_IN, _GLOBAL_WIDTH_IN, _GLOBAL_GAP_IN = 0.19, 2.35, 0.78


class SampleLayout:
    """The figure of one `LayoutKey`. Build and update it under `style.house_style`.

    Attributes:
        figure: The figure.
        moving: Every artist that a sample changes; all lie above everything else.
    """

    def __init__(self, key: LayoutKey, scale: FigureScale, dpi: float) -> None:
        self.key = key
        self.scale = scale
        self.texts = scale.texts
        self._panels: list[SamplePanel] = []
        self._time_axes: list[Axes] = []
        self._still: StillKey | None = None
        heights = _panel_heights(key)
        heading = MARGIN_IN + key.n_query_lines * QUERY_LINE_IN + (0.06 if key.n_query_lines else 0)
        top = heading + 2 * _FACT_LINE_IN + 0.02
        time_axis = 0.3 if heights else 0.0
        compact = TITLE_IN + _GLOBAL_ROW_IN * key.n_layers + 0.4 if key.gating.form == "global" else 0.0
        panels = sum(height + _title_in(name) + GAP_IN for name, height in heights.items())
        caption = style.caption_lines(self.texts, _footnote(key, self.texts))
        total = top + panels + time_axis + compact + style.caption_height(caption)
        self.figure = style.new_figure(total, dpi=dpi)
        self._query = [
            self._text(MARGIN_IN + line * QUERY_LINE_IN, size=QUERY_PT, weight="bold")
            for line in range(key.n_query_lines)
        ]
        self._facts = [
            self._text(heading + line * _FACT_LINE_IN, size=_FACTS_PT, color=style.NEUTRAL_COLOUR) for line in range(2)
        ]
        for name, height in heights.items():
            top += _title_in(name)
            self._add_panel(name, style.add_axes_inches(self.figure, LEFT_IN, top, PLOT_IN, height), height)
            top += height + GAP_IN
        for axes in self._time_axes:
            axes.tick_params(labelbottom=axes is self._time_axes[-1])
        if self._time_axes:
            self._time_axes[-1].set_xlabel(self.texts("time"), labelpad=1.5)
        if compact:
            self._add_global_panels(top + time_axis + TITLE_IN)
        else:
            self._add_colour_bar(top - GAP_IN + 0.1)
        style.add_caption(self.figure, caption)
        self.moving: list[Artist] = [*self._query, *self._facts]
        for panel in self._panels:
            self.moving += panel.moving

    def _text(self, top_in: float, **look: object) -> Text:
        width, height = self.figure.get_size_inches()
        return self.figure.text(MARGIN_IN / width, 1 - top_in / height, "", va="top", zorder=ABOVE, **look)  # type: ignore[arg-type]

    def _add_panel(self, name: str, axes: Axes, height: float) -> None:
        key, scale = self.key, self.scale
        self._time_axes.append(axes)
        kind, _, part = name.rpartition("_")
        if name == "moments":
            self._panels.append(MomentsPanel(axes, key, scale))
            return
        if key.truth:
            self._panels.append(TruthMarks(axes, key, scale, on_colours=part == "strip"))
        if name == "saliency":
            self._panels.append(SaliencyPanel(axes, key, scale))
        elif name == "contributions":
            self._panels.append(ContributionPanel(axes, key, scale, height))
        elif part == "injection":
            self._panels.append(InjectionPanel(axes, key, scale, kind, height))
        elif part == "own":
            self._panels.append(OwnScalePanel(axes, key, scale, kind))
        elif part == "spread":
            self._panels.append(SpreadPanel(axes, key, scale, kind, height))
        else:
            strip = ChannelStrip if key.gating.per_channel else ClipwiseStrip
            self._panels.append(strip(axes, key, scale, kind))

    def _add_global_panels(self, top: float) -> None:
        share = 2 / max(2, len(self.key.gates))  # of the width that each has where there are two
        for column, (kind, _) in enumerate(self.key.gates):
            left = LEFT_IN + column * share * (_GLOBAL_WIDTH_IN + _GLOBAL_GAP_IN)
            width = share * _GLOBAL_WIDTH_IN - (1 - share) * _GLOBAL_GAP_IN
            axes = style.add_axes_inches(self.figure, left, top, width, _GLOBAL_ROW_IN * self.key.n_layers)
            self._panels.append(GlobalPanel(axes, self.key, self.scale, kind))

    def _add_colour_bar(self, top: float) -> None:
        axes = style.add_axes_inches(self.figure, LEFT_IN + PLOT_IN + 0.3, top, 1.0, 0.08)
        limit = self.scale.gate_limit
        axes.imshow(
            np.linspace(-limit, limit, 256)[None],
            cmap=style.GATE_COLOURS,
            norm=self.scale.gate_norm,
            aspect="auto",
            extent=(-limit, limit, 0, 1),
        )
        axes.set_yticks([])
        axes.set_xticks([-limit, 0, limit], [style.plain(-limit, 1), "0", style.plain(limit, 1)])
        axes.tick_params(labelsize=7, pad=1.5)
        axes.set_xlabel(self.texts("gate"), fontsize=7, labelpad=1)
        axes.spines[["top", "right"]].set_visible(True)

    def set_still(self, still: StillKey) -> None:
        """Set the axis limits; what stays has to be drawn again after a change."""
        if still == self._still:
            return
        for axes in self._time_axes:
            axes.set_xlim(0, still.end_s)
            axes.set_xticks(style.time_ticks(still.end_s))
        for panel in self._panels:
            panel.limit(still)
        self._still = still

    def update(self, data: SampleData) -> None:
        """Show `data`, and nothing of the sample before."""
        lines = [line or self.texts("sample.empty_query") for line in query_lines(data)]
        for artist, line in zip([*self._query, *self._facts], lines + self._fact_lines(data, lines), strict=True):
            put_text(artist, line)
        for panel in self._panels:
            panel.update(data)

    def _fact_lines(self, data: SampleData, query: list[str]) -> list[str]:
        room, say = style.PAGE_WIDTH_IN - 0.3, self.texts
        parts = [say("sample.id", id=printable(data.sample_id))]
        if data.vid is not None:
            parts.append(say("sample.video", vid=printable(data.vid)))
        first = shorten(_BETWEEN.join(parts), room, _FACTS_PT)
        parts = [] if data.duration_s is None else [say("sample.duration", seconds=f"{data.duration_s:g}")]
        parts += [
            say("sample.clips", clips=say.counted(data.n_clips, "clip"), seconds=f"{data.clip_length_s:g}"),
            say("sample.gates", gating=data.gating_type, layers=say.counted(data.n_layers, "layer")),
        ]
        predictions = data.windows("predicted_windows", 3)
        if predictions is not None and len(predictions) > SHOWN_PREDICTIONS:
            parts.append(say("sample.best", shown=SHOWN_PREDICTIONS, all=len(predictions)))
        if not data.contributions_complete:
            parts.append(say("sample.incomplete"))
        odd = sum(int((~np.isfinite(gate)).sum()) for kind in data.values for gate in data.gates(kind))
        if odd:
            parts.append(say("sample.not_finite", values=say.counted(odd, "gate_value")))
        if any(MISSING in line for line in [first, *query]):
            parts.append(say("missing_glyphs", mark=MISSING))
        return [first, shorten(_BETWEEN.join(parts), room, _FACTS_PT)]


def _footnote(key: LayoutKey, texts: FigureTexts) -> str:
    edges = texts("sample.edges") + " " if key.truth and _panel_heights(key) else ""
    return edges + texts("sign_caveat")


def _title_in(name: str) -> float:
    return _OWN_TITLE_IN if name.endswith("_own") else TITLE_IN


def _panel_heights(key: LayoutKey) -> dict[str, float]:
    """Give the panels over time, from the top down, and their heights in inches."""
    n = key.n_layers
    heights: dict[str, float] = {}
    if key.truth or key.n_predictions:
        heights["moments"] = 0.06 + 0.135 * (int(key.truth) + key.n_predictions)
    if any(key.saliency):
        heights["saliency"] = 0.62
    if key.contributions:
        heights["contributions"] = max(0.78, 0.135 * n)
    for kind, given in key.gates:
        if given:
            heights[f"{kind}_injection"] = max(0.78, 0.135 * n)
            heights[f"{kind}_own"] = _OWN_IN
        if key.gating.per_channel:
            heights[f"{kind}_spread"] = max(0.72, 0.135 * n)
            heights[f"{kind}_strip"] = n * (0.46 if n <= 4 else 0.24)
        elif key.gating.per_clip:
            heights[f"{kind}_strip"] = n * (0.3 if n <= 4 else 0.19)
    return heights
