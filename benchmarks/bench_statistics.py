"""What the streaming statistics cost, as a multiple of NumPy reading and histogramming the same values once.

    python -m benchmarks.bench_statistics [--samples 200] [--rounds 7] [--bins 100]

Each round feeds the same samples to np.histogram (each sample's arrays, one call an array) and to GateStatistics.add,
alternately in one process; the ratio printed is the median over rounds. Merging the layers and reading out is included
as its own line, for it is paid once for a whole run. The values lie in memory: reading them from disk would add the
same to both sides and draw the ratio towards 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qd_detr.gates.analysis.statistics import GateStatistics
from qd_detr.gates.gating import ATTENTION, FFN, FusionFacts, gating_named

CLIPS, HIDDEN_DIM, LAYERS = 75, 256, 4
GATES = tuple(replace(gate, value_range=(-1.0, 1.0)) for gate in (ATTENTION, FFN))
Sample = dict[str, dict[str, np.ndarray]]


def synthetic_samples(gating_type: str, count: int) -> list[Sample]:
    """Return tanh gates with a constant per channel, a level per video and noise per clip, and what lies beside."""
    rng = np.random.default_rng(0)
    shape = gating_named(gating_type).shape(CLIPS, HIDDEN_DIM)
    offset = rng.normal(size=(2, LAYERS, 1, shape[1]))
    samples = []
    for _ in range(count):
        gates = np.tanh(offset + 0.5 * rng.normal(size=(2, LAYERS, 1, 1)) + 0.5 * rng.normal(size=(2, LAYERS, *shape)))
        cosine = np.tanh(rng.normal(size=(2, LAYERS, CLIPS))).astype(np.float32)
        injection = np.exp(rng.normal(size=(2, LAYERS, CLIPS))).astype(np.float32)
        both = {"gates": gates.astype(np.float32), "injection": injection, "cosine": cosine}
        samples.append({name: {gate.kind: arrays[i] for i, gate in enumerate(GATES)} for name, arrays in both.items()})
    return samples


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(gating_type: str, samples: list[Sample], beside: bool, rounds: int, bins: int) -> str:
    names = ("gates", "injection", "cosine") if beside else ("gates",)
    fed = [{name: sample[name] for name in names} for sample in samples]

    def with_numpy() -> None:
        for sample in fed:
            for name, arrays in sample.items():
                value_range = (0.0, 100.0) if name == "injection" else (-1.0, 1.0)
                for of_layers in arrays.values():
                    for array in of_layers:
                        np.histogram(array, bins=bins, range=value_range)

    def with_statistics() -> GateStatistics:
        gate_statistics = GateStatistics(FusionFacts(gating_type, gating_type, LAYERS, HIDDEN_DIM, GATES))
        for sample_id, sample in enumerate(fed):
            gate_statistics.add(sample_id, **sample)
        return gate_statistics

    with_numpy()
    full = with_statistics()
    pairs = [(seconds(with_numpy), seconds(with_statistics)) for _ in range(rounds)]
    ratios = sorted(ours / numpys for numpys, ours in pairs)
    values = sum(array.size for arrays in fed[0].values() for array in arrays.values())
    readout_s = statistics.median(seconds(full.readout) for _ in range(3))
    return (
        f"{gating_type:12}{'gates + injection + cosine' if beside else 'gates':28}{values:>9}"
        f"{statistics.median(p[0] for p in pairs) / len(fed) * 1e6:>12.0f}"
        f"{statistics.median(p[1] for p in pairs) / len(fed) * 1e6:>12.0f}"
        f"{statistics.median(ratios):>8.2f}  ({ratios[0]:.2f} .. {ratios[-1]:.2f}){readout_s * 1e3:>12.0f}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=200, help="samples fed (default 200)")
    parser.add_argument("--rounds", type=int, default=7, help="paired rounds, the median counts (default 7)")
    parser.add_argument("--bins", type=int, default=100, help="bins of np.histogram (default 100)")
    args = parser.parse_args(argv)
    print(
        f"{args.samples} samples, {CLIPS} clips, {HIDDEN_DIM} channels, {LAYERS} layers, "
        f"np.histogram of {args.bins} bins"
    )
    print(f"{'':40}{'values':>9}{'NumPy':>12}{'ours':>12}{'ratio':>8}{'':>16}{'readout':>12}")
    print(f"{'':40}{'a sample':>9}{'us/sample':>12}{'us/sample':>12}{'':>8}{'':>16}{'ms, once':>12}")
    for gating_type in ("elementwise", "clipwise", "global"):
        samples = synthetic_samples(gating_type, args.samples)
        for beside in (False, True):
            print(measure(gating_type, samples, beside, args.rounds, args.bins), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
