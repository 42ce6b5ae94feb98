"""The command that repeats a run, and what its claim sheet says of it."""

from __future__ import annotations

import platform
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qd_detr.gates import __version__
from qd_detr.gates.commands.analyse.request import AnalysisRequest, PreparedRun
from qd_detr.gates.results.report.claims import ClaimFacts
from qd_detr.gates.wording import for_terminal

REPEATED = Path("repeated_results")
"""Where the command writes to: the same for every run, so that the sheet repeats to the byte."""
# A repeated run starts anew and by itself, says what it does, and finds the same features missing.
_LEFT_OUT = ("output_dir", "resume", "quiet", "shard", "missing_list")
_FLAGS = {"history_memory_mb": "history_memory"}
_EACH = ("slice",)  # flags that are given once for each value


def replay_command(request: AnalysisRequest) -> list[str]:
    """Return the command line that asks for the same run again, paths as they were given."""
    command = ["python", "run_gate_analysis.py"]
    for field in fields(AnalysisRequest):
        value = getattr(request, field.name)
        if field.name in _LEFT_OUT or value == field.default:
            continue
        flag = f"--{_FLAGS.get(field.name, field.name)}"
        if field.name in _EACH:
            command += [part for one in value for part in (flag, str(one))]
        else:
            command += [flag, *([] if value is True else map(str, value if isinstance(value, tuple) else [value]))]
    return [*command, "--output_dir", str(REPEATED)]


def command_text(command: list[str]) -> str:
    """Return a command line for a shell, a flag a line."""
    lines = [" ".join(map(shlex.quote, command[:2]))]
    for word in command[2:]:
        if word.startswith("--"):
            lines.append(f"    {_quoted(word)}")
        else:
            lines[-1] += f" {_quoted(word)}"
    return " \\\n".join(lines)


def _quoted(word: str) -> str:
    r"""Return a word for a shell, also inside LaTeX's verbatim: neither steers a terminal nor ends that."""
    if for_terminal(word) == word and r"\end{verbatim}" not in word:
        return shlex.quote(word)
    plain = word.replace("\\", "\0").replace("'", r"\'")  # no argument holds a zero byte
    return "$'" + for_terminal(plain.replace("\0", r"\x5c")) + "'"


def claim_facts(prepared: PreparedRun) -> ClaimFacts:
    """Return what the claim sheet says of a run besides its findings."""
    versions: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    return ClaimFacts(
        command=command_text(replay_command(prepared.request)),
        versions={"toolkit": __version__, **versions, "numpy": np.__version__},
        checkpoint=prepared.hashes["checkpoint"],
        annotations=prepared.hashes["annotations"],
        queries=len(prepared.wanted),
        annotated=prepared.total_annotated,
        legacy_batches=prepared.pass_settings.legacy_batches,
    )
