"""`python -m qd_detr.train`: train a QD-DETR model with AVIGATE fusion, or continue a run."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qd_detr import __version__
from qd_detr.architecture import Architecture
from qd_detr.command_line import exit_status
from qd_detr.data.feature_layout import FeatureSpec
from qd_detr.errors import RequestError
from qd_detr.model import QDDETR
from qd_detr.monitor import GateMonitor
from qd_detr.options import read_options_file
from qd_detr.training import checkpoints
from qd_detr.training.data import load_splits
from qd_detr.training.distributed import World, join_world
from qd_detr.training.loop import AroundValidation, Training
from qd_detr.training.matching import require_scipy
from qd_detr.training.options import (
    BY_NAME,
    TRAINING_DEFAULTS,
    add_flags,
    check_options,
    refuse_changes,
    resolve_options,
)
from qd_detr.training.validation import check_annotations

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m qd_detr.train",
        description="Train a QD-DETR model with AVIGATE fusion. Options have their legacy names and defaults. "
        "Several processes: torchrun --nproc_per_node N -m qd_detr.train ...",
    )
    parser.add_argument("--config_path", help="options file, as the opt.json of a legacy run; flags win over it")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="continue the run of this model_latest.ckpt, exactly")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--gate_monitor_every", type=int, default=0, metavar="N",
                        help="watch the gates in every N-th validation, into training_analysis/ (default: never)")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="only errors")
    add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 1 the run failed, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR if args.quiet else logging.INFO, format="%(levelname)s: %(message)s")
    return exit_status(
        lambda: _train(args), interrupted="interrupted; go on with --resume and the run's model_latest.ckpt"
    )


def _train(args: argparse.Namespace) -> None:
    flags = {name: value for name, value in vars(args).items() if name in BY_NAME}
    require_scipy()
    if args.gate_monitor_every < 0:
        raise RequestError(f"--gate_monitor_every is {args.gate_monitor_every}; expected 0 (never) or more")
    with join_world(args.device) as world:
        training = prepare(flags, args.config_path, args.resume, world)
        with _monitoring(training, args.gate_monitor_every) as around_validation:
            progress = training.run(around_validation)
        if world.first:
            print(f"{training.directory}: best at epoch {progress.best_epoch}, {progress.best_score:.2f}")


@contextmanager
def _monitoring(training: Training, every: int) -> Iterator[AroundValidation | None]:
    """Give the context for validation passes that watches the gates of every `every`-th of them; None for never."""
    if every < 1:
        yield None
        return
    monitor = GateMonitor(training.model, training.directory / "training_analysis")
    evaluated = training.options["eval_every"]

    def around(epoch: int) -> AbstractContextManager[Any]:
        # Counted from the epoch alone, so that a continued run watches the same ones.
        due = -(-(epoch + 1) // evaluated) % every == 0
        return monitor.epoch(epoch) if due else nullcontext()

    try:
        yield around
    finally:
        monitor.close()


def prepare(flags: Mapping[str, Any], config_path: str | None, resume: str | None, world: World) -> Training:
    """Return the run that is asked for, ready to go; its folder is made once everything else is known to be right.

    Raises:
        RequestError: something about the request is wrong; nothing was written.
    """
    stored = None if resume is None else checkpoints.read_training_checkpoint(resume)
    if stored is None:
        options = resolve_options(flags, None if config_path is None else read_options_file(config_path))
    else:
        options = _continued_options(flags, config_path, stored)
    train, val, spec = load_splits(options, frozenset(flags) if stored is None else _folders_still_there(options))
    check_annotations(val.queries, options)
    options.update(
        v_feat_dirs=[str(folder) for folder in train.reader.folders.video],
        t_feat_dir=str(train.reader.folders.text),
        a_feat_dir=str(train.reader.folders.audio),
        v_feat_dim=spec.stored_dim("video"),
        a_feat_dim=spec.audio_dim,
        t_feat_dim=spec.text_dim,
    )
    if options["amp"] != "off" and world.device.type != "cuda":
        logger.warning("--amp %s is for CUDA; on %s the run is in float32", options["amp"], world.device.type)
    _seed(options["seed"])
    model = QDDETR(_architecture(options, spec)).to(world.device)
    _seed(options["seed"] + world.rank)  # each process draws its own dropout
    # Rank 0 alone looks: by the time another process did, the folder might be there already.
    directory = Path(resume).parent if resume is not None else world.share(_run_directory(options) if world.first else None)
    options["results_dir"] = str(directory)
    training = Training(model, train, val, options, directory, world)
    if stored is not None:
        training.restore(stored)
    elif world.first:
        directory.mkdir(parents=True, exist_ok=True)
        checkpoints.write_json_options(directory / "opt.json", options)
    return training


def _continued_options(flags: Mapping[str, Any], config_path: str | None, stored: Mapping[str, Any]) -> dict[str, Any]:
    if config_path is not None:
        raise RequestError("--resume takes its options from the checkpoint; leave --config_path out")
    known = checkpoints.options_of(stored)
    refuse_changes(flags, known)
    options = {**TRAINING_DEFAULTS, **known, **flags}
    check_options(options)
    return options


def _folders_still_there(options: Mapping[str, Any]) -> frozenset[str]:
    """Return the feature options whose folders are where the run had them; the others are looked for again."""
    written = {name: options[name] for name in ("t_feat_dir", "a_feat_dir")}
    there = {name for name, folder in written.items() if Path(folder).is_dir()}
    if all(Path(folder).is_dir() for folder in options["v_feat_dirs"]):
        there.add("v_feat_dirs")
    return frozenset(there)


def _architecture(options: Mapping[str, Any], spec: FeatureSpec) -> Architecture:
    return Architecture(
        video_dim=spec.video_dim,
        audio_dim=spec.audio_dim,
        text_dim=spec.text_dim,
        n_heads=options["nheads"],
        **{
            name: options[name]
            for name in (
                "hidden_dim", "fusion_layers", "fusion_n_heads", "gating_type", "enc_layers", "dec_layers",
                "dim_feedforward", "num_queries", "n_input_proj", "max_q_l", "use_txt_pos", "input_dropout", "dropout",
            )
        },
    )  # fmt: skip


def _run_directory(options: Mapping[str, Any]) -> Path:
    """Return the folder to write; it is not made yet.

    Raises:
        RequestError: it is there and not empty, or is a file.
    """
    named = options["results_dir"]
    stamp = time.strftime("%Y_%m_%d_%H_%M_%S")
    own = f"{options['dset_name']}-{options['ctx_mode']}-{options['exp_id']}-{stamp}"
    directory = Path(named) if named else Path(options["results_root"]) / own
    if directory.exists() and not directory.is_dir():
        raise RequestError(f"--results_dir {directory} is a file; name a folder")
    if directory.is_dir() and any(directory.iterdir()):
        raise RequestError(f"{directory} is not empty; name another --results_dir, or go on with its run by --resume")
    return directory


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


if __name__ == "__main__":
    sys.exit(main())
