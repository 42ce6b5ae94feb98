"""The gate monitor: it sees a validation pass, changes nothing, and tells when a gate's state changed."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from qd_detr import monitor as monitor_module
from qd_detr.analysis.evolution import events
from qd_detr.avigate_custom import AVIGATEFusionCustom
from qd_detr.errors import RunError
from qd_detr.monitor import GateMonitor, main
from tests.tiny_run import make_tiny_run


def small_fusion() -> AVIGATEFusionCustom:
    torch.manual_seed(0)
    return AVIGATEFusionCustom(16, 16, 16, n_heads=2, num_layers=2, gating_type="clipwise")


def forward(fusion, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    video, audio = torch.randn(2, 3, 5, 16, generator=generator)
    with torch.no_grad():
        return fusion(video, audio)


def test_an_epoch_writes_its_tree_and_the_evolution(tmp_path):
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch in (0, 5):
            with monitor.epoch(epoch) as seen:
                forward(fusion, epoch)
                forward(fusion, epoch + 1)
                seen.metrics = {"MR-full-mAP": 10.0 + epoch}
    monitor.close()
    data = json.loads((tmp_path / "gate_evolution.json").read_text())
    assert [(e["epoch"], e["total_samples"], e["metrics"]["MR-full-mAP"]) for e in data["epochs"]] == [(0, 6, 10.0), (5, 6, 15.0)]
    assert data["epochs"][0]["layers"][1]["attention"]["injection"] > 0
    assert (tmp_path / "gate_evolution.png").stat().st_size > 5000
    for name in ("overall_statistics.json", "samples.csv", "ANALYSIS_REPORT.md", "run_config.json"):
        assert (tmp_path / "epoch_5" / name).exists()


@pytest.mark.parametrize(("epoch_s", "drawn"), [(0.001, []), (300.0, [0, 1, 2])])
def test_the_figure_is_drawn_on_the_way_only_where_that_costs_little(tmp_path, monkeypatch, epoch_s, drawn):
    now, seen = [0.0], []

    def draw(directory, data):
        now[0] += 0.5
        seen.append(data["epochs"][-1]["epoch"])

    monkeypatch.setattr(monitor_module, "_draw_evolution", draw)
    monkeypatch.setattr(monitor_module.time, "perf_counter", lambda: now[0])
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False)
    for epoch in range(3):
        now[0] += epoch_s
        with monitor.epoch(epoch):
            forward(fusion)
    assert seen == drawn
    del monitor  # what is outstanding is drawn even where nobody closes it
    assert seen == (drawn or [2])


def test_the_magnitude_of_an_epoch_is_that_of_its_gates(tmp_path):
    fusion = small_fusion()
    with GateMonitor(fusion, tmp_path, tensorboard=False).epoch(1):
        forward(fusion)
    fusion.enable_gate_tracking()
    fusion.set_current_sample_id("all")
    forward(fusion)
    gates = fusion.gate_history["all"]["ffn_gates"]
    found = json.loads((tmp_path / "gate_evolution.json").read_text())["epochs"][0]["layers"]
    assert [layer["ffn"]["magnitude"] for layer in found] == pytest.approx([abs(g).mean() for g in gates], rel=1e-6)


def test_what_was_being_recorded_goes_on_as_if_nothing_had_been(tmp_path):
    fusion = small_fusion()
    fusion.enable_gate_tracking()
    fusion.set_current_sample_id("mine")
    before, state = forward(fusion), torch.get_rng_state()
    with GateMonitor(fusion, tmp_path, tensorboard=False).epoch(0):
        inside = forward(fusion)
    assert torch.equal(before, inside)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(fusion.gate_history) == ["mine"]
    assert (fusion.track_gates, fusion.current_sample_id) == (True, "mine")


def test_a_pass_that_raises_is_not_recorded_and_leaves_the_fusion_as_it_was(tmp_path):
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path / "t", tensorboard=False)

    def failing_pass() -> None:
        with monitor.epoch(0):
            forward(fusion)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_pass()
    assert not fusion.track_gates
    assert not (tmp_path / "t").exists()


def test_an_epoch_without_a_forward_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no forward"), GateMonitor(small_fusion(), tmp_path, tensorboard=False).epoch(3):
        pass


def test_the_same_epoch_again_replaces_the_earlier_one(tmp_path):
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False)
    for value in (1.0, 2.0):
        with monitor.epoch(7) as seen:
            forward(fusion)
            seen.metrics = {"mAP": value}
    epochs = json.loads((tmp_path / "gate_evolution.json").read_text())["epochs"]
    assert [(e["epoch"], e["metrics"]) for e in epochs] == [(7, {"mAP": 2.0})]


def test_events_name_the_epoch_a_gate_changed_its_state_in():
    def record(epoch, attention, ffn):
        return {"epoch": epoch, "layers": [{"layer": 0, "attention": {"state": attention}, "ffn": {"state": ffn}}]}

    found = events([record(0, "closed", "open"), record(5, "open", "open"), record(10, "open", "saturated")])
    assert [(e["epoch"], e["since"], e["kind"], e["event"], e["from"]) for e in found] == [
        (5, 0, "attention", "opened", "closed"),
        (10, 5, "ffn", "saturated", "open"),
    ]


def test_a_gate_that_is_forced_shut_is_called_closed(tmp_path):
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False)
    with monitor.epoch(0):
        forward(fusion)
    with torch.no_grad():
        for parameter in fusion.fusion_layers[1].gating_function.mlp_mha.parameters():
            parameter.zero_()
    with monitor.epoch(1):
        forward(fusion)
    found = json.loads((tmp_path / "gate_evolution.json").read_text())["events"]
    assert {"epoch": 1, "since": 0, "layer": 1, "kind": "attention", "event": "closed", "from": "open"} in found


def test_a_folder_of_checkpoints_gives_the_same_evolution_after_the_fact(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    for epoch, seed in ((4, 0), (9, 1)):
        tiny = make_tiny_run(tmp_path / "t", seed=seed)
        folder.mkdir(exist_ok=True)
        (folder / f"model_e{epoch:04d}.ckpt").write_bytes(tiny.checkpoint.read_bytes())
    argv = ["--checkpoints", str(folder), "--data_path", str(tiny.data), "--output_dir", str(tmp_path / "out"), "--legacy_model"]
    assert main(argv) == 0
    data = json.loads((tmp_path / "out" / "gate_evolution.json").read_text())
    assert [e["epoch"] for e in data["epochs"]] == [4, 9]
    assert "MR-full-mAP" in data["epochs"][0]["metrics"]
    assert data["epochs"][0]["layers"][0]["attention"] != data["epochs"][1]["layers"][0]["attention"]
    capsys.readouterr()
    assert main(["--checkpoints", str(tmp_path / "nowhere"), "--data_path", str(tiny.data)]) == 2
    assert "--checkpoints" in capsys.readouterr().err
