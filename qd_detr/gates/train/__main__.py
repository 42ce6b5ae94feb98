"""`python -m qd_detr.gates.train`: train a QD-DETR model with AVIGATE fusion, or continue a run."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from qd_detr.gates import __version__
from qd_detr.gates.command_line import Parser, exit_status, log_to_stderr, program
from qd_detr.gates.train.options import add_flags
from qd_detr.gates.wording import LANGUAGES


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
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
    help_lang = "language of what --gate_monitor_every writes (default: en)"
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help=help_lang)
    add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 1 the run failed, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    log_to_stderr(logging.ERROR if args.quiet else logging.INFO)

    def work() -> None:
        from qd_detr.gates.train.command import train  # torch: not for --help

        train(args)

    return exit_status(
        work,
        interrupted="interrupted; go on with --resume and the run's model_latest.ckpt, or begin again if it has none yet",
    )


if __name__ == "__main__":
    sys.exit(main())
