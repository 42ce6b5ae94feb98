"""From a figure to the bytes of a png file, quickly: glyphs are drawn once for many figures, pixels are packed once.

What is drawn is what Matplotlib draws, to the pixel.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from matplotlib.backends import backend_agg
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text

PNG_COMPRESS_LEVEL = 3
_MOST_KEPT = 16384  # of a few hundred bytes each
_PIXEL = 64  # steps of FreeType's positions
_Kept = TypeVar("_Kept")
Heights = tuple[float, float, float] | tuple[None, None, None]


class GlyphCanvas(FigureCanvasAgg):
    """An Agg canvas whose text is drawn with a `GlyphRenderer`, where Matplotlib has what that builds on."""

    renderer: RendererAgg
    _made_for: tuple[float, ...] = ()

    def get_renderer(self) -> RendererAgg:
        """Return the renderer of the figure's present size; the same one while that stays."""
        size = (*self.get_width_height(physical=True), self.figure.dpi)
        if self._made_for != size:
            self.renderer = (GlyphRenderer if _KNOWN else RendererAgg)(*size)
            self._made_for = size
        return self.renderer


class GlyphRenderer(RendererAgg):
    """Keeps the glyphs it has drawn, by font, size, and place within a pixel: text of numbers is ten of them.

    All renderers of a process share what they keep. It stands in for methods of Matplotlib 3.11.
    """

    _glyphs: ClassVar[dict[tuple[object, ...], tuple[Any, int, int]]] = {}
    _lines: ClassVar[dict[tuple[object, ...], list[Any]]] = {}
    _heights: ClassVar[dict[tuple[object, ...], Heights]] = {}

    def draw_text(
        self,
        gc: Any,
        x: float,
        y: float,
        s: str,
        prop: FontProperties,
        angle: float,
        ismath: Any = False,
        mtext: Text | None = None,
    ) -> None:
        """Draw a line of text."""
        if ismath or (mtext is not None and (mtext.get_fontfeatures() or mtext.get_language())):
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        items = _kept(self._lines, (s, hash(prop), self.dpi), lambda: self._laid_out(s, prop))
        size = prop.get_size_in_points()
        glyphs = ((one.ft_object, size, one.glyph_index, 0, 1, one.x, one.y) for one in items)
        self._draw_text_glyphs_and_boxes(gc, x, y, angle, glyphs, [])

    def _laid_out(self, s: str, prop: FontProperties) -> list[Any]:
        font = self._prepare_font(prop)
        return list(font._layout(s, flags=backend_agg.get_hinting_flag(), features=None, language=None))

    def _get_font_height_metrics(self, prop: FontProperties) -> Heights:
        """Return a font's ascent, descent and line gap in pixels, which Matplotlib else looks up for every text."""
        return _kept(self._heights, (hash(prop), self.dpi), lambda: self._height_of(prop))

    def _height_of(self, prop: FontProperties) -> Heights:
        font = get_font(fontManager._find_fonts_by_props(prop))
        table, head = font.get_sfnt_table("OS/2"), font.get_sfnt_table("head")
        if table is None or head is None:
            return None, None, None  # Matplotlib measures it
        scale = 1 / head["unitsPerEm"] * prop.get_size_in_points() * self.dpi / 72
        return table["sTypoAscender"] * scale, -table["sTypoDescender"] * scale, table["sTypoLineGap"] * scale

    def _draw_text_glyphs_and_boxes(
        self, gc: Any, x: float, y: float, angle: float, glyphs: Iterable[Any], boxes: Any
    ) -> None:
        if angle or not gc.get_antialiased():
            super()._draw_text_glyphs_and_boxes(gc, x, y, angle, glyphs, boxes)
            return
        others, height, dpi, draw = [], int(self.height), self.dpi, self._renderer.draw_text_image
        from_below = self.height - y
        for glyph in glyphs:
            font, size, index, slant, extend, dx, dy = glyph  # dy is upwards
            if slant or extend != 1:
                others.append(glyph)
                continue
            column, x_rest = divmod(round(_PIXEL * (x + dx)), _PIXEL)
            row, y_rest = divmod(round(_PIXEL * (from_below + dy)), _PIXEL)
            key = (font.fname, font.face_index, size, dpi, index, x_rest, y_rest)
            if key not in self._glyphs:
                _kept(self._glyphs, key, partial(self._glyph, font, *key[2:]))
            pixels, left, top = self._glyphs[key]
            draw(pixels, left + column, height - top - row + len(pixels), 0, gc)
        if others or boxes:
            super()._draw_text_glyphs_and_boxes(gc, x, y, angle, others, boxes)

    @staticmethod
    def _glyph(font: Any, size: float, dpi: float, index: int, x_rest: int, y_rest: int) -> tuple[Any, int, int]:
        """Return a glyph's coverage, and how far it begins right of and above the pixel it is placed in."""
        font.set_size(size, dpi)
        font._set_transform(np.array([[0x10000, 0], [0, 0x10000]]), [x_rest, y_rest])
        bitmap = font._render_glyph(index, backend_agg.get_hinting_flag(), backend_agg.RenderMode.NORMAL)
        return bitmap.buffer, bitmap.left, bitmap.top


_KNOWN = all(hasattr(RendererAgg, name) for name in ("_draw_text_glyphs_and_boxes", "_prepare_font"))


def _kept(store: dict[tuple[object, ...], _Kept], key: tuple[object, ...], make: Callable[[], _Kept]) -> _Kept:
    """Return what a store has under a key, made if it is not there; a full store begins anew."""
    if key not in store:
        if len(store) >= _MOST_KEPT:
            store.clear()
        store[key] = make()
    return store[key]


def write_png(canvas: FigureCanvasAgg, path: Path) -> None:
    """Write what `canvas` holds as an opaque RGB file; the same pixels give the same bytes."""
    pixels = np.asarray(canvas.buffer_rgba())  # (height, width, 4); opaque, so that alpha says nothing
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with 0: its bytes as they are
    colours = rows[:, 1:].reshape(height, width, 3)
    for channel in range(3):
        colours[..., channel] = pixels[..., channel]
    parts = (
        (b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.data, PNG_COMPRESS_LEVEL)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
