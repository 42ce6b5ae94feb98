"""The gate monitor: it sees a validation pass, changes nothing, and tells when a gate's state changed."""

from __future__ import annotations

import json
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from qd_detr.gates.analysis.evolution import events
from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.figures import wording
from qd_detr.gates.figures.texts import EN
from qd_detr.gates.fusion import AVIGATEFusionCustom
from qd_detr.gates.monitor import GateMonitor, writing
from qd_detr.gates.monitor.__main__ import main
from tests.documents import read
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
    assert [(e["epoch"], e["total_samples"], e["metrics"]["MR-full-mAP"]) for e in data["epochs"]] == [
        (0, 6, 10.0),
        (5, 6, 15.0),
    ]
    assert data["epochs"][0]["layers"][1]["attention"]["injection"] > 0
    assert (tmp_path / "gate_evolution.png").stat().st_size > 5000
    for name in ("overall_statistics.json", "samples.csv", "ANALYSIS_REPORT.md", "run_config.json"):
        assert (tmp_path / "epoch_5" / name).exists()


@pytest.mark.parametrize(("epoch_s", "drawn"), [(0.001, []), (300.0, [0, 1, 2])])
def test_the_figure_is_drawn_on_the_way_only_where_that_costs_little(tmp_path, monkeypatch, epoch_s, drawn):
    now, seen = [0.0], []

    def draw(directory, data, lang):
        now[0] += 0.5
        seen.append(data["epochs"][-1]["epoch"])

    monkeypatch.setattr(writing, "_draw_evolution", draw)
    monkeypatch.setattr(writing.time, "perf_counter", lambda: now[0])
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


def test_an_epoch_without_a_forward_is_an_error_where_errors_are_asked_for(tmp_path, caplog):
    with GateMonitor(small_fusion(), tmp_path, tensorboard=False).epoch(3):
        pass
    assert "no forward of the fusion was seen in epoch 3" in caplog.text
    strict = GateMonitor(small_fusion(), tmp_path, tensorboard=False, strict=True)
    with pytest.raises(RunError, match="no forward"), strict.epoch(3):
        pass


def recorded_epochs(folder) -> list[int]:
    return [record["epoch"] for record in json.loads((folder / "gate_evolution.json").read_text())["epochs"]]


class Compiled(torch.nn.Module):
    """As torch.compile wraps a model, without what it takes to import it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, Compiled, lambda m: torch.nn.DataParallel(Compiled(m))])
def test_a_model_inside_a_wrapper_is_found(tmp_path, wrap):
    model = torch.nn.Module()
    model.avigate_fusion = small_fusion()
    assert GateMonitor(wrap(model), tmp_path, tensorboard=False).fusion is model.avigate_fusion
    with pytest.raises(TypeError, match="DataParallel"):
        GateMonitor(torch.nn.DataParallel(torch.nn.Linear(2, 2)), tmp_path)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"mAP": float("nan"), "R1": None, "loss": torch.tensor(2.0)}, {"mAP": None, "R1": None, "loss": 2.0}),
        ({"brief": {"MR-full-mAP": 33.0}, "full": {"MR-mAP": {"0.5": 1.0}}}, {"MR-full-mAP": 33.0}),
        ({"mAP": 1.0, "by_length": {"short": 1.0}, "name": "run"}, {"mAP": 1.0}),
        (None, {}),
        (33.0, {}),
    ],
)
def test_metrics_of_any_shape_never_stop_a_training(tmp_path, given, kept):
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False)
    with monitor.epoch(0) as seen:
        forward(fusion)
        seen.metrics = given
    monitor.close()
    assert json.loads((tmp_path / "gate_evolution.json").read_text())["epochs"][0]["metrics"] == kept
    assert (tmp_path / "gate_evolution.png").exists()


def test_what_cannot_be_recorded_is_told_and_the_pass_goes_on(tmp_path, caplog):
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False)
    with monitor.epoch(0):
        fusion(torch.full((1, 3, 16), torch.nan), torch.zeros(1, 3, 16))
        forward(fusion)
    assert "the gates of epoch 0 were not recorded" in caplog.text
    with monitor.epoch(1):
        fusion.set_current_sample_id(["one", "two"])  # the batch has three: the user's own tracking is off
        assert forward(fusion).shape == (3, 5, 16)
    assert "the gates of epoch 1 were not recorded" in caplog.text
    fusion.set_current_sample_id(None)
    (tmp_path / "epoch_2").write_text("a file where a folder is to be")
    with monitor.epoch(2):
        forward(fusion)
    assert "the gates of epoch 2 were not recorded" in caplog.text
    with monitor.epoch(3):
        forward(fusion)
    assert recorded_epochs(tmp_path) == [3]


def test_a_user_who_tracks_inside_the_pass_gets_what_a_user_gets_without_a_monitor(tmp_path):
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False, strict=True)
    with monitor.epoch(np.int64(2)):
        fusion.enable_gate_tracking(injection=False)
        fusion.set_current_sample_id(["a", "b", "c"])
        forward(fusion)
        fusion.disable_gate_tracking()
    assert list(fusion.gate_history) == ["a", "b", "c"]
    assert "attention_injection" not in fusion.gate_history["a"]
    assert recorded_epochs(tmp_path) == [2]
    assert (tmp_path / "epoch_2" / "samples.csv").read_text().splitlines()[1].startswith("a,")


def test_two_monitors_at_once_both_see(tmp_path):
    fusion = small_fusion()
    one, other = (GateMonitor(fusion, tmp_path / name, tensorboard=False, strict=True) for name in ("one", "other"))
    with one.epoch(0), other.epoch(0):
        forward(fusion)
    assert recorded_epochs(tmp_path / "one") == recorded_epochs(tmp_path / "other") == [0]


def test_a_training_goes_on_from_its_earlier_epochs_and_never_from_those_it_gave_up(tmp_path):
    fusion = small_fusion()
    for epochs in ((0, 5, 10), (5, 10)):
        monitor = GateMonitor(fusion, tmp_path, tensorboard=False)
        for epoch in epochs:
            with monitor.epoch(epoch):
                forward(fusion, epoch)
            if epochs == (5, 10):
                assert recorded_epochs(tmp_path) == [0, 5, 10][: 2 + (epoch == 10)]


def test_another_model_in_the_same_folder_is_refused(tmp_path):
    with GateMonitor(small_fusion(), tmp_path, tensorboard=False).epoch(0) as _:
        pass
    fusion = small_fusion()
    with GateMonitor(fusion, tmp_path, tensorboard=False).epoch(0):
        forward(fusion)
    other = AVIGATEFusionCustom(16, 16, 16, n_heads=2, num_layers=3, gating_type="clipwise")
    with pytest.raises(RequestError, match="is of another model"):
        GateMonitor(other, tmp_path, tensorboard=False)
    (tmp_path / "gate_evolution.json").write_text("{}")
    with pytest.raises(RequestError, match="not a gate evolution"):
        GateMonitor(fusion, tmp_path, tensorboard=False)
    with pytest.raises(RequestError, match="is not a folder"):
        GateMonitor(fusion, tmp_path / "gate_evolution.json" / "below", tensorboard=False)
    with pytest.raises(ValueError, match="writes in en or ko; got lang='fr'"):
        GateMonitor(fusion, tmp_path, lang="fr")


def test_a_figure_that_a_killed_run_left_undrawn_is_drawn_by_the_next(tmp_path):
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False)
    with monitor.epoch(0):
        forward(fusion)
    figure = tmp_path / "gate_evolution.png"
    assert not figure.exists()
    monitor._writer._evolution._outstanding = None  # as after SIGKILL
    GateMonitor(fusion, tmp_path, tensorboard=False).close()
    assert figure.exists()


def test_a_folder_where_the_figure_goes_is_refused_first_and_a_warning_at_the_end(tmp_path, caplog):
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False)
    with monitor.epoch(0):
        forward(fusion)
    (tmp_path / "gate_evolution.png").mkdir()
    monitor._writer._at_the_end()  # nobody closed it
    assert "gate_evolution.png could not be drawn" in caplog.text
    with pytest.raises(RequestError, match=r"gate_evolution\.png is in the way: it is a folder"):
        GateMonitor(fusion, tmp_path, tensorboard=False)


@pytest.mark.parametrize("has_font", [True, False])
def test_a_monitor_told_to_writes_figure_and_report_in_korean(tmp_path, monkeypatch, caplog, has_font):
    drawn = []
    monkeypatch.setattr(writing, "save_figure", lambda figure, path: (drawn.append(figure), path.write_bytes(b"")))
    monkeypatch.setattr(wording, "lacking", lambda characters: set() if has_font else {"가"})
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, tensorboard=False, lang="ko")
    with monitor.epoch(0):
        forward(fusion)
    monitor.close()
    words = "\n".join(text.get_text() for text in drawn[0].findobj(Text))
    assert ("훈련에 따른 게이트의 변화" in words, "Gates over training" in words) == (has_font, not has_font)
    assert (EN["no_font.ko"][:40] in words, EN["no_font.ko"] in caplog.messages) == (not has_font, not has_font)
    assert "레이어" in (tmp_path / "epoch_0" / "ANALYSIS_REPORT.md").read_text()


def test_tensorboard_gets_scalars_and_histograms(tmp_path, monkeypatch):
    class Board:
        def __init__(self) -> None:
            self.scalars, self.histograms = {}, {}

        def add_scalar(self, name, value, step):
            self.scalars[name, step] = value

        def add_histogram_raw(self, name, *, num, bucket_counts, global_step, **_):
            self.histograms[name, global_step] = (num, sum(bucket_counts))

        def flush(self): ...

        def close(self): ...

    board = Board()
    monkeypatch.setattr(writing, "_board", lambda directory: board)
    fusion = small_fusion()
    monitor = GateMonitor(fusion, tmp_path, strict=True)
    with monitor.epoch(4) as seen:
        forward(fusion)
        seen.metrics = {"MR-full-mAP": 12.0, "missing": None}
    monitor.close()
    record = json.loads((tmp_path / "gate_evolution.json").read_text())["epochs"][0]
    assert board.scalars["validation/MR-full-mAP", 4] == 12.0
    assert ("validation/missing", 4) not in board.scalars
    assert board.scalars["gates/layer_1_ffn/magnitude", 4] == record["layers"][1]["ffn"]["magnitude"]
    assert board.histograms["gates/layer_0_attention", 4] == (15, 15)


def test_trackers_get_each_epochs_numbers_as_one_flat_dict(tmp_path):
    tracked, by_step = [], {}

    def log_metrics(scalars, step):  # MLflow: every value has to be a number
        by_step[step] = {name: float(value) for name, value in scalars.items()}

    fusion = small_fusion()
    for name, log in {
        "dicts": tracked.append,  # wandb.log, trackio.log
        "mlflow": lambda scalars: log_metrics(scalars, step=int(scalars["epoch"])),
    }.items():
        monitor = GateMonitor(fusion, tmp_path / name, tensorboard=False, log=log, strict=True)
        for epoch in (4, 9):
            with monitor.epoch(epoch) as seen:
                forward(fusion, seed=epoch)
                seen.metrics = {"MR-full-mAP": 12.0 + epoch, "missing": None}
    assert [scalars["epoch"] for scalars in tracked] == [4, 9]
    assert by_step == {scalars["epoch"]: scalars for scalars in tracked}
    records = json.loads((tmp_path / "dicts" / "gate_evolution.json").read_text())["epochs"]
    for scalars, record in zip(tracked, records, strict=True):
        assert scalars["gates/layer_1_ffn/magnitude"] == record["layers"][1]["ffn"]["magnitude"]
        assert scalars["validation/MR-full-mAP"] == record["metrics"]["MR-full-mAP"]
        assert "validation/missing" not in scalars


@pytest.mark.parametrize("page", ["README.md", "GATE_ANALYSIS_README.md"])
def test_the_lines_for_trackers_on_the_pages_work_with_each_of_them(tmp_path, page):
    """W&B, trackio and MLflow by stubs that take what they take."""
    got = {"wandb": [], "trackio": [], "mlflow": []}

    def log_metrics(metrics, step=None):
        assert all(isinstance(value, (int, float)) for value in metrics.values())
        got["mlflow"].append((step, metrics))

    stubs = {
        "wandb": SimpleNamespace(log=lambda data: got["wandb"].append((int(data["epoch"]), data))),
        "trackio": SimpleNamespace(log=lambda metrics: got["trackio"].append((int(metrics["epoch"]), metrics))),
        "mlflow": SimpleNamespace(log_metrics=log_metrics),
    }
    text = read(page)
    lines = re.findall(r"log=(wandb\.log|trackio\.log|lambda scalars: mlflow\.log_metrics\(.*?\)\))", text)
    assert len(lines) == 3
    fusion = small_fusion()
    for number, line in enumerate(lines):
        monitor = GateMonitor(fusion, tmp_path / str(number), tensorboard=False, log=eval(line, stubs), strict=True)
        with monitor.epoch(3):
            forward(fusion)
        monitor.close()
    steps = {name: [step for step, _ in given] for name, given in got.items()}
    assert steps == {"wandb": [3], "trackio": [3], "mlflow": [3]}
    assert got["wandb"] == got["trackio"] == got["mlflow"]


def test_a_tracker_that_fails_does_not_stop_the_training(tmp_path, caplog):
    def log(scalars):
        raise ConnectionError("the tracker is away")

    fusion = small_fusion()
    with GateMonitor(fusion, tmp_path, tensorboard=False, log=log).epoch(0):
        forward(fusion)
    assert "the tracker is away" in caplog.text
    assert recorded_epochs(tmp_path) == [0]


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
    left = events([record(0, "saturated", "saturated"), record(5, "open", "closed")])
    assert [e["event"] for e in left] == ["unsaturated", "closed"]


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
    argv = [
        "--checkpoints",
        str(folder),
        "--data_path",
        str(tiny.data),
        "--output_dir",
        str(tmp_path / "out"),
        "--legacy_model",
    ]
    assert main(argv) == 0
    data = json.loads((tmp_path / "out" / "gate_evolution.json").read_text())
    assert [e["epoch"] for e in data["epochs"]] == [4, 9]
    assert "MR-full-mAP" in data["epochs"][0]["metrics"]
    assert data["epochs"][0]["layers"][0]["attention"] != data["epochs"][1]["layers"][0]["attention"]
    capsys.readouterr()
    assert "레이어" not in (tmp_path / "out" / "epoch_4" / "ANALYSIS_REPORT.md").read_text()
    assert main([*argv, "--max_samples", "1", "--lang", "ko"]) == 0  # again: nothing of the first remains
    data = json.loads((tmp_path / "out" / "gate_evolution.json").read_text())
    assert [e["total_samples"] for e in data["epochs"]] == [1, 1]
    assert "레이어" in (tmp_path / "out" / "epoch_4" / "ANALYSIS_REPORT.md").read_text()
    (folder / "model_e0014.ckpt").write_bytes(b"damaged")
    fresh = tmp_path / "fresh"
    assert main([*argv[:-3], "--output_dir", str(fresh), "--legacy_model"]) == 2
    assert not fresh.exists()  # nothing was written for the two that can be read
    capsys.readouterr()
    assert main(["--checkpoints", str(tmp_path / "nowhere"), "--data_path", str(tiny.data)]) == 2
    assert "--checkpoints" in capsys.readouterr().err
