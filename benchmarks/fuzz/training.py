"""Damage to the folder of a training that is gone on with."""

from __future__ import annotations

import random
import shutil
from typing import Any

import torch

from benchmarks.fuzz.commands import Outcome, Workplace, Wrong, obstacle
from benchmarks.fuzz.damage import damaged_bytes
from qd_detr.gates import planted
from qd_detr.gates.train import checkpoints
from qd_detr.gates.train.__main__ import main as train
from tests.training import small_runs


def training(place: Workplace, rng: random.Random) -> Outcome:
    """Go on for an epoch, after something of the folder was damaged or replaced."""
    run = place.out / "run"
    going_on = ["--resume", run / checkpoints.LATEST, "--n_epoch", 3, "--device", "cpu", "--quiet"]

    def make() -> dict[str, Any]:
        planted.generate(place.folder / "planted", seed=1, n_train=6, n_val=4)
        # Not looked at: what libraries write for themselves when they are loaded is no fault.
        assert train(small_runs.flags(place.folder / "planted", run, n_epoch=2, eval_every=1)) == 0
        shutil.copytree(run, place.folder / "trained")
        assert place.call(train, going_on).status == 0
        found = small_runs.content(run / checkpoints.LATEST)["model"]
        place.tidy()
        return dict(found)

    expected = place.once("trained", make)
    shutil.copytree(place.folder / "trained", run)
    names = sorted(path.name for path in run.iterdir())
    target = run / rng.choice((checkpoints.LATEST, checkpoints.LATEST, "opt.json", *names))
    if rng.random() < 0.7:
        target.write_bytes(damaged_bytes(rng, target.read_bytes()))
    else:
        obstacle(rng, place, rng.choice((target, run / f".{target.name}.partial")))
    outcome = place.call(train, going_on)
    if outcome.status == 0:
        found = small_runs.content(run / checkpoints.LATEST)["model"]
        if any(not torch.equal(found[key], expected[key]) for key in expected):
            raise Wrong("a training with other weights")
    return outcome


FAMILIES = {"training: gone on with": (training, 0.02)}
