"""`python -m qd_detr.gates.monitor`: gates over the epochs of a finished training, from its saved checkpoints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qd_detr.gates import __version__
from qd_detr.gates.command_line import Parser, exit_status, log_to_stderr, program, say
from qd_detr.gates.wording import LANGUAGES


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
        prog=program("python -m qd_detr.gates.monitor"),
        description="Gates over the epochs of a finished training, from its saved checkpoints.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {__version__}")
    add("--checkpoints", type=Path, required=True, help="folder with model_e0049.ckpt, ...")
    add("--data_path", type=Path, required=True, help="annotations, .jsonl or .json")
    add("--output_dir", type=Path, default=Path("training_analysis"), help="default: ./training_analysis")
    add("--legacy_model", action="store_true", help="the checkpoints were not written by this project's trainer")
    add("--config_path", type=Path, help="options file, if not in the checkpoints or beside them")
    add("--feature_root", type=Path, help="features are in R/<last component of the options' folders>")
    add("--max_samples", type=int, help="the first N samples (default: all)")
    add("--figures", action="store_true", help="also draw each epoch's figures")
    add("--lang", choices=LANGUAGES, default="en", help="language of the reports and figures (default: en)")
    add("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 1 the run failed, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    log_to_stderr()
    return exit_status(lambda: _watch(args))


def _watch(args: argparse.Namespace) -> None:
    from qd_detr.gates.commands.analyse import AnalysisRequest  # torch: not for --help
    from qd_detr.gates.monitor.afterwards import watch_checkpoints

    request = AnalysisRequest(
        model_path=args.checkpoints,
        data_path=args.data_path,
        output_dir=args.output_dir,
        legacy_model=args.legacy_model,
        config_path=args.config_path,
        feature_root=args.feature_root,
        max_samples=args.max_samples,
        device=args.device,
        lang=args.lang,
    )
    say(f"Evolution: {watch_checkpoints(args.checkpoints, request, figures=args.figures)}")


if __name__ == "__main__":
    sys.exit(main())
