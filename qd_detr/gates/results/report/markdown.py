"""Small pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qd_detr.gates.wording import for_terminal, is_plain_markdown


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table; numbers are right-aligned."""
    if not rows:
        return []
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(head))]
    return [
        "| " + " | ".join(cell(h) for h in head) + " |",
        "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
        *("| " + " | ".join(cell(value) for value in row) + " |" for row in rows),
        "",
    ]


def cell(value: object) -> str:
    """Return text that cannot break out of a table cell."""
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return re.sub(r"<(?! )", "&lt;", text)  # before a space it begins no tag


def inline(text: object) -> str:
    """Return foreign text (an id, a query, a path) as inline code that cannot break the document."""
    plain = for_terminal(" ".join(str(text).split()))
    fence = "`" * (1 + max((len(run) for run in _backtick_runs(plain)), default=0))
    pad = " " if plain.startswith("`") or plain.endswith("`") or not plain else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def foreign(text: object) -> str:
    """Return foreign text (a query, a name) as it is where Markdown would show it so, else as inline code."""
    return str(text) if is_plain_markdown(str(text)) else inline(text)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as the report writes it; a dash for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) < 10**-digits / 2:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """Return a share 0..1 as percent; a dash for none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _is_number(value: object) -> bool:
    text = str(value).replace(",", "").removesuffix("%").strip().lstrip("+")
    if text in ("-", ""):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _backtick_runs(text: str) -> list[str]:
    return "".join(c if c == "`" else " " for c in text).split()
