"""The report's words in the language asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qd_detr.gates.figures.wording import CATALOGUES as FIGURES
from qd_detr.gates.gating import Gate
from qd_detr.gates.results.report import texts_claims, texts_comparison
from qd_detr.gates.results.report.texts_en import EN
from qd_detr.gates.results.report.texts_ko import KO
from qd_detr.gates.wording import Reason, Texts

# With the words of the figures: one word for one thing in both.
CATALOGUES = {
    "en": FIGURES["en"] | EN | texts_comparison.EN | texts_claims.EN,
    "ko": FIGURES["ko"] | KO | texts_comparison.KO | texts_claims.KO,
}


def report_texts(language: str) -> Texts:
    """Return the report's texts in "en" or "ko"."""
    return Texts(CATALOGUES, language)


def counted(texts: Texts, n: int, what: str) -> str:
    """Return "1 video", "3 videos" in the language."""
    return texts(f"count.{what}.{'one' if n == 1 else 'many'}", n=f"{n:,}")


def gate_name(texts: Texts, layer: int | str, gate: Gate) -> str:
    """Return "layer 0 attention gate" in the language."""
    key = f"gate.{gate.kind}"
    return texts(key, layer=layer) if key in texts else texts("gate.other", layer=layer, label=gate.label)


def heads(texts: Texts, section: str, *names: str) -> list[str]:
    """Return a table's head."""
    return [texts(f"{section}.head.{name}") for name in names]


def label(texts: Texts, group: str, name: Any) -> str:
    """Return what a value of a closed list is called, and the value itself where it is none of them."""
    key = f"{group}.{name}"
    return texts(key) if key in texts else str(name)


def in_english(data: Any) -> Any:
    """Return JSON-ready data with every `Reason` in it as an English sentence, as the JSON files hold them."""
    if isinstance(data, Reason):
        return report_texts("en").say(data)
    if isinstance(data, Mapping):
        return {key: in_english(value) for key, value in data.items()}
    return [in_english(value) for value in data] if isinstance(data, (list, tuple)) else data
