"""`python -m qd_detr.gates.evaluation`: metrics of a submission file, and its effects against others, as JSON files."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qd_detr.gates import __version__
from qd_detr.gates.command_line import Parser, exit_status, program, say
from qd_detr.gates.data.annotations import Query, read_annotations
from qd_detr.gates.data.datasets import DATASETS
from qd_detr.gates.data.slice_files import read_slices
from qd_detr.gates.errors import RequestError
from qd_detr.gates.evaluation.benchmarks import benchmark_of
from qd_detr.gates.evaluation.report import write_metrics
from qd_detr.gates.evaluation.scoring import saliency_missing
from qd_detr.gates.evaluation.submission import read_submission
from qd_detr.gates.files import to_json, write_whole


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
    add = parser.add_argument
    add(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="predictions without the audio, to compare with; may be given several times, the first is the primary one",
    )
    add("--effects", type=Path, metavar="FILE", help="effects file to write with --against, .json")
    add(
        "--figure",
        type=Path,
        metavar="FILE",
        help="figure of the effects to draw with --against, .png, .pdf or .svg",
    )
    add(
        "--slice",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="also report the effect on the queries whose qids FILE holds, one a line; may be given several times",
    )
    add(
        "--margin",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="percent points of a metric within which an effect counts as none (default: 1)",
    )
    add("--seed", type=int, default=0, help="of the resampling (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 1 the metrics could not be written, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    return exit_status(lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> None:
    inputs = (args.submission, args.annotations, *args.against)
    _check_output(args.output, inputs, "--output")
    if args.against:
        _check_comparison(args, inputs)
    elif args.effects is not None or args.slice or args.figure is not None:
        raise RequestError("--effects, --figure and --slice go with --against FILE: predictions to compare with")
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
    if args.against:
        _write_effects(args, predictions, queries)


def _write_effects(args: argparse.Namespace, predictions: list[dict[str, Any]], queries: list[Query]) -> None:
    from qd_detr.gates.analysis.submission_effects import submission_effects
    from qd_detr.gates.results.report.wording import in_english

    found = submission_effects(
        predictions,
        {name: read_submission(path) for name, path in _names(args.against).items()},
        queries,
        dset_name=args.dset_name,
        clip_length_s=args.clip_length_s,
        seed=args.seed,
        margin=args.margin,
        own_slices=read_slices(args.slice, [query.qid for query in queries]),
    )
    write_whole(args.effects, to_json(in_english(found)))
    if args.figure is not None:
        _draw(found, args.figure)
    for one in found["verdict"]:
        effect = one["effect"]
        low, high = (("-" if side is None else f"{side:+.2f}") for side in (effect["low"], effect["high"]))
        say(f"{one['metric']} against {one['without']}: {effect['estimate']:+.2f} ({low} to {high}), {one['verdict']}")


def _draw(found: dict[str, Any], path: Path) -> None:
    from qd_detr.gates.figures.style import save_figure
    from qd_detr.gates.results.drawing_findings import submissions_figure

    figure = submissions_figure(found)
    if figure is None:
        say(f"{path} was not drawn: too few source videos for an interval")
    else:
        save_figure(figure, path)


def _check_comparison(args: argparse.Namespace, inputs: Sequence[Path]) -> None:
    if args.effects is None:
        raise RequestError("--against needs --effects FILE, the file to write")
    _check_output(args.effects, (*inputs, args.output), "--effects")
    if args.figure is not None:
        _check_output(args.figure, (*inputs, args.output, args.effects), "--figure")
        if args.figure.suffix not in (".png", ".pdf", ".svg"):
            raise RequestError(f"--figure {args.figure}: expected a name that ends in .png, .pdf or .svg")
    if not 0 < args.margin <= 100:
        raise RequestError(f"--margin must be above 0 and at most 100 percent points; got {args.margin:g}")
    files = [os.path.realpath(path) for path in (args.submission, *args.against)]
    if len(set(files)) < len(files):
        raise RequestError("--submission and --against name one file twice; give each once")


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the files by name, by whole path where names repeat or are the word for the submission itself."""
    names = [path.name for path in paths]
    return {
        path.name if names.count(path.name) == 1 and path.name != "baseline" else str(path.resolve()): path
        for path in paths
    }


def _check_output(path: Path, inputs: Sequence[Path], flag: str) -> None:
    if path.is_dir():
        raise RequestError(f"{flag} {path} is a folder; give the path of a file")
    if os.path.realpath(path) in [os.path.realpath(given) for given in inputs]:
        raise RequestError(f"{flag} {path} is an input of this command and would be overwritten; give another path")
    if not path.parent.is_dir():
        raise RequestError(f"{flag} {path}: there is no folder {path.parent}; make it first")


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
