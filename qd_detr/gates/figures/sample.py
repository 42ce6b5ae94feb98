"""The figure of one sample, and a writer that makes many of them quickly.

`SampleFigureWriter` gives what `save_figure(plot_sample(...))` gives, to the pixel; it only keeps what samples
have in common (the laid-out figure, and the drawing of all that stays the same) from one to the next.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from matplotlib.figure import Figure

from qd_detr.gates.figures.rendering import GlyphCanvas, write_png
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.sample_key import LayoutKey, StillKey
from qd_detr.gates.figures.sample_layout import SampleLayout
from qd_detr.gates.figures.style import SAMPLE_DPI, FigureScale, house_style, in_house_style, save_figure

_KEPT_LAYOUTS = 8
_KEPT_BACKGROUNDS = 4  # of each layout; about 4 MB each


@in_house_style
def plot_sample(data: SampleData, scale: FigureScale | None = None, dpi: float = SAMPLE_DPI) -> Figure:
    """Draw one sample: gates, injection, moments and saliency on one axis of seconds.

    Args:
        data: The sample. What it does not give gets no panel.
        scale: The report's scale; gates from -1 to 1 and injection up to this sample's largest if None.
        dpi: Pixels per inch when written as png.

    Raises:
        ValueError: A shape does not fit the gating type or the number of clips.
    """
    scale = scale or FigureScale()
    layout = SampleLayout(LayoutKey.of(data), scale, dpi)
    layout.set_still(StillKey.of(data, scale))
    layout.update(data)
    return layout.figure


class SampleFigureWriter:
    """Writes figures of samples, many of which share a layout. Not for use by several threads at once.

    Args:
        scale: The report's scale.
        dpi: Pixels per inch of png files.
    """

    def __init__(self, scale: FigureScale | None = None, dpi: float = SAMPLE_DPI) -> None:
        self.scale = scale or FigureScale()
        self.dpi = dpi
        self._layouts: OrderedDict[LayoutKey, tuple[SampleLayout, OrderedDict[StillKey, object]]] = OrderedDict()

    def write(self, data: SampleData, path: str | Path) -> Path:
        """Write the figure of `data` to `path`, in the format of its suffix (png, pdf, svg)."""
        path = Path(path)
        if path.suffix.lower() != ".png":
            return save_figure(plot_sample(data, self.scale, self.dpi), path)
        with house_style(self.scale.language):
            write_png(self._draw(data), path)
        return path

    def _draw(self, data: SampleData) -> GlyphCanvas:
        key, still = LayoutKey.of(data), StillKey.of(data, self.scale)
        if key not in self._layouts:
            self._layouts[key] = (SampleLayout(key, self.scale, self.dpi), OrderedDict())
        self._layouts.move_to_end(key)
        if len(self._layouts) > _KEPT_LAYOUTS:
            self._layouts.popitem(last=False)
        layout, backgrounds = self._layouts[key]
        canvas = layout.figure.canvas
        assert isinstance(canvas, GlyphCanvas)
        layout.set_still(still)
        try:
            layout.update(data)
        except BaseException:
            # A half-updated layout must not show two samples in one figure.
            del self._layouts[key]
            raise
        if still not in backgrounds:
            backgrounds[still] = self._background(layout, canvas)
            if len(backgrounds) > _KEPT_BACKGROUNDS:
                backgrounds.popitem(last=False)
        backgrounds.move_to_end(still)
        canvas.restore_region(backgrounds[still])
        renderer = canvas.get_renderer()
        for artist in sorted(layout.moving, key=lambda artist: artist.get_zorder()):
            artist.draw(renderer)
        return canvas

    @staticmethod
    def _background(layout: SampleLayout, canvas: GlyphCanvas) -> object:
        for artist in layout.moving:
            artist.set_visible(False)
        canvas.draw()
        for artist in layout.moving:
            artist.set_visible(True)
        return canvas.copy_from_bbox(layout.figure.bbox)
