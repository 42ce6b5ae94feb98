"""What a run was: what must be equal to continue it, and what is needed to repeat it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qd_detr.gates import __version__
from qd_detr.gates.commands.analyse.request import PreparedRun
from qd_detr.gates.data.feature_layout import files_of


def fingerprint_of(prepared: PreparedRun) -> dict[str, Any]:
    """Return what must be equal for an unfinished run to be continued."""
    request = prepared.request
    stamps = [f"{path.name} {_stamp(path)}" for path in _feature_paths(prepared)]
    return {
        "toolkit": __version__,
        "checkpoint sha256": prepared.hashes["checkpoint"],
        "annotations sha256": prepared.hashes["annotations"],
        "feature files": hashlib.sha256("\n".join(stamps).encode("utf-8", "replace")).hexdigest(),
        "options": {k: v for k, v in prepared.settings.options.items() if not k.endswith(("_dir", "_dirs"))},
        "family": prepared.settings.recognition.family,
        "gating_type": prepared.settings.architecture.gating_type,
        "samples": hashlib.sha256(json.dumps([q.qid for q in prepared.queries]).encode()).hexdigest(),
        "batch_size": prepared.batch_size,
        "legacy_batches": prepared.pass_settings.legacy_batches,
        "save_raw_data": request.save_raw_data,
        "device": str(next(prepared.model.parameters()).device.type),
        "threads": torch.get_num_threads(),
    }


def _stamp(path: Path) -> str:
    """Return what tells a feature file from another: size, time, and the sum of its first and last 4 KiB.

    Reading gigabytes again only to hash them would cost as much as the run. A file that was written again has another
    time, so the worst is a run refused that could have gone on; one that was copied with its time differs at an end (an
    archive ends with the sums of all it holds).
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        checksum = zlib.crc32(file.read(4096))
        file.seek(max(0, status.st_size - 4096))
        checksum = zlib.crc32(file.read(4096), checksum)
    return f"{status.st_size} {status.st_mtime_ns} {checksum:08x}"


def _feature_paths(prepared: PreparedRun) -> list[Path]:
    """Return every feature file once, in the order of the queries and, of each, in the order of the folders."""
    samples = prepared.samples
    files = (file.path for query in samples.queries for file in files_of(query, samples.folders, samples.spec).all)
    return list(dict.fromkeys(files))


def run_config_of(prepared: PreparedRun, started: float) -> dict[str, Any]:
    """Return run_config.json but for its list of files; started is in seconds since the epoch."""
    request = prepared.request
    plain = {
        name: [str(v) for v in value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for name, value in asdict(request).items()
    }
    settings = prepared.settings
    return {
        "format": "qd_detr-gates results/1",
        "toolkit_version": __version__,
        "request": plain,
        "checkpoint": {
            "path": str(request.model_path.resolve()),
            "sha256": prepared.hashes["checkpoint"],
            "bytes": request.model_path.stat().st_size,
            "format": prepared.checkpoint.format,
            "epoch": prepared.checkpoint.epoch,
        },
        "annotations": {
            "path": str(request.data_path.resolve()),
            "sha256": prepared.hashes["annotations"],
            "queries": prepared.total_annotated,
            "analysed": len(prepared.wanted),
        },
        "gating": {
            "trained_as": settings.trained_gating_type,
            "run_as": settings.architecture.gating_type,
            "changed": settings.trained_gating_type != settings.architecture.gating_type,
        },
        "family": settings.recognition.facts,
        "architecture": asdict(settings.architecture),
        "options": settings.options,
        "option_origins": settings.origins,
        "option_disagreements": settings.disagreements,
        "batches": {"size": prepared.batch_size, "legacy": prepared.pass_settings.legacy_batches},
        "device": str(next(prepared.model.parameters()).device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "threads": torch.get_num_threads(),
        "seed": request.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "seconds": round(time.time() - started, 1),
        "feature_folders": {
            "video": [str(folder.resolve()) for folder in prepared.samples.folders.video],
            "text": str(prepared.samples.folders.text.resolve()),
            "audio": str(prepared.samples.folders.audio.resolve()),
        },
        "feature_files": dict(sorted(prepared.samples.index.file_sizes.items())),
    }
