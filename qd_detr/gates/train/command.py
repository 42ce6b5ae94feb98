"""What `python -m qd_detr.gates.train` does once its flags are read."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from qd_detr.gates.command_line import say
from qd_detr.gates.errors import RequestError
from qd_detr.gates.files import in_the_way
from qd_detr.gates.monitor import GateMonitor
from qd_detr.gates.train.distributed import join_world
from qd_detr.gates.train.loop import AroundValidation, Training
from qd_detr.gates.train.matching import require_scipy
from qd_detr.gates.train.options import BY_NAME, check_legacy_flags
from qd_detr.gates.train.preparation import prepare
from qd_detr.gates.train.run_folder import MONITOR_FOLDER

logger = logging.getLogger(__name__)


def train(args: argparse.Namespace) -> None:
    """Train as the flags say, in this process or as one of several, and say where the best checkpoint is."""
    flags = {name: value for name, value in vars(args).items() if name in BY_NAME}
    require_scipy()
    check_legacy_flags(vars(args))
    with join_world(args.device) as world, ExitStack() as until_done:
        if not world.first:
            logging.getLogger().setLevel(logging.ERROR)  # rank 0 says it for all
        training = prepare(flags, args.config_path, args.resume, world, until_done)
        with _monitoring(training, args.lang) as around_validation:
            progress = training.run(around_validation, quiet=args.quiet)
        if world.first:
            counted = "from 0, as in eval.log.txt and the checkpoints"
            say(f"{training.directory}: best at epoch {progress.best_epoch} ({counted}), {progress.best_score:.2f}")


@contextmanager
def _monitoring(training: Training, lang: str) -> Iterator[AroundValidation | None]:
    """Give the context for validation passes that watches the gates of every N-th of them; None for never.

    Raises:
        RequestError: what is in the monitor's folder already cannot be gone on with; in every process.
    """
    every, evaluated = training.options["gate_monitor_every"], training.options["eval_every"]
    monitors: list[GateMonitor] = []  # one, in the process that validates

    def make_monitor() -> None:
        found = in_the_way(training.directory, [f"{MONITOR_FOLDER}/x"])
        if found is not None:
            raise RequestError(f"{found[0]} is in the way: {found[1]}; move it")
        monitors.append(GateMonitor(training.model, training.directory / MONITOR_FOLDER, lang=lang))

    if every:
        training.world.by_first(make_monitor)
    if not monitors:
        yield None
        return
    monitor = monitors[0]

    def due(epoch: int) -> bool:
        # Counted from the epoch alone, so that a continued run watches the same ones.
        return -(-(epoch + 1) // evaluated) % every == 0

    to_come = range(training.progress.epochs_done, training.options["n_epoch"])
    validations = [epoch for epoch in to_come if training.validates(epoch)]
    if validations and not any(map(due, validations)):
        logger.warning(
            "--gate_monitor_every %d watches none of the %d validations to come; give 1 to watch all of them",
            every,
            len(validations),
        )

    def around(epoch: int) -> AbstractContextManager[Any]:
        return monitor.epoch(epoch) if due(epoch) else nullcontext()

    try:
        yield around
    finally:
        monitor.close()
