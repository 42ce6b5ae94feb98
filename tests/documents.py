"""What the tests of the documentation read of it: the pages, their code blocks, their tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@dataclass(frozen=True)
class Block:
    """A code block: its page, first line, language ("" for an indented one), and text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str | Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> Iterator[Block]:
    """Yield fenced blocks, and blocks indented by four spaces after an empty line."""
    lines = read(page).splitlines()
    i = 0
    while i < len(lines):
        fence = re.fullmatch(r"( *)(`{3,})(\w*)\s*", lines[i])
        if fence:
            indent, ticks, language = fence.groups()
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == ticks)
            text = "\n".join(line.removeprefix(indent) for line in lines[i + 1 : end])
            yield Block(page, i + 1, language or "text", text)
            i = end + 1
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            end = i
            while end < len(lines) and lines[end].startswith("    "):
                end += 1
            yield Block(page, i + 1, "", "\n".join(line[4:] for line in lines[i:end]))
            i = end
        else:
            i += 1


def sections_of(page: str, level: int) -> Iterator[tuple[str, str]]:
    """Yield (heading, text) of every section that begins with a heading of this level."""
    parts = re.split(rf"(?m)^{'#' * level} (.+)$", read(page))
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        yield heading.strip(), re.split(rf"(?m)^#{{1,{level - 1}}} ", text)[0] if level > 1 else text


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of a text's first table, without head and rule."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
        elif rows:
            break
    return rows[2:]
