"""An epoch of the trainer against a plain loop with the same losses and matching, in pairs.

    python -m benchmarks.bench_training [--pairs N] [--threads N] [--sample DIR --opt FILE [--data_ratio R]]

The plain loop is the least that trains: every batch and its targets already in memory, forward, losses, backward,
clip, step. The trainer's epoch reads and collates its batches (from memory after its first epoch), makes targets,
checks for NaN and keeps its averages. Asked for: at most 1.1 times the plain loop.

Without --sample, planted data and the demo's model; with it, QVHighlights-style data and a legacy run's opt.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.pairing import PairedRatio, paired_ratio
from qd_detr.gates import planted
from qd_detr.gates.train import __main__ as train
from qd_detr.gates.train import command
from qd_detr.gates.train.data import epoch_plan
from qd_detr.gates.train.distributed import World
from qd_detr.gates.train.loop import Training

ALLOWED_RATIO = 1.1


def plain_epoch(training: Training, batches: list) -> None:
    model, criterion, optimizer = training.model, training.criterion, training.optimizer
    model.train()
    for _, batch, targets in batches:
        loss = criterion.total(criterion.weighted(criterion(model(batch), targets)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.options["grad_clip"])
        optimizer.step()


def prepared(flags: list[str], config: str | None, until_done: ExitStack) -> Training:
    args = train.build_parser().parse_args(flags)
    given = {name: value for name, value in vars(args).items() if name in command.BY_NAME}
    return command.prepare(given, config, None, World(0, 1, torch.device("cpu")), until_done)


def add_arguments(parser: argparse.ArgumentParser, pairs: int) -> None:
    """Add what the benchmarks of training have in common."""
    parser.add_argument("--pairs", type=int, default=pairs)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sample", type=Path, help="folder of highlight_{train,val}_sample.jsonl and its features")
    parser.add_argument("--opt", help="options file of a legacy run, with --sample")


def run_flags(sample: Path | None, scratch: Path) -> list[str]:
    """Return the trainer's flags for a run in `scratch`, on the sample or else on planted data."""
    if sample is None:
        planted.generate(scratch / "data")
        flags = planted.training_flags(scratch / "data")
    else:
        flags = ["--train_path", str(sample / "highlight_train_sample.jsonl")]
        flags += ["--eval_path", str(sample / "highlight_val_sample.jsonl")]
    return [*flags, "--results_dir", str(scratch / "run")]


def measure(training: Training, rounds: int) -> PairedRatio:
    """Return trainer / plain for one epoch of each."""
    options = training.options
    plan = epoch_plan(len(training.train_split.queries), options["bsz"], options["seed"], 0)
    batches = list(training.train_split.batches(plan, options["seed"], 0))
    return paired_ratio(
        lambda: training.train_epoch(training.model, 0), lambda: plain_epoch(training, batches), rounds, warmup=1
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, pairs=9)
    parser.add_argument("--data_ratio", default="1.0", help="share of the training queries to use")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as until_done:
        flags = [*run_flags(args.sample, Path(scratch)), "--data_ratio", args.data_ratio]
        ratio = measure(prepared(flags, args.opt, until_done), args.pairs)
    print(f"trainer / plain loop, one epoch: {ratio} (allowed {ALLOWED_RATIO})")
    return 0 if ratio.median <= ALLOWED_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
