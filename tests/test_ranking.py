"""Samples ranked by a column, slices of one's own in a run, and links to the original videos."""

import csv
import json

import pytest

from qd_detr.gates.data.slice_files import read_slices
from qd_detr.gates.data.video_names import youtube_link
from qd_detr.gates.errors import RequestError
from qd_detr.gates.results.ranking import ranked
from qd_detr.gates.results.writing import SampleTable
from run_gate_analysis import main
from tests.tiny_run import make_tiny_run

TABLE = SampleTable(
    ["id", "query", "ap", "audio_effect_AP_gates_off"],
    [1, 2, 3, 4, 5],
    [[1, "a", 0.5, 0.1], [2, "b", 0.9, None], [3, "c", 0.5, -0.2], [4, "d", 0.1, 0.3], [5, "e", 0.7, 0.1]],
)


def test_the_audios_effect_ranks_where_no_column_is_named_and_equals_share_the_better_rank():
    table, told = ranked(TABLE, None, 2)
    assert (told["column"], told["n"]) == ("audio_effect_AP_gates_off", 4)
    assert table.head[-1] == "rank_audio_effect_AP_gates_off"
    assert [row[-1] for row in table.rows] == [2, None, 4, 1, 2]
    assert [one["id"] for one in told["highest"]] == [4, 1]
    assert [one["id"] for one in told["lowest"]] == [3, 5]


def test_any_column_ranks_and_one_without_numbers_is_named_with_those_that_have_some():
    assert [one["id"] for one in ranked(TABLE, "ap", 9)[1]["highest"]] == [2, 5, 1, 3, 4]
    table, told = ranked(TABLE, "query", 2)
    assert table is TABLE
    assert (told["known"], told["columns"]) == (False, ["id", "ap", "audio_effect_AP_gates_off"])


@pytest.mark.parametrize(
    ("vid", "second", "link"),
    [
        ("NUsG9BgSes0_210.0_360.0", 4.5, "https://www.youtube.com/watch?v=NUsG9BgSes0&t=214s"),
        ("a-b_c-d_e-f_0_150", 0, "https://www.youtube.com/watch?v=a-b_c-d_e-f&t=0s"),
        ("v_NUsG9BgSes0", 4, None),
        ("tooShort_1.0_2.0", 4, None),
    ],
)
def test_a_name_of_a_youtube_video_and_two_times_links_to_the_second(vid, second, link):
    assert youtube_link(vid, second) == link


def test_a_run_lists_its_highest_and_lowest_samples_with_links_and_reports_slices_of_ones_own(tmp_path):
    tiny = make_tiny_run(tmp_path, n_queries=9)
    for path in tmp_path.rglob("v0_0.0_150.0.*"):
        path.rename(path.with_name(f"NUsG9BgSes0_210.0_360.0{path.suffix}"))
    tiny.queries[0]["vid"] = "NUsG9BgSes0_210.0_360.0"
    tiny.rewrite()
    (tmp_path / "mine.txt").write_text("100\n101\n102\n", encoding="utf-8")
    argv = tiny.argv("--no_figures", "--no_explorer", "--top", "2", "--rank_by", "ap")
    assert main([*argv, "--slice", f"mine={tmp_path / 'mine.txt'}"]) == 0
    out = tmp_path / "out"
    rows = list(csv.DictReader((out / "samples.csv").open(encoding="utf-8")))
    by_rank = sorted(rows, key=lambda row: int(row["rank_ap"]))
    assert float(by_rank[0]["ap"]) == max(float(row["ap"]) for row in rows)
    first = json.loads((out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    expected = youtube_link(rows[0]["vid"], first["pred_relevant_windows"][0][0])
    assert rows[0]["original_video"] == expected
    assert "youtube.com/watch?v=NUsG9BgSes0&t=2" in expected
    assert {row["original_video"] for row in rows[1:]} == {""}
    report = (out / "ANALYSIS_REPORT.md").read_text(encoding="utf-8")
    assert "## Samples by `ap`" in report
    assert f"`{by_rank[0]['id']}`" in report.split("## Samples by `ap`")[1]
    records = json.loads((out / "audio_help.json").read_text())["slices"]
    mine = [one for one in records if one["slice"] == "mine"]
    assert {one["n"] for one in mine} == {3}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rank_by", "ap"], "--rank_by COLUMN goes with it"),
        (["--top", "-1"], "--top must be 1 or more"),
        (["--slice", "mine"], "expected NAME=FILE"),
        (["--slice", "a={0}/none.txt"], "cannot be read as text"),
        (["--slice", "a={0}/other.txt"], "none of the 1 qids"),
        (["--slice", "a={0}/mine.txt", "--no_effects"], "--slice reports the audio's effect"),
    ],
)
def test_wrong_requests_are_refused_before_anything_runs(tmp_path, capsys, more, message):
    tiny = make_tiny_run(tmp_path, n_queries=2, layers=1)
    (tmp_path / "mine.txt").write_text("100\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text("7\n", encoding="utf-8")
    assert main(tiny.argv(*(one.format(tmp_path) for one in more))) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_slices_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1\n", encoding="utf-8")
    with pytest.raises(RequestError, match="two slices are called x"):
        read_slices([f"x={tmp_path / 'a.txt'}"] * 2, [1, 2])
