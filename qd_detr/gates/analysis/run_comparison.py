"""Two finished runs on the same data, side by side: two checkpoints, two gating types, two epochs.

Everything is read from the two results trees; differences are the second run minus the first, paired by query, with
intervals by resampling source videos.
"""

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

from qd_detr.gates.analysis.effects import CHANGE_BOUNDS, POINTS, line_changes, without_test
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, false_discovery, paired_bootstrap
from qd_detr.gates.data.annotations import Query, read_annotations
from qd_detr.gates.data.datasets import DATASETS
from qd_detr.gates.data.video_names import source_video
from qd_detr.gates.errors import DataError, MissingFileError, RequestError, first_few
from qd_detr.gates.evaluation import benchmark_of, read_submission
from qd_detr.gates.evaluation.submission import predicted_saliency, predicted_windows, prediction_qid
from qd_detr.gates.files import TEXT_BYTES_MAX, natural, read_json, read_text
from qd_detr.gates.gating import GATES
from qd_detr.gates.wording import Reason, from_csv

Array = NDArray[np.float64]
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
GATE_FIGURES = {"magnitude": "abs_mean", "injection": "injection_mean"}
"""What is compared of the gates, and how samples.csv calls it."""


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


def read_run(folder: str | Path) -> FinishedRun:
    """Read a results tree.

    Raises:
        MissingFileError: no such folder, or a file of the tree is not there. RequestError: the tree is unfinished,
            or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"no results folder {folder}; give two folders that run_gate_analysis.py wrote")
    if not (folder / "run_config.json").is_file():
        raise RequestError(
            f"{folder} is not a finished results folder: it has no run_config.json, which is written last; "
            "finish that run (--resume), or give another folder"
        )
    config = _json(folder / "run_config.json", _CONFIG)
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


def compare_runs(
    first: str | Path, second: str | Path, *, seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> dict[str, Any]:
    """Return two runs side by side, JSON-ready.

    Returns:
        {"runs": [what each was: folder, checkpoint, epoch, gating, layers], "n_queries", "n_source_videos",
        "bootstrap", "gates": [{"layer", "kind", "figure", "first", "second", "difference" (an interval, or None with
        "reason")}], "predictions": {"first_window_changed", "first_window_iou", "top_clip_changed": intervals},
        "metrics": {"available", "reason", "rows": [{"metric", "first", "second", "difference", "adjusted_p",
        "significant"}]}, "queries": [{"id", "first_window_iou", "AP_first", "AP_second", ...}]}

    Raises:
        RequestError: an unfinished or damaged tree, one folder twice, or runs on different data.
    """
    if Path(first).resolve() == Path(second).resolve():
        raise RequestError(f"--compare_runs was given one folder twice ({first}); give two")
    pair = read_run(first), read_run(second)
    ids = _same_samples(*pair)
    vids = [pair[0].samples[one]["vid"] for one in ids]
    settings = {"seed": seed, "draws": draws, "level": level}
    clusters = [source_video(vid) for vid in vids]
    before, after = ([run.lines[one] for one in ids] for run in pair)
    changes = line_changes(before, after)
    bounds = [CHANGE_BOUNDS[key] for key in changes]
    table = np.stack(list(changes.values()), axis=1)
    intervals = paired_bootstrap(table, clusters, bounds=bounds, **settings)  # type: ignore[arg-type]
    metrics, per_query = _metrics(pair, ids, clusters, settings)
    return {
        "runs": [_what(run) for run in pair],
        "n_queries": len(ids),
        "n_source_videos": len(set(clusters)),
        "bootstrap": {**settings, "clusters": "source videos"},
        "gates": _gates(pair, ids, clusters, settings),
        "predictions": {key: without_test(interval) for key, interval in zip(changes, intervals, strict=True)},
        "metrics": metrics,
        "queries": [
            {"id": before[i]["qid"], "vid": vids[i], "first_window_iou": float(changes["first_window_iou"][i])}
            | {name: float(column[i]) for name, column in per_query.items()}
            for i in range(len(ids))
        ],
    }


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


def _same_samples(first: FinishedRun, second: FinishedRun) -> list[str]:
    marks = [run.config["annotations"]["sha256"] for run in (first, second)]
    if marks[0] != marks[1]:
        paths = [run.config["annotations"]["path"] for run in (first, second)]
        raise RequestError(
            f"{first.folder} and {second.folder} are runs on different data: annotations {paths[0]} "
            f"({marks[0][:8]}) and {paths[1]} ({marks[1][:8]}); run both with the same --data_path"
        )
    here, there = first.samples.keys(), second.samples.keys()
    if here != there:
        apart = [one for one in (*first.samples, *second.samples) if (one in here) != (one in there)]
        raise RequestError(
            f"{first.folder} and {second.folder} hold different samples ({len(here)} and {len(there)}; in one alone: "
            f"{first_few(apart)}); run both with the same --max_samples and --analyze_samples"
        )
    return list(first.samples)


def _what(run: FinishedRun) -> dict[str, Any]:
    checkpoint = run.config["checkpoint"]
    return {
        "folder": run.folder.name,
        "checkpoint": Path(checkpoint["path"]).name,
        "checkpoint_folder": Path(checkpoint["path"]).parent.name,
        "checkpoint_sha256": checkpoint["sha256"],
        "epoch": checkpoint.get("epoch"),
        "gating_type": run.config["gating"]["run_as"],
        "trained_gating_type": run.config["gating"]["trained_as"],
        "num_layers": run.num_layers,
        "legacy_batches": run.config.get("batches", {}).get("legacy"),
    }


def _gates(
    pair: tuple[FinishedRun, FinishedRun], ids: Sequence[str], clusters: Sequence[str], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    differences: list[Array] = []
    for layer in range(max(run.num_layers for run in pair)):
        for kind in GATES:
            for figure, suffix in GATE_FIGURES.items():
                columns = [_column(run, ids, f"layer{layer}_{kind}_{suffix}") for run in pair]
                if all(column is None for column in columns):
                    continue
                means = [None if column is None else _mean(column) for column in columns]
                row: dict[str, Any] = {"layer": layer, "kind": kind, "figure": figure}
                row |= {"first": means[0], "second": means[1], "difference": None, "reason": None}
                if columns[0] is None or columns[1] is None:
                    row["reason"] = Reason("compared.only_one")
                else:
                    row["difference"] = len(differences)  # its place among the intervals, put in below
                    differences.append(columns[1] - columns[0])
                rows.append(row)
    if differences:
        intervals = paired_bootstrap(np.stack(differences, axis=1), clusters, **settings)
        for row in rows:
            if row["difference"] is not None:
                row["difference"] = intervals[row["difference"]]
    return rows


def _column(run: FinishedRun, ids: Sequence[str], name: str) -> Array | None:
    """Return a column of samples.csv (N,), NaN where a cell is empty or infinite; None if there is no such column."""
    if any(name not in run.samples[one] for one in ids):
        return None
    try:
        values = np.array([float(run.samples[one][name] or "nan") for one in ids])
    except ValueError as error:
        raise DataError(f"{run.folder / 'samples.csv'}, column {name}: {error}; run that analysis again") from None
    unknown = int((~np.isfinite(values)).sum())
    if unknown:
        logger.warning("%s: %d of %d samples have no %s", run.folder / "samples.csv", unknown, len(ids), name)
    return np.where(np.isfinite(values), values, np.nan)


def _mean(column: Array) -> float | None:
    known = column[~np.isnan(column)]
    return float(known.mean()) if known.size else None


def _metrics(
    pair: tuple[FinishedRun, FinishedRun], ids: Sequence[str], clusters: Sequence[str], settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Array]]:
    queries, reason = _labelled(pair, ids)
    if queries is None:
        return {"available": False, "reason": reason, "rows": []}, {}
    scores = [
        benchmark_of(run.config["options"]["dset_name"]).score(
            [run.lines[one] for one in ids], queries, float(run.config["options"]["clip_length"])
        )
        for run in pair
    ]
    names = list(scores[0].columns)
    table = np.stack([scores[1].columns[name] - scores[0].columns[name] for name in names], axis=1)
    intervals = paired_bootstrap(table, clusters, bounds=[POINTS] * len(names), **settings)
    control = false_discovery([interval["p"] for interval in intervals])
    rows = [
        {
            "metric": name,
            "first": float(scores[0].columns[name].mean()),
            "second": float(scores[1].columns[name].mean()),
            "difference": intervals[i],
            "adjusted_p": control["adjusted"][i],
            "significant": control["significant"][i],
        }
        for i, name in enumerate(names)
    ]
    per_query = {"AP_first": scores[0].ap, "AP_second": scores[1].ap, "AP_difference": scores[1].ap - scores[0].ap}
    if scores[0].best_iou is not None and scores[1].best_iou is not None:
        per_query |= {"best_iou_first": scores[0].best_iou, "best_iou_second": scores[1].best_iou}
    return {"available": True, "reason": None, "rows": rows}, per_query


def _labelled(pair: tuple[FinishedRun, FinishedRun], ids: Sequence[str]) -> tuple[list[Query] | None, Reason | None]:
    """Return the annotations of `ids` from where either run read them, or why they cannot be had."""
    mark = pair[0].config["annotations"]["sha256"]
    options = pair[0].config["options"]
    paths = [Path(run.config["annotations"]["path"]) for run in pair]
    for path in paths:
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == mark:
            known = {str(q.qid): q for q in read_annotations(path, options["dset_name"], options.get("dset_domain"))}
            queries = [known[one] for one in ids]
            unlabelled = sum(not query.labelled for query in queries)
            if unlabelled:
                return None, Reason("labels.missing", {"missing": unlabelled, "n": len(queries)})
            return queries, None
    return None, Reason("labels.moved", {"path": paths[0]})
