"""A sentence stands in the report only where its numbers hold; data on which each holds, and on which it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qd_detr.gates.analysis.audio_help import audio_help
from qd_detr.gates.analysis.resampling import paired_bootstrap
from qd_detr.gates.analysis.verdicts import verdict_of
from qd_detr.gates.data.annotations import Query
from qd_detr.gates.gating import ATTENTION, FFN
from qd_detr.gates.results.report.audio import (
    audio_section,
    calibration_sentences,
    dose_sentences,
    interaction_sentences,
    verdict_sentence,
    wrong_audio_sentences,
)
from qd_detr.gates.results.report.document import _in_short
from qd_detr.gates.results.report.gates import enters_sentence, value_sentences
from qd_detr.gates.results.report.opening import key_sentences
from qd_detr.gates.results.report.videos import videos_section
from qd_detr.gates.results.report.when import p_value, timeline_sentence, when_section
from qd_detr.gates.results.report.wording import CATALOGUES, report_texts
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, DOSES, conditions_of, dose_name, standard_sweep
from qd_detr.gates.runs.interventions.results import GateFigures, SweepRun
from tests.fusion_facts import facts

EN = report_texts("en")
TRUTH, RIGHT, WRONG = (10.0, 30.0), (10.0, 30.0), (60.0, 80.0)
Window = tuple[float, float]


def run_of(
    windows: Mapping[str, Sequence[Window]],
    *,
    truth: Window | None = TRUTH,
    audio: Sequence[str] = (),
    layers: int = 1,
    magnitude: Sequence[float] | None = None,
    score: float = 0.9,
    words: Sequence[bool] = (),
) -> SweepRun:
    """A sweep in which the first window of each query, from a video of its own, is given per condition."""
    n = len(windows["baseline"])
    labels: dict[str, Any] = {}
    if truth is not None:
        labels = {"relevant_windows": (truth,), "relevant_clip_ids": (5, 6), "saliency_scores": ((4, 4, 4), (4, 2, 0))}
    said = [*words, *[False] * (n - len(words))]
    queries = [
        Query(i, "a man sings" if said[i] else "a man walks", f"s{i}_0.0_150.0", 150.0, i + 1, **labels)
        for i in range(n)
    ]
    sweep = [one for one in standard_sweep(facts(num_layers=layers)) if one.name in windows]
    same = {name: "baseline" for name in (dose_name(1),) if dose_name(0) in windows}
    figures = np.full((n, layers, 2), 0.5)
    if magnitude is not None:
        figures[:, :, 0] = np.asarray(magnitude)[:, None]
    gates = GateFigures(figures, np.zeros_like(figures), figures, np.zeros_like(figures))
    saliency = np.linspace(1.0, 0.0, 75)
    lines = {
        name: [
            {"qid": i, "pred_relevant_windows": np.array([[*one, score]]), "pred_saliency_scores": saliency}
            for i, one in enumerate(given)
        ]
        for name, given in windows.items()
        if name not in same
    }
    conditions = conditions_of(sweep, audio)
    return SweepRun(queries, list(range(n)), conditions, same, lines, {"baseline": gates}, ("attention", "ffn"))


def findings_of(run: SweepRun, shares: Sequence[float | None] | None = None, **sections: Any) -> SimpleNamespace:
    """The findings of a run whose report is asked for."""
    given = None if shares is None else dict(enumerate(shares))
    sections = {"audio_help": audio_help(run, draws=200, shares=given), **sections}
    if shares is not None:
        known = [share for share in shares if share is not None]
        reading = {"n": len(known), "n_unmoved": len(shares) - len(known), "mean": 0.0, "median": 0.0}
        if known:
            reading |= {"mean": float(np.mean(known)), "median": float(np.median(known))}
        samples = [{"qid": i, "windows": {"share": share}} for i, share in enumerate(shares)]
        sections["audio_share"] = {"readings": {"windows": reading}, "samples": samples}
    return SimpleNamespace(sections=sections, notes={}, analysis=analysis(0.5), contexts=[])


def analysis(*injections: float | None, note: object = None) -> SimpleNamespace:
    layers = {
        str(i): {"attention_injection_mean": value, "attention_abs_mean": 0.5} for i, value in enumerate(injections)
    }
    return SimpleNamespace(
        has_injection=injections[0] is not None,
        statistics={"layer_statistics": layers},
        facts=SimpleNamespace(kinds=("attention",), gates=(ATTENTION, FFN), gating_note=note),
    )


def opening(findings: SimpleNamespace) -> str:
    """The first screen in both languages must come to the same number of answers; return the English one."""
    english, korean = (key_sentences(findings, report_texts(language)) for language in CATALOGUES)
    assert len(english) == len(korean)
    return "\n".join(english)


def half_lost(n: int, lost: Sequence[int] | None = None, **more: Any) -> SweepRun:
    """A model that is right with the audio, and wrong without it on `lost`, all of them if None."""
    gone = set(range(n) if lost is None else lost)
    return run_of({"baseline": [RIGHT] * n, ATTENTION_OFF: [WRONG if i in gone else RIGHT for i in range(n)]}, **more)


def verdict_on(effects: np.ndarray) -> dict:
    """The verdict on the effects of queries that each come from a video of their own."""
    videos = [f"v{i}" for i in range(len(effects))]
    (effect,) = paired_bootstrap(effects, videos, seed=0, draws=500, bounds=[(-100.0, 100.0)])
    return {"without": "gates_off", "metric": "MR-full-mAP", "effect": effect, **verdict_of(effect)}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_up_to_five_videos_have_no_verdict_no_interval_and_no_claim(n: int) -> None:
    findings = findings_of(half_lost(n), shares=[0.9] * n)
    told = opening(findings)
    assert told.startswith("**Does it help?** Whether the audio helps is undecided: +100.00 points")
    assert "no interval: " in told
    for claim in ("audio helps:", "two groups", "towards the moments", "effect is", "rough", "95 %"):
        assert claim not in told
    evidence = "\n".join([*audio_section(findings, EN), *videos_section(findings, EN)])
    assert "would have been seen" not in evidence
    assert "too few for 95 % intervals" in evidence
    assert "are related" not in evidence


def test_twenty_videos_with_an_effect_have_a_verdict() -> None:
    told = opening(findings_of(half_lost(20, range(14))))
    assert "The audio helps: +70.00 points of MR-full-mAP against all attention gates off (95 % interval" in told
    assert "At R1@0.5 the audio rescues 14 of 20 queries (right only with it) and harms 0." in told
    assert "rough" not in told
    few = opening(findings_of(half_lost(8, range(6))))
    assert "With so few of them the interval is rough." in few


def test_the_answer_comes_first_and_follows_the_interval() -> None:
    noise = np.random.default_rng(0).normal(size=40)
    assert verdict_sentence(verdict_on(20 + noise), EN).startswith("The audio helps: ")
    assert verdict_sentence(verdict_on(-20 + noise), EN).startswith("The audio hurts: ")
    equal = verdict_sentence(verdict_on(0.1 * noise), EN)
    assert equal.startswith("The audio makes no difference beyond the margin (±1 percent points): ")
    undecided = verdict_sentence(verdict_on(30 * (noise - noise.mean())), EN)
    assert undecided.startswith("Whether the audio helps is undecided: ")
    assert "could hardly have been seen here" in undecided


@pytest.mark.parametrize("reason", ["adjusted", "disagree"])
def test_a_verdict_that_the_interval_alone_would_give_says_why_it_is_not_given(reason: str) -> None:
    verdict = {**verdict_on(np.r_[np.ones(20), 3 * np.ones(20)]), "verdict": "undecided", "reason_key": reason}
    why = {"adjusted": "does not stand after false-discovery control", "disagree": "whose test does not reject 0"}
    assert why[reason] in verdict_sentence(verdict, EN)


def test_without_any_effect_nothing_is_said_of_videos_and_times() -> None:
    told = opening(findings_of(half_lost(20, ()), shares=[None] * 20)).split("\n")
    assert [one.split("**")[1] for one in told] == [
        "Does it help?",
        "How much?",
        "Take care:",
    ]
    # The rule of three, 3 / 20, in place of an interval without width.
    assert "no query's MR-full-mAP changes; it could in up to 15.0 % of the source videos" in told[0]
    assert "No prediction moves enough" in told[1]
    assert "+0.00" not in "\n".join(told)
    assert "--timeline" not in "\n".join(told)


def test_of_noise_audio_no_video_time_wrong_audio_or_gate_is_said_to_matter() -> None:
    rng = np.random.default_rng(5)

    def at_random() -> list[Window]:
        return [RIGHT if one else WRONG for one in rng.random(60) < 0.5]

    windows = {"baseline": at_random(), ATTENTION_OFF: at_random(), "audio shuffle": at_random()}
    run = run_of(windows, audio=["shuffle"], magnitude=rng.random(60), words=rng.random(60) < 0.5)
    findings = findings_of(run, shares=list(rng.normal(0.03, 0.01, 60)))
    told = opening(findings)
    for claim in ("audio helps:", "audio hurts:", "two groups", "Wrong audio", "Even wrong", "effect is"):
        assert claim not in told
    assert "Whether the audio moves first windows towards the moments is not shown" in told
    evidence = "\n".join(videos_section(findings, EN))
    assert "That the attention gates tell which queries the audio matters for is not shown" in evidence
    assert "slices of queries, which overlap, differs from all other queries" in evidence


def test_of_a_dead_audio_branch_it_is_said_that_nothing_enters() -> None:
    findings = findings_of(half_lost(20, ()), shares=[None] * 20)
    findings.analysis = analysis(0.0, 0.0)
    assert "No audio enters any layer" in opening(findings)


def test_equal_slices_are_not_told_apart_and_different_ones_are() -> None:
    equal = findings_of(half_lost(60, range(0, 60, 2), words=[i % 4 < 2 for i in range(60)]))
    assert "effect is" not in opening(equal)
    assert "None of the 2 slices" in "\n".join(videos_section(equal, EN))
    sung = [i < 20 for i in range(60)]
    apart = findings_of(half_lost(60, range(20), words=sung))
    told = opening(apart)
    assert "The audio effect is higher on queries with a word of sound (a list of" in told
    assert "effect is lower" not in told  # its complement says the same
    assert "A star: 2 of the 2 slices" in "\n".join(videos_section(apart, EN))


def test_one_group_of_videos_is_not_made_two() -> None:
    rng = np.random.default_rng(1)
    run = half_lost(60, range(0, 60, 2), magnitude=rng.normal(0.5, 0.05, 60))
    shares = rng.normal(0.4, 0.05, 60)
    one = findings_of(run, shares=list(shares))
    told = opening(one)
    assert "two groups" not in told
    assert f"In {(shares > 0.5).sum()} of 60 queries the audio makes more of the prediction" in told
    assert "audio's share is 0.4" in told
    assert "videos with" not in "\n".join(videos_section(one, EN))
    far = [0.9 if i % 2 == 0 else 0.05 for i in range(60)] + rng.normal(0, 0.01, 60)
    two = findings_of(run, shares=list(far))
    told = opening(two)
    assert "30 videos with a large share, audio effect +100.00" in told
    assert "30 videos with a small one, audio effect +0.00" in told
    assert "audio's share is 0.90 in the videos of the large share and 0.05 in the others" in told
    assert "| videos with a small audio share | 30 |" in "\n".join(videos_section(two, EN))


def test_windows_over_the_whole_video_leave_nothing_to_say_of_when() -> None:
    told = opening(findings_of(half_lost(20, truth=(0.0, 150.0))))
    assert "**When?** Clip by clip: not measured in this run" in told
    assert "moments" not in told


def test_the_audio_that_moves_windows_into_and_out_of_moments_is_said_to() -> None:
    near = [(10.0, 30.0 + 2 * (i % 3)) for i in range(20)]
    towards = opening(findings_of(run_of({"baseline": near, ATTENTION_OFF: [WRONG] * 20})))
    assert "towards the moments: of the time that it brings into them 91.3 % lies inside" in towards  # 400 of 438 s
    assert "of the time that it takes out 0.0 %, of all time 13.3 %" in towards  # 20 of 150 s
    assert "a first window moves in 20 of 20 queries" in towards
    assert "Clip by clip: not measured in this run; the same command with `--timeline` does." in towards
    away = opening(findings_of(run_of({"baseline": [WRONG] * 20, ATTENTION_OFF: near})))
    assert "moves first windows away from the moments" in away


def test_without_labels_predictions_are_spoken_of_and_no_metric_is() -> None:
    findings = findings_of(half_lost(20, range(10), truth=None), shares=[0.6] * 10 + [None] * 10)
    told = opening(findings)
    assert "**Does it help?** Without labels that cannot be said." in told
    assert "With all attention gates off the first window moves in 50.0 % of the queries." in told
    assert "audio's share is 0.60" in told
    assert "mAP" not in told
    assert "moments" not in told
    assert not videos_section(SimpleNamespace(sections={"audio_help": findings.sections["audio_help"]}), EN)


def wrong(shuffled: Sequence[Window], off: Sequence[Window]) -> list[str]:
    windows = {"baseline": [RIGHT] * len(off), ATTENTION_OFF: off, "audio shuffle": shuffled}
    return wrong_audio_sentences(findings_of(run_of(windows, audio=["shuffle"])).sections["audio_help"], EN)


def test_wrong_audio_is_compared_with_none_where_the_difference_stands() -> None:
    mixed = [RIGHT, WRONG] * 15
    (worse,) = wrong([WRONG] * 30, mixed)
    assert worse.startswith(
        "Wrong audio is worse than none: against all attention gates off, MR-full-mAP changes by -50"
    )
    assert worse.endswith("points with another video's audio.")
    (better,) = wrong([RIGHT] * 30, mixed)
    assert better.startswith("Even wrong audio is better than none")
    assert wrong(mixed[1:] + mixed[:1], mixed) == []
    assert wrong(mixed, mixed) == []


def doses(lost: Mapping[float, int], n: int = 40) -> list[str]:
    off = [WRONG] * n
    windows = {"baseline": [RIGHT] * n, ATTENTION_OFF: off, dose_name(1): [RIGHT] * n}
    windows |= {dose_name(dose): [WRONG] * lost.get(dose, 0) + [RIGHT] * (n - lost.get(dose, 0)) for dose in DOSES}
    return dose_sentences(findings_of(run_of(windows)).sections["audio_help"], EN)


def test_doses_are_told_where_one_between_none_and_all_changes_anything() -> None:
    assert doses({0: 40}) == []
    (sentence,) = doses({0: 40, 0.25: 20, 0.5: 12})
    assert sentence.startswith("Dose: with the attention gates scaled, MR-full-mAP changes by -50.00 (")
    assert "at x 0.25, -30.00 (" in sentence
    assert sentence.endswith("; no change stands at x 1.5.")


def interactions(first: Sequence[int], second: Sequence[int], both: Sequence[int], n: int = 40) -> list[str]:
    def lost(which: Sequence[int]) -> list[Window]:
        return [WRONG if i in which else RIGHT for i in range(n)]

    windows = {
        "baseline": [RIGHT] * n,
        "layer 0 attention gate off": lost(first),
        "layer 1 attention gate off": lost(second),
        ATTENTION_OFF: lost(both),
    }
    return interaction_sentences(findings_of(run_of(windows, layers=2)).sections["audio_help"], EN)


def test_layers_are_said_to_stand_in_for_each_other_only_where_that_stands() -> None:
    (stand_in,) = interactions((), (), range(20))
    assert "Layers stand in for each other" in stand_in
    assert "together the attention gates cost +50.00 points of MR-full-mAP, one by one +0.00 in sum" in stand_in
    (need,) = interactions(range(20), range(20), range(20))
    assert "Layers need each other" in need
    assert interactions(range(10), range(10, 20), range(20)) == []  # the sum of the parts
    assert interactions(range(10), range(10, 20), range(21)) == []  # one query more


def test_scores_are_said_to_be_too_high_or_too_low_only_beyond_chance() -> None:
    def told(score: float, right: int) -> list[str]:
        windows = {"baseline": [RIGHT] * right + [WRONG] * (40 - right), ATTENTION_OFF: [WRONG] * 40}
        return calibration_sentences(findings_of(run_of(windows, score=score)).sections["audio_help"], EN)

    (high,) = told(0.9, 20)
    assert "too high for a probability of being right: 90.0 % on average, 50.0 % right at R1@0.5" in high
    assert high.endswith("With all attention gates off: 90.0 % and 0.0 %.")
    (low,) = told(0.1, 20)
    assert "too low" in low
    assert told(0.5, 20) == []


def test_a_condition_that_the_sentences_speak_of_is_found_in_the_table_under_that_name_too() -> None:
    windows = {"baseline": [RIGHT] * 20, "layer 0 attention gate off": [WRONG] * 20, ATTENTION_OFF: [WRONG] * 20}
    run = replace(run_of(windows), same_as={ATTENTION_OFF: "layer 0 attention gate off"})
    table = "\n".join(audio_section(findings_of(run), EN))
    assert "| layer 0 attention gate off = all attention gates off | 100.0 % |" in table
    assert table.count("all attention gates off") == 1


def test_gates_that_tell_the_videos_and_not_how_much_are_said_to() -> None:
    rng = np.random.default_rng(2)
    lost = [i for i in range(60) if i % 2 == 0 and rng.random() < 0.8]
    levels = [0.9 if i % 2 == 0 else 0.1 for i in range(60)] + rng.normal(0, 0.01, 60)
    findings = findings_of(half_lost(60, lost, magnitude=levels), shares=list(levels))
    told = "\n".join(videos_section(findings, EN))
    assert "The attention gates tell which videos the audio matters for, not how much: 8 of 8 relations stand" in told
    assert "| magnitude | videos with a large audio share |" in told


def test_layers_are_ranked_only_where_nothing_was_measured_on_predictions() -> None:
    assert enters_sentence(analysis(0.2, 0.6), EN) == [
        "Audio enters most in layer 1: injection 0.60 (the others: layer 0: 0.20)."
    ]
    assert enters_sentence(analysis(0.6), EN) == []
    assert enters_sentence(analysis(None, None), EN) == []
    findings = findings_of(half_lost(20))
    findings.analysis = analysis(0.2, 0.6)
    assert "injection" not in opening(findings)


def test_what_was_not_measured_is_not_spoken_of() -> None:
    assert key_sentences(SimpleNamespace(sections={}, notes={}, analysis=analysis(0.6)), EN) == []
    assert _in_short(SimpleNamespace(sections={}, notes={}, analysis=analysis(0.6)), EN) == []
    ranked = _in_short(SimpleNamespace(sections={}, notes={}, analysis=analysis(0.2, 0.6)), EN)
    assert ranked[0].startswith("- **How much?** Audio enters most in layer 1")


def aligned(*p: float) -> str:
    """The section on a run whose layers have these p values after control."""
    no = {"effect": None, "adjusted_p": None}
    series = [
        {
            "layer": i,
            "kind": "attention",
            "series": "injection",
            "inside_minus_outside": {"effect": 0.2, "adjusted_p": value},
            "saliency_correlation": no,
        }
        for i, value in enumerate(p)
    ]
    absent = {"applies": False, "reason": "nothing was predicted"}
    found = {"applies": True, "series": series, "groups": {"open": series[:1], "closed": series[1:]}}
    data = {"applies": True, "draws": 2000, "annotation": found, "prediction": absent}
    return "\n".join(when_section(SimpleNamespace(sections={"alignment": data}), EN))


def test_a_layer_is_named_only_where_it_stands_after_control() -> None:
    named = "the attention gates let more audio in than outside: "
    assert named + "layer 0." in aligned(0.03)
    assert named not in aligned(0.06, 0.4)
    assert named + "layer 0, layer 2." in aligned(0.003, 0.4, 0.003)
    assert "| all videos | 0 | injection | +0.200 (p = 0.030) * |" in aligned(0.03, 0.4)
    assert "| closed | 1 | injection | +0.200 (p = 0.400) |" in aligned(0.03, 0.4)
    assert "- Gates against the moments: nothing was predicted." in aligned(0.03)


def test_a_timeline_is_read_only_where_turned_contributions_do_not_give_the_same() -> None:
    moments = {"applies": True, "n": 40, "share_inside": 0.4, "share_of_clips": 0.2}

    def told(p: float, **more: float) -> list[str]:
        timeline = {"timeline": {"moments": {**moments, "size": {"p": p}, **more}}}
        return timeline_sentence(SimpleNamespace(sections=timeline), EN)

    assert told(0.2)[0].startswith("Whether the audio's contributions lie in the annotated moments rather than")
    assert told(0.01)[0].startswith("Of what the audio contributes to a prediction, 40.0 % lies inside")
    assert told(0.01, share_inside=0.1)[0].startswith("Of what the audio contributes to a prediction, only 10.0 %")


def test_a_gate_that_is_open_at_0_is_not_said_to_be_near_it() -> None:
    entry = {
        "share_saturated": None,
        "share_near_zero": 0.9,
        "magnitude": {"mean": 0.01},
        "mean": 0.01,
        "dead": {"dead_count": None, "gates": 1},
    }
    for off, expected in ((0.0, ["Near 0 in at least half of the values: layer 0 FFN gate (90.0 %)."]), (-1.0, [])):
        found = SimpleNamespace(
            statistics={"layer_statistics": {"0": {"ffn": entry}}},
            facts=SimpleNamespace(gates=(replace(FFN, off=off),)),
        )
        assert value_sentences(found, EN) == expected


def test_p_values_are_never_said_to_be_smaller_than_the_draws_can_tell() -> None:
    assert p_value(1 / 2001) == "< 0.001"
    assert p_value(0.02) == "0.020"
