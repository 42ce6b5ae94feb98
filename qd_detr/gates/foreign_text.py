"""Text from elsewhere (ids, queries, paths, keys of a state dict), made safe for the medium it goes to."""

from __future__ import annotations

import re

# Control characters but for tab and newline, marks that turn the direction of writing, and the two line separators.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
# What Markdown shows as it is: no links, emphasis, code, HTML, entities, and no address that would become a link.
_PLAIN_MARKDOWN = re.compile(r"(?:(?!www\.|://)[\w ,.;:'\"?()+%=/-])*")


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
