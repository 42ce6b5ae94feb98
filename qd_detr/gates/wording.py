"""Texts in English and Korean, how wide they stand on a terminal, and text from elsewhere made safe for where it goes.

From elsewhere: ids, queries, paths, keys of a state dict.
"""

from __future__ import annotations

import locale
import os
import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LANGUAGES = ("en", "ko")
Catalogue = Mapping[str, str]

# Control characters but for tab and newline, marks that turn the direction of writing, and the two line separators.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
# What Markdown shows as it is: no links, emphasis, code, HTML, entities, and no address that would become a link.
_PLAIN_MARKDOWN = re.compile(r"(?:(?!www\.|://)[\w ,.;:'\"?()+%=/-])*")


@dataclass(frozen=True)
class Reason:
    """Something to be said, as data: the key of a text and the values of its placeholders.

    Whatever computes or draws returns these; the language is chosen where they are written.
    """

    key: str
    values: Mapping[str, Any] = field(default_factory=dict)


class Texts:
    """The texts of one language, by key.

    Args:
        catalogues: by language, each with the same keys and the same placeholders.
    """

    def __init__(self, catalogues: Mapping[str, Catalogue], language: str) -> None:
        self.language = language
        self._texts = catalogues[language]

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def __call__(self, key: str, /, **values: Any) -> str:
        """Return the text of a key with its placeholders filled in.

        Raises:
            KeyError: no such key, or a placeholder without a value.
        """
        return self._texts[key].format(**values)

    def say(self, what: Reason | str) -> str:
        """Return a reason in words; text, a user's own caption for example, as it is."""
        return what if isinstance(what, str) else self(what.key, **what.values)


def placeholders(text: str) -> set[str]:
    """Return the names of a text's placeholders."""
    return {name.split(".")[0].split("[")[0] for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def language_of_locale() -> str:
    """Return "ko" where the environment asks for Korean, else "en"."""
    # The order in which POSIX gives them weight; an empty one is as good as none.
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if os.environ.get(name):
            return "ko" if os.environ[name].lower().startswith("ko") else "en"
    given = locale.getlocale()[0] or ""
    return "ko" if given.lower().startswith("ko") else "en"


def display_width(text: str) -> int:
    """Return how many columns a text takes on a terminal: two for a wide character, none for a combining one."""
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def padded(text: str, width: int) -> str:
    """Return the text with spaces up to `width` columns."""
    return text + " " * max(0, width - display_width(text))


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Return the text in lines of at most `width` columns, every line that was broken off beginning with `indent`.

    Line breaks in the text stay. A word that is wider than a line, a path for example, is not cut: it could not be
    copied from the screen in one piece then.
    """
    lines = []
    for paragraph in text.split("\n"):
        body = paragraph.lstrip(" ")
        line = paragraph[: len(paragraph) - len(body)]
        for word in body.split(" "):
            candidate = f"{line} {word}" if line.strip() else line + word
            if line.strip() and display_width(candidate) > width:
                lines.append(line)
                candidate = indent + word
            line = candidate
        lines.append(line)
    return "\n".join(lines)


def for_terminal(text: object) -> str:
    """Return text without characters that steer a terminal or reorder a line; they show escaped, as in repr."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], str(text))


def for_csv(text: str) -> str:
    """Return a text cell that no spreadsheet takes for a formula: what begins like one gets an apostrophe in front."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv(text: str) -> str:
    """Return what `for_csv` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def is_plain_markdown(text: str) -> bool:
    """Return whether Markdown shows a text as it is."""
    return _PLAIN_MARKDOWN.fullmatch(text) is not None
