"""What the standard sweep costs, as a share of as many plain inference passes.

    python -m benchmarks.bench_sweep [--batches 3] [--rounds 5] [--gating_types global clipwise elementwise] [--layers 4]

A full-size model (video 2818, audio 2050, text 512, hidden 256, 75 clips, 25 tokens, batches of 32) with random weights
on features written to a temporary folder. Each round times a plain pass (reading, projection, forward, predictions; no
tracking), the sweep, and a plain pass again, in one process; its ratio is sweep / (conditions * mean plain pass). The
ratio printed is the median over rounds; beside it stands the same of CPU time, which other processes disturb less.
Conditions are counted once as asked for (17 for 4 layers), and once without those that equal another (15). The bootstrap
is not part of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.synthetic import FULL, make_checkpoint, make_data
from qd_detr.gates.data.feature_layout import FeatureSpec
from qd_detr.gates.data.feature_search import FeatureSources
from qd_detr.gates.data.samples import Samples, open_samples
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.inference import PassSettings, run_pass
from qd_detr.gates.runs.interventions.conditions import alike, conditions_of, standard_sweep
from qd_detr.gates.runs.interventions.sweep import run_sweep
from qd_detr.gates.weights.checkpoint import read_checkpoint, resolve

BATCH_SIZE = 32


def samples_in(folder: Path, count: int) -> Samples:
    """Return `count` synthetic queries of full size, each of a video of its own, in batches."""
    data = make_data(folder, count, FULL)
    checkpoint = make_checkpoint(folder, FULL, "global", layers=1)
    settings = resolve(read_checkpoint(checkpoint))
    spec = FeatureSpec.from_options(settings.options, settings.architecture)
    return open_samples(spec, FeatureSources(data, checkpoint)).planned(BATCH_SIZE)


def measure(gating_type: str, layers: int, samples: Samples, rounds: int) -> str:
    torch.manual_seed(0)
    model = QDDETR(Architecture(2818, 2050, 512, fusion_layers=layers, gating_type=gating_type)).eval()
    settings = PassSettings(track=False)
    facts = model.fusion.facts
    conditions = conditions_of(standard_sweep(facts))

    def plain() -> None:
        for _ in run_pass(model, samples, settings):
            pass

    def sweep() -> None:
        run_sweep(model, samples, conditions)

    plain()
    rounds_s = [[seconds(work) for work in (plain, sweep, plain)] for _ in range(rounds)]  # each (wall, CPU)
    asked, distinct = len(conditions), len(conditions) - len(alike(conditions, facts))
    wall, cpu = ([2 * one[1][k] / (one[0][k] + one[2][k]) for one in rounds_s] for k in (0, 1))
    ratios = [statistics.median(times) / count for count in (asked, distinct) for times in (wall, cpu)]
    passes, sweeps = statistics.median(one[0][0] for one in rounds_s), statistics.median(one[1][0] for one in rounds_s)
    spread = f"({min(wall) / asked:.3f} .. {max(wall) / asked:.3f})"
    return (
        f"{gating_type:12}{passes:>9.2f}{sweeps:>9.2f}{asked:>7}{ratios[0]:>8.3f} {spread:18}{ratios[1]:>8.3f}"
        f"{distinct:>10}{ratios[2]:>8.3f}{ratios[3]:>8.3f}"
    )


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=3, help="batches of 32 samples (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds, the median counts (default 5)")
    parser.add_argument("--layers", type=int, default=4, help="fusion layers (default 4)")
    parser.add_argument("--gating_types", nargs="+", default=["global", "clipwise", "elementwise"])
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench_sweep_") as folder:
        samples = samples_in(Path(folder), args.batches * BATCH_SIZE)
        print(f"{len(samples)} samples, {args.layers} layers, {torch.get_num_threads()} threads")
        head = f"{'':12}{'plain s':>9}{'sweep s':>9}{'asked':>7}{'ratio':>8}{'':19}{'CPU':>8}"
        print(f"{head}{'distinct':>10}{'ratio':>8}{'CPU':>8}")
        for gating_type in args.gating_types:
            print(measure(gating_type, args.layers, samples, args.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
