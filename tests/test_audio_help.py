"""From a sweep to 'does the audio help?': numbers worked out by hand, and sentences that follow from them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from qd_detr.gates.analysis.audio_help import audio_help, sample_columns
from qd_detr.gates.analysis.effects import line_changes, score_sweep
from qd_detr.gates.data.annotations import Query
from qd_detr.gates.results.report.audio import relation_sentence, verdict_sentence
from qd_detr.gates.results.report.wording import in_english, report_texts
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, AUDIO_MODES, DOSES, conditions_of, standard_sweep
from qd_detr.gates.runs.interventions.results import GateFigures, SweepRun
from qd_detr.gates.runs.interventions.sweep import run_sweep
from qd_detr.gates.wording import Reason
from tests.fusion_facts import facts
from tests.intervention_cases import samples_of, small_data, small_model

TRUTH = ((10.0, 30.0),)


def make_query(i, labelled=True, query="a man walks"):
    labels = {"relevant_windows": TRUTH, "relevant_clip_ids": (5, 6), "saliency_scores": ((4, 4, 4), (4, 2, 0))}
    return Query(i, query, f"source{i // 2}_0.0_150.0", 150.0, i + 1, **(labels if labelled else {}))


def line(qid, start, end, top=5):
    saliency = np.zeros(75, np.float16)
    saliency[top] = 1.0
    return {
        "qid": qid,
        "pred_relevant_windows": np.array([[start, end, 0.9], [100.0, 110.0, 0.1]]),
        "pred_saliency_scores": saliency,
    }


def planted_run(hits, n=40, labelled=True, magnitude=None, words=None):
    """A run whose baseline is always right, and without audio only where `hits` (n,) says so."""
    queries = [
        make_query(i, labelled, "a man sings" if words is not None and words[i] else "a man walks") for i in range(n)
    ]
    off = [one for one in standard_sweep(facts(num_layers=1)) if one.name == ATTENTION_OFF]
    before = [line(i, 10.0, 30.0) for i in range(n)]
    after = [line(i, 10.0, 30.0) if hits[i] else line(i, 60.0, 80.0, top=30) for i in range(n)]
    gates = np.ones((n, 1, 2)) if magnitude is None else np.repeat(np.asarray(magnitude)[:, None, None], 2, axis=2)
    return SweepRun(
        queries=queries,
        positions=list(range(n)),
        conditions=conditions_of(off),
        same_as={},
        lines={"baseline": before, ATTENTION_OFF: after},
        gates={
            "baseline": GateFigures(gates, np.zeros_like(gates), gates * 2, np.zeros_like(gates)),
            ATTENTION_OFF: GateFigures(np.zeros_like(gates), gates),
        },
        kinds=("attention", "ffn"),
    )


def test_a_planted_effect_is_found_with_its_size_direction_and_slice():
    hits = np.arange(40) % 4 == 0  # three of four queries are lost without audio
    words = ~hits
    result = audio_help(planted_run(hits, words=words), draws=500, seed=1)
    (off,) = [record for record in result["conditions"] if record["name"] == ATTENTION_OFF]
    assert result["metrics"]["baseline"]["MR-full-R1@0.5"] == 100.0
    change = off["metrics"]["MR-full-R1@0.5"]["change"]
    assert change["estimate"] == pytest.approx(-75.0)
    assert change["low"] < -75.0 < change["high"] < 0
    assert off["metrics"]["MR-full-mAP"]["significant"]
    assert off["predictions"]["first_window_changed"]["estimate"] == pytest.approx(75.0)
    assert off["predictions"]["first_window_iou"]["estimate"] == pytest.approx(0.25)
    assert off["predictions"]["top_clip_changed"]["estimate"] == pytest.approx(75.0)
    assert "p" not in off["predictions"]["first_window_iou"]
    (verdict,) = result["verdict"]
    assert (verdict["direction"], verdict["without"]) == ("helps", "gates_off")
    assert verdict["effect"]["estimate"] == pytest.approx(75.0)
    assert verdict["best_slice"]["slice"] == "sound_words"
    assert (verdict["best_slice"]["n"], verdict["best_slice"]["effect"]["estimate"]) == (30, pytest.approx(100.0))
    assert verdict["worst_slice"] is None
    sentence = verdict_sentence(verdict, report_texts("en"))
    assert "+75.00 points" in sentence
    assert sentence.startswith("The audio helps: ")
    assert result["gates_recorded"] == "after"


def test_queries_that_change_hands_are_counted_even_where_the_net_effect_is_0():
    run = planted_run(np.ones(40, bool))
    lines = {name: list(lines) for name, lines in run.lines.items()}
    for i in range(0, 40, 5):  # four rescued, four harmed
        lost = "baseline" if i % 2 else ATTENTION_OFF
        lines[lost][i] = line(i, 60.0, 80.0)
    run = replace(run, lines=lines)
    strict, loose = reversed(audio_help(run, draws=500)["flips"])
    for record in (loose, strict):
        assert [record[key]["count"] for key in ("rescued", "harmed", "unmoved_right", "unmoved_wrong")] == [
            4,
            4,
            32,
            0,
        ]
        assert record["rescued"]["share"]["estimate"] == pytest.approx(10.0)
        # Nobody was wrong both ways; with 20 videos up to 3 / 20 of them could be.
        assert (record["unmoved_wrong"]["share"]["low"], record["unmoved_wrong"]["share"]["high"]) == (0.0, 15.0)
    column = sample_columns(score_sweep(run))["audio_flip_R1_50_gates_off"]
    assert [column[i] for i in range(0, 40, 5)] == [1, -1] * 4
    assert sum(map(abs, column.values())) == 8


def test_a_model_that_no_gate_moves_is_equivalent_only_where_enough_videos_say_so():
    for n, expected in ((40, "undecided"), (700, "equivalent")):
        (verdict,) = audio_help(planted_run(np.ones(n, bool), n), draws=100)["verdict"]
        bound = 100 * 3 / (n / 2)  # in points, of n / 2 source videos
        assert (verdict["effect"]["low"], verdict["effect"]["high"]) == (pytest.approx(-bound), pytest.approx(bound))
        assert (verdict["verdict"], verdict["primary"], verdict["margin"]) == (expected, True, 1.0)


def test_audio_that_hurts_is_said_to_hurt():
    run = planted_run(np.arange(40) % 4 == 0)
    swapped = {"baseline": run.lines[ATTENTION_OFF], ATTENTION_OFF: run.lines["baseline"]}
    (verdict,) = audio_help(replace(run, lines=swapped), draws=500)["verdict"]
    assert verdict["direction"] == "hurts"
    assert (verdict["verdict"], verdict["size"]) == ("hurts", "beyond")
    # All queries are alike: every slice holds all of them or none, and none can be told from the rest.
    assert verdict["worst_slice"] is verdict["best_slice"] is None


def test_an_effect_that_is_not_shown_is_reported_as_such():
    run = planted_run(np.ones(40, bool))
    lines = {name: list(lines) for name, lines in run.lines.items()}
    for i in range(0, 40, 2):  # as much won as lost
        lost = "baseline" if i % 4 else ATTENTION_OFF
        lines[lost][i] = line(i, 60.0, 80.0)
    (verdict,) = audio_help(replace(run, lines=lines), draws=500)["verdict"]
    assert verdict["direction"] == "not shown"
    assert verdict["best_slice"] is verdict["worst_slice"] is None
    assert verdict_sentence(verdict, report_texts("en")).startswith("Whether the audio helps is undecided: ")


def test_gates_that_tell_the_effect_are_told_from_gates_that_do_not():
    hits = np.arange(40) % 2 == 0
    telling = audio_help(planted_run(hits, magnitude=np.where(hits, 0.1, 0.9)), draws=500)["explanation"]
    assert telling["found"] == len(telling["relations"]) == 8
    assert all(r["correlation"]["estimate"] == pytest.approx(1.0) for r in telling["relations"])
    assert "larger gates go with a larger effect" in relation_sentence(telling["relations"][0], report_texts("en"))
    blind = audio_help(planted_run(hits, magnitude=np.tile([0.1, 0.9, 0.9, 0.1], 10)), draws=500)["explanation"]
    assert blind["found"] == 0
    told = [relation_sentence(one, report_texts("en")) for one in blind["relations"]]
    assert all(sentence.endswith("no relation found: the interval contains 0.") for sentence in told)


def test_without_labels_predictions_are_compared_and_metrics_say_why_they_are_absent():
    result = audio_help(planted_run(np.arange(40) % 4 == 0, labelled=False), draws=200)
    assert result["metrics"] == {
        "available": False,
        "reason": Reason("labels.none"),
        "names": [],
        "primary": None,
        "baseline": {},
    }
    assert result["verdict"] == result["slices"] == []
    assert result["explanation"] is None
    (off,) = [record for record in result["conditions"] if record["name"] == ATTENTION_OFF]
    assert off["metrics"] == {}
    assert off["predictions"]["first_window_changed"]["estimate"] == pytest.approx(75.0)
    json.dumps(in_english(result), allow_nan=False)


def test_queries_without_labels_are_left_out_of_the_metrics_and_counted():
    run = planted_run(np.arange(40) % 4 == 0)
    mixed = [query if i >= 8 else make_query(i, labelled=False) for i, query in enumerate(run.queries)]
    result = audio_help(replace(run, queries=mixed), draws=200)
    assert (result["n_queries"], result["n_labelled"]) == (40, 32)
    assert result["metrics"]["reason"] == Reason("labels.left_out", {"missing": 8, "n": 40})
    assert result["verdict"][0]["effect"]["n"] == 32


def test_tvsum_is_judged_by_its_own_metric():
    run = planted_run(np.arange(40) % 4 == 0)
    labels = np.ones((75, 20))
    labels[5] = 5.0
    queries = [Query(i, "a", f"v{i}", 150.0, i + 1, rater_labels=labels) for i in range(40)]
    sweep = score_sweep(replace(run, queries=queries), "tvsum")
    assert sweep.metrics == ("mAP",)
    result = audio_help(replace(run, queries=queries), dset_name="tvsum", draws=200)
    # Five top clips with the positive one first: 1. Without audio it is not among them: 0.
    assert result["verdict"][0]["metric"] == "mAP"
    assert result["metrics"]["baseline"]["mAP"] == pytest.approx(100.0)
    assert result["verdict"][0]["direction"] == "helps"
    assert {one["slice"] for one in result["slices"]}.isdisjoint({"windows_1", "window_short"})
    json.dumps(in_english(result), allow_nan=False)


def test_equal_windows_without_length_have_an_iou_of_1():
    empty = {"pred_relevant_windows": np.array([[4.0, 4.0, 0.5]]), "pred_saliency_scores": np.zeros(3)}
    changes = line_changes([empty, line(1, 0.0, 10.0)], [empty, line(1, 5.0, 15.0)])
    assert changes["first_window_iou"].tolist() == [1.0, pytest.approx(1 / 3)]
    assert changes["first_window_changed"].tolist() == [0.0, 100.0]


def test_a_whole_sweep_gives_json_with_every_part_and_the_same_seed_the_same_bytes():
    index, reader = small_data(clip_counts=(6, 5) * 6, queries_per_video=2)
    conditions = conditions_of(standard_sweep(facts(num_layers=2)), list(AUDIO_MODES), 3)
    run = run_sweep(small_model(), samples_of(index, reader), conditions)
    texts = [json.dumps(in_english(audio_help(run, seed=3, draws=300)), allow_nan=False) for _ in range(2)]
    assert texts[0] == texts[1]
    result = json.loads(texts[0])
    assert [record["name"] for record in result["conditions"]] == [condition.name for condition in conditions]
    by_name = {record["name"]: record for record in result["conditions"]}
    curve = result["dose_curve"]
    assert curve["scales"] == list(DOSES)
    values = curve["metrics"]["MR-full-mAP"]["value"]
    assert values[3] == result["metrics"]["baseline"]["MR-full-mAP"]
    assert values[0] == by_name[ATTENTION_OFF]["metrics"]["MR-full-mAP"]["value"]
    assert curve["metrics"]["MR-full-mAP"]["change"][3] is None
    assert by_name["attention gates x 0"]["same_as"] == ATTENTION_OFF
    assert by_name["audio none"]["gates"][0]["attention"]["injection_change"] > 0
    assert {one["without"] for one in result["verdict"]} == {"gates_off", "silence"}
    assert len(result["explanation"]["relations"]) == 16
    assert result["n_source_videos"] == 12
    columns = sample_columns(score_sweep(run))
    assert set(columns) == {
        f"{what}_{way}"
        for what in (
            "audio_effect_AP",
            "audio_effect_best_IoU",
            "first_window_iou",
            "audio_flip_R1_50",
            "audio_flip_R1_70",
        )
        for way in ("gates_off", "silence")
    }
    assert all(len(column) == 24 for column in columns.values())
