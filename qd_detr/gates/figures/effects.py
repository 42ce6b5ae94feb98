"""The figure of effects with intervals, a forest plot: `intervention_effects`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qd_detr.gates.figures import style
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.text import printable, put_text, shorten, text_width_in
from qd_detr.gates.figures.wording import FigureTexts

_TOP_IN, _ROW_IN, _NAMES_IN, _NUMBERS_IN = 0.58, 0.2, 2.9, 1.95


@dataclass(frozen=True)
class Effect:
    """An estimate with its interval.

    Attributes:
        name: What was compared.
        estimate: The effect; NaN where it could not be measured.
        low: Lower end of the interval.
        high: Upper end.
        n: Number behind it.
        group: Effects of one group stand together under its name.
        stands: Whether it stands after control for the number of comparisons; None where nothing controls for it, and
            then its interval says whether it differs from 0.
    """

    name: str
    estimate: float
    low: float
    high: float
    n: int | None = None
    group: str = ""
    stands: bool | None = None

    @property
    def filled(self) -> bool:
        """Whether its marker is filled: it stands, or where nothing controls for that, its interval leaves 0 out."""
        return (self.low > 0 or self.high < 0) if self.stands is None else self.stands


@dataclass(frozen=True)
class EffectsData:
    """What a forest plot shows.

    Attributes:
        effects: From top to bottom.
        x_label: Quantity and unit, and against what.
        caption: What intervals are, and n.
        title: Heading of the figure.
        better: What lies right of 0, written under the axis from 0 on; None for none.
        worse: The same for the left.
        level: The intervals' level.
    """

    effects: Sequence[Effect]
    x_label: str
    caption: str
    title: str
    better: str | None = None
    worse: str | None = None
    level: float = 0.95


@in_house_style
def plot_effects(data: EffectsData, scale: FigureScale | None = None) -> Figure:
    """Draw a forest plot: an estimate and its interval a row; the caption says what a filled marker is.

    Raises:
        ValueError: There are no effects.
    """
    if not data.effects:
        raise ValueError("a forest plot needs at least one effect")
    texts = (scale or FigureScale()).texts
    rows = _rows(data.effects)
    left = 0.2 + min(_NAMES_IN, max(text_width_in(printable(name), 7.8, "bold") for name, _ in rows) + 0.2)
    inches = style.PAGE_WIDTH_IN - left - _NUMBERS_IN
    body = max(0.4, _ROW_IN * len(rows))
    directed = bool(data.better or data.worse)
    controlled = any(effect.stands is not None for effect in data.effects)
    filled = texts("effects.filled_controlled" if controlled else "effects.filled")
    caption = style.caption_lines(texts, f"{data.caption} {filled}")
    figure = style.new_figure(_TOP_IN + body + 0.5 + (0.18 if directed else 0) + style.caption_height(caption))
    style.add_heading(figure, data.title)
    axes = style.add_axes_inches(figure, left, _TOP_IN, inches, body)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=1)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    most = style.largest(*(np.abs([e.estimate, e.low, e.high]) for e in data.effects))
    digits = 2 if most >= 1 else 3 if most >= 0.1 else 4
    for row, (name, effect) in enumerate(rows):
        _draw_name(axes, row, name, effect, left, inches)
        if effect is not None:
            _draw_effect(axes, row, effect, digits, 1 + (_NUMBERS_IN - 0.12) / inches, texts)
    level = texts("effects.interval", level=f"{100 * data.level:g}")
    _write_over(axes, 1.02, level, "left")
    _write_over(axes, 1 + (_NUMBERS_IN - 0.12) / inches, "n", "right")
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(max(3, int(inches / 0.55)), steps=[1, 2, 5, 10]))
    axes.set_xlabel(data.x_label, labelpad=2)
    if directed:
        _write_directions(axes, data)
    style.add_caption(figure, caption)
    return figure


def _rows(effects: Sequence[Effect]) -> list[tuple[str, Effect | None]]:
    """Give the rows from the top down: before the first effect of a group its name alone."""
    rows: list[tuple[str, Effect | None]] = []
    group = ""
    for effect in effects:
        if effect.group and effect.group != group:
            rows.append((effect.group, None))
        group = effect.group
        rows.append((effect.name, effect))
    return rows


def _draw_name(axes: Axes, row: int, name: str, effect: Effect | None, left: float, inches: float) -> None:
    indent = 0.1 if effect is not None and effect.group else 0.0
    weight = "normal" if effect is not None else "bold"
    x = -(left - 0.12 - indent) / inches
    label = axes.text(x, row, "", transform=axes.get_yaxis_transform(), va="center_baseline", size=7.8, weight=weight)
    put_text(label, shorten(printable(name), left - 0.2 - indent, 7.8, weight))


def _draw_effect(axes: Axes, row: int, effect: Effect, digits: int, right: float, texts: FigureTexts) -> None:
    place, ink = axes.get_yaxis_transform(), style.ATTENTION_COLOUR
    if np.isfinite(effect.estimate):
        axes.plot([effect.low, effect.high], [row, row], color=ink, linewidth=1.5, zorder=2, solid_capstyle="butt")
        face = ink if effect.filled else "white"
        axes.plot([effect.estimate], [row], "s", markersize=5, color=ink, zorder=3, markerfacecolor=face)
        low, high = style.plain(effect.low, digits), style.plain(effect.high, digits)
        words = texts("effects.numbers", estimate=style.signed(effect.estimate, digits), low=low, high=high)
    else:
        words = texts("effects.not_measured")
    axes.text(1.02, row, words, transform=place, va="center_baseline", size=7.4)
    if effect.n is not None:
        axes.text(right, row, f"{effect.n:,}", transform=place, va="center_baseline", ha="right", size=7.4)


def _write_over(axes: Axes, x: float, words: str, side: str) -> None:
    """Write the head of a column of numbers."""
    axes.annotate(
        words,
        (x, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        size=7.2,
        ha=side,
        color=style.NEUTRAL_COLOUR,
    )


def _write_directions(axes: Axes, data: EffectsData) -> None:
    """Write under the axis what lies on either side of 0; the two meet there."""
    arrows = (
        (data.worse, "\N{LEFTWARDS ARROW} {words}", "right", -5),
        (data.better, "{words} \N{RIGHTWARDS ARROW}", "left", 5),
    )
    for words, form, side, points in arrows:
        if words:
            axes.annotate(
                form.format(words=words),
                (0, 0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(points, -40),
                textcoords="offset points",
                size=7.2,
                ha=side,
                color=style.NEUTRAL_COLOUR,
            )
