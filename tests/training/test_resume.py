"""Going on with a run: where its data may be, that they are still the same, and what it says and leaves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qd_detr.gates import planted
from qd_detr.gates.train import __main__ as train
from qd_detr.gates.train import checkpoints, run_folder
from tests.training.small_runs import N_TRAIN, N_VAL, assert_same_run, content, flags, prepare

KNOWN_FLAGS = {flag for action in train.build_parser()._actions for flag in action.option_strings}


def resume(run: Path, *more: str, checkpoint: str = checkpoints.LATEST, quiet: bool = True) -> int:
    argv = ["--resume", str(run / checkpoint), "--device", "cpu", *more]
    return train.main([*argv, "--quiet"] if quiet else argv)


def places(data: Path) -> list[str]:
    """Return the flags that name a planted dataset's places, and nothing else."""
    return planted.training_flags(data)[: 5 + len(planted.V_FEAT_DIRS) + 4]


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def own_data(tmp_path) -> Path:
    planted.generate(tmp_path / "data", seed=1, n_train=N_TRAIN, n_val=N_VAL)
    return tmp_path / "data"


@pytest.fixture
def half(own_data, tmp_path) -> Path:
    """A run of the first two of four epochs, on data of its own."""
    assert train.main(flags(own_data, tmp_path / "run", n_epoch=2, save_every=2)) == 0
    return tmp_path / "run"


@pytest.fixture
def moved(half, own_data, tmp_path) -> tuple[Path, Path]:
    """The run and its data, both moved."""
    (tmp_path / "elsewhere").mkdir()
    return tuple(Path(shutil.move(path, tmp_path / "elsewhere" / path.name)) for path in (half, own_data))  # type: ignore[return-value]


def test_a_run_resumes_after_its_data_and_folder_were_moved(finished, moved):
    run, data = moved
    assert resume(run, "--n_epoch", "4", "--results_dir", str(run), *places(data)) == 0
    assert_same_run(finished, run)
    options = json.loads((run / "opt.json").read_text())
    assert options["train_path"] == str(data / planted.TRAIN_FILE)
    assert options["a_feat_dir"] == str(data / planted.A_FEAT_DIR)
    assert vars(content(run / checkpoints.LATEST)["opt"])["eval_path"] == str(data / planted.VAL_FILE)


def test_data_that_moved_together_are_found_by_one_flag(finished, moved):
    run, data = moved
    assert resume(run, "--n_epoch", "4", "--train_path", str(data / planted.TRAIN_FILE)) == 0
    assert_same_run(finished, run)


def test_without_its_data_a_run_asks_for_them_by_flags_it_has(moved, capsys):
    run, data = moved
    assert resume(run, "--n_epoch", "4") == 2
    error = capsys.readouterr().err
    assert "--train_path" in error
    assert set(re.findall(r"--\w+", error)) <= KNOWN_FLAGS
    shutil.move(data / planted.A_FEAT_DIR, data.parent)
    assert resume(run, "--n_epoch", "4", "--train_path", str(data / planted.TRAIN_FILE)) == 2
    error = capsys.readouterr().err
    assert "--a_feat_dir" in error
    assert set(re.findall(r"--\w+", error)) <= KNOWN_FLAGS


def test_a_run_goes_on_in_the_folder_of_its_checkpoint_alone(half, tmp_path, capsys):
    assert resume(half, "--n_epoch", "4", "--results_dir", str(tmp_path / "another")) == 2
    assert "another" in capsys.readouterr().err
    assert not (tmp_path / "another").exists()


def edit_lines(path: Path, edit: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")


def relabelled(line: str) -> str:
    query = json.loads(line)
    query["saliency_scores"][0] = [score - 1 if score else 1 for score in query["saliency_scores"][0]]
    return json.dumps(query)


def other_audio(data: Path) -> None:
    path = data / planted.A_FEAT_DIR / "planted_val_50001.npy"
    np.save(path, np.roll(np.load(path), 1, axis=1))


CHANGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "training queries in another order": (
        lambda data: edit_lines(data / planted.TRAIN_FILE, lambda lines: lines[::-1]),
        "training",
        "another order",
    ),
    "a label": (
        lambda data: edit_lines(data / planted.TRAIN_FILE, lambda lines: [relabelled(lines[0]), *lines[1:]]),
        "training",
        "other labels",
    ),
    "a validation query fewer": (
        lambda data: edit_lines(data / planted.VAL_FILE, lambda lines: lines[1:]),
        "validation",
        f"{N_VAL - 1} usable queries instead of {N_VAL}",
    ),
    "other audio of equal shape": (other_audio, "validation", "other audio features"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_does_not_go_on_with_other_data(name, half, own_data, capsys):
    change, role, words = CHANGES[name]
    change(own_data)
    before = files(half)
    assert resume(half, "--n_epoch", "4") == 2
    error = capsys.readouterr().err
    assert f"on its own {role} data" in error
    assert words in error
    assert files(half) == before


def test_a_run_does_not_go_on_with_its_video_folders_exchanged(half, own_data, capsys):
    folders = [str(own_data / folder) for folder in planted.V_FEAT_DIRS]
    assert resume(half, "--n_epoch", "4", "--v_feat_dirs", *folders[::-1]) == 2
    assert "other video features" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_queries_left_out(own_data, tmp_path, capsys):
    assert train.main(flags(own_data, tmp_path / "run", n_epoch=2, skip_missing=True)) == 0
    (own_data / planted.A_FEAT_DIR / "planted_train_10004.npy").unlink()
    assert resume(tmp_path / "run", "--n_epoch", "4") == 2
    assert f"{N_TRAIN - 1} usable queries instead of {N_TRAIN}" in capsys.readouterr().err


def test_a_blank_line_makes_no_other_data(half, own_data):
    edit_lines(own_data / planted.TRAIN_FILE, lambda lines: ["", *lines])
    assert resume(half, "--n_epoch", "3") == 0


def test_a_checkpoint_that_does_not_say_its_data_is_continued(half):
    values = content(half / checkpoints.LATEST)
    del values["training_state"]["data"], values["training_state"]["overflows"]
    checkpoints.write_checkpoint(half / checkpoints.LATEST, values)
    assert resume(half, "--n_epoch", "3") == 0


def test_a_run_that_stopped_early_stays_stopped_until_its_limit_is_raised(dataset, tmp_path, monkeypatch, caplog):
    scores = iter([30.0, 20.0, 10.0, 10.0])
    run = tmp_path / "early"
    training = prepare(flags(dataset, run, n_epoch=20, eval_every=1, max_es_cnt=1))
    from qd_detr.gates.train import loop  # patched where it is used

    validation = loop.validate(training.model, training.criterion, training.val_split, training.options)
    monkeypatch.setattr(loop, "validate", lambda *args: type(validation)(**{**vars(validation), "score": next(scores)}))
    training.run()
    del training
    before = files(run)
    assert content(run / checkpoints.LATEST)["epoch"] == 2
    assert resume(run, quiet=False) == 0
    assert files(run) == before
    assert "--max_es_cnt" in caplog.text
    assert resume(run, "--max_es_cnt", "2") == 0
    assert content(run / checkpoints.LATEST)["epoch"] == 3


def test_going_on_from_before_the_latest_checkpoint_says_what_is_given_up(half, caplog):
    best = content(half / checkpoints.LATEST)
    checkpoints.write_checkpoint(half / checkpoints.BEST, best)
    assert resume(half, "--n_epoch", "4", quiet=False) == 0
    assert "given up" not in caplog.text
    assert resume(half, "--n_epoch", "2", checkpoint=checkpoints.BEST, quiet=False) == 0
    assert "model_best.ckpt is of epoch 1, but model_latest.ckpt beside it of epoch 3" in caplog.text


def test_opt_json_says_the_options_that_a_continued_run_has_now(half):
    assert json.loads((half / "opt.json").read_text())["n_epoch"] == 2
    assert resume(half, "--n_epoch", "3") == 0
    options = json.loads((half / "opt.json").read_text())
    assert options["n_epoch"] == 3
    assert options["v_feat_dim"] == 2 * planted.D  # still without the endpoints


def watched(run: Path) -> list[int]:
    path = run / run_folder.MONITOR_FOLDER / "gate_evolution.json"
    return [record["epoch"] for record in json.loads(path.read_text())["epochs"]] if path.is_file() else []


def test_a_continued_run_goes_on_watching_its_gates_unless_told_otherwise(dataset, tmp_path):
    run = tmp_path / "run"
    assert train.main(flags(dataset, run, n_epoch=1, eval_every=1, gate_monitor_every=1)) == 0
    assert resume(run, "--n_epoch", "2") == 0
    assert watched(run) == [0, 1]
    assert resume(run, "--n_epoch", "3", "--gate_monitor_every", "0") == 0
    assert resume(run, "--n_epoch", "4") == 0
    assert watched(run) == [0, 1]


def test_a_monitor_that_will_see_nothing_says_so(half, caplog):
    assert resume(half, "--n_epoch", "4", "--gate_monitor_every", "3", quiet=False) == 0
    assert "--gate_monitor_every 3 watches none of the 1 validations to come" in caplog.text
    assert watched(half) == []


def test_two_runs_do_not_write_one_folder_at_once(half, capsys):
    with run_folder.held(half):
        assert resume(half, "--n_epoch", "4") == 2
    assert "another run" in capsys.readouterr().err
    assert resume(half, "--n_epoch", "3") == 0
