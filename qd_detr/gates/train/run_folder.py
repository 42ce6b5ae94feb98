"""The folder that a run writes: made for a new run, taken over from one that ended before its first checkpoint."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qd_detr.gates.errors import CheckpointError, RequestError, RunError
from qd_detr.gates.files import read_json
from qd_detr.gates.results.tree import PARTIAL, RUN_CONFIG, listed_files
from qd_detr.gates.train import checkpoints, logs

logger = logging.getLogger(__name__)

OPTIONS_FILE = "opt.json"
MONITOR_FOLDER = "training_analysis"
# What a run may have written by the time it writes its first checkpoint, and what the gate monitor has in its folder.
_BEFORE_A_CHECKPOINT = re.compile(
    rf"(?:{re.escape(OPTIONS_FILE)}|{re.escape(logs.TRAIN_LOG)}|{re.escape(logs.EVAL_LOG)}|{MONITOR_FOLDER}|\..+\.partial)"
)
_OF_THE_MONITOR = re.compile(
    r"gate_evolution\.(?:json|png)|\.gate_evolution[.\w]*\.partial[.\w]*|tensorboard/events\.out\.tfevents\.[^/]+"
)


def folder_of_new_run(options: Mapping[str, Any]) -> Path:
    """Return the folder that a new run is to write; nothing is made or changed.

    Raises:
        RequestError: it is a file, cannot be looked into, or holds more than a run before its first checkpoint leaves.
    """
    named = options["results_dir"]
    stamp = time.strftime("%Y_%m_%d_%H_%M_%S")
    own = f"{options['dset_name']}-{options['ctx_mode']}-{options['exp_id']}-{stamp}"
    directory = Path(named) if named else Path(options["results_root"]) / own
    try:
        if directory.exists() and not directory.is_dir():
            raise RequestError(f"--results_dir {directory} is a file; name a folder")
        if directory.is_dir() and any(directory.iterdir()) and not _ended_before_a_checkpoint(directory):
            raise _not_empty(directory)
    except OSError as error:
        raise _unusable(directory, error.strerror) from None
    return directory


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep other runs out of a folder meanwhile, where the system can: the lock is the folder's and leaves no file.

    Raises:
        RequestError: another run holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on Windows: two runs into one folder are not told apart there
        yield
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise _unusable(directory, error.strerror) from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"another run is writing to {directory} right now; wait for it, or name another --results_dir"
            ) from None
        except OSError as error:  # a file system without locks
            logger.info("%s cannot be locked (%s)", directory, error.strerror)
        yield
    finally:
        os.close(folder)


def begin(directory: Path, options: Mapping[str, Any]) -> None:
    """Make the folder, clear what a run before its first checkpoint left there, and write opt.json.

    Raises:
        RequestError: that cannot be done.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        left = sorted(directory.iterdir())
        if left:
            if not _ended_before_a_checkpoint(directory):  # somebody was quicker
                raise _not_empty(directory)
            logger.warning("a run in %s ended before its first checkpoint; begun anew", directory)
        for path in left:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        checkpoints.write_json_options(directory / OPTIONS_FILE, options)
    except OSError as error:
        raise _unusable(directory, error.strerror) from None
    except RunError as error:
        raise _unusable(directory, str(error)) from None


def go_on(directory: Path, options: Mapping[str, Any], epochs_done: int) -> None:
    """Bring a run's folder back to where its checkpoint was written: no later log lines, opt.json as it is now.

    Raises:
        RunError: it cannot be written to.
    """
    logs.cut_after(directory / logs.TRAIN_LOG, epochs_done)
    logs.cut_after(directory / logs.EVAL_LOG, epochs_done - 1)
    if _options_in(directory) != dict(options):
        checkpoints.write_json_options(directory / OPTIONS_FILE, options)


def warn_of_later(checkpoint: Path, epoch: int) -> None:
    """Warn if the run that goes on from a checkpoint of `epoch` came further: what it gives up."""
    latest = checkpoint.parent / checkpoints.LATEST
    try:
        if not latest.is_file() or latest.samefile(checkpoint):
            return
        later = checkpoints.read_training_checkpoint(latest)["epoch"]
    except CheckpointError:  # a damaged one may be why this one was named
        return
    if later > epoch:
        logger.warning(
            "%s is of epoch %d, but %s beside it of epoch %d (both from 0): what came after epoch %d is given up, its "
            "log lines too, and trained again; give %s with --resume to keep it",
            checkpoint.name,
            epoch,
            latest.name,
            later,
            epoch,
            latest,
        )


def _ended_before_a_checkpoint(directory: Path) -> bool:
    """Return whether a folder holds what a run of this trainer wrote in it before its first checkpoint, and no more."""
    names = [path.name for path in directory.iterdir()]
    if names == [f".{OPTIONS_FILE}.partial"]:
        return True
    if not all(_BEFORE_A_CHECKPOINT.fullmatch(name) for name in names):
        return False
    monitor = directory / MONITOR_FOLDER
    if not all(_wrote(monitor, path) for path in monitor.rglob("*") if path.is_symlink() or not path.is_dir()):
        return False
    # An options file alone may be somebody's only copy of an old run's: only one that names this very folder is a run's.
    named = (_options_in(directory) or {}).get("results_dir")
    return isinstance(named, str) and Path(named).resolve() == directory.resolve()


def _wrote(monitor: Path, path: Path) -> bool:
    """Return whether a file in the gate monitor's folder is the monitor's: its own, or one that an epoch's tree lists."""
    name = path.relative_to(monitor)
    if _OF_THE_MONITOR.fullmatch(name.as_posix()):
        return True
    epoch, *inside = name.parts
    listed = {RUN_CONFIG, *listed_files(monitor / epoch / RUN_CONFIG)}
    return bool(re.fullmatch(r"epoch_\d+", epoch)) and (inside[:1] == [PARTIAL] or "/".join(inside) in listed)


def _options_in(directory: Path) -> dict[str, Any] | None:
    """Return the options in a run's opt.json, None if there is none that can be read."""
    try:
        found = read_json(directory / OPTIONS_FILE)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _not_empty(directory: Path) -> RequestError:
    return RequestError(f"{directory} is not empty; name another --results_dir, or go on with its run by --resume")


def _unusable(directory: Path, why: str | None) -> RequestError:
    return RequestError(
        f"the run's folder {directory} cannot be used ({why}); name a folder that can be made and written with "
        "--results_dir or --results_root"
    )
