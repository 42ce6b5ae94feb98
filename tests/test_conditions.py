"""What conditions are called where people read."""

from __future__ import annotations

import re
from dataclasses import replace

from qd_detr.gates.gating import ATTENTION, FFN, SHIFT, Gate
from qd_detr.gates.results.conditions import condition_words
from qd_detr.gates.results.report.wording import report_texts
from qd_detr.gates.runs.interventions.conditions import AUDIO_MODES, conditions_of, standard_sweep
from tests.fusion_facts import facts

SCALE = Gate("channel_scale", SHIFT, "channel scale", "scale", off=-1.0)


def test_every_standard_condition_has_words_in_both_languages_and_no_two_have_the_same() -> None:
    sweep = standard_sweep(replace(facts(), gates=(ATTENTION, FFN, SCALE)))
    names = [one.name for one in conditions_of(sweep, list(AUDIO_MODES), share=True)]
    assert len(names) > 20
    english, korean = ([condition_words(name, report_texts(language)) for name in names] for language in ("en", "ko"))
    assert len(set(english)) == len(set(korean)) == len(names)
    # Names of gates and factors are the same in both, and every condition says in Korean what it is.
    assert all(re.search("[가-힣]", words) for words in korean)
    assert [re.findall(r"\d[\d.]*", words) for words in korean] == [re.findall(r"\d[\d.]*", words) for words in english]
    assert "무음" in korean
    assert "silence" in english
    assert "레이어 1 FFN 게이트 끔" in korean
    assert "모든 channel scale 게이트 끔" in korean


def test_a_condition_that_a_user_named_keeps_its_name() -> None:
    for name in ("my condition", "layer 0 attention gate off, twice", "audio of mine"):
        assert condition_words(name, report_texts("ko")) == name
