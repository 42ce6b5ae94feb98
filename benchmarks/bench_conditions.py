"""CPU of a run with every condition, against an earlier version of this code.

    python -m benchmarks.bench_conditions --old DIR --model_path M.ckpt --data_path A.jsonl [--rounds 5] [-- FLAG ...]

Runs `run_gate_analysis.py --ablate --audio none mean shuffle shift` of the folder DIR and of this one in turn, each as a
process of its own, and prints the CPU seconds (user and system, all processes of the run) and their ratio, new / old,
round by round. What follows `--` goes to both, `--legacy_model` among it. Nothing else should run meanwhile: with both on
one core, CPU seconds still grow by a tenth when the caches are shared.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONDITIONS = ("--ablate", "--audio", "none", "mean", "shuffle", "shift")


def cpu_seconds(code: Path, flags: Sequence[str], output: Path) -> float:
    """Run the analysis of one folder's code; return the CPU seconds that it and its workers took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "run_gate_analysis.py", *flags, *CONDITIONS, "--quiet", "--output_dir", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=code, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per round and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="folder of the earlier code")
    parser.add_argument("--model_path", type=Path, required=True)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("flags", nargs="*", help="further flags for both runs, after --")
    args = parser.parse_args(argv)
    flags = ["--model_path", str(args.model_path.resolve()), "--data_path", str(args.data_path.resolve()), *args.flags]
    ratios = []
    with tempfile.TemporaryDirectory(prefix="bench_conditions_") as folder:
        for turn in range(args.rounds):
            codes = {"old": args.old, "new": ROOT}
            order = list(codes) if turn % 2 == 0 else list(codes)[::-1]
            cost = {name: cpu_seconds(codes[name], flags, Path(folder) / f"{name}{turn}") for name in order}
            ratios.append(cost["new"] / cost["old"])
            print(f"old {cost['old']:.2f} s  new {cost['new']:.2f} s  new / old {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
