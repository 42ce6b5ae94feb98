"""Text as figures need it: wrapped by its true width, in a font that has its glyphs, never a flood of warnings."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.text import Text

BASE_FONT = "DejaVu Sans"
# In order of preference; those installed are used for the characters that the base font lacks.
FALLBACK_FONTS = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "Nanum Gothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "AppleGothic",
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "IPAexGothic",
    "IPAPGothic",
    "IPAGothic",
    "TakaoPGothic",
    "Yu Gothic",
    "Hiragino Sans",
    "MS Gothic",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Noto Sans CJK TC",
    "Noto Sans TC",
    "Source Han Sans",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "PingFang HK",
    "Heiti TC",
    "SimHei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
    "Unifont",
)
MISSING = "[\N{HORIZONTAL ELLIPSIS}]"
MISSING_NOTE = f"{MISSING} stands for characters that no installed font has."

_FACE_SIZE = 100  # of the face that glyph widths are read from


@lru_cache(maxsize=1)
def installed_fallbacks() -> tuple[str, ...]:
    """Give the fallback fonts that this machine has."""
    known = {entry.name for entry in font_manager.fontManager.ttflist}
    return tuple(name for name in FALLBACK_FONTS if name in known)


@lru_cache(maxsize=32)
def _characters(family: str) -> frozenset[int]:
    path = font_manager.findfont(font_manager.FontProperties(family=family), fallback_to_default=False)
    return frozenset(FT2Font(path).get_charmap())


def forget_fonts() -> None:
    """Look for installed fonts anew (after `matplotlib.font_manager.fontManager.addfont`)."""
    installed_fallbacks.cache_clear()
    _characters.cache_clear()


def families_for(text: str) -> list[str]:
    """Give the fonts that together have the characters of `text`, as far as this machine has them."""
    families = [BASE_FONT]
    lacking = {ord(c) for c in text} - _characters(BASE_FONT)
    for family in installed_fallbacks():
        if not lacking:
            break
        if lacking & _characters(family):
            families.append(family)
            lacking -= _characters(family)
    return families


def printable(text: str) -> str:
    """Give `text` on one line, each run of characters that no font has replaced by `MISSING`.

    matplotlib warns once per missing glyph and draws a box; a run over 1,550 queries would print nothing else.
    """
    line = " ".join(unicodedata.normalize("NFC", text).split())
    if line.isascii() and line.isprintable():
        return line
    available = frozenset().union(*(_characters(family) for family in families_for(line)))
    shown: list[str] = []
    for character in line:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") or 0xFE00 <= ord(character) <= 0xFE0F:
            continue  # control, direction and variation marks have no glyph of their own
        if ord(character) in available:
            shown.append(character)
        elif not shown or shown[-1] != MISSING:
            shown.append(MISSING)
    joined = "".join(shown)
    while f"{MISSING} {MISSING}" in joined:  # words of one script that is missing throughout
        joined = joined.replace(f"{MISSING} {MISSING}", MISSING)
    return joined


def put_text(artist: Text, text: str) -> None:
    """Set text that came from outside: a "$" in it is a dollar, not mathematics, and its glyphs are found."""
    artist.set_parse_math(False)
    artist.set_text(text)
    artist.set_fontfamily([BASE_FONT] if text.isascii() else families_for(text))


@lru_cache(maxsize=4)
def _face(weight: str) -> FT2Font:
    face = FT2Font(font_manager.findfont(font_manager.FontProperties(family=BASE_FONT, weight=weight)))
    face.set_size(_FACE_SIZE, 72)
    return face


@lru_cache(maxsize=8192)
def _advance(character: str, weight: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if ord(character) in _characters(BASE_FONT):
        glyph = _face(weight).load_char(ord(character), flags=LoadFlags.NO_HINTING)
        return glyph.linearHoriAdvance / 65536 / _FACE_SIZE
    return 1.0 if unicodedata.east_asian_width(character) in "WF" else 0.7


def text_width_in(text: str, size_pt: float, weight: str = "normal") -> float:
    """Give the width of a line in inches."""
    return sum(_advance(character, weight) for character in text) * size_pt / 72


def wrap(text: str, width_in: float, size_pt: float, weight: str = "normal", max_lines: int = 4) -> list[str]:
    """Break `text` into lines of at most `width_in`, at spaces where it has some; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < max_lines:
        cut = _fitting(rest, width_in, size_pt, weight)
        if cut < len(rest):
            if len(lines) == max_lines - 1:
                cut = _fitting(
                    rest, width_in - text_width_in("\N{HORIZONTAL ELLIPSIS}", size_pt, weight), size_pt, weight
                )
                lines.append(rest[:cut].rstrip() + "\N{HORIZONTAL ELLIPSIS}")
                return lines
            space = rest.rfind(" ", 1, cut + 1)
            # A line broken at an early space would leave most of itself empty: long words break inside.
            cut = space if space > cut // 2 else cut
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return lines


def shorten(text: str, width_in: float, size_pt: float, weight: str = "normal") -> str:
    """Give `text` cut to one line of `width_in`, with an ellipsis where something was left out."""
    lines = wrap(text, width_in, size_pt, weight, max_lines=1)
    return lines[0] if lines else ""


def _fitting(text: str, width_in: float, size_pt: float, weight: str) -> int:
    """Give how many characters of `text` fit, at least one."""
    room = width_in * 72 / size_pt
    for index, character in enumerate(text):
        room -= _advance(character, weight)
        if room < 0:
            return max(index, 1)
    return len(text)
