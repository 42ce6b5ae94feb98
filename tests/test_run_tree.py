"""The results tree of the main job, opened file by file."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qd_detr.gates.errors import RunError
from qd_detr.gates.results.tree import ResultsTree
from run_gate_analysis import main
from tests.tiny_run import TinyRun, make_tiny_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tiny(tmp_path) -> TinyRun:
    return make_tiny_run(tmp_path / "t")


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_as_a_user_runs_it_writes_the_whole_tree(tiny):
    argv = tiny.argv("--save_raw_data", "--compare_samples")
    argv.remove("--quiet")
    command = [sys.executable, str(ROOT / "run_gate_analysis.py"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tiny.folder, check=False)
    assert done.returncode == 0, done.stderr
    out = tiny.folder / "out"
    assert done.stdout.strip().endswith(str(out / "ANALYSIS_REPORT.md"))
    for name in (
        "ANALYSIS_REPORT.md",
        "explorer.html",
        "overall_statistics.json",
        "overall_statistics.png",
        "layer_distributions.png",
        "activation_patterns.png",
        "predictions.jsonl",
        "samples.csv",
        "metrics.json",
        "audit.json",
        "alignment.json",
        "comparisons/gate_comparison.png",
        "individual_samples/100_details.json",
        "individual_samples/gate_analysis_100.png",
        "raw_data/100_layer0_att.npy",
        "raw_data/100_layer1_ffn.npy",
    ):
        assert (out / name).stat().st_size > 0, name
    config = read_json(out / "run_config.json")
    on_disk = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert set(config["files"]) | {"run_config.json"} == on_disk
    assert config["gating"] == {"trained_as": "clipwise", "run_as": "clipwise", "changed": False}
    assert len(config["checkpoint"]["sha256"]) == 64
    assert config["feature_files"]
    assert not (out / ".partial").exists()


def test_the_keys_that_users_scripts_read_hold_the_numbers_of_the_raw_gates(tiny):
    assert main(tiny.argv("--save_raw_data", "--no_figures")) == 0
    out = tiny.folder / "out"
    statistics = read_json(out / "overall_statistics.json")
    assert (statistics["total_samples"], statistics["gating_type"], statistics["num_layers"]) == (9, "clipwise", 2)
    assert np.load(out / f"raw_data/{tiny.queries[1]['qid']}_layer1_injection.npy").shape == (1, 9)
    for kind, suffix, key in (("attention", "att", "attention_gates"), ("ffn", "ffn", "ffn_gates")):
        arrays = [[np.load(out / f"raw_data/{q['qid']}_layer{i}_{suffix}.npy") for q in tiny.queries] for i in (0, 1)]
        assert arrays[0][0].shape == (1, 12, 1)
        values = np.concatenate([a.ravel() for layer in arrays for a in layer]).astype(np.float64)
        found = statistics[key]
        np.testing.assert_allclose(
            [found["mean"], found["std"], found["min"], found["max"]],
            [values.mean(), values.std(), values.min(), values.max()],
            rtol=1e-9,
            atol=1e-12,
        )
        assert found["median"] == pytest.approx(np.median(values), abs=1e-4)
        for i in (0, 1):
            layer = np.concatenate([a.ravel() for a in arrays[i]]).astype(np.float64)
            assert statistics["layer_statistics"][str(i)][f"{kind}_mean"] == pytest.approx(layer.mean())
            assert statistics["layer_statistics"][str(i)][f"{kind}_std"] == pytest.approx(layer.std())
        details = read_json(out / "individual_samples/101_details.json")
        assert (details["sample_id"], details["num_layers"]) == (101, 2)
        gate = details["layer_analysis"][1][f"{kind}_gate"]
        assert gate["shape"] == [1, 9, 1]
        assert gate["percentiles"]["75"] == pytest.approx(np.percentile(arrays[1][1].astype(np.float64), 75))


def test_predictions_and_table_follow_the_annotations_order(tiny):
    tiny.queries = tiny.queries[::-1]
    tiny.rewrite()
    assert main(tiny.argv("--no_figures", "--batch_size", "2")) == 0
    out = tiny.folder / "out"
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [line["qid"] for line in lines] == [q["qid"] for q in tiny.queries]
    assert all(
        len(line["pred_saliency_scores"]) == q["duration"] / 2 for line, q in zip(lines, tiny.queries, strict=True)
    )
    rows = list(csv.DictReader((out / "samples.csv").open()))
    assert [row["id"] for row in rows] == [str(q["qid"]) for q in tiny.queries]
    assert float(rows[0]["layer1_attention_injection_mean"]) > 0
    assert rows[0]["ap"] != ""


@pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
def test_batch_size_changes_nothing(tmp_path, gating_type):
    tiny = make_tiny_run(tmp_path / "t", gating_type)
    means = []
    for size in (1, 4, 64):
        assert main(tiny.argv("--no_figures", "--batch_size", str(size))) == 0
        statistics = read_json(tiny.folder / "out" / "overall_statistics.json")
        means.append([statistics["attention_gates"]["mean"], statistics["ffn_gates"]["std"]])
    np.testing.assert_allclose(means[1:], [means[0]] * 2, atol=1e-6)


def test_legacy_batches_move_a_global_gate_by_padding(tmp_path):
    tiny = make_tiny_run(tmp_path / "t", "global")
    found = []
    for more in ((), ("--legacy_batches",)):
        assert main(tiny.argv("--no_figures", *more)) == 0
        found.append(read_json(tiny.folder / "out" / "overall_statistics.json")["attention_gates"]["mean"])
    assert abs(found[0] - found[1]) > 1e-6


def test_legacy_batches_of_a_few_samples_run_with_their_own_batch_mates(tmp_path):
    tiny = make_tiny_run(tmp_path / "t", "global")
    assert main(tiny.argv("--no_figures", "--legacy_batches")) == 0
    everything = {
        json.loads(line)["qid"]: line for line in (tiny.folder / "out/predictions.jsonl").read_text().splitlines()
    }
    assert main(tiny.argv("--no_figures", "--legacy_batches", "--analyze_samples", "102", "107")) == 0
    few = {json.loads(line)["qid"]: line for line in (tiny.folder / "out/predictions.jsonl").read_text().splitlines()}
    assert few == {qid: everything[qid] for qid in (102, 107)}


def test_a_changed_gating_type_is_written_into_every_result(tmp_path, caplog):
    tiny = make_tiny_run(tmp_path / "t", "global")
    assert main(tiny.argv("--gating_type", "clipwise", "--compare_samples", "100")) == 0
    out = tiny.folder / "out"
    assert "trained with global gating" in caplog.text
    for name in ("overall_statistics.json", "individual_samples/100_details.json", "metrics.json", "audit.json"):
        assert "rained with global gating" in (out / name).read_text(), name
    assert "rained with global gating" in (out / "ANALYSIS_REPORT.md").read_text()
    assert read_json(out / "run_config.json")["gating"] == {
        "trained_as": "global",
        "run_as": "clipwise",
        "changed": True,
    }
    assert all("gating_note" in json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines())
    rows = list(csv.DictReader((out / "samples.csv").open()))
    assert {(row["gating_type"], row["trained_gating_type"]) for row in rows} == {("clipwise", "global")}


def test_odd_sample_ids_get_safe_and_distinct_files(tmp_path):
    ids = ["../../x", "y" * 300, "Case", "case", "a/b", "a_b", "한글", ".hidden", "plain"]
    # Text features are named by qid, which "a/b" cannot be: these ids come from a user's own loop instead.
    import torch

    from gate_analysis_utils import GateAnalyzer
    from qd_detr.gates.fusion import AVIGATEFusionCustom

    fusion = AVIGATEFusionCustom(16, 16, 16, n_heads=2, gating_type="clipwise")
    fusion.enable_gate_tracking()
    fusion.set_current_sample_id(ids)
    with torch.no_grad():
        fusion(torch.randn(len(ids), 5, 16), torch.randn(len(ids), 5, 16))
    out = tmp_path / "deep" / "out"
    GateAnalyzer(fusion).analyze_all_samples(out)
    details = sorted((out / "individual_samples").glob("*_details.json"))
    assert len({p.name.casefold() for p in details}) == len(ids)
    assert {read_json(p)["sample_id"] for p in details} == set(ids)
    assert len(list((out / "individual_samples").glob("gate_analysis_*.png"))) == len(ids)
    assert (out / "individual_samples" / "plain_details.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep"]
    assert all(len(p.name) < 120 for p in details)


def test_the_next_run_replaces_its_files_and_leaves_a_users_alone(tiny):
    out = tiny.folder / "out"
    assert main(tiny.argv("--no_figures", "--save_raw_data")) == 0
    (out / "my notes.txt").write_text("mine")
    (out / "raw_data" / "mine.npy").write_bytes(b"mine")
    assert main(tiny.argv("--no_figures", "--max_samples", "2")) == 0
    assert (out / "my notes.txt").read_text() == "mine"
    assert [p.name for p in (out / "raw_data").iterdir()] == ["mine.npy"]
    assert sorted(p.name for p in (out / "individual_samples").iterdir()) == ["100_details.json", "101_details.json"]


def test_a_folder_of_somebody_elses_in_the_way_stops_publishing_before_anything_moves(tiny, capsys):
    out = tiny.folder / "out"
    assert main(tiny.argv("--no_figures")) == 0
    config = (out / "run_config.json").read_bytes()
    (out / "samples.csv").unlink()
    (out / "samples.csv").mkdir()
    assert main(tiny.argv("--no_figures", "--max_samples", "2")) == 2
    assert "samples.csv" in capsys.readouterr().err
    assert (out / "run_config.json").read_bytes() == config


def test_a_run_that_died_while_publishing_is_published_by_the_next(tmp_path, monkeypatch):
    from qd_detr.gates.results import tree as tree_module

    def published(name: str, die_at: int | None = None) -> None:
        moves = 0
        replace = tree_module.os.replace

        def dying(source, target):
            nonlocal moves
            moves += 1
            if moves == die_at:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(tree_module.os, "replace", dying)
        try:
            with ResultsTree(tmp_path / "out") as tree:
                for i in range(3):
                    tree.write_text(f"folder/{name}{i}", name)
                tree.publish({"name": name})
        finally:
            monkeypatch.setattr(tree_module.os, "replace", replace)

    published("old")
    for die_at in (2, 3, 4, 5, 6):
        name = f"new{die_at}_"
        with pytest.raises(KeyboardInterrupt):
            published(name, die_at)
        with ResultsTree(tmp_path / "out"):  # whatever comes next finishes it
            assert read_json(tmp_path / "out/run_config.json")["name"] == name
            assert sorted(p.name for p in (tmp_path / "out/folder").iterdir()) == [f"{name}{i}" for i in range(3)]


def test_two_runs_into_one_folder_at_once_are_refused(tmp_path):
    with ResultsTree(tmp_path / "out"), pytest.raises(ValueError, match="another run is writing"):
        ResultsTree(tmp_path / "out").__enter__()


def test_a_failed_write_is_a_failed_run(tiny, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qd_detr.gates.commands.analyse.execution.write_run", full)
    assert main(tiny.argv("--no_figures")) == 1
    assert "No space left" in capsys.readouterr().err
    assert issubclass(RunError, RuntimeError)


def test_skipped_queries_are_counted_and_listed(tiny, caplog):
    gone = tiny.queries[3]["vid"]
    (tiny.data.parent / "pann" / f"{gone}.npy").unlink()
    listing = tiny.folder / "missing.txt"
    assert main(tiny.argv("--no_figures", "--skip_missing", "--missing_list", str(listing))) == 0
    assert "1 of 9 queries lack features and are left out" in caplog.text
    assert gone in listing.read_text()
    assert len((tiny.folder / "out/predictions.jsonl").read_text().splitlines()) == 8
