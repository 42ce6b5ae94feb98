"""Runs every program of a folder of cases, each a fault that once was, and prints which of them exit with 0.

    python -m benchmarks.cases ../shared/cases [NAME ...]

A program is run from the project's root with `PYTHONPATH=.`, `OMP_NUM_THREADS=1` and `SHARED`, the folder above that
of the cases, in its environment. What a case prints last says what it found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 900
HELPERS = {"product.py"}


def run_case(case: Path) -> tuple[str, float, str]:
    """Return how a case ended ("0", another status, or "hangs"), after how many seconds, and its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ".", "SHARED": str(case.parents[1])}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, case],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "hangs", time.monotonic() - began, ""
    said = (done.stdout if done.stdout.strip() else done.stderr).strip().splitlines()
    return str(done.returncode), time.monotonic() - began, said[-1] if said else ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="only cases whose names begin so")
    args = parser.parse_args(argv)
    cases = sorted(path.resolve() for path in args.folder.glob("*.py") if path.name not in HELPERS)
    cases = [case for case in cases if not args.names or case.name.startswith(tuple(args.names))]
    if not cases:
        parser.error(f"no cases in {args.folder}")
    failed = 0
    print(f"{'case':<44}{'exit':>6}{'s':>6}  says")
    for case in cases:
        status, seconds, said = run_case(case)
        failed += status != "0"
        print(f"{case.stem:<44}{status:>6}{seconds:>6.0f}  {said[:120]!a}", flush=True)
    print(f"{len(cases) - failed} of {len(cases)} exit with 0")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
