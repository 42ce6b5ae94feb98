"""`python -m qd_detr.gates.evaluation`: metrics of a submission file as a JSON file."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from qd_detr.gates import __version__
from qd_detr.gates.command_line import Parser, exit_status, program, say
from qd_detr.gates.data.annotations import read_annotations
from qd_detr.gates.data.datasets import DATASETS
from qd_detr.gates.errors import RequestError
from qd_detr.gates.evaluation.benchmarks import benchmark_of
from qd_detr.gates.evaluation.report import write_metrics
from qd_detr.gates.evaluation.scoring import saliency_missing
from qd_detr.gates.evaluation.submission import read_submission


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
        prog=program("python -m qd_detr.gates.evaluation"),
        description="Evaluate predictions against annotations, number for number as the field reports them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--submission", type=Path, required=True, help="predictions, .jsonl in submission format")
    parser.add_argument("--annotations", type=Path, required=True, help="labelled annotations, .jsonl or .json")
    parser.add_argument("--output", type=Path, required=True, help="metrics file to write, .json (percent)")
    parser.add_argument("--dset_name", choices=DATASETS, default="hl", help="data set (default: %(default)s)")
    parser.add_argument("--dset_domain", help="domain of TVSum or YouTube Highlights, as BK (default: all lines)")
    parser.add_argument(
        "--clip_length_s", type=_seconds, default=2.0, help="seconds per saliency clip (default: %(default)g)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 1 the metrics could not be written, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    return exit_status(lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> None:
    _check_output(args.output, (args.submission, args.annotations))
    predictions = read_submission(args.submission)
    queries = read_annotations(args.annotations, args.dset_name, args.dset_domain)
    metrics = benchmark_of(args.dset_name).score(predictions, queries, args.clip_length_s).metrics
    write_metrics(metrics, args.output)
    for name, value in metrics["brief"].items():
        say(f"{name:<24}{'-' if value is None else f'{value:.2f}':>7}")
    missing = saliency_missing(queries)
    if missing:
        say(
            f"highlight metrics: not computed, {missing} of {len(queries)} annotations have windows and no "
            "saliency_scores with relevant_clip_ids"
        )


def _check_output(path: Path, inputs: Sequence[Path]) -> None:
    if path.is_dir():
        raise RequestError(f"--output {path} is a folder; give the path of a file")
    if path.resolve() in [given.resolve() for given in inputs]:
        raise RequestError(f"--output {path} is an input of this command and would be overwritten; give another path")
    if not path.parent.is_dir():
        raise RequestError(f"--output {path}: there is no folder {path.parent}; make it first")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
