"""A sentence stands in the report only where its numbers hold."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from qd_detr.gates.analysis.resampling import paired_bootstrap
from qd_detr.gates.analysis.verdicts import verdict_of
from qd_detr.gates.results.report.annotation import alignment_sentences, p_value
from qd_detr.gates.results.report.audio import verdict_sentence
from qd_detr.gates.results.report.document import _in_short
from qd_detr.gates.results.report.gates import enters_sentence
from qd_detr.gates.results.report.opening import _when, _which, key_sentences
from qd_detr.gates.results.report.wording import report_texts

EN = report_texts("en")


def verdict_on(effects: np.ndarray) -> dict:
    """The verdict on the effects of queries that each come from a video of their own."""
    videos = [f"v{i}" for i in range(len(effects))]
    (effect,) = paired_bootstrap(effects, videos, seed=0, draws=500, bounds=[(-100.0, 100.0)])
    return {"without": "gates_off", "metric": "MR-full-mAP", "effect": effect, **verdict_of(effect)}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_up_to_five_videos_have_no_verdict_and_no_interval(n: int) -> None:
    sentence = verdict_sentence(verdict_on(np.linspace(20.0, 30.0, n)), EN)
    assert sentence.startswith("Whether the audio helps is undecided: ")
    assert "no interval: " in sentence
    assert "helps:" not in sentence


def test_the_answer_comes_first_and_follows_the_interval() -> None:
    noise = np.random.default_rng(0).normal(size=40)
    assert verdict_sentence(verdict_on(20 + noise), EN).startswith("The audio helps: ")
    assert verdict_sentence(verdict_on(-20 + noise), EN).startswith("The audio hurts: ")
    assert verdict_sentence(verdict_on(0.1 * noise), EN).startswith("The audio makes no difference of 1 points or more")
    undecided = verdict_sentence(verdict_on(30 * (noise - noise.mean())), EN)
    assert undecided.startswith("Whether the audio helps is undecided: ")
    assert "could hardly have been seen here" in undecided


def test_where_no_query_changed_the_rule_of_three_stands_instead_of_an_empty_interval() -> None:
    sentence = verdict_sentence(verdict_on(np.zeros(20)), EN)
    assert "no query changed, and up to 15.0 % of the source videos could" in sentence  # 3 / 20
    assert "+0.00" not in sentence


def analysis(*injections: float | None) -> SimpleNamespace:
    layers = {
        str(i): {"attention_injection_mean": value, "attention_abs_mean": 0.5} for i, value in enumerate(injections)
    }
    return SimpleNamespace(
        has_injection=injections[0] is not None,
        statistics={"layer_statistics": layers},
        facts=SimpleNamespace(kinds=("attention",)),
    )


def test_layers_are_ranked_only_where_there_is_something_to_rank() -> None:
    assert enters_sentence(analysis(0.2, 0.6), EN) == [
        "Audio enters most in layer 1: injection 0.60 (the others: layer 0: 0.20)."
    ]
    assert enters_sentence(analysis(0.6), EN) == []
    assert enters_sentence(analysis(None, None), EN) == []
    (nothing,) = enters_sentence(analysis(0.0, 0.0), EN)
    assert nothing.startswith("Nothing of the audio enters any layer")


def test_what_was_not_measured_is_not_spoken_of() -> None:
    assert key_sentences(SimpleNamespace(sections={}, notes={}, analysis=analysis(0.6)), EN) == []


def test_a_heading_never_stands_over_nothing() -> None:
    assert _in_short(SimpleNamespace(sections={}, notes={}, analysis=analysis(0.6)), EN) == []
    assert _in_short(SimpleNamespace(sections={}, notes={}, analysis=analysis(0.2, 0.6)), EN)[0] == "## In short"


def flips_of(rescued: int, harmed: int) -> dict:
    share = {"n": 40}
    return {
        "without": "gates_off",
        "threshold": "R1@0.5",
        "rescued": {"count": rescued, "share": share},
        "harmed": {"count": harmed, "share": share},
    }


def test_queries_that_change_hands_are_counted_where_there_are_some() -> None:
    verdict = {**verdict_on(np.zeros(20)), "best_slice": None, "worst_slice": None}

    def sentences(rescued: int, harmed: int) -> list[str]:
        help_data = {"verdict": [verdict], "groups": [], "flips": [flips_of(rescued, harmed)]}
        return _which(SimpleNamespace(sections={"audio_help": help_data}), EN)

    assert sentences(0, 0) == []
    assert sentences(3, 1) == [
        "At R1@0.5 the audio rescues 3 of 40 queries (right with it, wrong without) and harms 1."
    ]


def aligned(*p: float) -> SimpleNamespace:
    series = [
        {
            "layer": i,
            "kind": "attention",
            "series": "injection",
            "inside_minus_outside": {"effect": 0.2, "adjusted_p": value},
        }
        for i, value in enumerate(p)
    ]
    return SimpleNamespace(sections={"alignment": {"applies": True, "annotation": {"applies": True, "series": series}}})


def test_a_layer_is_named_only_beyond_chance_among_all_layers() -> None:
    assert len(alignment_sentences(aligned(0.03), EN)) == 1
    assert alignment_sentences(aligned(0.06, 0.4), EN) == []
    assert len(alignment_sentences(aligned(0.003, 0.4, 0.003), EN)) == 2


def test_a_timeline_is_read_only_where_turned_contributions_do_not_give_the_same() -> None:
    moments = {"applies": True, "n": 40, "share_inside": 0.4, "share_of_clips": 0.2}
    said = [
        _when(SimpleNamespace(sections={"timeline": {"moments": {**moments, "size": {"p": p}}}}), EN)
        for p in (0.2, 0.01)
    ]
    assert said[0] == []
    assert said[1][0].startswith("Of what the audio contributes to a prediction, 40.0 % lies inside")


def test_p_values_are_never_said_to_be_smaller_than_the_draws_can_tell() -> None:
    assert p_value(1 / 2001) == "< 0.001"
    assert p_value(0.02) == "0.020"
