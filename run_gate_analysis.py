"""Gate analysis of a trained model over annotated queries: when, where and how much does it listen to the audio?

Example:
    python run_gate_analysis.py --legacy_model --model_path model_best.ckpt --data_path highlight_val.jsonl
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qd_detr

_PLACE = str(Path(__file__).resolve().parent / "qd_detr")
if _PLACE not in qd_detr.__path__:  # another qd_detr, the user's own, was imported first: ours stands beside it
    qd_detr.__path__.append(_PLACE)

from qd_detr.gates import __version__
from qd_detr.gates.command_line import Parser, check_not_swapped, exit_status, log_to_stderr, program, request_of, say
from qd_detr.gates.commands.launchers import Shard, shard_of
from qd_detr.gates.data.annotations import check_annotations_are_there
from qd_detr.gates.data.demo import KINDS, demo
from qd_detr.gates.errors import RequestError, check_checkpoint_is_there
from qd_detr.gates.gating import GATING_TYPES
from qd_detr.gates.runs.interventions.conditions import AUDIO_MODES
from qd_detr.gates.wording import LANGUAGES

if TYPE_CHECKING:
    from qd_detr.gates.commands.analyse import AnalysisRequest, LogRequest
    from qd_detr.gates.results.context import RunFindings

FIGURE_FORMATS = ("png", "pdf", "svg")
# What is done instead of running the model and data that are named.
_INSTEAD = ("demo", "compare_runs", "merge_shards", "gate_log")


# How --help groups the flags; what is in none of them stands under "options".
_GROUPS = {
    "input": ("model_path", "data_path", "legacy_model", "config_path", "gating_type", "family", "gate_log", "demo"),
    "features": ("feature_root", "v_feat_dirs", "t_feat_dir", "a_feat_dir", "skip_missing", "missing_list"),
    "what to do": (
        *("max_samples", "analyze_samples", "compare_samples", "compare_runs", "legacy_batches"),
        *("interventions", "ablate", "audio", "timeline", "slice", "top", "rank_by", "margin", "no_effects"),
    ),
    "output": (
        *("output_dir", "save_raw_data", "no_figures", "figure_format", "no_explorer", "quiet", "lang"),
        "resume",
    ),
    "effort": ("batch_size", "history_memory", "device", "seed"),
    "many processes": ("num_shards", "shard_id", "merge_shards"),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
        prog=program("run_gate_analysis.py"),
        description="Run a model over annotated queries with its gates recorded, and write the analysis.",
        allow_abbrev=False,
    )
    groups = {title: parser.add_argument_group(title) for title in _GROUPS}

    def add(flag: str, **settings: Any) -> None:
        title = next((title for title, flags in _GROUPS.items() if flag[2:] in flags), None)
        (groups[title] if title else parser).add_argument(flag, **settings)

    add("--model_path", type=Path, help="checkpoint, .ckpt or .pth")
    add("--data_path", type=Path, help="annotations, .jsonl or .json (a list)")
    add("--legacy_model", action="store_true", help="the checkpoint was not written by this project's trainer")
    add("--gating_type", choices=GATING_TYPES, help="default: as trained; only global and clipwise can be exchanged")
    add("--use_avigate_custom", action="store_true", help="of old command lines; accepted and ignored")
    add("--max_samples", type=int, metavar="N", help="the first N samples (default: all)")
    add("--analyze_samples", nargs="+", metavar="ID", help="only the samples with these qids")
    add("--batch_size", type=int, metavar="N", help="samples per batch; results do not depend on it (default: 32)")
    add("--legacy_batches", action="store_true", help="repeat the legacy run's batches, in which samples mix")
    add(
        "--output_dir",
        type=Path,
        default=Path("gate_analysis_results"),
        metavar="D",
        help="results folder (default: ./gate_analysis_results)",
    )
    add(
        "--compare_samples",
        nargs="*",
        metavar="ID",
        help="comparison figure of these samples; of a telling few without ids",
    )
    add("--save_raw_data", action="store_true", help="also write the gates as .npy files")
    add("--no_figures", action="store_true", help="write no figures")
    add("--figure_format", choices=FIGURE_FORMATS, default="png", help="default: png")
    add("--no_explorer", action="store_true", help="write no explorer.html, the page in which a run is looked at")
    add(
        "--family",
        metavar="NAME",
        help="the family of gated models it is of, where nothing tells (default: as recognised)",
    )
    add(
        "--gate_log",
        type=Path,
        metavar="FILE",
        help="gates that other code wrote down, .jsonl, instead of a model; with --data_path their moments too",
    )
    add("--config_path", type=Path, metavar="F", help="options file, if not in the checkpoint or opt.json beside it")
    add("--feature_root", type=Path, metavar="R", help="features are in R/<last component of the options' folders>")
    add("--v_feat_dirs", type=Path, nargs="+", metavar="D", help="video feature folders, in the options' order")
    add("--t_feat_dir", type=Path, metavar="D", help="text feature folder")
    add("--a_feat_dir", type=Path, metavar="D", help="audio feature folder")
    add("--skip_missing", action="store_true", help="leave out queries whose features are missing")
    add("--missing_list", type=Path, metavar="FILE", help="write the list of missing features here")
    add(
        "--interventions",
        type=Path,
        metavar="FILE",
        help="JSON list of gate interventions to run beside the model as it is",
    )
    add("--ablate", action="store_true", help="the standard sweep: gates off, scaled, sign flipped")
    add(
        "--audio",
        nargs="+",
        choices=AUDIO_MODES,
        default=[],
        metavar="MODE",
        help=f"audio counterfactuals: {', '.join(AUDIO_MODES)}",
    )
    add(
        "--timeline",
        action="store_true",
        help="when the audio made the prediction what it is; costs each sample about 180 forwards",
    )
    add(
        "--slice",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="also report the audio's effect on the queries whose qids FILE holds, one a line; may be given several times",
    )
    add(
        "--top",
        type=int,
        default=0,
        metavar="K",
        help="rank the samples: list the K highest and lowest in the report, with a column of ranks in samples.csv",
    )
    add("--rank_by", metavar="COLUMN", help="column of samples.csv that --top ranks by (default: the audio's effect)")
    add(
        "--margin",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="percent points of a metric within which an effect counts as none (default: 1)",
    )
    add("--no_effects", action="store_true", help="leave out what is run by default: gates off and the audio share")
    add(
        "--compare_runs",
        nargs="+",
        metavar="RUN",
        help="compare finished results folders instead of running a model: two or more, grouped by what differs in "
        "their options but for the seed; NAME=FOLDER puts one into a group of that name",
    )
    add(
        "--demo",
        nargs="?",
        const="native",
        choices=KINDS,
        help="the main job on the shipped example; legacy: by the adapter",
    )
    add("--resume", action="store_true", help="continue a run into the same folder that was interrupted")
    add(
        "--history_memory",
        type=float,
        default=64.0,
        metavar="MB",
        help="gate history kept in memory before it goes to disk, in MB (default: 64)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add("--seed", type=int, default=0, help="where chance enters: nulls, grouping (default: 0)")
    add(
        "--num_shards",
        type=int,
        metavar="N",
        help="share the work between N processes; default: as torchrun or a SLURM array says; 1: do it all here",
    )
    add("--shard_id", type=int, metavar="I", help="do share I of N, from 0; the last one that ends makes the tree")
    add(
        "--merge_shards",
        type=Path,
        metavar="DIR",
        help="make the tree of a results folder whose shards are there, instead of running a model",
    )
    add("--quiet", action="store_true", help="no progress bar, no summary")
    add("--lang", choices=LANGUAGES, default="en", help="language of the report and the summary (default: en)")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


# An installation starts these from here: this module finds the package whatever other qd_detr stands before it.


def train(argv: Sequence[str] | None = None) -> int:
    """Run `python -m qd_detr.gates.train`."""
    from qd_detr.gates.train.__main__ import main

    return main(argv)


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Run `python -m qd_detr.gates.evaluation`."""
    from qd_detr.gates.evaluation.__main__ import main

    return main(argv)


def evolution(argv: Sequence[str] | None = None) -> int:
    """Run `python -m qd_detr.gates.monitor`."""
    from qd_detr.gates.monitor.__main__ import main

    return main(argv)


def request_from(args: argparse.Namespace) -> AnalysisRequest:
    """Return the request that parsed flags make."""
    from qd_detr.gates.commands.analyse import (
        AnalysisRequest,  # torch: not for --help, nor to say that a file is missing
    )

    return request_of(AnalysisRequest, args, history_memory_mb=args.history_memory, shard=_shard(args))


def _shard(args: argparse.Namespace) -> Shard | None:
    """Return this process's share of the run; None if it is to do all of it."""
    shard = shard_of(args.num_shards, args.shard_id, os.environ)
    return shard if shard is not None and shard.count > 1 else None


def demo_request(args: argparse.Namespace) -> AnalysisRequest:
    """Return the request for the shipped example: its own model and data, everything else as the flags say."""
    if args.model_path is not None or args.data_path is not None:
        raise RequestError("--demo brings its own model and data; leave --model_path and --data_path out")
    shipped = demo(args.demo)
    asked = request_from(args)
    return replace(asked, model_path=shipped.model_path, data_path=shipped.data_path, legacy_model=shipped.legacy)


def log_request(args: argparse.Namespace) -> LogRequest:
    """Return the request for a log of gates, which takes no flag that needs a model."""
    needing = (
        "model_path",
        *_INSTEAD[:-1],
        "num_shards",
        "interventions",
        "ablate",
        "audio",
        "timeline",
        "slice",
        "resume",
    )
    given = [f"--{name}" for name in needing if getattr(args, name)]
    if given:
        raise RequestError(f"--gate_log reads gates without a model; leave {', '.join(given)} out")
    from qd_detr.gates.commands.analyse import LogRequest

    return LogRequest(
        args.gate_log,
        args.output_dir,
        args.data_path,
        None if args.analyze_samples is None else tuple(args.analyze_samples),
        args.max_samples,
        args.save_raw_data,
        args.history_memory,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 1 the run failed, 2 the request was wrong."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if all(getattr(args, other) is None for other in _INSTEAD):
        missing = [name for name in ("model_path", "data_path") if getattr(args, name) is None]
        if missing:
            parser.error(f"the following arguments are required: {', '.join('--' + name for name in missing)}")
    log_to_stderr()
    hint = (
        "" if args.compare_runs or args.merge_shards or args.gate_log else "; the same command with --resume continues"
    )
    return exit_status(lambda: analyse(args), interrupted=f"interrupted{hint}")


def analyse(args: argparse.Namespace) -> None:
    """Do what was asked, and say where it is."""
    if all(getattr(args, other) is None for other in _INSTEAD):
        _shard(args)
        check_not_swapped(args.model_path, args.data_path)
        check_checkpoint_is_there(args.model_path)
        check_annotations_are_there(args.data_path)
    from qd_detr.gates.commands.analyse import analyse_log, compare, merge, merge_if_last, prepare, run, run_shard
    from qd_detr.gates.results.report import report_place, shard_place, terminal_summary

    if args.gate_log is not None:
        report, findings = analyse_log(log_request(args), request_from(args).output_options)
        summary = terminal_summary(findings, report, args.lang)
    elif args.compare_runs is not None:
        report, sentences = compare(
            args.compare_runs,
            args.output_dir,
            seed=args.seed,
            figure_format=args.figure_format,
            margin=args.margin,
            slices=args.slice,
            lang=args.lang,
        )
        summary = "\n".join([*sentences, "", report_place(report, args.lang)])
    elif args.merge_shards is not None:
        report, findings = merge(args.merge_shards, quiet=args.quiet)
        summary = terminal_summary(findings, report, args.lang, _columns())
    else:
        prepared = prepare(request_from(args) if args.demo is None else demo_request(args))
        if prepared.request.shard is None:
            done: tuple[Path, RunFindings] | None = run(prepared)
        else:
            place, waiting = run_shard(prepared)
            done = None if waiting else merge_if_last(prepared)
        summary = (
            shard_place(place, waiting, args.lang)
            if done is None
            else terminal_summary(*done[::-1], args.lang, _columns())
        )
    if not args.quiet:
        say(summary)


def _columns() -> int | None:
    """Return the width of the terminal; None where stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


if __name__ == "__main__":
    sys.exit(main())
