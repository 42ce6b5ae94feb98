"""Fonts inside an SVG: its text stays text, and looks the same where its fonts are not installed."""

from __future__ import annotations

import base64
import html
import io
import logging
import re
from collections.abc import Iterator

# Matplotlib requires fontTools itself, for its own PDF files.
from fontTools.subset import Options, Subsetter  # type: ignore[import-untyped]
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from matplotlib import font_manager

from qd_detr.gates.figures.text import characters_of

_TEXT = re.compile(r'<text style="(?P<style>[^"]*)"[^>]*>(?P<body>.*?)</text>', re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_FAMILIES = re.compile(r"font-family: ([^;]*)")
_WEIGHT = re.compile(r"font-weight: (\d+)")
_SLANT = re.compile(r"font-style: (italic|oblique)")
_END = "</style>"

Face = tuple[str, int, str]
"""Family, weight and slant of a font."""


def with_fonts(svg: str) -> str:
    """Give an SVG of matplotlib's with the glyphs that its texts need inside it, as `@font-face` rules.

    A font that this machine lacks, of a figure that a user made, is left to whoever opens the file.
    """
    needed: dict[Face, set[str]] = {}
    for found in _TEXT.finditer(svg):
        style, letters = found["style"], set(html.unescape(_TAG.sub("", found["body"])))
        for face, of_face in _faces(style, letters):
            needed.setdefault(face, set()).update(of_face)
    rules = "".join(_rule(face, needed[face]) for face in sorted(needed))
    return svg.replace(_END, rules + _END, 1)


def _faces(style: str, letters: set[str]) -> Iterator[tuple[Face, set[str]]]:
    """Yield the fonts of a text with their share of its letters: each is drawn in the first family that has it."""
    families, weight, slant = _FAMILIES.search(style), _WEIGHT.search(style), _SLANT.search(style)
    left = set(letters)
    for family in families[1].split(",") if families else ():
        face = (family.strip(" '"), int(weight[1]) if weight else 400, slant[1] if slant else "normal")
        path = _path(face)
        if path is not None:
            having = {letter for letter in left if ord(letter) in characters_of(path)}
            left -= having
            if having:
                yield face, having


def _path(face: Face) -> str | None:
    family, weight, slant = face
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that a family has no bold face is no news
    try:
        properties = font_manager.FontProperties(family=family, weight=weight, style=slant)  # type: ignore[arg-type]
        return str(font_manager.findfont(properties, fallback_to_default=False))
    except ValueError:
        return None
    finally:
        logger.setLevel(level)


def _rule(face: Face, letters: set[str]) -> str:
    """Give the rule with a font of these letters alone; the same letters give the same bytes."""
    path = _path(face)
    assert path is not None
    logging.getLogger("fontTools.subset").setLevel(logging.ERROR)
    options = Options()
    options.hinting = False
    options.notdef_outline = True
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=sorted(map(ord, letters)))
    packed = io.BytesIO()
    with TTFont(path, fontNumber=0, lazy=True, recalcTimestamp=False) as font:
        subsetter.subset(font)
        font.flavor = "woff"
        font.save(packed)
    data = base64.b64encode(packed.getvalue()).decode("ascii")
    family, weight, slant = face
    return (
        f"@font-face{{font-family:'{family}';font-weight:{weight};font-style:{slant};"
        f"src:url(data:font/woff;base64,{data}) format('woff')}}"
    )
