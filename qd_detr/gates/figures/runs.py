"""Runs compared: every run by name, the mean of each group of runs with its interval, the groups' differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qd_detr.gates.figures import style
from qd_detr.gates.figures.effects import Effect
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.text import printable, put_text, shorten, text_width_in
from qd_detr.gates.figures.wording import FigureTexts, figure_texts

_ROW_IN = 0.18
_RIGHT_IN = 1.7  # room for the numbers
_NAMES_IN = 3.0  # the most that names may take


@dataclass(frozen=True)
class GroupOfRuns:
    """Runs that differ in their seed alone.

    Attributes:
        name: what sets them apart. mean: over its runs. low, high: its interval, NaN for none.
        runs: (name, value) of each run.
    """

    name: str
    mean: float
    low: float
    high: float
    runs: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class RunsData:
    """What the figure shows.

    Attributes:
        metric: what the values are, in percent. groups: from top to bottom.
        differences: second minus first, named (first, second). n_queries, n_videos: behind all of it.
        level: the intervals'.
    """

    metric: str
    groups: Sequence[GroupOfRuns]
    differences: Sequence[tuple[tuple[str, str], Effect]]
    n_queries: int
    n_videos: int
    level: float = 0.95


@in_house_style
def plot_runs(data: RunsData, scale: FigureScale | None = None) -> Figure:
    """Draw each run as a point under its group's mean and interval, and the differences between groups below.

    Raises:
        ValueError: there are no groups.
    """
    if not data.groups:
        raise ValueError("a figure of runs needs at least one group")
    texts = figure_texts((scale or FigureScale()).language)
    groups = [(texts("runs.group", name=g.name, runs=texts.counted(len(g.runs), "run")), g) for g in data.groups]
    effects = [(texts("runs.minus", first=first, second=second), one) for (first, second), one in data.differences]
    names = [name for name, _ in groups] + [f"   {run}" for _, group in groups for run, _ in group.runs]
    names += [name for name, _ in effects]
    left = 0.2 + min(_NAMES_IN, max(text_width_in(printable(name), 7.8, "bold") for name in names) + 0.15)
    caption = style.caption_lines(texts, _caption(data, texts))
    top_rows = sum(1 + len(group.runs) for _, group in groups)
    upper, lower = max(0.4, _ROW_IN * top_rows), max(0.3, _ROW_IN * len(data.differences))
    below = lower + 0.85 if effects else 0.0
    figure = style.new_figure(0.58 + upper + 0.45 + below + style.caption_height(caption))
    style.add_heading(figure, texts("runs.title"))
    width = style.PAGE_WIDTH_IN - left - _RIGHT_IN
    axes = style.add_axes_inches(figure, left, 0.58, width, upper)
    _frame(axes, top_rows, texts("runs.mean", level=f"{100 * data.level:g}"))
    row = 0
    for name, group in groups:
        _name(axes, name, row, left, width, "bold")
        _interval(axes, row, group.mean, group.low, group.high, filled=True)
        words = f"{group.mean:.2f}"
        words += (
            f" [{group.low:.2f}, {group.high:.2f}]" if np.isfinite(group.low) else f" [{texts('runs.no_interval')}]"
        )
        axes.text(1.02, row, words, transform=axes.get_yaxis_transform(), va="center_baseline", size=7.4)
        for run, value in group.runs:
            row += 1
            _name(axes, run, row, left, width, "normal", indent=0.12)
            axes.plot([value], [row], "o", markersize=3.4, color=style.FAINT_COLOUR, zorder=3)
            axes.text(1.02, row, f"{value:.2f}", transform=axes.get_yaxis_transform(), va="center_baseline", size=7.4)
        row += 1
    axes.set_xlabel(texts("runs.percent", metric=data.metric), labelpad=2)
    if effects:
        place = (left, 0.58 + upper + 0.85, width, lower)
        _draw_differences(figure, effects, place, texts, f"{100 * data.level:g}")
    style.add_caption(figure, caption)
    return figure


def _caption(data: RunsData, texts: FigureTexts) -> str:
    several = [len(group.runs) > 1 for group in data.groups]
    over = "seeds" if all(several) else "some" if any(several) else "videos"
    return texts(
        "runs.caption",
        queries=texts.counted(data.n_queries, "query"),
        videos=texts.counted(data.n_videos, "source_video"),
        over=texts(f"runs.over.{over}"),
    )


def _draw_differences(
    figure: Figure,
    effects: Sequence[tuple[str, Effect]],
    place: tuple[float, float, float, float],
    texts: FigureTexts,
    level: str,
) -> None:
    left, _, width, _ = place
    axes = style.add_axes_inches(figure, *place)
    _frame(axes, len(effects), texts("runs.difference", level=level))
    axes.axvline(0, color=style.NEUTRAL_COLOUR, linewidth=0.8, zorder=1)
    for row, (name, effect) in enumerate(effects):
        _name(axes, name, row, left, width, "normal")
        _interval(axes, row, effect.estimate, effect.low, effect.high, filled=bool(effect.stands))
        words = f"{style.signed(effect.estimate, 2)} [{style.plain(effect.low, 2)}, {style.plain(effect.high, 2)}]"
        axes.text(1.02, row, words, transform=axes.get_yaxis_transform(), va="center_baseline", size=7.4)
    axes.set_xlabel(texts("runs.points"), labelpad=2)


def _frame(axes: Axes, rows: int, head: str) -> None:
    axes.set_ylim(rows - 0.4, -0.6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.margins(x=0.06)
    axes.annotate(
        head,
        (1.02, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        size=7.2,
        color=style.NEUTRAL_COLOUR,
    )


def _name(axes: Axes, name: str, row: int, left: float, width: float, weight: str, indent: float = 0.0) -> None:
    at = -(left - 0.12 - indent) / width
    artist = axes.text(at, row, "", transform=axes.get_yaxis_transform(), va="center_baseline", size=7.8)
    artist.set_fontweight(weight)
    put_text(artist, shorten(printable(name), left - 0.2 - indent, 7.8, weight))


def _interval(axes: Axes, row: int, estimate: float, low: float, high: float, *, filled: bool) -> None:
    axes.plot([low, high], [row, row], color=style.ATTENTION_COLOUR, linewidth=1.5, zorder=2, solid_capstyle="butt")
    face = style.ATTENTION_COLOUR if filled else "white"
    axes.plot([estimate], [row], "s", markersize=5, color=style.ATTENTION_COLOUR, markerfacecolor=face, zorder=3)
