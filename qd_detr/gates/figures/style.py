"""What all figures share: colours, scales, sizes, and the one way a figure becomes a file.

No pyplot: a figure is a `Figure` object with an Agg canvas, so nothing is kept between figures, no
window can open, and a user's own matplotlib settings do not change what is drawn.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.figures.rendering import GlyphCanvas, write_png
from qd_detr.gates.figures.text import printable, put_text, wrap
from qd_detr.gates.figures.wording import FigureTexts, figure_fonts, figure_texts
from qd_detr.gates.gating import AUDIO, REFINEMENT, SHIFT

PAGE_WIDTH_IN = 7.2  # the text width of a two-column paper: font sizes below are those on the printed page
FIGURE_DPI = 200
SAMPLE_DPI = 170  # 1,224 pixels wide
FIGURE_FORMATS = ("png", "pdf", "svg")

# Okabe-Ito blue, vermilion and green: told apart with any colour vision, the first two in grey as well.
ATTENTION_COLOUR = "#0072b2"
ROLE_COLOURS = {AUDIO: ATTENTION_COLOUR, REFINEMENT: "#d55e00", SHIFT: "#009e73"}
TRUTH_COLOUR = "#009e73"
PREDICTION_COLOUR = "#5a3d8a"
NEUTRAL_COLOUR = "#4d4d4d"
FAINT_COLOUR = "#8c8c8c"
NULL_COLOUR = "#c4c4c4"
GROUP_COLOURS = ("#0072b2", "#b87a00", "#007d5b", "#b5568d", "#3585b5", "#b84e00", "#6f6f6f", "#222222")
NO_VALUE_COLOUR = "#9c9c9c"  # darker than the middle of the gates' colours, which is nearly white

INJECTION_FORMULA = "|g \N{DOT OPERATOR} branch| / |residual|"


_CAPTION_PT = 7
_RAISED = str.maketrans("-0123456789", "\N{SUPERSCRIPT MINUS}⁰¹²³⁴⁵⁶⁷⁸⁹")

_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0.2,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "svg.fonttype": "none",  # text stays text; `save_figure` puts the fonts in
    "svg.hashsalt": "qd-detr-gates",  # the same figure gives the same bytes
}
_RC: Any = {  # Any: matplotlib's stubs want each key as a literal
    key: value
    for key, value in matplotlib.rcParamsDefault.items()
    if not key.startswith(("backend", "interactive", "keymap", "toolbar", "webagg"))
} | _STYLE

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def house_style(language: str = "en") -> Iterator[None]:
    """Apply the house style with fonts for `language`, and put back whatever settings were there before."""
    # Fonts without a bold face, or with tables that a pdf leaves out, are no news to a reader of 1,550 figures.
    loggers = [logging.getLogger(name) for name in ("matplotlib.font_manager", "fontTools.subset")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context(_RC | {"font.family": figure_fonts(language)}):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def in_house_style(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Give `function` run under `house_style`, in the language of the `FigureScale` among its arguments."""

    @wraps(function)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given = [one.language for one in (*args, *kwargs.values()) if isinstance(one, FigureScale)]
        with house_style(*given):
            return function(*args, **kwargs)

    return styled


def _diverging() -> Colormap:
    # PuOr has no "good/bad" reading as red and green have; its darkest ends are cut so that ink on them stays visible.
    base = matplotlib.colormaps["PuOr_r"]
    colours = LinearSegmentedColormap.from_list("gates", base(np.linspace(0.07, 0.93, 256)))
    return colours.with_extremes(bad=NO_VALUE_COLOUR)


def _sequential() -> Colormap:
    return matplotlib.colormaps["viridis"].with_extremes(bad=NO_VALUE_COLOUR)


GATE_COLOURS = _diverging()
MAGNITUDE_COLOURS = _sequential()


@dataclass(frozen=True)
class FigureScale:
    """The scales that every figure of one report shares, and the language of its words.

    Attributes:
        gate_limit: Gates are shown from -gate_limit to +gate_limit, so that 0 is the middle of the colours.
        injection_max: By kind of gate the top of its injection (no unit: |g * branch| / |residual|). A kind that is not
            there: each figure's own largest value, rounded up.
        language: "en" or "ko"; English where no installed font has the characters of the language, and then the figures
            say so.
    """

    gate_limit: float = 1.0
    injection_max: Mapping[str, float] = field(default_factory=dict)
    language: str = "en"

    def __post_init__(self) -> None:
        tops = {f"injection_max of the {kind} gate": top for kind, top in self.injection_max.items()}
        for name, value in {"gate_limit": self.gate_limit, **tops}.items():
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0, got {value}")

    @classmethod
    def for_gates(
        cls,
        gate_range: tuple[float, float] | None,
        data_range: tuple[float, float] | None = None,
        injection_max: Mapping[str, float] | None = None,
        language: str = "en",
    ) -> FigureScale:
        """Give the scale of gates of a known range, else of the data's range, made symmetric about 0.

        Raises:
            ValueError: Neither range is given.
        """
        limits = gate_range if gate_range is not None else data_range
        if limits is None:
            raise ValueError("a gate of unknown range needs data_range, the least and largest gate over the report")
        limit = max(abs(limits[0]), abs(limits[1]))
        if gate_range is None:
            limit = round_up(limit)
        return cls(limit, injection_max or {}, language)

    def injection_top(self, kind: str, *values: ArrayLike | None) -> float:
        """Give the top of a gate's injection: the report's, else the largest of these values, rounded up."""
        return self.injection_max.get(kind) or round_up(largest(*values))

    @property
    def texts(self) -> FigureTexts:
        """The words of the figures."""
        return figure_texts(self.language)

    @property
    def gate_norm(self) -> Normalize:
        """The mapping from gate to colour."""
        return Normalize(-self.gate_limit, self.gate_limit)


def round_up(value: float) -> float:
    """Give the smallest of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten that is not below `value` (1 for none)."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10):
        if value <= step * power * (1 + 1e-9):
            return float(step * power)
    return float(10 * power)


def time_ticks(end_s: float, most: int = 8) -> NDArray[np.float64]:
    """Give ticks from 0 to `end_s` at steps in which people count seconds."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
    step = next((step for step in steps if end_s / step <= most - 1 + 1e-9), end_s / 4)
    return np.arange(int(end_s / step + 1e-9) + 1, dtype=np.float64) * step


def largest(*arrays: ArrayLike | None) -> float:
    """Give the largest finite value in `arrays`, 0 if there is none."""
    top = 0.0
    for array in arrays:
        if array is None:
            continue
        values = np.asarray(array, dtype=float)
        values = values[np.isfinite(values)]
        if values.size:
            top = max(top, float(values.max()))
    return top


def layer_colours(n_layers: int) -> list[tuple[float, float, float]]:
    """Give a colour per layer, dark (first) to light (last): told apart in grey print as well."""
    positions = [0.0] if n_layers == 1 else np.linspace(0.0, 0.78, n_layers).tolist()
    return [tuple(matplotlib.colormaps["viridis"](p)[:3]) for p in positions]


def group_colour(group: int) -> str:
    """Give the colour of a group of samples, dark enough for white letters."""
    return GROUP_COLOURS[group % len(GROUP_COLOURS)]


def group_letter(group: int) -> str:
    """Give the letter by which a group of samples goes."""
    return chr(ord("A") + group)


def signed(value: float, digits: int = 2) -> str:
    """Write a number with its sign, a real minus, and no minus before a rounded zero."""
    if not np.isfinite(value):
        return "n/a"
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def plain(value: float, digits: int = 2) -> str:
    """Write a number with a real minus and no plus."""
    return signed(value, digits).lstrip("+")


def brief(value: float) -> str:
    """Write a number with three significant digits and a real minus, very small and large ones with a power of ten."""
    if not np.isfinite(value):
        return "n/a"
    text = f"{value:.3g}"
    if "e" in text:
        digits, _, power = text.partition("e")
        text = f"{digits}\N{MULTIPLICATION SIGN}10{str(int(power)).translate(_RAISED)}"
    return text.replace("-", "\N{MINUS SIGN}")


def new_figure(height_in: float, width_in: float = PAGE_WIDTH_IN, dpi: float = FIGURE_DPI) -> Figure:
    """Give an empty figure with an Agg canvas; call it under `house_style`."""
    figure = Figure(figsize=(width_in, height_in), dpi=dpi)
    GlyphCanvas(figure)
    return figure


def add_axes_inches(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes whose place is given in inches from the figure's upper left corner."""
    figure_width, figure_height = figure.get_size_inches()
    bottom = figure_height - top - height
    return figure.add_axes((left / figure_width, bottom / figure_height, width / figure_width, height / figure_height))


def save_figure(figure: Figure, path: str | Path, dpi: float | None = None) -> Path:
    """Write `figure` in the format of the path's suffix (png, pdf, svg), and close it.

    The same figure gives the same bytes: no date and no version goes into the file.

    Args:
        figure: Any matplotlib figure, also a user's own one made with pyplot.
        path: The file; its folder must exist.
        dpi: Pixels per inch for png; the figure's own if None.

    Raises:
        ValueError: The suffix is not one of `FIGURE_FORMATS`.
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in FIGURE_FORMATS:
        raise ValueError(f"cannot write {path.name}: the format must be one of {', '.join(FIGURE_FORMATS)}")
    try:
        with house_style():
            if kind == "png":
                if dpi is not None:
                    figure.set_dpi(dpi)
                canvas = GlyphCanvas(figure)
                canvas.draw()
                write_png(canvas, path)
            else:
                date_key = "CreationDate" if kind == "pdf" else "Date"
                figure.savefig(path, format=kind, dpi=dpi or "figure", metadata={date_key: None})
            if kind == "svg":
                from qd_detr.gates.figures.svg_fonts import with_fonts

                path.write_text(with_fonts(path.read_text(encoding="utf-8")), encoding="utf-8")
    finally:
        close_figure(figure)
    return path


def close_figure(figure: Figure) -> None:
    """Free what `figure` holds; one made with pyplot is closed there too."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(figure)
    figure.clear()


def set_gate_ticks(axes: Axes, limit: float) -> None:
    """Let the x axis of `axes` run over the gates' scale."""
    axes.set_xlim(-limit, limit)
    ticks = [-limit, -limit / 2, 0.0, limit / 2, limit]
    axes.set_xticks(ticks, [plain(tick, 2).rstrip("0").rstrip(".") or "0" for tick in ticks])


def add_heading(figure: Figure, title: str) -> None:
    """Write the figure's title into its upper left corner."""
    width, height = figure.get_size_inches()
    figure.text(0.12 / width, 1 - 0.1 / height, title, size=10.5, weight="bold", va="top")


def caption_lines(texts: FigureTexts, *sentences: str) -> list[str]:
    """Wrap a caption to the page's width; the figure's height has to leave `caption_height` for it.

    Where the words are not in the language asked for, it ends with why.
    """
    lines: list[str] = []
    for sentence in filter(None, (*sentences, texts.note)):
        lines += wrap(printable(sentence), PAGE_WIDTH_IN - 0.3, _CAPTION_PT, max_lines=4)
    return lines


def caption_height(lines: Sequence[str]) -> float:
    """Give the inches that a caption needs at a figure's foot."""
    return 0.16 + 0.132 * len(lines)


def add_caption(figure: Figure, lines: Sequence[str]) -> None:
    """Write the caption, n in it, into the figure's lower left corner."""
    width, height = figure.get_size_inches()
    for index, line in enumerate(reversed(lines)):
        artist = figure.text(0.12 / width, (0.1 + 0.132 * index) / height, "", size=_CAPTION_PT, color=NEUTRAL_COLOUR)
        put_text(artist, line)


def set_row_ticks(axes: Axes, labels: Sequence[str]) -> None:
    """Label the rows 0, 1, ... of `axes` from the top down, without tick marks."""
    axes.set_yticks(np.arange(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
