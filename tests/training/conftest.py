"""Fixtures of the training tests: planted data, and a finished run on them that no test may change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qd_detr.gates import planted
from qd_detr.gates.train import __main__ as train
from tests.training.small_runs import N_TRAIN, N_VAL, flags


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Equal to the bit holds for equal numbers of threads; and for models this small, one is fastest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("planted") / "data"
    planted.generate(directory, seed=1, n_train=N_TRAIN, n_val=N_VAL)
    return directory


@pytest.fixture(scope="session")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("runs") / "whole"
    assert train.main(flags(dataset, results, save_every=2)) == 0
    return results
