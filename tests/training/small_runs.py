"""Training runs small enough for tests, and how two of them are compared."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch

from qd_detr.gates import planted
from qd_detr.gates.train import __main__ as train
from qd_detr.gates.train import checkpoints, command, logs
from qd_detr.gates.train.distributed import World
from qd_detr.gates.train.loop import Training

REPOSITORY = Path(__file__).parents[2]
N_TRAIN, N_VAL, BSZ = 10, 6, 4
SMALL = {
    "hidden_dim": 16,
    "fusion_layers": 1,
    "nheads": 2,
    "fusion_n_heads": 2,
    "dim_feedforward": 16,
    "num_queries": 3,
    "bsz": BSZ,
    "n_epoch": 4,
    "eval_every": 2,
    "lr": 1e-3,
    "seed": 5,
}


def flags(dataset: Path, results: Path | None, **changes: object) -> list[str]:
    found = [*planted.training_flags(dataset), "--device", "cpu", "--quiet"]
    for name, value in {**SMALL, **changes}.items():
        found += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return found if results is None else [*found, "--results_dir", str(results)]


def content(path: Path) -> dict:
    return checkpoints.read_training_checkpoint(path)


def assert_same(a: object, b: object, where: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor), where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict), where
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where  # type: ignore[arg-type]
        for i, (x, y) in enumerate(zip(a, b, strict=True)):  # type: ignore[call-overload]
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def assert_same_run(one: Path, other: Path) -> None:
    """Everything of two runs is equal but for the times in the logs and the folders' names."""
    for name in (checkpoints.LATEST, checkpoints.BEST):
        a, b = content(one / name), content(other / name)
        assert_same({k: v for k, v in a.items() if k != "opt"}, {k: v for k, v in b.items() if k != "opt"}, name)
    for name in (logs.TRAIN_LOG, logs.EVAL_LOG):
        lines = [[line.split(" ", 1)[1] for line in (run / name).read_text().splitlines()] for run in (one, other)]
        assert lines[0] == lines[1]
    name = "best_hl_val_preds.jsonl"
    assert (one / name).read_bytes() == (other / name).read_bytes()


def prepare(argv: list[str]) -> Training:
    args = train.build_parser().parse_args(argv)
    given = {name: value for name, value in vars(args).items() if name in command.BY_NAME}
    return command.prepare(given, args.config_path, args.resume, World(0, 1, torch.device("cpu")), ExitStack())
