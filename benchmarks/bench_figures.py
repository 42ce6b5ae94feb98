"""What a sample figure costs, beside the same panels made anew at 300 dpi with a tight bounding box; figures a second.

    python -m benchmarks.bench_figures [--pairs 9] [--figures 200] [--processes 2]

The two are timed in turns in one process and compared pair by pair, so that a busy machine slows both. "Made anew"
is `plot_sample` followed by a plain `savefig(dpi=300, bbox_inches="tight")`; ours is `SampleFigureWriter.write`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qd_detr.gates.figures.sample import SampleFigureWriter, plot_sample
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.sample_pool import write_sample_figures
from qd_detr.gates.figures.style import FigureScale
from qd_detr.gates.gating import gating_named

SCALE = FigureScale(1.0, {"attention": 1.5, "ffn": 2.0})


def synthetic_sample(gating_type: str, seed: int, n_layers: int, n_clips: int, n_channels: int) -> SampleData:
    rng = np.random.default_rng(seed)
    shape = gating_named(gating_type).shape(n_clips, n_channels)
    end = 2.0 * n_clips
    starts = np.sort(rng.uniform(0, 0.8 * end, 10))
    return SampleData(
        sample_id=f"val_{seed}",
        gating_type=gating_type,
        values={
            kind: [np.tanh(rng.normal(middle, 0.5, shape)).astype(np.float32) for _ in range(n_layers)]
            for kind, middle in (("attention", -1.5), ("ffn", 0.4))
        },
        n_clips=n_clips,
        duration_s=end,
        query=f"A checkout clerk wearing apron number {seed} talks to the costumers",
        vid=f"video_{seed}_60.0_210.0",
        injection={
            kind: np.abs(rng.normal(middle, 0.2, (n_layers, n_clips)))
            for kind, middle in (("attention", 0.6), ("ffn", 0.9))
        },
        true_windows_s=[[0.2 * end, 0.35 * end], [0.6 * end, 0.7 * end]],
        predicted_windows=np.column_stack([starts, starts + 0.1 * end, np.linspace(0.97, 0.01, 10)]),
        predicted_saliency=rng.normal(-8, 1, n_clips),
        annotated_saliency=np.where(rng.random(n_clips) < 0.3, rng.integers(3, 13, n_clips) / 3, np.nan),
    )


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def paired_costs(gating_type: str, n_layers: int, pairs: int, folder: Path) -> tuple[float, float, float]:
    """Give the medians of ours (s), anew (s), and of the ratio of each pair."""
    samples = [synthetic_sample(gating_type, seed, n_layers, 75, 256) for seed in range(pairs + 1)]
    writer = SampleFigureWriter(SCALE)

    def ours(data: SampleData) -> None:
        writer.write(data, folder / "ours.png")

    def anew(data: SampleData) -> None:
        plot_sample(data, SCALE).savefig(folder / "anew.png", dpi=300, bbox_inches="tight")

    ours(samples[-1])  # both once unmeasured: imports, fonts, and the layout that a run makes once
    anew(samples[-1])
    times = [(seconds(lambda data=data: ours(data)), seconds(lambda data=data: anew(data))) for data in samples[:pairs]]  # type: ignore[misc]
    mine, theirs = zip(*times, strict=True)
    ratio = statistics.median(a / b for a, b in times)
    return statistics.median(mine), statistics.median(theirs), ratio


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cost of sample figures.")
    parser.add_argument("--pairs", type=int, default=9, help="timed pairs per kind (default 9)")
    parser.add_argument("--figures", type=int, default=200, help="figures written by the pool (default 200)")
    parser.add_argument("--processes", type=int, default=2, help="worker processes (default 2)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'gates':<12} {'layers':>6} {'ours ms':>8} {'anew ms':>8} {'ratio':>6}   (goal: ratio at most 0.25)")
        worst = 0.0
        for gating_type in ("global", "clipwise", "elementwise"):
            for n_layers in (1, 4):
                ours, anew, ratio = paired_costs(gating_type, n_layers, args.pairs, folder)
                worst = max(worst, ratio)
                print(f"{gating_type:<12} {n_layers:>6} {1000 * ours:>8.0f} {1000 * anew:>8.0f} {ratio:>6.3f}")
        print(
            f"\n{'gates':<12} {'figures':>7} {'seconds':>8} {'per s':>6}   ({args.processes} processes, start included)"
        )
        for gating_type in ("global", "clipwise", "elementwise"):
            samples = [synthetic_sample(gating_type, seed, 4, 75, 256) for seed in range(16)]
            items = ((f"{i}.png", samples[i % 16]) for i in range(args.figures))
            took = seconds(lambda items=items: write_sample_figures(items, folder, SCALE, workers=args.processes))  # type: ignore[misc]
            print(f"{gating_type:<12} {args.figures:>7} {took:>8.1f} {args.figures / took:>6.1f}")
    return 0 if worst <= 0.25 else 1


if __name__ == "__main__":
    sys.exit(main())
