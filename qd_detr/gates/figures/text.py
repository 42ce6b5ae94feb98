"""Text as figures need it: wrapped by its true width, in a font that has its glyphs, never a flood of warnings."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from matplotlib import font_manager
from matplotlib.font_manager import FontEntry
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.text import Text

BASE_FONT = "DejaVu Sans"
MISSING = "[\N{HORIZONTAL ELLIPSIS}]"

_FACE_SIZE = 100  # of the face that glyph widths are read from
_BOXES = "Last Resort"  # fonts of this name have a box for every character, and a glyph for none
_NORMAL_WEIGHT = 400
# PANOSE digits of a font: the first 2 is text in ordinary letters, the second 11 to 15 sans serif, the fourth 9 monospaced.
_TEXT, _SANS, _MONOSPACED = 2, range(11, 16), 9
_OLD_TABLE = 1  # of OS/2: fonts of the last century, whose Hangul was drawn for screens of their time


def installed_fonts() -> list[FontEntry]:
    """Give every font of this machine, also those that were installed after matplotlib made its list of fonts."""
    manager = font_manager.fontManager
    # Without folders matplotlib would ask macOS's system profiler, which takes seconds.
    folders = font_manager.OSXFontDirectories if sys.platform == "darwin" else None
    known = {Path(entry.fname).name for entry in manager.ttflist}
    for path in sorted(font_manager.findSystemFonts(folders)):
        if Path(path).name not in known:
            try:
                manager.addfont(path)
            except (OSError, RuntimeError):  # a damaged file, or a format that FreeType does not read
                continue
    return [entry for entry in manager.ttflist if Path(entry.fname).is_file() and _BOXES not in entry.name]


@lru_cache(maxsize=1)
def _fallbacks() -> Mapping[str, frozenset[int]]:
    """Give the characters of every font by its family, the most suitable font first: found by what it has, not by its name.

    Sans serif of ordinary weight before all others, and of these the one with the most characters: a text takes few fonts.
    """
    faces: dict[str, FontEntry] = {}
    for entry in installed_fonts():
        if entry.style == "normal":
            known = faces.setdefault(entry.name, entry)
            if abs(int(entry.weight) - _NORMAL_WEIGHT) < abs(int(known.weight) - _NORMAL_WEIGHT):
                faces[entry.name] = entry
    ranked = []
    for family, entry in faces.items():
        face = FT2Font(entry.fname)
        letters = frozenset(face.get_charmap())
        ranked.append((_unsuited(face, int(entry.weight)), -len(letters), family, letters))
    return MappingProxyType({family: letters for _, _, family, letters in sorted(ranked, key=lambda one: one[:3])})


def _unsuited(face: FT2Font, weight: int) -> int:
    """Give 0 for a sans serif font of proportional width and ordinary weight, 2 for others, 1 for old ones and unsaid."""
    facts = face.get_sfnt_table("OS/2")
    if facts is None:
        return 2
    panose = tuple(facts["panose"])
    if panose[0] not in (0, _TEXT) or panose[3] == _MONOSPACED or abs(weight - _NORMAL_WEIGHT) > 100:
        return 2
    if panose[1] not in (*_SANS, 0, 1):
        return 2
    return 0 if panose[1] in _SANS and facts["version"] > _OLD_TABLE else 1


@lru_cache(maxsize=64)
def characters_of(path: str) -> frozenset[int]:
    """Give the characters that a font file has."""
    return frozenset(FT2Font(path).get_charmap())


def _base_characters() -> frozenset[int]:
    return characters_of(
        str(font_manager.findfont(font_manager.FontProperties(family=BASE_FONT), fallback_to_default=False))
    )


@lru_cache(maxsize=65536)
def _family(character: int) -> str | None:
    """Give the font that a character is drawn in, None where no font has it."""
    if character in _base_characters():
        return BASE_FONT
    return next((family for family, letters in _fallbacks().items() if character in letters), None)


def forget_fonts() -> None:
    """Look for installed fonts anew (after `matplotlib.font_manager.fontManager.addfont`)."""
    for known in (_fallbacks, characters_of, _family, _face, _advance):
        known.cache_clear()


def lacking(text: Iterable[str]) -> set[str]:
    """Give the characters of `text` that no font of this machine has."""
    return {character for character in set(text) if _family(ord(character)) is None}


def families_for(text: Iterable[str]) -> list[str]:
    """Give the fonts that together have the characters of `text`, as far as this machine has them."""
    needed = {_family(ord(character)) for character in set(text)}
    if needed <= {BASE_FONT, None}:
        return [BASE_FONT]
    # In the order of rank: matplotlib takes the first that has a glyph, whichever other characters a text has.
    return [BASE_FONT, *(family for family in _fallbacks() if family in needed and family != BASE_FONT)]


def printable(text: str) -> str:
    """Give `text` on one line, each run of characters that no font has replaced by `MISSING`.

    matplotlib warns once per missing glyph and draws a box; a run over 1,550 queries would print nothing else.
    """
    line = " ".join(unicodedata.normalize("NFC", text).split())
    if line.isascii() and line.isprintable():
        return line
    shown: list[str] = []
    for character in line:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") or 0xFE00 <= ord(character) <= 0xFE0F:
            continue  # control, direction and variation marks have no glyph of their own
        if _family(ord(character)) is not None:
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


@lru_cache(maxsize=16)
def _face(family: str, weight: str) -> FT2Font:
    face = FT2Font(font_manager.findfont(font_manager.FontProperties(family=family, weight=weight)))
    face.set_size(_FACE_SIZE, 72)
    return face


@lru_cache(maxsize=8192)
def _advance(character: str, weight: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    family = _family(ord(character))
    if family is None:  # `printable` leaves none of these in a text
        return 1.0 if unicodedata.east_asian_width(character) in "WF" else 0.7
    glyph = _face(family, weight).load_char(ord(character), flags=LoadFlags.NO_HINTING)
    return glyph.linearHoriAdvance / 65536 / _FACE_SIZE


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
