"""Training that cannot begin or cannot go on: one clean line from every process, and nothing half done."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qd_detr.gates import planted
from qd_detr.gates.train import __main__ as train
from qd_detr.gates.train import checkpoints, logs, loop
from qd_detr.gates.train.data import epoch_plan
from qd_detr.gates.train.loop import Training
from qd_detr.gates.train.matching import NotFiniteError
from tests.training.small_runs import N_TRAIN, N_VAL, REPOSITORY, assert_same_run, content, flags, prepare
from tests.training.test_resume import KNOWN_FLAGS, files


@pytest.mark.parametrize("flag", ["--results_dir", "--results_root"])
@pytest.mark.parametrize("place", ["afile/sub", "/proc/no_folder_can_be_made_here"])
def test_a_folder_that_cannot_be_made_is_a_wrong_request(place, flag, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("here first")
    assert train.main([*flags(dataset, None), flag, place]) == 2
    error = capsys.readouterr().err
    assert place in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["afile"]


def killed_in_its_first_epoch(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        # After the logs and before any checkpoint: the most that a run can leave without one.
        patch.setattr(Training, "_write", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train.main(argv) == 130


def test_a_run_that_ended_before_its_first_checkpoint_is_begun_anew(finished, dataset, tmp_path, monkeypatch, caplog):
    run = tmp_path / "run"
    again = flags(dataset, run, save_every=2)
    killed_in_its_first_epoch([*again, "--eval_every", "1", "--gate_monitor_every", "1"], monkeypatch)
    (run / ".model_latest.ckpt.partial").write_bytes(b"half")
    assert {path.name for path in run.iterdir()} == {
        "opt.json",
        logs.TRAIN_LOG,
        logs.EVAL_LOG,
        "training_analysis",
        ".model_latest.ckpt.partial",
    }
    assert train.main([flag for flag in again if flag != "--quiet"]) == 0
    assert "begun anew" in caplog.text
    assert_same_run(finished, run)
    assert {path.name for path in run.iterdir()} == {path.name for path in finished.iterdir()}


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "model_best.ckpt",
        "training_analysis/notes.txt",
        "training_analysis/epoch_1/notes.txt",
        "training_analysis/tensorboard/notes.txt",
    ],
)
def test_a_folder_with_anything_else_in_it_is_not_begun_anew(name, dataset, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    killed_in_its_first_epoch(flags(dataset, run), monkeypatch)
    (run / name).parent.mkdir(exist_ok=True, parents=True)
    (run / name).write_text("mine")
    before = files(run)
    assert train.main(flags(dataset, run)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert files(run) == before


def test_a_folder_that_holds_somebody_elses_options_is_not_begun_anew(finished, dataset, tmp_path, capsys):
    (tmp_path / "opt.json").write_bytes((finished / "opt.json").read_bytes())
    assert train.main(flags(dataset, tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["opt.json"]


@pytest.mark.parametrize(
    "more",
    [
        ["--train_path", "nowhere.jsonl"],
        ["--eval_path", "nowhere.jsonl"],
        ["--train_path", "."],
        ["--a_feat_dir", "nowhere"],
        ["--t_feat_dir", "empty"],
        ["--dset_name", "tvsum", "--dset_domain", "BK"],
    ],
    ids=" ".join,
)
def test_messages_name_flags_that_the_trainer_has(more, dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert train.main([*flags(dataset, tmp_path / "run"), *more]) == 2
    named = set(re.findall(r"--\w+", capsys.readouterr().err))
    assert named
    assert named <= KNOWN_FLAGS


# -- fp16, whose scaler leaves steps out ---------------------------------------------------------------------------------


def fp16_training(dataset: Path, run: Path) -> Training:
    training = prepare(flags(dataset, run))
    training.scaler = torch.amp.GradScaler("cpu")  # only CUDA runs have one; the CPU's does the same
    return training


def overflow(training: Training, when: range) -> None:
    """Spoil the gradients of the steps in `when`, one after another, as an overflow does."""
    steps = iter(range(10_000))
    weight = training.model.class_embed.weight
    weight.register_hook(lambda grad: grad * float("inf") if next(steps) in when else grad)


def test_fp16_gradients_that_never_become_finite_end_the_run(dataset, tmp_path):
    training = fp16_training(dataset, tmp_path / "run")
    overflow(training, range(2, 10_000))
    training.options["n_epoch"] = 50
    with pytest.raises(loop.RunError, match=r"diverged in epoch .* gradient is not finite"):
        training.run()
    steps_per_epoch = 3
    assert training.progress.epochs_done == (2 + loop.OVERFLOWS_MAX) // steps_per_epoch
    assert all(parameter.isfinite().all() for parameter in training.model.parameters())


def test_fp16_gradients_may_overflow_now_and_then(dataset, tmp_path):
    training = fp16_training(dataset, tmp_path / "run")
    overflow(training, range(2, 5))
    assert training.run().epochs_done == 4
    assert training.overflows == 0
    assert training.scaler.get_scale() == 2.0**16 / 2**3
    state = content(tmp_path / "run" / checkpoints.LATEST)["training_state"]
    assert state["overflows"] == 0


# -- two processes: what stops one stops the other, with the same words --------------------------------------------------

SCRIPT = """
import contextlib, io, json, os, signal, sys
from pathlib import Path
from unittest import mock
from qd_detr.gates.train import __main__ as train
from qd_detr.gates.command_line import exit_status
from qd_detr.gates.errors import RunError
from qd_detr.gates.monitor import GateMonitor
from qd_detr.gates.train import checkpoints, command, data, loop, losses
from qd_detr.gates.train.distributed import join_world
from qd_detr.gates.train.matching import NotFiniteError

folder, argv = Path(sys.argv[1]), sys.argv[2:]
rank = int(os.environ["RANK"])


def spoiled(costs):
    calls = iter(range(1000))
    return lambda *args: costs(*args) * (float("nan") if next(calls) == 4 and rank == 1 else 1)


def fails(error):
    def failing(*args):
        raise error
    return failing


SCENARIOS = {
    "a loss": (mock.patch.object(losses, "matching_costs", spoiled(losses.matching_costs)), []),
    "a file": (contextlib.nullcontext(), ["--a_feat_dir", str(folder / "spoiled")]),
    "the validation": (mock.patch.object(loop, "validate", fails(NotFiniteError("predictions are not finite"))), []),
    "the disk": (mock.patch.object(checkpoints, "write_checkpoint", fails(RunError("the disk is full"))), []),
    "the folder": (contextlib.nullcontext(), ["--results_dir", str(folder / "afile" / "sub")]),
    "a busy folder": (contextlib.nullcontext(), ["--results_dir", str(folder / "busy")]),
    "a monitor": (contextlib.nullcontext(), ["--gate_monitor_every", "1", "--n_epoch", "1"]),
    "nothing": (contextlib.nullcontext(), ["--lr", "1e-12", "--dropout", "0", "--input_dropout", "0", "--n_epoch", "1"]),
}
monitors = []
made = mock.patch.object(command, "GateMonitor", lambda *a, **k: monitors.append(1) or GateMonitor(*a, **k))


def scenarios():
    told = {}
    with join_world("cpu") as world:
        joined = mock.patch.object(command, "join_world", lambda device: contextlib.nullcontext(world))
        for name, (patch, more) in SCENARIOS.items():
            error = io.StringIO()
            with joined, made, patch, contextlib.redirect_stderr(error):
                status = train.main([*argv, "--results_dir", str(folder / name), *more])
            told[name] = [status, error.getvalue()]
        assert len(monitors) == (rank == 0)
        (folder / f"rank{rank}.json").write_text(json.dumps(told))
        costs = losses.matching_costs if rank == 0 else lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        with joined, mock.patch.object(losses, "matching_costs", costs):
            train.main([*argv, "--results_dir", str(folder / "a killed peer")])


sys.exit(exit_status(scenarios))
"""

EXPECTED = {
    "a loss": (1, "training diverged in epoch 1 (from 0"),
    "a file": (1, "planted_train_10003.npy"),
    "the validation": (1, "training diverged in epoch 1 (from 0"),
    "the disk": (1, "the disk is full"),
    "the folder": (2, "cannot be used"),
    "a busy folder": (2, "is not empty"),
    "a monitor": (0, ""),
    "nothing": (0, ""),
}


@pytest.fixture(scope="module")
def told_by_two(tmp_path_factory) -> tuple[Path, list[dict[str, list]]]:
    folder = tmp_path_factory.mktemp("two")
    planted.generate(folder / "data", seed=1, n_train=N_TRAIN, n_val=N_VAL)
    audio = folder / "data" / planted.A_FEAT_DIR
    (folder / "spoiled").mkdir()
    for path in audio.iterdir():
        values = np.load(path)
        np.save(folder / "spoiled" / path.name, values * np.nan if path.stem == "planted_train_10003" else values)
    (folder / "afile").touch()
    (folder / "busy").mkdir()
    (folder / "busy" / "notes.txt").touch()
    (folder / "script.py").write_text(SCRIPT)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(folder / "script.py"), str(folder), *flags(folder / "data", None, n_epoch=2)]
    # Not by torchrun, which ends the processes that are left when one of them was killed.
    processes = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        errors = [process.communicate(timeout=180)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, -signal.SIGKILL], errors
    (folder / "rank0.err").write_text(errors[0])
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", EXPECTED)
def test_what_stops_one_process_stops_all_with_one_and_the_same_line(name, told_by_two):
    _, (first, second) = told_by_two
    status, words = EXPECTED[name]
    assert first[name] == second[name]
    assert first[name][0] == status
    assert words in first[name][1]
    assert first[name][1].count("\n") == (1 if status else 0)


def test_a_process_whose_peer_was_killed_ends_at_once_with_one_line(told_by_two):
    (line,) = (told_by_two[0] / "rank0.err").read_text().splitlines()
    assert line.startswith("failed: another process of the run ended or cannot be reached any more")
    assert "--resume" in line


def test_the_log_of_two_processes_holds_the_mean_of_their_losses(told_by_two, tmp_path):
    folder, _ = told_by_two
    (line,) = (folder / "nothing" / logs.TRAIN_LOG).read_text().splitlines()
    # A run that all but stands still, without dropout: the losses are those of the weights it begins with.
    training = prepare(flags(folder / "data", tmp_path / "run"))
    training.model.eval()
    found = []
    for rank in (0, 1):
        plan = epoch_plan(N_TRAIN, training.options["bsz"], training.options["seed"], 0, rank, 2)
        for _, batch, targets in training.train_split.batches(plan, training.options["seed"], 0):
            model = training.model
            projected = model.project(*(batch[f"src_{name}"] for name in ("txt", "txt_mask", "vid", "vid_mask", "aud")))
            fused = model.fusion(projected.video, projected.audio, projected.vid_mask)
            outputs = model.decode(fused, projected, training_extras=True)
            found.append(training.criterion.weighted(training.criterion(outputs, targets)))
    for name, value in re.findall(r"(\w+) (-?\d+\.\d{4})", line.split("[Loss] ")[1]):
        if name != "loss_overall":
            assert float(value) == pytest.approx(np.mean([losses[name].item() for losses in found]), abs=1e-3)


def test_a_monitor_whose_folder_holds_another_models_gates_is_refused(finished, tmp_path, capsys):
    (tmp_path / checkpoints.LATEST).write_bytes((finished / checkpoints.LATEST).read_bytes())
    (tmp_path / "training_analysis").mkdir()
    (tmp_path / "training_analysis" / "gate_evolution.json").write_text("{}")
    argv = ["--resume", str(tmp_path / checkpoints.LATEST), "--n_epoch", "5", "--gate_monitor_every", "1"]
    assert train.main([*argv, "--device", "cpu"]) == 2
    assert "gate_evolution.json" in capsys.readouterr().err


def test_a_failure_keeps_its_kind_on_the_way_to_another_process():
    from qd_detr.gates.train.distributed import _telling, _told

    for error in (NotFiniteError("a"), loop.DataError("b"), loop.RequestError("c"), loop.RunError("d")):
        told = _told(_telling(error))  # type: ignore[arg-type]
        assert type(told) is type(error)
        assert str(told) == str(error)
