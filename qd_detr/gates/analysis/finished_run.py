"""A finished results tree, read back and checked."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.data.datasets import DATASETS
from qd_detr.gates.errors import DataError, MissingFileError, RequestError
from qd_detr.gates.evaluation import read_submission
from qd_detr.gates.evaluation.submission import predicted_saliency, predicted_windows, prediction_qid
from qd_detr.gates.files import TEXT_BYTES_MAX, natural, read_json, read_text
from qd_detr.gates.wording import from_csv

logger = logging.getLogger(__name__)
_TEXT = (str, type(None))
_CONFIG = {
    "annotations": {"sha256": str, "path": lambda path: isinstance(path, str) and "\0" not in path},
    "checkpoint": {"path": str, "sha256": str, "epoch?": (int, type(None))},
    "gating": {"run_as": str, "trained_as": str},
    "options": {
        "dset_name": lambda name: name in DATASETS,
        "dset_domain?": _TEXT,
        "clip_length": lambda seconds: isinstance(seconds, (int, float)) and 0 < seconds < 1e6,
    },
    "batches?": {"legacy?": bool},
    "sha256?": lambda sums: isinstance(sums, dict) and all(isinstance(value, str) for value in sums.values()),
}
"""What a comparison needs of run_config.json."""


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a comparison reads of a results tree.

    Attributes:
        samples: the rows of samples.csv by id as text, in annotation order. lines: predictions by id as text.
    """

    folder: Path
    config: dict[str, Any]
    statistics: dict[str, Any]
    samples: dict[str, dict[str, str]]
    lines: dict[str, dict[str, Any]]

    @property
    def num_layers(self) -> int:
        """How many fusion layers the model has."""
        return int(self.statistics["num_layers"])


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return the run_config.json of a finished tree.

    Raises:
        MissingFileError: no such folder. RequestError: the tree is unfinished, or the file damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"no results folder {folder}; give folders that run_gate_analysis.py wrote")
    if not (folder / "run_config.json").is_file():
        raise RequestError(
            f"{folder} is not a finished results folder: it has no run_config.json, which is written last; "
            "finish that run (--resume), or give another folder"
        )
    return _json(folder / "run_config.json", _CONFIG)


def read_run(folder: str | Path) -> FinishedRun:
    """Read a results tree.

    Raises:
        MissingFileError: no such folder, or a file of the tree is not there. RequestError: the tree is unfinished,
            or damaged.
    """
    folder = Path(folder)
    config = read_config(folder)
    for name, written in config.get("sha256", {}).items():
        if Path(name).name == name and hashlib.sha256(_there(folder / name).read_bytes()).hexdigest() != written:
            raise DataError(f"{folder / name} is not as the run wrote it: damaged or edited; run that analysis again")
    statistics = _json(folder / "overall_statistics.json", {"num_layers": lambda n: natural(n) and 0 < n < 1000})
    samples = _samples(_there(folder / "samples.csv"))
    lines = {}
    for line in read_submission(_there(folder / "predictions.jsonl")):
        lines[str(prediction_qid(line))] = line
        if not len(predicted_windows(line)) or not len(predicted_saliency(line)):
            raise DataError(
                f"{folder / 'predictions.jsonl'} is damaged: qid {line['qid']} has no windows; run it again"
            )
    if samples.keys() != lines.keys():
        raise DataError(f"{folder} is damaged: samples.csv and predictions.jsonl hold different samples; run it again")
    return FinishedRun(folder, config, statistics, samples, lines)


def _samples(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of samples.csv by id; every one whole."""
    try:
        text = read_text(path)
        if "\0" in text:
            raise ValueError("a hole of zero bytes")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); run that analysis again") from None
    if any(None in row or None in row.values() or "id" not in row or "vid" not in row for row in rows):
        raise DataError(f"{path} cannot be read (rows that do not fit its head); run that analysis again")
    return {from_csv(row["id"]): {name: from_csv(cell) for name, cell in row.items()} for row in rows}


def _there(path: Path) -> Path:
    if not path.is_file():
        raise MissingFileError(f"no {path.name} in the results folder {path.parent}; run that analysis again")
    if path.stat().st_size > TEXT_BYTES_MAX:
        raise DataError(f"{path} cannot be read (larger than {TEXT_BYTES_MAX >> 20} MiB); run that analysis again")
    return path


def _json(path: Path, schema: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(read_json(_there(path), schema))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); it is damaged or of another version, run that analysis again"
        ) from None


def column_of(run: FinishedRun, ids: Sequence[str], name: str, *, complete: bool = True) -> NDArray[np.float64] | None:
    """Return a column of samples.csv (N,), NaN where a cell is empty or infinite; None if there is no such column.

    complete: every sample should have it; those that have not are warned of.
    """
    if any(name not in run.samples[one] for one in ids):
        return None
    try:
        values = np.array([float(run.samples[one][name] or "nan") for one in ids])
    except ValueError as error:
        raise DataError(f"{run.folder / 'samples.csv'}, column {name}: {error}; run that analysis again") from None
    unknown = int((~np.isfinite(values)).sum())
    if unknown and complete:
        logger.warning("%s: %d of %d samples have no %s", run.folder / "samples.csv", unknown, len(ids), name)
    return np.where(np.isfinite(values), values, np.nan)
