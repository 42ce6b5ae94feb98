"""What watching gates costs a training run: a watched validation less a plain one, as a share of an epoch.

    python -m benchmarks.bench_monitor [--pairs N] [--threads N] [--sample DIR --opt FILE]

An epoch is the trainer's own: all training batches, then a validation. Everything the monitor does is in the
difference: recording, adding up, writing `epoch_N/` and the evolution with its figure. The worst case is measured, a
validation after every epoch and each of them watched. Asked for: less than 2 % of an epoch.

Without --sample, planted data and the demo's model, whose epoch takes seconds; with it, QVHighlights-style data and a
legacy run's opt.json.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.bench_training import add_arguments, prepared, run_flags
from benchmarks.pairing import paired_differences
from qd_detr.gates.monitor import GateMonitor
from qd_detr.gates.train.loop import Training

ALLOWED_SHARE = 0.02


def measure(training: Training, monitor: GateMonitor, pairs: int) -> tuple[list[float], list[float]]:
    """Return what watching added to each validation, and the seconds of each epoch without it."""
    numbers = itertools.count()

    def watched() -> None:
        # train.py's own use: the context around the validation pass.
        training._validate(next(numbers), monitor.epoch)

    def plain() -> None:
        training._validate(next(numbers), None)

    added = paired_differences(watched, plain, pairs)
    epochs = []
    for _ in range(3):
        start = time.perf_counter()
        training.train_epoch(training.model, 0)
        plain()
        epochs.append(time.perf_counter() - start)
    return added, epochs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, pairs=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as until_done:
        flags = [*run_flags(args.sample, Path(scratch)), "--eval_every", "1"]
        training = prepared(flags, args.opt, until_done)
        monitor = GateMonitor(training.model, Path(scratch) / "training_analysis")
        added, epochs = measure(training, monitor, args.pairs)
    epoch_s = statistics.median(epochs)
    added_s = statistics.median(added)
    share = added_s / epoch_s
    quarters = statistics.quantiles(added, n=4)
    print(
        f"watching adds {1e3 * added_s:.0f} ms to a validation (quartiles {1e3 * quarters[0]:.0f} to "
        f"{1e3 * quarters[2]:.0f}), {100 * share:.2f} % of an epoch of {epoch_s:.1f} s (allowed {100 * ALLOWED_SHARE:.0f} %)"
    )
    return 0 if share <= ALLOWED_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
