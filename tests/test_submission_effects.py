"""Effects from submission files alone: the digits of the sweep on the same predictions, by the command too."""

import json

import numpy as np
import pytest

from qd_detr.gates.analysis.audio_help import audio_help
from qd_detr.gates.analysis.submission_effects import submission_effects
from qd_detr.gates.commands.analyse import execution
from qd_detr.gates.commands.analyse.work import sweep_of
from qd_detr.gates.errors import DataError
from qd_detr.gates.evaluation.__main__ import main
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF
from qd_detr.gates.runs.interventions.results import submission_line
from run_gate_analysis import main as analyse
from tests.test_audio_help import planted_run
from tests.tiny_run import make_tiny_run

HITS = np.arange(40) % 3 == 0


def lines_of(run, name):
    return [submission_line(query, one) for query, one in zip(run.queries, run.lines[name], strict=True)]


def annotation(query):
    return {
        "qid": query.qid,
        "query": query.query,
        "vid": query.vid,
        "duration": query.duration_s,
        "relevant_windows": [list(window) for window in query.relevant_windows],
        "relevant_clip_ids": list(query.relevant_clip_ids),
        "saliency_scores": [list(row) for row in query.saliency_scores],
    }


@pytest.fixture
def files(tmp_path):
    run = planted_run(HITS)
    contents = {
        "with.jsonl": lines_of(run, "baseline"),
        "without.jsonl": lines_of(run, ATTENTION_OFF)[::-1],
        "annotations.jsonl": [annotation(query) for query in run.queries],
    }
    for name, records in contents.items():
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return tmp_path


def compare(files, *more):
    given = ["--submission", files / "with.jsonl", "--annotations", files / "annotations.jsonl"]
    return main([str(one) for one in (*given, "--output", files / "metrics.json", *more)])


def test_files_give_the_digits_of_the_sweep_on_the_same_predictions():
    run = planted_run(HITS)
    swept = audio_help(run, draws=300, seed=4)
    lines = {"off": lines_of(run, ATTENTION_OFF)[::-1]}  # the order of a file is free
    read = submission_effects(lines_of(run, "baseline"), lines, run.queries, draws=300, seed=4)
    for one, other in ((swept["verdict"][0], read["verdict"][0]), (swept["flips"][0], read["flips"][0])):
        for key in one.keys() - {"without", "sentence", "best_slice", "worst_slice", "largest_slice"}:
            assert one[key] == other[key], key
    assert [record["effect"] for record in swept["slices"]] == [record["effect"] for record in read["slices"]]
    # Two of three queries are rescued; each by all of its 100 points.
    assert read["flips"][0]["rescued"]["count"] == 26
    assert [one["audio_flip_R1_50_off"] for one in read["queries"][:3]] == [0.0, 1.0, 1.0]


def test_a_runs_own_predictions_as_files_give_the_digits_of_the_run(tmp_path, monkeypatch):
    tiny = make_tiny_run(tmp_path, n_queries=20)
    seen = []

    def watched(*args, **kwargs):
        seen.append(sweep_of(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(execution, "sweep_of", watched)
    assert analyse(tiny.argv("--no_figures", "--no_explorer")) == 0
    lines = [json.dumps(line) + "\n" for line in lines_of(seen[0], ATTENTION_OFF)]
    (tmp_path / "off.jsonl").write_text("".join(lines), encoding="utf-8")
    given = {"submission": tmp_path / "out" / "predictions.jsonl", "against": tmp_path / "off.jsonl"}
    given |= {"annotations": tiny.data, "output": tmp_path / "metrics.json", "effects": tmp_path / "effects.json"}
    assert main([part for flag, path in given.items() for part in (f"--{flag}", str(path))]) == 0
    swept = json.loads((tmp_path / "out" / "audio_help.json").read_text(encoding="utf-8"))
    read = json.loads((tmp_path / "effects.json").read_text(encoding="utf-8"))
    assert read["conditions"][0]["metrics"] == swept["conditions"][0]["metrics"]
    off = next(one for one in swept["conditions"] if one["name"] == ATTENTION_OFF)
    assert read["conditions"][1]["predictions"] == off["predictions"]
    changes = [entry["change"] for entry in off["metrics"].values()]
    assert [entry["change"] for entry in read["conditions"][1]["metrics"].values()] == changes
    assert any(change["estimate"] for change in changes)
    assert [one["rescued"] for one in read["flips"]] == [one["rescued"] for one in swept["flips"]]


def test_the_command_compares_files_on_slices_of_ones_own(files, capsys):
    (files / "lost.txt").write_text("\n".join(str(i) for i in np.flatnonzero(~HITS)), encoding="utf-8")
    against = ("--against", files / "without.jsonl", "--effects", files / "effects.json")
    drawn = ("--figure", files / "effects.svg")
    assert compare(files, *against, *drawn, "--slice", f"lost={files / 'lost.txt'}", "--margin", "2") == 0
    assert (files / "effects.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert "MR-full-mAP against without.jsonl: +65.00" in capsys.readouterr().out
    found = json.loads((files / "effects.json").read_text(encoding="utf-8"))
    assert (found["verdict"][0]["verdict"], found["verdict"][0]["margin"]) == ("helps", 2.0)
    (own,) = [one for one in found["slices"] if one["slice"] == "lost" and one["metric"] == "MR-full-R1@0.5"]
    assert (own["n"], own["effect"]["estimate"], own["difference"]["estimate"]) == (26, 100.0, 100.0)
    assert own["significant"] is True


def test_annotations_of_a_part_take_a_full_submission_and_the_other_way_round_is_refused():
    run = planted_run(HITS)
    before, after = lines_of(run, "baseline"), lines_of(run, ATTENTION_OFF)
    part = submission_effects(before, {"off": after}, run.queries[:30], draws=100)
    assert (part["n_queries"], part["verdict"][0]["effect"]["n"]) == (30, 30)
    with pytest.raises(DataError, match="off does not fit the annotations: the submission lacks 10"):
        submission_effects(before, {"off": after[:30]}, run.queries, draws=100)


def test_a_prediction_without_a_window_is_one_that_overlaps_nothing():
    run = planted_run(HITS)
    after = lines_of(run, ATTENTION_OFF)
    after[0]["pred_relevant_windows"] = []
    found = submission_effects(lines_of(run, "baseline"), {"off": after}, run.queries, draws=100)
    moved = found["conditions"][1]["predictions"]
    assert moved["first_window_changed"]["estimate"] == pytest.approx(100 * 27 / 40)
    assert found["flips"][0]["rescued"]["count"] == 27


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--against", "{0}/without.jsonl"], "needs --effects"),
        (["--effects", "{0}/effects.json"], "go with --against"),
        (["--figure", "{0}/e.png"], "go with --against"),
        (["--against", "{0}/without.jsonl", "--effects", "{0}/e.json", "--figure", "{0}/e.gif"], "ends in .png"),
        (["--against", "{0}/with.jsonl", "--effects", "{0}/e.json"], "one file twice"),
        (["--against", "{0}/without.jsonl", "--effects", "{0}/without.jsonl"], "is an input"),
        (["--against", "{0}/without.jsonl", "--effects", "{0}/e.json", "--margin", "0"], "--margin must be"),
        (["--against", "{0}/without.jsonl", "--effects", "{0}/e.json", "--slice", "lost"], "NAME=FILE"),
        (["--against", "{0}/without.jsonl", "--effects", "{0}/e.json", "--slice", "a=b"], "cannot be read"),
    ],
)
def test_wrong_comparisons_are_refused(files, capsys, more, message):
    assert compare(files, *(one.format(files) for one in more)) == 2
    assert message in capsys.readouterr().err
    assert not (files / "effects.json").exists()
