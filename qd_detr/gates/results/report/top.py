"""The samples at either end of a ranking, in the report."""

from __future__ import annotations

from typing import Any

from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.markdown import inline, number, table
from qd_detr.gates.results.report.wording import heads
from qd_detr.gates.wording import Texts


def top_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section; nothing where no ranking was asked for."""
    data: dict[str, Any] | None = findings.sections.get("top")
    if data is None:
        return []
    name = inline(data["column"])
    lines = [texts("top.title", column=name), ""]
    if not data["known"]:
        return [*lines, texts("top.unknown", columns=", ".join(map(inline, data["columns"]))), ""]
    linked = any(one["link"] for end in ("highest", "lowest") for one in data[end])
    for end in ("highest", "lowest"):
        rows = [
            [
                one["rank"],
                inline(one["id"]),
                number(one["value"]),
                inline(one["query"]),
                *([f"<{one['link']}>" if one["link"] else "-"] if linked else []),
            ]
            for one in data[end]
        ]
        head = heads(texts, "top", "rank", "sample", "value", "query", *(["link"] if linked else []))
        lines += [texts(f"top.{end}", n=len(rows), of=data["n"]), "", *table(head, rows)]
    return lines
