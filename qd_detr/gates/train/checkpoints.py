"""Writing a training run's checkpoints whole or not at all, and going on from one exactly.

The file: {"format", "model", "optimizer", "lr_scheduler", "epoch", "opt", "training_state"}; the first six are what the
legacy code and `read_checkpoint` know. Everything in it is tensors, plain values or an argparse.Namespace, so that it
loads without running code.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qd_detr.gates import files
from qd_detr.gates.data.feature_layout import ENDPOINTS_DIM
from qd_detr.gates.errors import CheckpointError, MissingFileError, RunError
from qd_detr.gates.weights.checkpoint import FORMAT, load_content

LATEST, BEST = "model_latest.ckpt", "model_best.ckpt"
_NEEDED = ("format", "model", "optimizer", "lr_scheduler", "epoch", "opt", "training_state")


def epoch_file(epoch: int) -> str:
    """Return the name of the checkpoint that is kept of an epoch."""
    return f"model_e{epoch:04d}.ckpt"


def write_whole(path: Path, content: str | Callable[[Path], object]) -> None:
    """Write a file whole or not at all, see `files.write_whole`.

    Raises:
        RunError: it cannot be written; what stood there before still does.
    """
    try:
        files.write_whole(path, content)
    except (OSError, RuntimeError) as error:  # torch.save says RuntimeError when the disk is full
        raise RunError(f"{path} cannot be written ({str(error).splitlines()[0]}); the file before it is kept") from None


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; see `write_whole`."""
    write_whole(path, lambda partial: torch.save(dict(content), partial))


def write_text(path: Path, text: str) -> None:
    """Write a text file; see `write_whole`."""
    write_whole(path, text)


def write_json_options(path: Path, options: Mapping[str, Any]) -> None:
    """Write opt.json as the legacy code does: before the endpoints are counted into v_feat_dim."""
    write_text(path, json.dumps(dict(options), indent=4, ensure_ascii=False) + "\n")


def checkpoint_options(options: Mapping[str, Any]) -> argparse.Namespace:
    """Return the options as checkpoints carry them: v_feat_dim counts the endpoints."""
    stored = dict(options)
    if "tef" in options["ctx_mode"]:
        stored["v_feat_dim"] = options["v_feat_dim"] + ENDPOINTS_DIM
    return argparse.Namespace(**stored)


def options_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's options from a checkpoint: what `checkpoint_options` made of them, undone."""
    options = dict(vars(content["opt"]))
    if "tef" in options["ctx_mode"]:
        options["v_feat_dim"] -= ENDPOINTS_DIM
    return options


def read_training_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint to go on from.

    Raises:
        MissingFileError: no such file. CheckpointError: not one that this trainer wrote, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no checkpoint {path}; give the run's {LATEST} with --resume")
    content = load_content(path)
    lacking = [key for key in _NEEDED if not isinstance(content, Mapping) or key not in content]
    if lacking or content["format"] != FORMAT:
        why = f"it lacks {', '.join(lacking)}" if lacking else f"its format is {content['format']!r}"
        raise CheckpointError(
            f"{path} is not a checkpoint that this trainer can go on from: {why}; give the {LATEST} of its run"
        )
    return dict(content)


def without_training_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what inference needs of a checkpoint: no optimizer and no random state, about a third of the size."""
    return {key: content[key] for key in ("format", "model", "epoch", "opt")}


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator, as tensors and plain values."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put every global random generator back to a state from `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
