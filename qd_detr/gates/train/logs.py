"""The lines of train.log.txt and eval.log.txt, as the legacy code wrote them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qd_detr.gates.errors import RunError
from qd_detr.gates.files import NotPlainError, is_plain_file, open_plain, read_text
from qd_detr.gates.train.checkpoints import write_text

TRAIN_LOG, EVAL_LOG = "train.log.txt", "eval.log.txt"
_EPOCH = re.compile(r"\[Epoch\] (\d+) ")


def log_line(epoch: int, losses: Mapping[str, float], metrics: Mapping[str, Any] | None = None) -> str:
    """Return a line: the weighted losses and, of a validation, the metrics as JSON.

    By legacy habit training lines count epochs from 1 and validation lines from 0.
    """
    terms = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
    line = f"{time.strftime('%Y_%m_%d_%H_%M_%S')} [Epoch] {epoch:03d} [Loss] {terms}"
    return f"{line}\n" if metrics is None else f"{line} [Metrics] {json.dumps(metrics)}\n"


def append(path: Path, line: str) -> None:
    """Append a line to a log; what is a link in its place is not followed."""
    try:
        log = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, below=path.parent)
        with open(log, "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror})") from None


def cut_after(path: Path, last_epoch: int) -> None:
    """Drop the lines of epochs after `last_epoch`: those a killed run logged but did not finish.

    Raises:
        RunError: what is there is no log that lines could be appended to.
    """
    if not os.path.lexists(path):
        return
    try:
        if not is_plain_file(path):
            raise NotPlainError(path)
        lines = read_text(path).splitlines(keepends=True)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path} cannot be written ({why})") from None
    kept = [line for line in lines if (m := _EPOCH.search(line)) and int(m.group(1)) <= last_epoch]
    if kept != lines:
        write_text(path, "".join(kept))
