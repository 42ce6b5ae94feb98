"""Samples ranked by a column of samples.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qd_detr.gates.results.writing import SampleTable

_USUAL = ("audio_effect_AP_", "audio_share", "ap", "layer0_")
"""How the column begins that is ranked by where none is named: the first of these that there is."""


def ranked(table: SampleTable, column: str | None, most: int) -> tuple[SampleTable, dict[str, Any]]:
    """Return the table with a column of ranks, 1 for the highest, and what a report tells of either end.

    Equal values share the better rank; a sample without a value has none.

    Args:
        table: samples.csv. column: to rank by; None: the audio's effect, or the first of its like that there is.
        most: samples told of at either end.

    Returns:
        The table, and {"column", "known": whether there are numbers in it, "n": samples with a value, "highest",
        "lowest": [{"id", "rank", "value", "query", "link"}], the lowest from the bottom up}.
    """
    numeric = [name for i, name in enumerate(table.head) if any(_is_number(row[i]) for row in table.rows)]
    usual = (name for start in _USUAL for name in numeric if name.startswith(start))
    name = column if column is not None else next(usual, "")
    if name not in numeric:
        return table, {"column": name, "known": False, "columns": numeric, "n": 0, "highest": [], "lowest": []}
    place = table.head.index(name)
    given = [(row[place], i) for i, row in enumerate(table.rows) if _is_number(row[place])]
    order = [i for _, i in sorted(given, key=lambda one: (-one[0], one[1]))]
    ranks: dict[int, int] = {}
    for at, i in enumerate(order):
        before = order[at - 1] if at else None
        same = before is not None and table.rows[before][place] == table.rows[i][place]
        ranks[i] = ranks[before] if same and before is not None else at + 1
    rows = [[*row, ranks.get(i)] for i, row in enumerate(table.rows)]
    told = [_told(table, i, ranks[i], place) for i in order]
    ends = {"highest": told[:most], "lowest": told[: -most - 1 : -1]}
    return replace(table, head=[*table.head, f"rank_{name}"], rows=rows), {
        "column": name,
        "known": True,
        "n": len(order),
        **ends,
    }


def _told(table: SampleTable, i: int, rank: int, place: int) -> dict[str, Any]:
    row: Sequence[Any] = table.rows[i]
    link = row[table.head.index("original_video")] if "original_video" in table.head else None
    query = row[table.head.index("query")]
    return {"id": table.ids[i], "rank": rank, "value": row[place], "query": query, "link": link or None}


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool) and cell == cell
