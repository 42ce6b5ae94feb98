"""Finished results trees side by side, each a group of its own."""

import json
from pathlib import Path

import numpy as np
import pytest

from qd_detr.gates.analysis.run_comparison import compare_runs
from qd_detr.gates.errors import MissingFileError, RequestError
from qd_detr.gates.results.report.comparison import PARTS, comparison_rows
from qd_detr.gates.results.report.wording import in_english, report_texts
from qd_detr.gates.wording import Reason
from run_gate_analysis import main
from tests.tiny_run import make_tiny_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models of different gating type and depth, run on the same data."""
    folder = tmp_path_factory.mktemp("runs")
    first = make_tiny_run(folder / "a", "clipwise", layers=2)
    second = make_tiny_run(folder / "b", "global", layers=1, seed=1)
    out = folder / "first", folder / "second"
    assert main(first.argv("--no_figures", output=out[0])) == 0
    argv = second.argv("--no_figures", "--feature_root", str(first.data.parent), output=out[1])
    argv[argv.index("--data_path") + 1] = str(first.data)
    assert main(argv) == 0
    return first, *out


def copy_of(tree: Path, to: Path, **changes):
    to.mkdir()
    for path in tree.glob("*.*"):
        (to / path.name).write_bytes(path.read_bytes())
    config = json.loads((to / "run_config.json").read_text())
    for key, value in changes.items():
        config["annotations"][key] = value
    (to / "run_config.json").write_text(json.dumps(config))
    return to


def test_two_runs_are_compared_by_gates_metrics_and_queries(runs):
    _, first, second = runs
    result = compare_runs([first, second], draws=300, seed=2)
    again = in_english(compare_runs([first, second], draws=300, seed=2))
    assert json.dumps(in_english(result), allow_nan=False) == json.dumps(again)
    assert [run["gating_type"] for run in result["runs"]] == ["clipwise", "global"]
    assert (result["n_queries"], result["n_source_videos"]) == (9, 9)
    metrics = [json.loads((tree / "metrics.json").read_text())["brief"] for tree in (first, second)]
    assert result["metrics"]["available"]
    for row in result["metrics"]["rows"]:
        first_value, second_value = row["values"]
        assert first_value["mean"] == pytest.approx(metrics[0][row["metric"]], abs=0.006)
        assert second_value["mean"] == pytest.approx(metrics[1][row["metric"]], abs=0.006)
        (one,) = row["differences"]
        assert one["difference"]["estimate"] == pytest.approx(second_value["mean"] - first_value["mean"], abs=1e-9)
        assert (one["df"], one["seed_share"]) == (8, None)
    statistics = [json.loads((tree / "overall_statistics.json").read_text()) for tree in (first, second)]
    gates = {(row["layer"], row["kind"], row["figure"]): row for row in result["gates"]}
    here = gates[0, "attention", "magnitude"]
    means = [value["mean"] for value in here["values"]]
    assert here["differences"][0]["difference"]["estimate"] == pytest.approx(means[1] - means[0], abs=1e-6)
    assert means[1] == pytest.approx(abs(statistics[1]["attention_gates"]["mean"]), rel=0.5)
    (alone,) = gates[1, "ffn", "injection"]["differences"]
    assert (alone["difference"], alone["reason"]) == (None, Reason("compared.only_one"))
    by_name = {row["metric"]: row for row in result["metrics"]["rows"]}
    difference = [query["AP"]["second"] - query["AP"]["first"] for query in result["queries"]]
    estimate = by_name["MR-full-mAP"]["differences"][0]["difference"]["estimate"]
    assert 100 * np.mean(difference) == pytest.approx(estimate)
    head, rows = comparison_rows(result, report_texts("en"), "metrics")
    assert len(rows) == 5
    assert all(len(row) == len(head) for part in PARTS for row in comparison_rows(result, report_texts("en"), part)[1])


def test_a_run_compared_with_its_copy_differs_nowhere(runs, tmp_path):
    _, first, _ = runs
    result = compare_runs([first, copy_of(first, tmp_path / "copy")], draws=100)
    rows = [*result["metrics"]["rows"], *result["measures"], *result["gates"]]
    assert all(one["difference"]["estimate"] == 0.0 for row in rows for one in row["differences"])
    assert result["predictions"][0]["first_window_changed"]["estimate"] == 0.0
    # One checkpoint twice is no two seeds: each stands for itself.
    assert [group["runs"] for group in result["groups"]] == [["first"], ["copy"]]


def test_without_the_annotations_gates_and_predictions_are_compared_and_metrics_say_why_not(runs, tmp_path):
    _, first, second = runs
    gone = {"path": str(tmp_path / "gone.jsonl")}
    trees = copy_of(first, tmp_path / "a", **gone), copy_of(second, tmp_path / "b", **gone)
    result = compare_runs(trees, draws=100)
    assert not result["metrics"]["available"]
    assert result["metrics"]["reason"] == Reason("labels.moved", {"path": tmp_path / "gone.jsonl"})
    assert result["gates"]


def without_sums(tree):
    """Make a tree one that an earlier version wrote, which kept no sums of its files."""
    config = json.loads((tree / "run_config.json").read_text())
    del config["sha256"]
    (tree / "run_config.json").write_text(json.dumps(config))
    return tree


@pytest.mark.parametrize("name", ["overall_statistics.json", "samples.csv", "predictions.jsonl"])
def test_a_file_that_is_not_as_the_run_wrote_it_is_named(runs, tmp_path, name):
    _, first, second = runs
    tree = copy_of(second, tmp_path / "damaged")
    content = bytearray((tree / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tree / name).write_bytes(content)
    with pytest.raises(RequestError, match=f"{name} is not as the run wrote it"):
        compare_runs([first, tree])


@pytest.mark.parametrize(
    ("key", "value"),
    [("annotations", {}), ("checkpoint", "x"), ("options", {"dset_name": "hl"}), ("gating", None), ("batches", [])],
)
def test_a_run_config_of_another_shape_is_refused_by_name(runs, tmp_path, key, value):
    _, first, second = runs
    tree = copy_of(second, tmp_path / "odd")
    config = json.loads((tree / "run_config.json").read_text())
    (tree / "run_config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(RequestError, match=rf"run_config.json cannot be read \({key}"):
        compare_runs([first, tree])


@pytest.mark.parametrize(("key", "value"), [("windows", []), ("windows", None), ("saliency_scores", [])])
def test_predictions_without_windows_or_saliency_are_refused(runs, tmp_path, key, value):
    _, first, second = runs
    tree = without_sums(copy_of(second, tmp_path / "empty"))
    lines = [json.loads(line) for line in (tree / "predictions.jsonl").read_text().splitlines()]
    lines[0]["pred_relevant_windows" if key == "windows" else "pred_saliency_scores"] = value
    (tree / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RequestError, match=str(lines[0]["qid"])):
        compare_runs([first, tree])


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
    _, first, second = runs
    with pytest.raises(RequestError, match="one folder twice"):
        compare_runs([first, first / ".." / "first"])
    with pytest.raises(MissingFileError, match="no results folder"):
        compare_runs([first, tmp_path / "none"])
    other = copy_of(second, tmp_path / "other", sha256="0" * 64)
    with pytest.raises(RequestError, match="different data"):
        compare_runs([first, other])
    unfinished = copy_of(second, tmp_path / "unfinished")
    (unfinished / "run_config.json").unlink()
    with pytest.raises(RequestError, match=r"not a finished results folder.*--resume"):
        compare_runs([first, unfinished])
    fewer = without_sums(copy_of(second, tmp_path / "fewer"))
    for name in ("samples.csv", "predictions.jsonl"):
        text = (fewer / name).read_text().splitlines(keepends=True)
        (fewer / name).write_text("".join(text[:-1]))
    with pytest.raises(RequestError, match=r"different samples \(9 and 8; in one alone: 108\)"):
        compare_runs([first, fewer])
    torn = without_sums(copy_of(second, tmp_path / "torn"))
    (torn / "samples.csv").write_text("".join((torn / "samples.csv").read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RequestError, match="damaged"):
        compare_runs([first, torn])
    (torn / "overall_statistics.json").write_text("{")
    with pytest.raises(RequestError, match=r"overall_statistics.json cannot be read"):
        compare_runs([first, torn])
