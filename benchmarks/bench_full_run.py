"""Whole runs of `run_gate_analysis.py`: peak memory against the number of samples, and the time of a full split.

    python -m benchmarks.bench_full_run --what memory      # 155 against 1,550 elementwise samples, 4 layers
    python -m benchmarks.bench_full_run --what time        # 1,550 clipwise samples, full-size inputs, every figure

Needs about 1.5 GB of disk below --folder for the data, which is removed afterwards unless --keep.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

from benchmarks.synthetic import FULL, SMALL, make_checkpoint, make_data


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak_mb: float


def run(checkpoint: Path, data: Path, output: Path, *more: str) -> Cost:
    """Run the command as a process of its own; peak memory is that of its largest process."""
    command = [
        sys.executable,
        str(ROOT / "run_gate_analysis.py"),
        "--legacy_model",
        "--model_path",
        str(checkpoint),
        "--data_path",
        str(data),
        "--output_dir",
        str(output),
        "--quiet",
        *more,
    ]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run failed with exit status {process.returncode}")
    return Cost(seconds, usage.ru_maxrss / 1024)


def memory(folder: Path, few: int, many: int) -> None:
    checkpoint = make_checkpoint(folder, SMALL, "elementwise")
    costs = []
    for samples in (few, many):
        data = make_data(folder / f"n{samples}", samples, SMALL)
        cost = run(checkpoint, data, folder / f"out{samples}")
        costs.append(cost)
        print(
            f"{samples} elementwise samples, all figures: peak {cost.peak_mb:.0f} MB, {cost.seconds:.1f} s, "
            f"{1000 * cost.seconds / samples:.1f} ms a sample",
            flush=True,
        )
    print(f"peak memory, {many} / {few} samples: {costs[1].peak_mb / costs[0].peak_mb:.3f}")
    marginal = (costs[1].seconds - costs[0].seconds) / (many - few)
    print(f"marginal cost: {1000 * marginal:.1f} ms a sample")


def full_split(folder: Path, samples: int) -> None:
    checkpoint = make_checkpoint(folder, FULL, "clipwise")
    data = make_data(folder / "full", samples, FULL)
    cost = run(checkpoint, data, folder / "out")
    figures = len(list((folder / "out" / "individual_samples").glob("*.png")))
    print(
        f"{samples} clipwise samples, full-size inputs, {figures} sample figures: {cost.seconds:.1f} s, "
        f"peak {cost.peak_mb:.0f} MB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("memory", "time"), nargs="+", default=["memory", "time"])
    parser.add_argument(
        "--folder", type=Path, help="an existing folder to work in (default: the system's for temporary files)"
    )
    parser.add_argument("--samples", type=int, default=1550)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    # In a new folder of its own inside --folder: only what this program made is removed at the end.
    folder = Path(tempfile.mkdtemp(prefix="bench_full_run_", dir=args.folder))
    try:
        if "memory" in args.what:
            memory(folder / "memory", args.samples // 10, args.samples)
        if "time" in args.what:
            full_split(folder / "time", args.samples)
    finally:
        if args.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
