"""What needs no model loads no torch and no Matplotlib: --help, --version, a wrong flag, a missing file."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.documents import ROOT

COMMANDS = (
    ["run_gate_analysis.py"],
    ["test_legacy_model.py"],
    ["legacy_model_guide.py"],
    ["test_gate_analysis.py"],
    *(["-m", f"qd_detr.gates.{name}"] for name in ("train", "evaluation", "monitor", "planted")),
)
MISSING = [
    (["run_gate_analysis.py", "--model_path", "no.ckpt", "--data_path", "no.jsonl"], "no checkpoint no.ckpt"),
    (
        ["run_gate_analysis.py", "--model_path", "README.md", "--data_path", "no.jsonl"],
        "no annotation file at no.jsonl",
    ),
    (["test_legacy_model.py", "--model_path", "no.ckpt"], "no checkpoint no.ckpt"),
]


def loaded(command: list[str]) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a command; return how it ended and which heavy packages it had imported by then."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return done, names & {"torch", "matplotlib", "scipy", "sklearn"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--version", 0), ("--no_such_flag", 2)])
def test_flags_alone_load_nothing_heavy(command, flag, status):
    done, heavy = loaded([*command, flag])
    assert (done.returncode, heavy) == (status, set())


@pytest.mark.parametrize(("command", "says"), MISSING)
def test_a_missing_file_is_said_before_anything_heavy_is_loaded(command, says):
    done, heavy = loaded(command)
    assert (done.returncode, heavy) == (2, set())
    assert says in done.stderr
