"""The one small hierarchy of errors that a command turns into a line on stderr and an exit status.

Every message names the thing, what was expected, and what to do next. Library code raises; only a
script's `main` catches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class RequestError(ValueError):
    """The request cannot be met as asked: a wrong flag, a missing file, an unusable checkpoint or data (exit 2)."""


class MissingFileError(RequestError, FileNotFoundError):
    """A file or folder that the request names is not there."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class CheckpointError(RequestError):
    """A checkpoint that is damaged, unsafe, incomplete, ambiguous, or of another architecture."""


class DataError(RequestError):
    """Annotations or features that cannot be used with this model."""


class RunError(RuntimeError):
    """The request was right, but the run failed on the way (exit 1)."""


_NAME_SHOWN = 500  # a path, or a sentence on a line of annotations; a damaged key may have thousands


def first_few(names: Sequence[object], shown: int = 3) -> str:
    """Return the first few of `names` for a message, `", ..."` standing for the rest; a very long one is cut."""
    texts = [str(name) for name in names[:shown]]
    listed = ", ".join(text if len(text) <= _NAME_SHOWN else text[:_NAME_SHOWN] + "..." for text in texts)
    return f"{listed}, ..." if len(names) > shown else listed


def check_checkpoint_is_there(path: Path) -> None:
    """Raise what is wrong with a checkpoint's path; here, so that a command can say it before it loads torch.

    Raises:
        MissingFileError: nothing is there. CheckpointError: a folder, or an empty file.
    """
    if not path.exists():
        raise MissingFileError(f"no checkpoint {path}; give the path of a .ckpt or .pth file with --model_path")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; give the path of a .ckpt or .pth file with --model_path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); copy the checkpoint again")
