"""Where the self-check works: its folders, tiny checkpoints and data, and the commands as it runs them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from qd_detr.gates.commands.selfcheck import tiny
from qd_detr.gates.commands.selfcheck.ledger import expect
from qd_detr.gates.data.annotations import Query, read_annotations
from qd_detr.gates.data.feature_layout import FeatureSpec
from qd_detr.gates.data.feature_search import FeatureSources
from qd_detr.gates.data.features import Features
from qd_detr.gates.data.samples import open_samples
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.weights.checkpoint import read_checkpoint, resolve

QUERIES = 12
KILL_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Commands:
    """The scripts beside this package, which a package cannot import itself.

    Attributes:
        analyse, certify: their `main`.
        analyse_script: its file, to be run as a process of its own.
        load, adapt: the adapter's two functions.
    """

    analyse: Callable[[Sequence[str]], int]
    certify: Callable[[Sequence[str]], int]
    analyse_script: Path
    load: Callable[..., QDDETR]
    adapt: Callable[..., Any]


@dataclass(frozen=True)
class Ran:
    """What a command gave."""

    status: int
    out: str
    err: str


@dataclass
class Bench:
    """A folder with everything the checks need, made as they need it."""

    root: Path
    commands: Commands
    _checkpoints: dict[str, Path] = field(default_factory=dict)

    @property
    def data_path(self) -> Path:
        """The annotation file; features lie beside it."""
        return next((self.root / "data").glob("*_val_*.jsonl"))

    def make_data(self) -> None:
        """Write the planted data."""
        tiny.make_data(self.root / "data", QUERIES)

    def items(self, count: int) -> list[tuple[Query, Features]]:
        """Return the first queries with their features, as `collate` takes them."""
        settings = resolve(read_checkpoint(self.checkpoint("clipwise")))
        spec = FeatureSpec.from_options(settings.options, settings.architecture)
        samples = open_samples(spec, FeatureSources(self.data_path), read_annotations(self.data_path)[:count])
        return [(query, samples.reader.read(query)) for query in samples.queries]

    def checkpoint(self, gating_type: str, *, known_gates: bool = False) -> Path:
        """Return the tiny checkpoint of a gating type, written when it is first asked for."""
        name = f"{gating_type}_known_gates" if known_gates else gating_type
        if name not in self._checkpoints:
            path = tiny.write_checkpoint(self.root / "models" / name, gating_type, known_gates=known_gates)
            self._checkpoints[name] = path
        return self._checkpoints[name]

    def analysis_flags(self, checkpoint: Path, output_dir: Path, *flags: object) -> list[str]:
        """Return the arguments of an analysis of a checkpoint."""
        fixed = [
            "--legacy_model",
            "--model_path",
            checkpoint,
            "--data_path",
            self.data_path,
            "--output_dir",
            output_dir,
        ]
        return [str(part) for part in [*fixed, "--device", "cpu", *flags]]

    def analyse(self, checkpoint: Path, name: str, *flags: object) -> Path:
        """Run the analysis into a results folder of this name, which has to succeed; return the folder."""
        output_dir = self.root / "results" / name
        ran = run(self.commands.analyse, self.analysis_flags(checkpoint, output_dir, *flags))
        expect(ran.status == 0, f"run_gate_analysis.py ended with {ran.status}: {ran.err.strip() or ran.out.strip()}")
        return output_dir

    def kill_midway(self, argv: Sequence[str], output_dir: Path) -> int:
        """Run the analysis as a process of its own, kill it once it has finished batches; return how many it had."""
        index = output_dir / ".partial" / "journal" / "gates" / "index.jsonl"
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        process = subprocess.Popen(
            [sys.executable, str(self.commands.analyse_script), *argv],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        try:
            deadline = time.monotonic() + KILL_PATIENCE_S
            while process.poll() is None and time.monotonic() < deadline:
                if index.is_file() and index.read_bytes().count(b"\n") >= 2:
                    process.kill()
                    break
                time.sleep(0.001)
        finally:
            process.kill()
            _, err = process.communicate()
        expect(
            process.returncode < 0, f"the run was over before it could be killed ({process.returncode}: {err.strip()})"
        )
        return index.read_bytes().count(b"\n")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread meanwhile: the fastest for models this small, and steady on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> Ran:
    """Run a command in this process, its output caught."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command(argv)
        except SystemExit as stop:  # argparse
            status = stop.code if isinstance(stop.code, int) else 1
    return Ran(status, out.getvalue(), err.getvalue())


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[Any]:
    """Return the objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
