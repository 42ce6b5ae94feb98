"""Gating types with several seeds each: how runs are grouped, ranked, and told of."""

import json

import numpy as np
import pytest

from qd_detr.gates.analysis.run_comparison import compare_runs
from qd_detr.gates.analysis.run_groups import RunFacts, groups_of, run_names
from qd_detr.gates.errors import RequestError
from run_gate_analysis import main
from tests.tiny_run import make_tiny_run


def facts(gating_type, seed, lr=0.1, sha=None, folder="train"):
    options = {"gating_type": gating_type, "trained_gating_type": gating_type, "lr": lr}
    return RunFacts(None, sha or f"{gating_type}{seed}{lr}", seed, (folder, seed), options)


def grouped(runs, given=None):
    names = [f"r{i}" for i in range(len(runs))]
    groups = groups_of(runs, names, given or [None] * len(runs))
    return {group.name: group.runs for group in groups}


def test_runs_are_grouped_by_gating_type_and_told_by_what_else_differs_where_that_is_not_enough():
    runs = [facts(kind, seed) for seed in (1, 2) for kind in ("global", "clipwise")]
    assert grouped(runs) == {"global": (0, 2), "clipwise": (1, 3)}
    runs = [facts("global", 1), facts("global", 2, lr=0.2), facts("clipwise", 1), facts("global", 3)]
    assert grouped(runs) == {"global, lr 0.1": (0, 3), "global, lr 0.2": (1,), "clipwise, lr 0.1": (2,)}


def test_checkpoints_of_one_training_are_no_two_seeds():
    runs = [facts("global", 1), facts("global", 1, sha="later"), facts("clipwise", 1), facts("clipwise", 2)]
    assert grouped(runs) == {"global: r0": (0,), "global: r1": (1,), "clipwise": (2, 3)}
    assert grouped([facts("global", 1), facts("global", 2)]) == {"r0": (0,), "r1": (1,)}


def test_a_group_can_be_named_by_the_user():
    runs = [facts("global", 1), facts("global", 2), facts("global", 3)]
    assert grouped(runs, ["old", "new", "new"]) == {"old": (0,), "new": (1, 2)}


def test_folders_of_one_name_are_told_apart_by_as_much_of_their_path_as_it_takes(tmp_path):
    assert run_names([tmp_path / "a" / "out", tmp_path / "b" / "out", tmp_path / "c"]) == ["a/out", "b/out", "c"]


def another_seed(tree, to, seed, shift_s):
    """Write a tree like one, as another seed of its training would have made it: its windows moved."""
    to.mkdir()
    for path in tree.glob("*.*"):
        (to / path.name).write_bytes(path.read_bytes())
    config = json.loads((to / "run_config.json").read_text())
    del config["sha256"]
    config["options"]["seed"] = seed
    config["checkpoint"]["sha256"] += str(seed)
    (to / "run_config.json").write_text(json.dumps(config))
    lines = [json.loads(line) for line in (to / "predictions.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):
        start, end, score = line["pred_relevant_windows"][0]
        moved = shift_s * (1 + i % 2)
        line["pred_relevant_windows"][0] = [max(0, start - moved), max(1, end - moved), score]
    (to / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return to


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Two gating types of three seeds each, and one run more of the first on fewer samples."""
    folder = tmp_path_factory.mktemp("groups")
    first = make_tiny_run(folder / "a", "clipwise", layers=1)
    second = make_tiny_run(folder / "b", "global", layers=1, seed=1)
    made = []
    for tiny, name in ((first, "clipwise"), (second, "global")):
        argv = tiny.argv("--no_figures", "--no_explorer", "--timeline", output=folder / name)
        argv += ["--feature_root", str(first.data.parent)]
        argv[argv.index("--data_path") + 1] = str(first.data)
        assert main(argv) == 0
        made.append(folder / name)
        made += [another_seed(folder / name, folder / f"{name}_{k}", k, 2.0 * k) for k in (1, 2)]
    fewer = first.argv("--no_figures", "--no_explorer", "--max_samples", "7", output=folder / "fewer")
    assert main(fewer) == 0
    return [*made, folder / "fewer"]


def test_gating_types_of_three_seeds_are_ranked_with_seeds_in_every_interval_and_told_so(trees, tmp_path, capsys):
    out = {lang: tmp_path / lang for lang in ("en", "ko")}
    for lang, folder in out.items():
        given = ["--compare_runs", *map(str, trees[:6]), "--margin", "2", "--lang", lang, "--output_dir", str(folder)]
        assert main(given) == 0
    found = json.loads((out["en"] / "comparison.json").read_text())
    assert [(group["name"], len(group["runs"])) for group in found["groups"]] == [("clipwise", 3), ("global", 3)]
    primary = next(row for row in found["metrics"]["rows"] if row["metric"] == found["metrics"]["primary"])
    for value in primary["values"]:
        assert value["mean"] == pytest.approx(np.mean(list(value["runs"].values())))
        assert len(set(value["runs"].values())) > 1
    assert primary["differences"][0]["seed_share"] is not None
    ranking = found["ranking"]
    assert ranking["order"][0]["mean"] >= ranking["order"][1]["mean"]
    assert sum(one["best_share"] for one in ranking["order"]) == pytest.approx(1)
    measures = {row["measure"]: row for row in found["measures"]}
    assert {"audio_effect_AP_gates_off", "timeline_effect", "timeline_share_inside"} <= measures.keys()
    effect = measures["audio_effect_AP_gates_off"]["values"][0]
    own = json.loads((trees[0] / "audio_help.json").read_text())["verdict"][0]["effect"]["estimate"]
    assert effect["runs"]["clipwise"] == pytest.approx(own, abs=1e-3)  # as the run itself has it, in percent points
    within = [one for one in found["predictions"] if one["first"] == one["second"]]
    assert [one["n_pairs"] for one in within] == [3, 3]
    assert all(one["first_window_changed"]["estimate"] > 0 for one in within)
    english = (out["en"] / "COMPARISON_REPORT.md").read_text(encoding="utf-8")
    opening = english.split("## ")[0]
    assert "clipwise (3 runs)" in opening.splitlines()[2]
    assert "global (3 runs)" in opening.splitlines()[2]
    assert "Seeds are in the intervals of clipwise (3 runs), global (3 runs)" in opening
    korean = (out["ko"] / "COMPARISON_REPORT.md").read_text(encoding="utf-8")
    assert "clipwise(실행 3개)" in korean.splitlines()[2]
    assert (out["en"] / "run_comparison.png").stat().st_size > 10_000
    assert (out["en"] / "comparison.json").read_bytes() == (out["ko"] / "comparison.json").read_bytes()


def test_one_run_a_group_says_that_seeds_are_not_in_the_interval(trees, tmp_path):
    assert main(["--compare_runs", str(trees[0]), f"mine={trees[3]}", "--output_dir", str(tmp_path), "--quiet"]) == 0
    report = (tmp_path / "COMPARISON_REPORT.md").read_text(encoding="utf-8")
    assert "Seed variation is not in the intervals of clipwise (1 run), mine (1 run)" in report


def test_two_splits_of_one_model_are_compared_in_gates_and_measures_alone_and_said_to_be_so(trees):
    found = compare_runs([trees[0], trees[6]], draws=200)
    assert not found["paired"]
    assert (found["ranking"], found["predictions"], found["metrics"]["available"]) == (None, [], False)
    row = found["gates"][0]
    (one,) = row["differences"]
    means = [value["mean"] for value in row["values"]]
    assert one["difference"]["estimate"] == pytest.approx(means[1] - means[0], abs=1e-9)
    assert found["measures"]


def test_a_single_run_is_not_compared(trees):
    with pytest.raises(RequestError, match="two results folders or more"):
        compare_runs(trees[:1])


def test_a_margin_of_nothing_is_refused(trees):
    with pytest.raises(RequestError, match="--margin must be above 0"):
        compare_runs(trees[:2], margin=0.0)


def test_the_primary_metric_is_compared_on_slices_of_ones_own(trees, tmp_path):
    (tmp_path / "some.txt").write_text("100\n101\n102\n", encoding="utf-8")
    mine = f"some={tmp_path / 'some.txt'}"
    argv = ["--compare_runs", str(trees[0]), str(trees[3]), "--slice", mine, "--output_dir", str(tmp_path / "out")]
    assert main([*argv, "--quiet"]) == 0
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (row,) = found["slices"]
    assert (row["slice"], row["n"], row["differences"][0]["difference"]["n"]) == ("some", 3, 3)
    apart = [query["AP"]["global"] - query["AP"]["clipwise"] for query in found["queries"][:3]]
    assert row["differences"][0]["difference"]["estimate"] == pytest.approx(100 * np.mean(apart))
    assert "MR-full-mAP on some" in (tmp_path / "out" / "COMPARISON_REPORT.md").read_text(encoding="utf-8")
