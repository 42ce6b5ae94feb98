"""JSON records of a file, one a line or in one list, each with its number; what is wrong with one is told by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from qd_detr.gates.errors import DataError
from qd_detr.gates.files import parse_json

# A line is read whole; one with an hour of labels has about a hundredth of this.
_LINE_CHARS_MAX = 16 << 20
_LIST_CHARS_MAX = 512 << 20


class LineProblem(ValueError):
    """What is wrong with one record of a file, in words that follow its number."""


def records_of(file: TextIO, path: Path) -> tuple[str, Iterator[tuple[int, Any]]]:
    """Return "line" or "item" and (number, parsed record or LineProblem) pairs: the content decides which, not a suffix.

    Raises:
        DataError: on the first pair, of a list that is too long, nested too deeply or not JSON.
    """
    start = file.read(1)
    while start.isspace():
        start = file.read(1)
    file.seek(0)
    return ("item", _list_items(file, path)) if start == "[" else ("line", _json_lines(file))


def _load_json(text: str) -> Any:
    """Return the parsed JSON; a JSONDecodeError passes, other failures of the parser become a LineProblem."""
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "nested" in str(error):
            raise LineProblem("is nested too deeply") from None
        if "twice" in str(error):
            raise LineProblem(f"cannot be read: {error}") from None
        raise LineProblem(f"holds a number that cannot be read ({error})") from None


def _json_lines(file: TextIO) -> Iterator[tuple[int, Any]]:
    """Yield (line number, parsed object or LineProblem) for each line that is not blank."""
    # Not splitlines(): it also cuts at U+2028 and its like, which may stand inside a JSON string.
    for number in count(1):
        line = file.readline(_LINE_CHARS_MAX)
        if not line:
            return
        if len(line) == _LINE_CHARS_MAX:
            yield number, LineProblem(f"is longer than {_LINE_CHARS_MAX >> 20} MiB; expected one object a line")
            return
        line = line.removesuffix("\n")
        if not line.strip():
            continue
        try:
            yield number, _load_json(line)
        except json.JSONDecodeError as error:
            yield number, LineProblem(f"is not JSON ({error.msg}, column {error.colno}); expected one object a line")
        except LineProblem as problem:
            yield number, problem


def _list_items(file: TextIO, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (1-based position, item) of the JSON list in a file."""
    text = file.read(_LIST_CHARS_MAX)
    if len(text) == _LIST_CHARS_MAX:
        raise DataError(f"{path} is a list of over {_LIST_CHARS_MAX >> 20} MiB; write it as one object a line (.jsonl)")
    try:
        items = _load_json(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}: is not JSON ({error.msg}, column {error.colno}); "
            "the file begins as a list, expected [{...}, {...}]"
        ) from None
    except LineProblem as problem:
        raise DataError(f"{path} {problem}; expected a list of objects") from None
    yield from enumerate(items, start=1)
