"""Small pictures of what every figure looked like when it was last looked at, and how far one may be from them.

    python -m tests.figure_references      draws them anew: look at the figures before, they are what the tests hold to

A picture is 144 pixels wide, a fifth of the figure at 100 dpi, so that a glyph drawn a little differently by another
FreeType hardly counts, and what is drawn where, and in which colour, does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).parent / "figure_references"
WIDTH = 144
DPI = 100  # at which figures are drawn for it
STEP = 8  # of the values that are kept: smaller files
# The most that a block's mean may be off, of 255. Other hinting of every glyph gives up to 7; a title that is missing 23,
# dots that are missing or in another colour 34 and 38.
MOST, BLOCK = 12.0, 8


def small_picture(figure: Figure) -> NDArray[np.int16]:
    """Draw a figure and give it as (rows, WIDTH, 3), its values in steps of STEP."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    figure.set_dpi(DPI)
    canvas.draw()
    whole = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    size = (WIDTH, max(BLOCK, round(whole.height * WIDTH / whole.width)))
    return (np.asarray(whole.resize(size, Image.Resampling.BOX)) // STEP * STEP).astype(np.int16)


def difference(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    """Give by how much the mean colours of two pictures differ in the block of BLOCK x BLOCK pixels where they do most.

    Ink that lies half a pixel further on leaves a block's mean nearly as it is; ink of another colour, or none, does not.
    """
    rows, columns = (size // BLOCK for size in one.shape[:2])
    apart = (one - other)[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK, 3)
    return float(np.abs(apart.mean(axis=(1, 3))).max())


def assert_like_reference(name: str, figure: Figure) -> None:
    """Draw a figure and hold it to its reference."""
    with Image.open(FOLDER / f"{name}.png") as image:
        reference = np.asarray(image.convert("RGB")).astype(np.int16)
    found = small_picture(figure)
    # The height follows from wrapped lines and rows: another height is another layout.
    assert found.shape == reference.shape, f"{name}: {found.shape} instead of {reference.shape}"
    worst = difference(found, reference)
    assert worst <= MOST, f"{name}: differs by {worst:.1f} of 255 in one place"


def main() -> None:
    """Draw every reference anew."""
    from tests.test_figures import every_figure

    FOLDER.mkdir(exist_ok=True)
    for name, figure in every_figure().items():
        Image.fromarray(small_picture(figure).astype(np.uint8)).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
