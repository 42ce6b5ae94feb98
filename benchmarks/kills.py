"""Kills runs at random moments, goes on with them, and compares what comes out with what an undisturbed run gives.

Four kinds: the main job with figures and effects at a random time, the main job between two steps of its publication, the
main job in two shards, and the trainer. A killed run of the main job leaves the results that stood there before as they were,
until its own publication has begun; what continues it gives every file byte for byte.

    python -m benchmarks.kills --kills 60 --seed 0 [--kind analysis publication training]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qd_detr.gates import planted
from qd_detr.gates.train import checkpoints
from tests.tiny_run import TinyRun, make_tiny_run
from tests.training.small_runs import N_TRAIN, N_VAL, assert_same_run, flags

ROOT = Path(__file__).resolve().parents[1]
SHARES = {"analysis": 0.4, "publication": 0.2, "shards": 0.2, "training": 0.2}
WAIT_S = 300
# Kills the process at the step of publishing that it is given: a rename, a removal, or a folder taken away.
_DIES_AT_STEP = """
import os, signal, sys
from qd_detr.gates.results.tree import ResultsTree
left = int(sys.argv.pop(1))
def counted(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
publish = ResultsTree.publish
def publishing(*args, **kwargs):
    for name in ("replace", "unlink", "rmdir", "fsync"):
        setattr(os, name, counted(getattr(os, name)))
    return publish(*args, **kwargs)
ResultsTree.publish = publishing
from run_gate_analysis import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass
class Tally:
    """What came of one kind of kills: how many hit a running process, when they came, and what was wrong after."""

    killed: int = 0
    too_late: int = 0
    moments: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def files_below(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder but what is work in progress, run_config.json without its times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith((".partial", "shards/")):
            found[name] = path.read_bytes()
    return found


def timeless(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files without what tells when and where a run was, which only run_config.json does."""
    config = json.loads(files["run_config.json"])
    config = {key: value for key, value in config.items() if key in ("files", "sha256", "seed", "gating", "options")}
    return {**files, "run_config.json": json.dumps(config).encode()}


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Return the names of files that are not in both, or not the same."""
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))


class Process:
    """A command in a session of its own, killed when it should be; nothing of it may outlive the kill by long."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def ended_within(self, seconds: float) -> bool:
        """Wait for the end, for some time at most; return whether it came."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> int:
        """Kill it as the system does when memory runs out; return its exit status."""
        self._process.send_signal(signal.SIGKILL)
        return self._process.wait()

    def finish(self) -> tuple[int, str]:
        """Return its exit status and what it said."""
        _, said = self._process.communicate(timeout=WAIT_S)
        return self._process.returncode, said

    def left_behind(self) -> bool:
        """Return whether processes that it started still run ten seconds later."""
        for _ in range(100):
            try:
                os.killpg(self._process.pid, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.1)
        os.killpg(self._process.pid, signal.SIGKILL)
        return True


@dataclass
class Analysis:
    """The main job with figures and effects, into a folder that holds the results of another model."""

    tiny: TinyRun
    expected: dict[str, bytes]
    before: Path
    duration_s: float

    @classmethod
    def make(cls, folder: Path) -> Analysis:
        """Run the undisturbed job, and the one whose results stand in its place before."""
        tiny, other = make_tiny_run(folder / "tiny", n_queries=6), make_tiny_run(folder / "other", "global", seed=1)
        cls._run(other.argv("--no_figures", output=folder / "before"))
        began = time.monotonic()
        cls._run(cls.argv(tiny, folder / "whole"))
        took = time.monotonic() - began
        return cls(tiny, timeless(files_below(folder / "whole")), folder / "before", took)

    @staticmethod
    def argv(tiny: TinyRun, out: Path) -> list[str]:
        """Return the job's flags."""
        return tiny.argv("--ablate", "--save_raw_data", "--batch_size", "2", output=out)

    @staticmethod
    def _run(argv: list[str]) -> None:
        status, said = Process([sys.executable, "run_gate_analysis.py", *argv]).finish()
        assert status == 0, said

    def kill(self, rng: random.Random, tally: Tally, key: str, in_publication: bool) -> None:
        """Kill a run once to three times, then go on with it."""
        out = self.before.parent / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.before, out)
        earlier = files_below(out)
        argv = self.argv(self.tiny, out)
        for turn in range(1 if in_publication else rng.choice((1, 1, 2, 3))):
            resumed = [*argv, "--resume"] if turn else argv
            if in_publication:
                steps = rng.randrange(3 + len(self.expected))
                process, moment = Process([sys.executable, "-c", _DIES_AT_STEP, str(steps), *resumed]), f"step {steps}"
                ended = process.ended_within(WAIT_S)
            else:
                seconds = rng.uniform(0, 1.05 * self.duration_s)
                process, moment = Process([sys.executable, "run_gate_analysis.py", *resumed]), f"{seconds:.1f} s"
                ended = process.ended_within(seconds)
            if process.kill() == -signal.SIGKILL and (in_publication or not ended):
                tally.killed += 1
            else:
                tally.too_late += 1
            tally.moments.append(moment)
            if process.left_behind():
                tally.faults.append(f"{key}, {moment}: a process it had started outlived it")
            now = files_below(out)
            published = "run_config.json" in now and not differing(timeless(now), self.expected)
            publishing = (out / ".partial" / "run_config.json").exists()
            if not publishing and not published and differing(now, earlier):
                tally.faults.append(f"{key}, {moment}: the results before changed: {differing(now, earlier)[:5]}")
        process = Process([sys.executable, "run_gate_analysis.py", *argv, "--resume"])
        status, said = process.finish()
        found = files_below(out)
        wrong = differing(timeless(found), self.expected)[:5] if "run_config.json" in found else ["run_config.json"]
        if status or wrong or (out / ".partial").exists():
            tally.faults.append(f"{key}: exit {status}, {wrong}, {said[-300:]}")

    def kill_shards(self, rng: random.Random, tally: Tally, key: str) -> None:
        """Kill the two shards of a run, now one and now the other, then finish both."""
        out = self.before.parent / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.before, out)
        earlier = files_below(out)

        def command(number: int) -> list[str]:
            flags = [*self.argv(self.tiny, out), "--resume", "--num_shards", "2", "--shard_id", str(number)]
            return [sys.executable, "run_gate_analysis.py", *flags]

        for _ in range(rng.choice((1, 2, 3))):
            number, seconds = rng.randrange(2), rng.uniform(0.3, 1) * self.duration_s
            process, moment = Process(command(number)), f"shard {number} at {seconds:.1f} s"
            ended = process.ended_within(seconds)
            if process.kill() == -signal.SIGKILL and not ended:
                tally.killed += 1
            else:
                tally.too_late += 1
            tally.moments.append(moment)
            now = files_below(out)
            published = "run_config.json" in now and not differing(timeless(now), self.expected)
            if not published and not (out / ".partial" / "run_config.json").exists() and differing(now, earlier):
                tally.faults.append(f"{key}, {moment}: the results before changed: {differing(now, earlier)[:5]}")
        for number in (0, 1):
            status, said = Process(command(number)).finish()
            if status:
                tally.faults.append(f"{key}: shard {number} ends with {status}: {said[-300:]}")
        found = files_below(out)
        wrong = differing(timeless(found), self.expected)[:5] if "run_config.json" in found else ["run_config.json"]
        if wrong:
            tally.faults.append(f"{key}: {wrong}")


@dataclass
class TrainingRun:
    """A small training with a gate monitor, which leaves two checkpoints, logs and predictions."""

    data: Path
    whole: Path
    duration_s: float

    @classmethod
    def make(cls, folder: Path) -> TrainingRun:
        """Train undisturbed."""
        planted.generate(folder / "data", seed=1, n_train=N_TRAIN, n_val=N_VAL)
        made = cls(folder / "data", folder / "trained", 0.0)
        began = time.monotonic()
        status, said = Process(made.command(made.whole)).finish()
        assert status == 0, said
        made.duration_s = time.monotonic() - began
        return made

    def command(self, run: Path) -> list[str]:
        """Return the command that begins the training."""
        return [sys.executable, "-m", "qd_detr.gates.train", *flags(self.data, run, n_epoch=8, eval_every=1)]

    def kill(self, rng: random.Random, tally: Tally, key: str) -> None:
        """Kill a training once to three times, then go on with it."""
        run = self.whole.parent / "killed"
        shutil.rmtree(run, ignore_errors=True)
        for _ in range(rng.choice((1, 1, 2, 3))):
            seconds = rng.uniform(0.3 * self.duration_s, self.duration_s)
            process = Process(self._going_on(run))
            ended = process.ended_within(seconds)
            if process.kill() == -signal.SIGKILL and not ended:
                tally.killed += 1
            else:
                tally.too_late += 1
            tally.moments.append(f"{seconds:.1f} s")
        status, said = Process(self._going_on(run)).finish()
        try:
            assert status == 0, said[-300:]
            assert_same_run(self.whole, run)
        except (AssertionError, OSError) as error:
            tally.faults.append(f"{key}: exit {status}: {type(error).__name__} {error}")

    def _going_on(self, run: Path) -> list[str]:
        latest = run / checkpoints.LATEST
        if not latest.exists():
            return self.command(run)
        return [sys.executable, "-m", "qd_detr.gates.train", "--resume", str(latest), "--device", "cpu", "--quiet"]


def try_kills(kills: int, seed: int, kinds: list[str], say: Callable[[str], object] = print) -> dict[str, Tally]:
    """Kill as many times, spread over the kinds; return what came of each."""
    tallies = {kind: Tally() for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="kills ") as name:
        folder = Path(name)
        analysis = Analysis.make(folder) if {"analysis", "publication", "shards"} & set(kinds) else None
        training = TrainingRun.make(folder) if "training" in kinds else None
        for kind, tally in tallies.items():
            wanted = round(kills * SHARES[kind] / sum(SHARES[one] for one in kinds))
            number = 0
            while tally.killed < wanted:
                key = f"{seed} {kind} {number}"
                rng = random.Random(key)
                if kind == "training":
                    assert training is not None
                    training.kill(rng, tally, key)
                else:
                    assert analysis is not None
                    if kind == "shards":
                        analysis.kill_shards(rng, tally, key)
                    else:
                        analysis.kill(rng, tally, key, kind == "publication")
                say(f"{key}: {tally.killed} killed, {tally.too_late} too late, {len(tally.faults)} faults")
                number += 1
    return tallies


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", nargs="+", choices=list(SHARES), default=list(SHARES))
    args = parser.parse_args(argv)
    tallies = try_kills(args.kills, args.seed, args.kind, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{'kind':<14}{'killed':>8}{'over before':>13}{'faults':>8}")
    for kind, tally in tallies.items():
        print(f"{kind:<14}{tally.killed:>8}{tally.too_late:>13}{len(tally.faults):>8}")
    for fault in (fault for tally in tallies.values() for fault in tally.faults):
        print(fault)
    return 1 if any(tally.faults for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
