"""From what is asked to a run that is ready to go: everything is checked before its folder is made."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qd_detr.gates.errors import RequestError
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.train import checkpoints, run_folder
from qd_detr.gates.train.data import load_splits
from qd_detr.gates.train.distributed import World
from qd_detr.gates.train.loop import Training
from qd_detr.gates.train.options import TRAINING_DEFAULTS, check_options, refuse_changes, resolve_options
from qd_detr.gates.train.validation import check_annotations
from qd_detr.gates.weights.options import read_options_file

logger = logging.getLogger(__name__)


def prepare(
    flags: Mapping[str, Any], config_path: str | None, resume: str | None, world: World, until_done: ExitStack
) -> Training:
    """Return the run that is asked for, ready to go; its folder is made once everything else is known to be right.

    Args:
        flags: the options that were given, by name.
        until_done: gets what is to be let go of when the run is over: the lock on its folder.

    Raises:
        RequestError: something about the request is wrong; nothing was written. Of several processes all raise it.
    """
    stored = None if resume is None else checkpoints.read_training_checkpoint(resume)
    if stored is None:
        options = resolve_options(flags, None if config_path is None else read_options_file(config_path))
        outright = frozenset(flags)
    else:
        options = _continued_options(flags, config_path, stored)
        _look_beside_one_another(options, flags)
        outright = frozenset(flags) | _folders_still_there(options)
    train, val, spec = load_splits(options, outright)
    check_annotations(val.queries, options)
    options.update(
        v_feat_dirs=[str(folder) for folder in train.samples.folders.video],
        t_feat_dir=str(train.samples.folders.text),
        a_feat_dir=str(train.samples.folders.audio),
        v_feat_dim=spec.stored_dim("video"),
        a_feat_dim=spec.audio_dim,
        t_feat_dim=spec.text_dim,
    )
    if world.first:
        _warn_of_vain_options(options, world)
    _seed(options["seed"])
    architecture = Architecture.from_options(options, spec.video_dim, spec.audio_dim, spec.text_dim)
    model = QDDETR(architecture).to(world.device)
    _seed(options["seed"] + world.rank)  # each process draws its own dropout
    # Rank 0 alone looks: by the time another process did, the folder might be there already.
    directory = world.by_first(
        lambda: run_folder.folder_of_new_run(options) if resume is None else _folder_of(resume, flags)
    )
    options["results_dir"] = str(directory)
    training = Training(model, train, val, options, directory, world)

    def enter() -> None:
        until_done.enter_context(run_folder.held(directory))
        if resume is None or stored is None:
            run_folder.begin(directory, options)
        else:
            run_folder.warn_of_later(Path(resume), stored["epoch"])

    if stored is not None:
        training.refuse_other_run(stored)
    world.by_first(enter)
    if stored is not None:
        training.restore(stored)
    return training


def _continued_options(flags: Mapping[str, Any], config_path: str | None, stored: Mapping[str, Any]) -> dict[str, Any]:
    if config_path is not None:
        raise RequestError("--resume takes its options from the checkpoint; leave --config_path out")
    known = checkpoints.options_of(stored)
    refuse_changes(flags, known)
    options = {**TRAINING_DEFAULTS, **known, **flags}
    check_options(options)
    return options


def _folder_of(resume: str, flags: Mapping[str, Any]) -> Path:
    """Return the folder of the run that goes on: its checkpoint's.

    Raises:
        RequestError: --results_dir names another.
    """
    directory = Path(resume).parent
    named = flags.get("results_dir")
    if named is not None and Path(named).resolve() != directory.resolve():
        raise RequestError(
            f"--results_dir {named} is not the folder of --resume {resume}: a run goes on where its checkpoint is; "
            "leave --results_dir out, or move the whole folder and name the checkpoint there"
        )
    return directory


def _look_beside_one_another(options: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """Take annotations that are gone from beside those that are there, where they lie under their own name."""
    for name, other in (("train_path", "eval_path"), ("eval_path", "train_path")):
        beside = Path(options[other]).with_name(Path(options[name]).name)
        if name not in flags and not Path(options[name]).exists() and beside.is_file():
            logger.warning("%s is gone; going on with %s", options[name], beside)
            options[name] = str(beside)


def _folders_still_there(options: Mapping[str, Any]) -> frozenset[str]:
    """Return the feature options whose folders are where the run had them; the others are looked for again."""
    written = {name: options[name] for name in ("t_feat_dir", "a_feat_dir")}
    there = {name for name, folder in written.items() if Path(folder).is_dir()}
    if all(Path(folder).is_dir() for folder in options["v_feat_dirs"]):
        there.add("v_feat_dirs")
    return frozenset(there)


def _warn_of_vain_options(options: Mapping[str, Any], world: World) -> None:
    if options["amp"] != "off" and world.device.type != "cuda":
        logger.warning("--amp %s is for CUDA; on %s the run is in float32", options["amp"], world.device.type)
    if options["bsz"] < 2 * world.size:
        logger.warning(
            "--bsz %d leaves a process one query of a batch, whose own text then stands for the other text of the "
            "saliency; give %d or more",
            options["bsz"],
            2 * world.size,
        )


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
