"""A results folder that is either the old one, untouched, or the new one, whole.

Work in progress stays in `{output_dir}/.partial`: the files in `tree/`, what a killed run can be continued from in
`journal/`. Publishing moves the files into place, deletes those of the run before it (which that run's
run_config.json lists) and writes run_config.json last: a tree without it is unfinished. What is not ours is never
touched.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.files import (
    in_the_way,
    is_plain_file,
    is_plain_folder,
    obstacle_to_writing,
    open_plain,
    read_json,
    remove,
    take_lock,
    to_json,
    write_whole,
)

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
RUN_CONFIG = "run_config.json"
MANIFEST = "manifest.json"
SHARDS = "shards"
_PREVIOUS = "previous_run_config.json"
READ_BACK = ("overall_statistics.json", "samples.csv", "predictions.jsonl")
"""What `--compare_runs` reads of a tree; run_config.json keeps their sums."""
# What a results folder may hold besides figures of its own: files, and folders that hold nothing but files.
_FILES = (
    RUN_CONFIG,
    *("ANALYSIS_REPORT.md", "samples.csv", "predictions.jsonl", "overall_statistics.json"),
    *(
        "audit.json",
        "alignment.json",
        "metrics.json",
        "interventions.json",
        "audio_help.json",
        "audio_share.json",
        "planted.json",
    ),
    *("explorer.html", "timeline.json", "timeline.npz"),
    *("COMPARISON_REPORT.md", "comparison.json", "comparison.csv", "claims.tex", "claims_ko.tex"),
)
_FOLDERS = ("individual_samples", "raw_data", "figures", "comparisons", "custom")
_SUFFIXES = (".json", ".png", ".pdf", ".svg", ".npy")


class BusyError(RequestError):
    """Another process is writing to the folder right now."""


class ResultsTree:
    """Write-side of one results folder, as a context manager.

    Left by a RequestError, it removes what was begun, folders included. Left by anything else, the journal stays, so
    that the run can be continued with `resume=True`; without a journal everything is removed too.

    Attributes:
        record: the file that lists the others, written last. read_back: those whose sums it keeps; None for all.
    """

    record = RUN_CONFIG
    read_back: tuple[str, ...] | None = READ_BACK

    def __init__(self, output_dir: str | Path, *, resume: bool = False) -> None:
        self.output_dir = Path(output_dir)
        self.partial = self.output_dir / PARTIAL
        self.journal_dir = self.partial / "journal"
        self._tree = self.partial / "tree"
        self._pending_config = self.partial / self.record
        self._resume = resume
        self._made: list[Path] = []
        self._lock: int | None = None
        self._published = False

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
        for place in (self.partial, self.journal_dir, self._tree):
            if os.path.lexists(place) and not is_plain_folder(place):
                problem = problem or f"{place} is a link or no folder, and work in progress would be written elsewhere"
        for place in (self.partial / "lock", self._pending_config):
            if os.path.lexists(place) and not is_plain_file(place):
                problem = problem or f"{place} is not a plain file"
        problem = problem or obstacle_to_writing(self.output_dir) or self._obstacle_within()
        if problem:
            raise RequestError(f"results cannot be written to {self.output_dir}: {problem}; give another --output_dir")

    def _obstacle_within(self) -> str | None:
        """Return what stands where files of a tree go; found before a run, it costs no run."""
        found = in_the_way(self.output_dir, [*_FILES, *(f"{folder}/x" for folder in _FOLDERS)])
        if found is not None:
            return f"{found[0]} is in the way: {found[1]}; move it"
        for folder in filter(Path.is_dir, (self.output_dir / name for name in _FOLDERS)):
            if not os.access(folder, os.W_OK | os.X_OK):
                return f"no permission in {folder}"
            with os.scandir(folder) as places:
                for place in places:
                    if place.name.endswith(_SUFFIXES) and place.is_dir(follow_symlinks=False):
                        return f"{place.path} is in the way: it is a folder; move it"
        return None

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
                with _uninterrupted() as held:
                    self._finish_publishing()  # a run that died while publishing was whole
                if held:
                    raise KeyboardInterrupt
                self.partial.mkdir()
                self._take_lock()
            self._begin()
        except (OSError, RunError) as error:
            if not self._pending_config.exists():
                self._discard()
            self._release_lock()
            raise RequestError(
                f"results cannot be written to {self.output_dir}: {error}; give another --output_dir"
            ) from None
        except RequestError:
            if self._lock is not None:
                self._discard()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        if self._published:
            self._release_lock()
            return kind is KeyboardInterrupt  # it came when the results were complete: nothing was interrupted
        if kind is not None:
            # A refused --resume must not cost the unfinished run that it was about.
            worth_keeping = self._resume or not issubclass(kind, RequestError)
            kept = self._pending_config.exists() or (self.journal_dir.exists() and worth_keeping)
            if kept:
                if not self._pending_config.exists():
                    self._drop_tree()
                logger.warning("what was done is kept in %s; the same command with --resume continues it", self.partial)
            else:
                self._discard()
        self._release_lock()
        return False

    def _begin(self) -> None:
        """Remove what an earlier run left unfinished, but for the journal of one that is continued."""
        for place in [self._tree] if self._resume else [self._tree, self.journal_dir]:
            remove(place)
        self._tree.mkdir()

    def _drop_tree(self) -> None:
        remove(self._tree)

    def path(self, relative: str) -> Path:
        """Return where a file of the tree is to be written, its folder made.

        Raises:
            ValueError: the name leads out of the tree.
        """
        if not _stays_inside(relative):
            raise ValueError(f"{relative!r} is no name of a file in a results tree")
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
        summed = files if self.read_back is None else [name for name in files if name in self.read_back]
        sums = {name: sum_of(self._tree / name) for name in summed}
        text = to_json({**run_config, "files": files, **({"sha256": sums} if sums else {})})
        with _uninterrupted():  # a Ctrl-C that comes now finds the results complete
            write_whole(self._pending_config, text)  # from here on, publishing can be finished by a later run
            self._finish_publishing()
            self._published = True

    def _finish_publishing(self) -> None:
        files = listed_files(self._pending_config)
        self._check_places(files)
        current, previous = self.output_dir / self.record, self.partial / _PREVIOUS
        old = listed_files(current) | listed_files(previous)
        if current.exists():
            os.replace(current, previous)
        for name in sorted(files):
            if os.path.lexists(self._tree / name):
                target = self.output_dir / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self._tree / name, target)
        remove_files(self.output_dir, old - files)
        os.replace(self._pending_config, current)
        self._clear_partial()

    def _check_places(self, files: Iterable[str]) -> None:
        names = list(files)
        found = in_the_way(self.output_dir, [*names, self.record])
        if found is not None:
            raise RunError(f"{found[0]} is in the way: {found[1]}; move it, or give another --output_dir")
        for name in names:  # in a tree from elsewhere a link could stand for a file of somebody's
            if in_the_way(self._tree, [name]) or (
                os.path.lexists(self._tree / name) and not is_plain_file(self._tree / name)
            ):
                raise RunError(f"{self._tree / name} is not a plain file of an unfinished run; remove {self.partial}")

    def forget(self) -> None:
        """Leave the folder as it is: nothing is to be published."""
        self._clear_partial()

    def _take_lock(self) -> None:
        lock = open_plain(self.partial / "lock", os.O_WRONLY | os.O_CREAT, below=self.output_dir)
        if not take_lock(lock):
            os.close(lock)
            raise BusyError(
                f"another run is writing to {self.output_dir} right now; wait for it, or give another --output_dir"
            )
        self._lock = lock  # held for as long as the run lasts

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _discard(self) -> None:
        self._clear_partial()
        for folder in self._made:  # innermost first
            try:
                folder.rmdir()
            except OSError:
                break  # not there, or somebody put something into it

    def _clear_partial(self) -> None:
        """Remove what this tool keeps in `.partial`, the lock last, and the folder if nobody put anything else there."""
        if not is_plain_folder(self.partial):
            return self._release_lock()
        for name in ("tree", "journal", _PREVIOUS, self.record, f".{self.record}.partial", "run_config.begin"):
            remove(self.partial / name)
        self._release_lock()
        remove(self.partial / "lock")
        try:
            self.partial.rmdir()
        except OSError:
            logger.warning("%s holds files that are not this tool's; they are left there", self.partial)


class JournalTree(ResultsTree):
    """The folder of a shard of a run: what is published is the journal itself, with the sums of all its files."""

    record = MANIFEST
    read_back = None

    def __init__(self, output_dir: str | Path, *, resume: bool = False) -> None:
        super().__init__(output_dir, resume=resume)
        self._tree = self.journal_dir

    def _begin(self) -> None:
        if not self._resume:
            remove(self.journal_dir)
        self.journal_dir.mkdir(exist_ok=True)

    def _drop_tree(self) -> None:
        """Keep the journal."""


def sum_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _uninterrupted() -> Iterator[list[int]]:
    """Hold Ctrl-C back until the block is done: a few renames, after which the folder is whole again.

    Yield the list of the signals that were held back.
    """
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held  # signals go to the main thread
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)


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
