"""A results folder that is either the old one, untouched, or the new one, whole.

Work in progress stays in `{output_dir}/.partial`: the files in `tree/`, what a killed run can be continued from in
`journal/`. Publishing moves the files into place, deletes those of the run before it (which that run's
run_config.json lists) and writes run_config.json last: a tree without it is unfinished. What is not ours is never
touched.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.json_text import read_json

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
RUN_CONFIG = "run_config.json"
_PREVIOUS = "previous_run_config.json"


def obstacle_to_writing(directory: Path) -> str | None:
    """Return why a folder, which need not be there yet, could not be written to; None if it could. Writes nothing."""
    existing = directory
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"no permission in {existing}"


class ResultsTree:
    """Write-side of one results folder, as a context manager.

    Left by a RequestError, it removes what was begun, folders included. Left by anything else, the journal stays, so
    that the run can be continued with `resume=True`; without a journal everything is removed too.
    """

    def __init__(self, output_dir: str | Path, *, resume: bool = False) -> None:
        self.output_dir = Path(output_dir)
        self.partial = self.output_dir / PARTIAL
        self.journal_dir = self.partial / "journal"
        self._tree = self.partial / "tree"
        self._pending_config = self.partial / RUN_CONFIG
        self._resume = resume
        self._made: list[Path] = []
        self._lock: IO[str] | None = None

    def check(self) -> None:
        """Raise RequestError if a tree could not be written there; writes nothing."""
        problem = None
        try:
            os.lstat(self.output_dir)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:  # a name too long, a loop of links
            raise RequestError(
                f"results cannot be written to {self.output_dir}: {error.strerror}; give another --output_dir"
            ) from None
        if os.path.islink(self.partial) or os.path.islink(self.journal_dir):
            problem = f"{self.partial} or its journal is a link, and work in progress would be written elsewhere"
        else:
            problem = obstacle_to_writing(self.output_dir)
        if problem:
            raise RequestError(f"results cannot be written to {self.output_dir}: {problem}; give another --output_dir")

    def __enter__(self) -> ResultsTree:
        self.check()
        folder = self.output_dir
        while not folder.exists():
            self._made.append(folder)
            folder = folder.parent
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if self._pending_config.exists():
                with _uninterrupted():
                    self._finish_publishing()  # a run that died while publishing was whole
                self.partial.mkdir()
                self._take_lock()
            self._clear(self._tree, *([] if self._resume else [self.journal_dir]))
            self._tree.mkdir()
        except OSError as error:
            self._discard()
            raise RequestError(
                f"results cannot be written to {self.output_dir}: {error}; give another --output_dir"
            ) from None
        except RequestError:
            if self._lock is not None:
                self._discard()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            # A refused --resume must not cost the unfinished run that it was about.
            worth_keeping = self._resume or not issubclass(kind, RequestError)
            kept = self._pending_config.exists() or (self.journal_dir.exists() and worth_keeping)
            if kept:
                self._clear(self._tree if not self._pending_config.exists() else None)
                logger.warning("what was done is kept in %s; the same command with --resume continues it", self.partial)
            else:
                self._discard()
        self._release_lock()

    def path(self, relative: str) -> Path:
        """Return where a file of the tree is to be written, its folder made."""
        target = self._tree / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write_text(self, relative: str, text: str) -> None:
        """Write a text file of the tree, UTF-8 with plain newlines."""
        # A lone surrogate, which JSON allows in an id, has no UTF-8; its escape is JSON for the very same id.
        self.path(relative).write_bytes(text.encode("utf-8", "backslashreplace"))

    def write_json(self, relative: str, data: Any) -> None:
        """Write a JSON file of the tree; NaN and Inf are errors."""
        self.write_text(relative, to_json(data))

    def files(self) -> list[str]:
        """Return the tree's files so far, relative, sorted."""
        return sorted(p.relative_to(self._tree).as_posix() for p in self._tree.rglob("*") if p.is_file())

    def publish(self, run_config: dict[str, Any]) -> None:
        """Put the tree in place of the one before; `run_config` gains the list of files.

        Raises:
            RunError: a folder or file of somebody else's is in the way; nothing was moved then.
        """
        files = self.files()
        self._check_places(files)
        text = to_json({**run_config, "files": files})
        beginning = self.partial / "run_config.begin"
        beginning.write_text(text, encoding="utf-8", newline="\n")
        with _uninterrupted():
            os.replace(beginning, self._pending_config)  # from here on, publishing can be finished by a later run
            self._finish_publishing()

    def _finish_publishing(self) -> None:
        files = listed_files(self._pending_config)
        current, previous = self.output_dir / RUN_CONFIG, self.partial / _PREVIOUS
        old = listed_files(current) | listed_files(previous)
        if current.exists():
            os.replace(current, previous)
        for name in sorted(files):
            if (self._tree / name).exists():
                target = self.output_dir / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self._tree / name, target)
        remove_files(self.output_dir, old - files)
        os.replace(self._pending_config, current)
        self._clear(self._tree, self.journal_dir, previous)
        self._release_lock()
        self._clear(self.partial)

    def _check_places(self, files: Iterable[str]) -> None:
        names = list(files)
        folders = {parent.as_posix() for name in names for parent in Path(name).parents} - {"."}
        for folder in sorted(folders):
            place = self.output_dir / folder
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise RunError(f"{place} is in the way: not a plain folder; move it, or give another --output_dir")
        for name in [*names, RUN_CONFIG]:
            place = self.output_dir / name
            if place.is_dir() and not place.is_symlink():
                raise RunError(f"{place} is in the way: it is a folder; move it, or give another --output_dir")

    def _take_lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows: two runs into one folder are not told apart there
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
        lock = os.fdopen(os.open(self.partial / "lock", flags, 0o666), "w")  # held for as long as the run lasts
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise RequestError(
                f"another run is writing to {self.output_dir} right now; wait for it, or give another --output_dir"
            ) from None
        self._lock = lock

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _discard(self) -> None:
        self._release_lock()
        self._clear(self.partial)
        for folder in self._made:  # innermost first
            try:
                folder.rmdir()
            except OSError:
                break  # not there, or somebody put something into it

    @staticmethod
    def _clear(*places: Path | None) -> None:
        for place in places:
            if place is None:
                continue
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done: a few renames, after which the folder is whole again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def to_json(data: Any) -> str:
    """Return JSON text, indented, with one newline at the end; the same data gives the same bytes."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def remove_files(root: Path, names: Iterable[str]) -> None:
    """Remove files below `root` by relative name, and folders that this leaves empty; links are not followed."""
    folders = set()
    for name in names:
        parents = [root / parent for parent in Path(name).parents if parent != Path(".")]
        if any(parent.is_symlink() for parent in parents):
            continue
        target = root / name
        if target.is_symlink() or not target.is_dir():
            target.unlink(missing_ok=True)
        folders |= set(parents)
    for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
        try:
            folder.rmdir()
        except OSError:
            continue  # not empty, or gone already


def listed_files(run_config: Path) -> set[str]:
    """Return the files a run_config.json lists, those only that stay inside the tree; none if it cannot be read."""
    try:
        files = read_json(run_config)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    if not isinstance(files, list):
        return set()
    return {name for name in files if isinstance(name, str) and _stays_inside(name)}


def _stays_inside(name: str) -> bool:
    path = Path(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or path.parts[0] == PARTIAL or "\0" in name:
        return False
    try:  # no file of ours has a name that a file system refuses
        return max(len(part.encode("utf-8")) for part in path.parts) <= 255 and len(name) < 1000
    except UnicodeEncodeError:
        return False
