"""GateAnalyzer, and the scripts that users have today, run as they stand."""

import csv
import json
import logging

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from gate_analysis_utils import GateAnalyzer
from legacy_model_adapter import load_legacy_model_with_gate_tracking
from qd_detr.gates.errors import RequestError

pytestmark = pytest.mark.usefixtures("one_thread")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def files_of(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def tracked(tiny_model, tiny_batch):
    """A model that has recorded five samples, one of them in a batch of three under one id."""
    model = tiny_model("clipwise")
    fusion = model.avigate_fusion
    fusion.enable_gate_tracking()
    with torch.no_grad():
        for seed, ids in enumerate((["a", "b/c", 3], "three at once", ["a", "B", "b"])):
            fusion.set_current_sample_id(ids)
            model(tiny_batch(seed=seed))
    return model


def test_the_script_of_a_validation_loop_runs_as_it_stands(
    legacy_checkpoint, tiny_batch, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(tmp_path)
    legacy_checkpoint("global").rename("m.pth")
    dataloader = [{**tiny_batch((5,), (4,), seed=qid), "qid": qid} for qid in (11, 12, 13)]

    with caplog.at_level(logging.WARNING), torch.no_grad():
        model = load_legacy_model_with_gate_tracking(model_path="m.pth", gating_type="global")
        model.avigate_fusion.enable_gate_tracking()
        for batch in dataloader:
            model.avigate_fusion.set_current_sample_id(f"val_{batch['qid']}")
            outputs = model(batch)
        GateAnalyzer(model.avigate_fusion).analyze_all_samples("./validation_analysis")

        for sample_id, data in model.avigate_fusion.gate_history.items():
            for layer in range(len(data["attention_gates"])):
                print(sample_id, layer, data["attention_gates"][layer].shape, data["ffn_gates"][layer].shape)

    # Global weights are those of two families; that it was not proved which is said, and nothing else.
    assert [record.message.split(":")[1].strip() for record in caplog.records] == [
        "this checkpoint may be of 2 families that have the same weights"
    ]
    assert outputs["pred_spans"].shape == (1, 3, 2)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"val_{qid} {layer} (1, 1, 1) (1, 1, 1)" for qid in (11, 12, 13) for layer in (0, 1)]
    assert (tmp_path / "validation_analysis" / "individual_samples" / "gate_analysis_val_12.png").stat().st_size > 1000


def test_the_script_for_watching_a_training_runs_as_it_stands(tiny_model, tiny_batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_model("clipwise")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for epoch in range(6):
        model.train()
        optimizer.zero_grad()
        model(tiny_batch(seed=epoch))["pred_spans"].sum().backward()
        optimizer.step()
        if epoch % 5 == 0:
            model.avigate_fusion.enable_gate_tracking()
            model.eval()
            for batch_idx in range(2):
                model.avigate_fusion.set_current_sample_id(f"val_epoch_{epoch}_batch_{batch_idx}")
                model(tiny_batch(seed=batch_idx))
            GateAnalyzer(model.avigate_fusion).analyze_all_samples(f"./training_analysis/epoch_{epoch}")
            model.avigate_fusion.disable_gate_tracking()
    means = []
    for epoch in (0, 5):
        statistics = read(tmp_path / "training_analysis" / f"epoch_{epoch}" / "overall_statistics.json")
        assert statistics["total_samples"] == 6
        means.append(statistics["attention_gates"]["mean"])
    assert means[0] != means[1]
    assert list(model.avigate_fusion.gate_history) == ["val_epoch_5_batch_0", "val_epoch_5_batch_1"]


def test_the_script_for_failure_cases_runs_as_it_stands(tiny_model, tiny_batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_model("elementwise")
    failed_samples = ["case_1", "case_2"]
    model.avigate_fusion.enable_gate_tracking()
    for seed, sample_id in enumerate(failed_samples):
        model.avigate_fusion.set_current_sample_id(sample_id)
        with torch.no_grad():
            model(tiny_batch((5,), (4,), seed=seed))
    compared = model.avigate_fusion.compare_samples_gates(failed_samples, "./debug_analysis")
    assert list(compared) == failed_samples
    assert files_of(tmp_path) == ["debug_analysis/gate_comparison.png"]


def test_a_custom_analyzer_is_callable_as_it_is_and_joins_the_tree_once_registered(tracked, tmp_path):
    class CustomGateAnalyzer(GateAnalyzer):
        def custom_visualization(self):
            figure, axes = plt.subplots()
            axes.plot([len(self.model.gate_history)])
            return figure

    analyzer = CustomGateAnalyzer(tracked.avigate_fusion)
    assert analyzer.model is tracked.avigate_fusion
    plt.close(analyzer.custom_visualization())
    analyzer.analyze_all_samples(tmp_path / "plain", figures=False)
    assert not (tmp_path / "plain" / "custom").exists()
    analyzer.register_visualization(analyzer.custom_visualization, "How many there are.")
    with pytest.raises(ValueError, match="registered already"):
        analyzer.register_visualization(analyzer.custom_visualization)
    report = analyzer.analyze_all_samples(tmp_path / "custom")
    assert analyzer.results_dir == tmp_path / "custom"
    assert (tmp_path / "custom" / "custom" / "custom_visualization.png").read_bytes()[:4] == b"\x89PNG"
    text = report.read_text(encoding="utf-8")
    assert "How many there are" in text
    assert "custom/custom_visualization.png" in text
    assert not plt.get_fignums()


@pytest.mark.parametrize("fails", [lambda: None, lambda: 1 / 0])
def test_a_visualization_that_fails_leaves_the_tree_before_untouched(tracked, tmp_path, fails):
    analyzer = GateAnalyzer(tracked.avigate_fusion)
    analyzer.analyze_all_samples(tmp_path / "out", figures=False)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files_of(tmp_path / "out")}
    analyzer.register_visualization(fails, name="broken")
    with pytest.raises((TypeError, ZeroDivisionError)):
        analyzer.analyze_all_samples(tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files_of(tmp_path / "out")} == before
    with pytest.raises(TypeError, match="callable"):
        analyzer.register_visualization("figure")


def test_the_tree_holds_what_is_promised_with_the_keys_that_scripts_read(tracked, tmp_path):
    out = tmp_path / "out"
    report = GateAnalyzer(tracked.avigate_fusion).analyze_all_samples(out, save_raw_data=True)
    history = tracked.avigate_fusion.gate_history
    assert report == out / "ANALYSIS_REPORT.md"
    names = set(files_of(out))
    assert names >= {
        "ANALYSIS_REPORT.md",
        "overall_statistics.json",
        "overall_statistics.png",
        "layer_distributions.png",
        "activation_patterns.png",
        "samples.csv",
        "run_config.json",
        "individual_samples/a_details.json",
        "individual_samples/gate_analysis_a.png",
        "individual_samples/3_details.json",
        "comparisons/gate_comparison.png",
        "raw_data/a_layer1_att.npy",
        "raw_data/3_layer0_ffn.npy",
    }
    assert set(read(out / "run_config.json")["files"]) == names - {"run_config.json"}
    assert not (out / ".partial").exists()

    # All real clips of all samples, by hand: entry by entry, then row by row.
    rows = [
        (entry["attention_gates"][layer][b][entry["valid_clips"][b]], layer)
        for entry in history.values()
        for layer in (0, 1)
        for b in range(len(entry["valid_clips"]))
    ]
    every = np.concatenate([gate.ravel() for gate, _ in rows]).astype(float)
    first = np.concatenate([gate.ravel() for gate, layer in rows if layer == 0]).astype(float)
    statistics = read(out / "overall_statistics.json")
    assert statistics["total_samples"] == 8  # a, b/c, 3, B, b and the three of one batch
    assert (statistics["gating_type"], statistics["num_layers"]) == ("clipwise", 2)
    for key, value in (("mean", every.mean()), ("std", every.std()), ("min", every.min()), ("max", every.max())):
        assert statistics["attention_gates"][key] == pytest.approx(value, abs=1e-9)
    assert statistics["attention_gates"]["median"] == pytest.approx(np.median(every), abs=5e-3)
    assert set(statistics["ffn_gates"]) >= {"mean", "std", "min", "max", "median"}
    layer = statistics["layer_statistics"]["0"]
    assert layer["attention_mean"] == pytest.approx(first.mean(), abs=1e-9)
    assert layer["attention_std"] == pytest.approx(first.std(), abs=1e-9)
    assert set(layer) >= {"ffn_mean", "ffn_std"}

    details = read(out / "individual_samples" / "a_details.json")
    assert (details["sample_id"], details["gating_type"], details["num_layers"]) == ("a", "clipwise", 2)
    gate = details["layer_analysis"][1]["ffn_gate"]
    recorded = history["a"]["ffn_gates"][1].astype(float)
    assert details["layer_analysis"][1]["layer_index"] == 1
    assert gate["shape"] == list(recorded.shape)
    assert gate["mean"] == pytest.approx(recorded.mean())
    for percent in ("25", "75", "95"):
        assert gate["percentiles"][percent] == pytest.approx(np.percentile(recorded, int(percent)))
    np.testing.assert_array_equal(np.load(out / "raw_data" / "a_layer1_ffn.npy"), history["a"]["ffn_gates"][1])

    true_ids = {read(path)["sample_id"] for path in (out / "individual_samples").glob("*.json")}
    assert true_ids == {"a", "b/c", 3, "three at once", "B", "b"}
    with open(out / "samples.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8
    assert len({row["file_name"].casefold() for row in table if row["file_name"]}) >= 6


def test_nothing_recorded_is_said_and_nothing_written(tiny_model, tmp_path):
    model = tiny_model()
    analyzer = GateAnalyzer(model.avigate_fusion)
    for enabled in (False, True):
        if enabled:
            model.avigate_fusion.enable_gate_tracking()
        with pytest.raises(KeyError, match="nothing has been recorded yet; call enable_gate_tracking"):
            analyzer.analyze_all_samples(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_a_wrong_request(tracked, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match="is not a folder"):
        GateAnalyzer(tracked.avigate_fusion).analyze_all_samples(tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


def test_two_samples_that_would_share_a_file_are_refused(tracked, tiny_batch, tmp_path):
    fusion = tracked.avigate_fusion
    fusion.set_current_sample_id(["three at once[1]", "x", "y"])
    tracked(tiny_batch(seed=5))
    with pytest.raises(RequestError, match=r"three at once\[1\]: an id of its own and also a sample of a batch"):
        GateAnalyzer(fusion).analyze_all_samples(tmp_path / "out", figures=False)
    assert not (tmp_path / "out").exists()


def test_the_analyzer_takes_a_fusion_or_a_model_that_has_one(tracked):
    assert GateAnalyzer(tracked).model is tracked.avigate_fusion
    with pytest.raises(TypeError, match="adapt_legacy_model"):
        GateAnalyzer(torch.nn.Linear(2, 2))


def test_a_changed_gating_type_is_written_into_every_result(legacy_checkpoint, tiny_batch, tmp_path):
    model = load_legacy_model_with_gate_tracking(legacy_checkpoint("global"), gating_type="clipwise", device="cpu")
    model.avigate_fusion.enable_gate_tracking()
    model.avigate_fusion.set_current_sample_id("a")
    with torch.no_grad():
        model(tiny_batch((5,), (4,)))
    GateAnalyzer(model.avigate_fusion).analyze_all_samples(tmp_path, figures=False)
    note = "Trained with global gating, run with clipwise"
    assert note in read(tmp_path / "overall_statistics.json")["gating_note"]
    assert note in read(tmp_path / "individual_samples" / "a_details.json")["gating_note"]
    assert note.lower() in (tmp_path / "ANALYSIS_REPORT.md").read_text(encoding="utf-8").lower()
    assert read(tmp_path / "run_config.json")["gating"] == {
        "trained_as": "global",
        "run_as": "clipwise",
        "changed": True,
    }
