"""What this version costs beside another one: whole runs and in-process ratios, the two in turn.

    python -m benchmarks.bench_pairs --against ../v0.1 [--what forward statistics ...] [--pairs 3] [--samples 1550]

`--against` is a checkout of the other version; its own benchmarks and scripts run in it. Every line gives the median
of this version, of the other, and of the ratios of their pairs (theirs first, then ours, and so on). CPU seconds are
those of a process and all it started, user and system. On a quiet machine of two cores all of it takes about a quarter
of an hour, most of it whole runs; `--what` chooses parts.

    forward     a full-size forward, and tracked / untracked
    statistics  streaming statistics / np.histogram
    sweep       the standard sweep / as many plain passes
    memory      peak memory of a run of elementwise samples (a fifth of --samples) without figures
    videos      20 queries a video: a pass over them (of versions from 0.2), and a run without figures
    run         1,550 full-size samples with every figure
    shards      two shards on two cores beside one process on one of them, a fifth of --samples (this version alone);
                what a run does once weighs less the more samples there are: `--what shards --samples 7750` is a full split
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.synthetic import FULL, SMALL, make_checkpoint, make_data

OURS = Path(__file__).resolve().parents[1]
PARTS = ("statistics", "sweep", "forward", "memory", "videos", "run", "shards")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Cost:
    """CPU and wall seconds of a process and all that it started, and the peak memory (MB) of the largest."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def start(
    code: Path, argv: Sequence[str], cores: set[int] | None = None, stdin: int | None = None
) -> subprocess.Popen[str]:
    """Start a command in a checkout, on these cores."""
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(code)}
    if cores is not None:
        argv = ["taskset", "-c", ",".join(map(str, sorted(cores))), *argv]
    return subprocess.Popen(argv, cwd=code, env=environment, stdin=stdin, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str], began: float) -> Cost:
    """Return what a process cost once it has ended."""
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{process.args} ended with status {process.returncode}: {said[-500:]}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / 1024)


def whole_run(code: Path, checkpoint: Path, data: Path, out: Path, *flags: str, cores: set[int] | None = None) -> Cost:
    """Run the analysis as a process of its own, into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    return ended(start(code, analysis(code, checkpoint, data, out, *flags), cores), began)


def analysis(code: Path, checkpoint: Path, data: Path, out: Path, *flags: str) -> list[str]:
    script = [sys.executable, str(code / "run_gate_analysis.py"), "--legacy_model", "--quiet", *flags]
    return [*script, "--model_path", str(checkpoint), "--data_path", str(data), "--output_dir", str(out)]


def printed(code: Path, module: str, *flags: str) -> str:
    """Return what a benchmark of a checkout prints."""
    process = start(code, [sys.executable, "-m", f"benchmarks.{module}", *flags])
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"benchmarks.{module} of {code} ended with status {process.returncode}")
    return said


def show(what: str, measured: Sequence[tuple[float | None, float]]) -> None:
    """Print the medians of theirs and ours, and that of the ratios of pairs."""
    mine = statistics.median(ours for _, ours in measured)
    pairs = [(theirs, ours) for theirs, ours in measured if theirs is not None]
    if not pairs:
        print(f"{what:56}{mine:>10.3f}", flush=True)
        return
    ratios = sorted(ours / theirs for theirs, ours in pairs)
    spread = f"  ({ratios[0]:.3f} .. {ratios[-1]:.3f})" if len(ratios) > 1 else ""
    theirs = statistics.median(theirs for theirs, _ in pairs)
    print(f"{what:56}{mine:>10.3f}{theirs:>10.3f}{statistics.median(ratios):>9.3f}{spread}", flush=True)


FORWARD = """
import sys, time
import torch
from legacy_model_adapter import load_legacy_model_with_gate_tracking

model = load_legacy_model_with_gate_tracking(sys.argv[1], device="cpu")
draw = torch.Generator().manual_seed(1)
sizes = {"src_txt": (25, 512), "src_vid": (75, 2818), "src_aud": (75, 2050)}
batch = {name: torch.nn.functional.normalize(torch.randn(32, *size, generator=draw), dim=-1) for name, size in sizes.items()}
batch |= {f"{name}_mask": torch.ones(32, size[0]) for name, size in sizes.items()}


def seconds(tracked):
    if tracked:
        model.avigate_fusion.enable_gate_tracking()
        model.avigate_fusion.set_current_sample_id(list(range(32)))
    began = time.process_time()
    with torch.inference_mode():
        model(**batch)
    took = time.process_time() - began
    model.avigate_fusion.disable_gate_tracking()
    return took


seconds(False), seconds(True)
for line in sys.stdin:
    print(seconds(False), seconds(True), flush=True)
"""


PASS = """
import sys, time
from pathlib import Path
from qd_detr.gates.commands.analyse import AnalysisRequest, prepare
from qd_detr.gates.runs.inference import run_pass

checkpoint, data, out = map(Path, sys.argv[1:])
prepared = prepare(AnalysisRequest(model_path=checkpoint, data_path=data, output_dir=out, legacy_model=True))
for line in sys.stdin:
    began = time.process_time()
    for results in run_pass(prepared.model, prepared.samples, prepared.pass_settings):
        pass
    print(time.process_time() - began, flush=True)
"""


def in_turn(theirs: Path | None, script: str, argv: Sequence[str], rounds: int) -> list[list[list[float]]]:
    """Return by round and process, theirs first, the numbers that a script prints when it is sent a line."""
    codes = [OURS] if theirs is None else [theirs, OURS]
    running = [start(code, [sys.executable, "-c", script, *argv], stdin=subprocess.PIPE) for code in codes]
    taken: list[list[list[float]]] = []
    for _ in range(rounds):
        taken.append([])
        for process in running:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            taken[-1].append([float(number) for number in process.stdout.readline().split()])
    for process in running:
        process.communicate()
    return taken


def forwards(theirs: Path | None, checkpoint: Path, rounds: int) -> None:
    """Compare full-size forwards through the adapter."""
    taken = in_turn(theirs, FORWARD, [str(checkpoint)], rounds)
    for what, of in (
        ("forward, batch of 32, full size, CPU s", lambda one: one[0]),
        ("forward, gates tracked, CPU s", lambda one: one[1]),
        ("forward: tracked / untracked", lambda one: one[1] / one[0]),
    ):
        show(what, [(None if theirs is None else of(both[0]), of(both[-1])) for both in taken])


def passes(theirs: Path | None, checkpoint: Path, data: Path, out: Path, rounds: int) -> None:
    """Compare passes over all queries: features read, predictions and gates made; 0.1 has another interface."""
    known = theirs if theirs and (theirs / "qd_detr/gates/runs/inference.py").exists() else None
    taken = in_turn(known, PASS, [str(checkpoint), str(data), str(out)], rounds)
    measured = [(None if known is None else both[0][0], both[-1][0]) for both in taken]
    show("videos: 20 queries each, one pass over them, CPU s", measured)


MEASURES = {
    "statistics": (
        ("bench_statistics", "--samples", "60", "--rounds", "5"),
        {
            "statistics of an elementwise sample, us": r"^elementwise +gates +\d+ +\d+ +(\d+)",
            "statistics / np.histogram": r"^elementwise +gates +\d+ +\d+ +\d+ +([\d.]+)",
        },
    ),
    "sweep": (
        ("bench_sweep", "--gating_types", "clipwise", "--batches", "1", "--rounds", "2"),
        {
            "sweep of 17 conditions, s": r"^clipwise +[\d.]+ +([\d.]+)",
            "sweep / as many plain passes": r"^clipwise +[\d.]+ +[\d.]+ +\d+ +([\d.]+)",
        },
    ),
}


def within_a_process(part: str, theirs: Path | None, pairs: int) -> None:
    """Compare what each version's own benchmark measures."""
    (module, *flags), patterns = MEASURES[part]
    texts = [
        (None if theirs is None else printed(theirs, module, *flags), printed(OURS, module, *flags))
        for _ in range(pairs)
    ]
    for what, pattern in patterns.items():
        show(what, [(None if a is None else first_number(a, pattern), first_number(b, pattern)) for a, b in texts])


def first_number(text: str, pattern: str) -> float:
    """Return the number that a pattern's group finds in a text."""
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{pattern!r} is not in {text!r}")
    return float(found[1])


@dataclass(frozen=True)
class Subject:
    """What whole runs are made of: the two versions, a checkpoint and data, and a folder for what they write."""

    theirs: Path | None
    checkpoint: Path
    data: Path
    out: Path

    def compare(self, what: str, unit: str, pairs: int, *flags: str) -> None:
        """Compare runs without effects, which 0.1 does not know, and, of versions that do, with them."""
        knows = self.theirs is not None and "--no_effects" in (self.theirs / "run_gate_analysis.py").read_text()
        for name, without in (("no effects", ["--no_effects"]), ("as called", [])):
            other = self.theirs if knows or without else None
            costs = [
                (
                    other
                    and whole_run(other, self.checkpoint, self.data, self.out, *flags, *(without if knows else [])),
                    whole_run(OURS, self.checkpoint, self.data, self.out, *flags, *without),
                )
                for _ in range(pairs)
            ]
            for figure in unit.split():
                show(f"{what}, {name}, {figure}", [(a and getattr(a, figure), getattr(b, figure)) for a, b in costs])


def whole_runs(what: Sequence[str], theirs: Path | None, folder: Path, samples: int, pairs: int) -> None:
    """Compare forwards of one checkpoint, and whole runs."""
    full, few = make_checkpoint(folder, FULL, "clipwise"), max(2, samples // 5)
    if "forward" in what:
        forwards(theirs, full, 8 * pairs)
    if "memory" in what:
        data = make_data(folder / "small", few, SMALL)
        subject = Subject(theirs, make_checkpoint(folder / "small", SMALL, "elementwise"), data, folder / "out")
        subject.compare(f"memory: {few} elementwise samples, no figures", "peak_mb cpu_s", pairs, "--no_figures")
    if "videos" in what:
        data = make_data(folder / "shared", 320, FULL, queries_per_video=20)
        subject = Subject(theirs, full, data, folder / "out")
        passes(theirs, full, data, folder / "out", 2 * pairs)
        subject.compare("videos: 20 queries each", "cpu_s", pairs, "--no_figures", "--no_explorer")
    if {"run", "shards"} & set(what):
        data = make_data(folder / "full", samples, FULL)
        if "run" in what:
            Subject(theirs, full, data, folder / "out").compare(f"run: {samples} samples", "cpu_s wall_s peak_mb", 1)
        if "shards" in what:
            shards(folder, full, data, few)


def shards(folder: Path, checkpoint: Path, data: Path, samples: int) -> None:
    """Print the speed of two shards on two cores over twice that of one process on one of them."""
    one, two = sorted(os.sched_getaffinity(0))[:2]
    few = ("--max_samples", str(samples))
    alone = whole_run(OURS, checkpoint, data, folder / "out", *few, cores={one}).wall_s
    shutil.rmtree(folder / "out", ignore_errors=True)
    began = time.perf_counter()
    running = [
        start(
            OURS,
            analysis(OURS, checkpoint, data, folder / "out", *few, "--num_shards", "2", "--shard_id", str(i)),
            {one, two},
        )
        for i in (0, 1)
    ]
    for process in running:
        ended(process, began)
    together = time.perf_counter() - began
    print(f"{f'shards: two on two cores, {samples} samples, wall s':56}{together:>10.1f}", flush=True)
    print(f"{'shards: one process on one core, wall s':56}{alone:>10.1f}", flush=True)
    print(f"{'shards: speed / twice that of one process':56}{alone / together / 2:>10.3f}", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a checkout of the other version; left out, this one alone")
    parser.add_argument("--what", choices=PARTS, nargs="+", default=PARTS, help="default: all of them")
    parser.add_argument("--pairs", type=int, default=1, help="pairs of all but the 1,550 samples (default: 1)")
    parser.add_argument("--samples", type=int, default=1550, help="of whole runs (default: 1550)")
    parser.add_argument("--folder", type=Path, help="an existing folder to work in, 1.5 GB (default: a temporary one)")
    args = parser.parse_args(argv)
    args.against = args.against and args.against.resolve()
    folder = Path(tempfile.mkdtemp(prefix="bench_pairs_", dir=args.folder))
    print(f"{'':56}{'ours':>10}{'theirs':>10}{'ratio':>9}", flush=True)
    try:
        for part in MEASURES:
            if part in args.what:
                within_a_process(part, args.against, args.pairs)
        if set(args.what) - set(MEASURES):
            whole_runs(args.what, args.against, folder, args.samples, args.pairs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
