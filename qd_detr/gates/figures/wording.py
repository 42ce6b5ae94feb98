"""The words of the figures, in the language asked for as far as there is a font for it."""

from __future__ import annotations

import logging

from qd_detr.gates.figures.text import BASE_FONT, families_for, lacking
from qd_detr.gates.figures.texts import EN, KO
from qd_detr.gates.gating import GATES
from qd_detr.gates.wording import Texts

logger = logging.getLogger(__name__)

CATALOGUES = {"en": EN, "ko": KO}
_CHARACTERS = {language: frozenset("".join(texts.values())) - {"\n"} for language, texts in CATALOGUES.items()}


class FigureTexts(Texts):
    """The words of the figures.

    Attributes:
        note: Empty, or why they are English though another language was asked for.
    """

    def __init__(self, language: str, note: str = "") -> None:
        super().__init__(CATALOGUES, language)
        self.note = note

    def counted(self, n: int, what: str) -> str:
        """Give "1 sample", "1,550 samples" in the language."""
        return self(f"count.{what}.{'one' if n == 1 else 'many'}", n=f"{n:,}")

    def n_samples(self, n: int, n_videos: int | None) -> str:
        """Give "24 samples of 20 videos" in the language; of samples alone where the videos are not known."""
        samples = self.counted(n, "sample")
        return (
            samples if n_videos is None else self("of_videos", samples=samples, videos=self.counted(n_videos, "video"))
        )

    def layers(self, n: int) -> list[str]:
        """Give the names of `n` layers."""
        return [self("layer", layer=layer) for layer in range(n)]

    def gate(self, kind: str) -> str:
        """Give a gate's name within a sentence."""
        return gate_words(self, kind)

    def gate_title(self, kind: str) -> str:
        """Give a gate's name as a heading."""
        return headed(self.gate(kind))

    def role(self, kind: str) -> str:
        """Give what a gate is for."""
        return self(f"role.{GATES[kind].role}")


def gate_words(texts: Texts, kind: str) -> str:
    """Give a gate's name within a sentence, from any texts that hold those of the figures."""
    key = f"gate_name.{kind}"
    return texts(key) if key in texts else texts("gate_name.other", label=GATES[kind].label)


def headed(words: str) -> str:
    """Give words with a capital at the beginning."""
    return words[:1].upper() + words[1:]


def figure_texts(language: str) -> FigureTexts:
    """Give the words in `language`; in English, with a note that says so, where no font has the language's characters."""
    if lacking(_CHARACTERS[language]):
        return FigureTexts("en", EN[f"no_font.{language}"])
    return FigureTexts(language)


def figure_fonts(language: str) -> list[str]:
    """Give the fonts for the words in `language`."""
    return [BASE_FONT] if language == "en" else families_for(_CHARACTERS[language] - lacking(_CHARACTERS[language]))


def warn_of_missing_font(language: str) -> str:
    """Say on the log, and give, why the figures are not in `language`; nothing where they are."""
    note = figure_texts(language).note
    if note:
        logger.warning("%s", note)
    return note
