"""The report's words in the language asked for."""

from __future__ import annotations

import re
from typing import Any

from qd_detr.gates.results.report.texts_en import EN
from qd_detr.gates.results.report.texts_ko import KO
from qd_detr.gates.wording import Texts

CATALOGUES = {"en": EN, "ko": KO}
_PLACEHOLDER = re.compile(r"\\\{(\w+)\\\}")
_SAID = {
    key: re.compile(_PLACEHOLDER.sub(r"(?P<\1>.+?)", re.escape(text)))
    for key, text in EN.items()
    if key.startswith("said.")
}


def report_texts(language: str) -> Texts:
    """Return the report's texts in "en" or "ko"."""
    return Texts(CATALOGUES, language)


def counted(texts: Texts, n: int, what: str) -> str:
    """Return "1 video", "3 videos" in the language."""
    return texts(f"count.{what}.{'one' if n == 1 else 'many'}", n=f"{n:,}")


def gate_name(texts: Texts, layer: int | str, kind: str) -> str:
    """Return "layer 0 attention gate" in the language."""
    return texts(f"gate.{kind}", layer=layer)


def heads(texts: Texts, section: str, *names: str) -> list[str]:
    """Return a table's head."""
    return [texts(f"{section}.head.{name}") for name in names]


def label(texts: Texts, group: str, name: Any) -> str:
    """Return what a value of a closed list is called, and the value itself where it is none of them."""
    key = f"{group}.{name}"
    return texts(key) if key in texts else str(name)


def said(texts: Texts, sentence: str) -> str:
    """Return in the language a sentence that another module composed in English; as it is where it is not known."""
    if texts.language == "en":
        return sentence
    for key, pattern in _SAID.items():
        match = pattern.fullmatch(sentence)
        if match:
            return texts(key, **match.groupdict())
    return sentence
