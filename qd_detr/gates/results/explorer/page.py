"""The page itself: readable files of this folder and the run's data, put together as one file that asks for nothing.

What a run brings (ids, sentences, paths) enters as base64 of deflate and nothing else: no text of it can become markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from qd_detr.gates.results.context import RunFindings, SampleContext
from qd_detr.gates.results.drawing import sample_data
from qd_detr.gates.results.explorer.facts import facts_of_run
from qd_detr.gates.results.explorer.planes import Planes
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.writing import SampleTable
from qd_detr.gates.tracking.entries import SampleId

EXPLORER_FILE = "explorer.html"
SCRIPTS = ("texts", "data", "filters", "table", "strips", "overview", "video", "export", "address", "explorer", "start")
"""The page's scripts in the order in which they stand in it."""

RunTexts = tuple[str, str]
"""A run's facts and planes, each as base64 of deflate."""

_FOLDER = Path(__file__).parent
_RUN = re.compile(r'<script type="text/plain" id="run0-(facts|planes)">([A-Za-z0-9+/=]*)</script>')


def write_explorer(tree: ResultsTree, findings: RunFindings, table: SampleTable, lang: str) -> None:
    """Write `explorer.html`, which opens in `lang`; `table` is samples.csv."""
    contexts: list[SampleContext] = []
    ids: list[SampleId] = []
    planes = Planes()
    for context in findings.contexts:
        several = list(sample_data(context, findings.history[context.sample_id]))
        for data in several:
            contexts.append(context)
            ids.append(context.sample_id if len(several) == 1 else data.sample_id)
            planes.add(data, findings.contributions.get(context.sample_id))
    series, packed = planes.packed()
    rows = dict(zip(table.ids, table.rows, strict=True))
    in_order = SampleTable(table.head, ids, [rows[sample_id] for sample_id in ids])
    facts = facts_of_run(findings, in_order, contexts, planes, series, lang)
    text = json.dumps(facts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    tree.write_text(EXPLORER_FILE, page_of([(_packed(text.encode("utf-8", "replace")), _packed(packed))]))


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def page_of(runs: Sequence[RunTexts]) -> str:
    """Return the page that shows a run, or two side by side."""
    page, style = (_read(name) for name in ("page.html", "style.css"))
    script = '"use strict";\n' + "\n".join(_read(f"{name}.js") for name in SCRIPTS)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_digest(script)}",
            f"style-src {_digest(style)}",
            "img-src blob:",  # a picture on its way to PNG
            "media-src blob: file:",  # the person's own video, picked or beside the page; never a network's
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    data = "\n".join(
        f'<script type="text/plain" id="run{number}-{part}">{text}</script>'
        for number, texts in enumerate(runs)
        for part, text in zip(("facts", "planes"), texts, strict=True)
    )
    for mark, text in {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": data}.items():
        before, after = page.split(f"%{mark}%")
        page = before + text + after
    return page


def texts_of_page(page: str) -> RunTexts | None:
    """Return the run's data out of an explorer.html, None if there is none in it."""
    found = dict(_RUN.findall(page))
    return (found["facts"], found["planes"]) if len(found) == 2 else None


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
