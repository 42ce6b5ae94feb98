"""`python -m qd_detr.gates.train`: train a QD-DETR model with AVIGATE fusion, or continue a run."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from qd_detr.gates import __version__
from qd_detr.gates.command_line import exit_status, program
from qd_detr.gates.monitor import GateMonitor
from qd_detr.gates.training.distributed import join_world
from qd_detr.gates.training.loop import AroundValidation, Training
from qd_detr.gates.training.matching import require_scipy
from qd_detr.gates.training.options import BY_NAME, add_flags, check_legacy_flags
from qd_detr.gates.training.preparation import prepare
from qd_detr.gates.training.run_folder import MONITOR_FOLDER

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog=program("python -m qd_detr.gates.train"),
        description="Train a QD-DETR model with AVIGATE fusion. Options have their legacy names and defaults. "
        "Several processes: torchrun --nproc_per_node N -m qd_detr.gates.train ...",
    )
    parser.add_argument("--config_path", help="options file, as the opt.json of a legacy run; flags win over it")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="continue the run of this model_latest.ckpt, exactly")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda, ...; a number as in the legacy code: GPU N, -1 the CPU (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="only errors")
    add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 1 the run failed, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR if args.quiet else logging.INFO, format="%(levelname)s: %(message)s")
    return exit_status(
        lambda: _train(args),
        interrupted="interrupted; go on with --resume and the run's model_latest.ckpt, or begin again if it has none yet",
    )


def _train(args: argparse.Namespace) -> None:
    flags = {name: value for name, value in vars(args).items() if name in BY_NAME}
    require_scipy()
    check_legacy_flags(vars(args))
    with join_world(args.device) as world, ExitStack() as until_done:
        if not world.first:
            logging.getLogger().setLevel(logging.ERROR)  # rank 0 says it for all
        training = prepare(flags, args.config_path, args.resume, world, until_done)
        with _monitoring(training) as around_validation:
            progress = training.run(around_validation)
        if world.first:
            counted = "from 0, as in eval.log.txt and the checkpoints"
            print(f"{training.directory}: best at epoch {progress.best_epoch} ({counted}), {progress.best_score:.2f}")


@contextmanager
def _monitoring(training: Training) -> Iterator[AroundValidation | None]:
    """Give the context for validation passes that watches the gates of every N-th of them; None for never.

    Raises:
        RequestError: what is in the monitor's folder already cannot be gone on with; in every process.
    """
    every, evaluated = training.options["gate_monitor_every"], training.options["eval_every"]
    monitors: list[GateMonitor] = []  # one, in the process that validates

    def make_monitor() -> None:
        monitors.append(GateMonitor(training.model, training.directory / MONITOR_FOLDER))

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


if __name__ == "__main__":
    sys.exit(main())
