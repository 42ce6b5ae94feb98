"""A results folder that is either the old one, untouched, or the new one, whole.

Work in progress stays in `{output_dir}/.partial`. Publishing moves its files into place, deletes the files of the run
before it (those that run's run_config.json lists) and writes run_config.json last: a tree without it is unfinished.
What is not ours is never touched.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qd_detr.errors import RequestError, RunError

PARTIAL = ".partial"
RUN_CONFIG = "run_config.json"
_PREVIOUS = "previous_run_config.json"


class ResultsTree:
    """Write-side of one results folder.

    Use as a context manager: leaving it by an exception removes what was begun, folders included.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self.partial = self.output_dir / PARTIAL
        self._made: list[Path] = []

    def check(self) -> None:
        """Raise RequestError if a tree could not be written there; writes nothing."""
        existing = self.output_dir
        while not os.path.lexists(existing) and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise RequestError(
                f"results cannot be written to {self.output_dir}: {existing} is not a folder; "
                "give another folder with --output_dir"
            )
        if not os.access(existing, os.W_OK | os.X_OK):
            raise RequestError(
                f"results cannot be written to {self.output_dir}: no permission in {existing}; "
                "give another folder with --output_dir"
            )

    def __enter__(self) -> ResultsTree:
        self.check()
        missing = []
        folder = self.output_dir
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self._made = missing
            self._recover()
            self.partial.mkdir()
        except OSError as error:
            self._discard()
            raise RequestError(f"results cannot be written to {self.output_dir}: {error}; give another folder") from None
        return self

    def __exit__(self, exc_type: object, exc: object, tb: object) -> None:
        if exc_type is not None:
            self._discard()

    def path(self, relative: str) -> Path:
        """Return where a file of the tree is to be written, its folder made."""
        target = self.partial / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write_text(self, relative: str, text: str) -> None:
        """Write a text file of the tree, UTF-8 with plain newlines."""
        self.path(relative).write_text(text, encoding="utf-8", newline="\n")

    def write_json(self, relative: str, data: Any) -> None:
        """Write a JSON file of the tree; NaN and Inf are errors."""
        self.write_text(relative, to_json(data))

    def files(self) -> list[str]:
        """Return the tree's files so far, relative, sorted."""
        return sorted(p.relative_to(self.partial).as_posix() for p in self.partial.rglob("*") if p.is_file())

    def publish(self, run_config: dict[str, Any]) -> None:
        """Put the tree in place of the one before; `run_config` gains the list of files.

        Raises:
            RunError: a folder of the tree is a link or a file of somebody else's; nothing was moved then.
        """
        files = [name for name in self.files() if name not in (RUN_CONFIG, _PREVIOUS)]
        self._check_places(files)
        self.write_json(RUN_CONFIG, {**run_config, "files": files})  # from here on, publishing can be finished later
        self._finish_publishing()

    def _finish_publishing(self) -> None:
        files = _listed(self.partial / RUN_CONFIG)
        current, previous = self.output_dir / RUN_CONFIG, self.partial / _PREVIOUS
        old = _listed(current) | _listed(previous)
        if current.exists():
            os.replace(current, previous)
        for name in sorted(files):
            if (self.partial / name).exists():
                target = self.output_dir / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.partial / name, target)
        remove_files(self.output_dir, old - files)
        os.replace(self.partial / RUN_CONFIG, current)
        shutil.rmtree(self.partial)

    def _check_places(self, files: Iterable[str]) -> None:
        folders = {parent.as_posix() for name in files for parent in Path(name).parents} - {"."}
        for folder in sorted(folders):
            place = self.output_dir / folder
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise RunError(f"{place} is in the way: it is not a plain folder; move it, or give another --output_dir")
        for name in files:
            place = self.output_dir / name
            if place.is_dir() and not place.is_symlink():
                raise RunError(f"{place} is in the way: it is a folder; move it, or give another --output_dir")

    def _recover(self) -> None:
        """Clear what an interrupted run left; one that died while publishing is published first."""
        if (self.partial / RUN_CONFIG).exists():
            self._finish_publishing()
        elif self.partial.exists():
            shutil.rmtree(self.partial)

    def _discard(self) -> None:
        if (self.partial / RUN_CONFIG).exists():
            return  # publishing had begun; the next run finishes it
        shutil.rmtree(self.partial, ignore_errors=True)
        for folder in self._made:  # innermost first
            try:
                folder.rmdir()
            except OSError:
                break  # not there, or somebody put something into it


def to_json(data: Any) -> str:
    """Return JSON text, indented, with one newline at the end; the same data gives the same bytes."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def remove_files(root: Path, names: Iterable[str]) -> None:
    """Remove files below `root` by relative name, and folders that this leaves empty."""
    folders = set()
    for name in names:
        target = root / name
        target.unlink(missing_ok=True)
        folders |= {root / parent for parent in Path(name).parents if parent != Path(".")}
    for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
        try:
            folder.rmdir()
        except OSError:
            continue  # not empty, or gone already


def _listed(run_config: Path) -> set[str]:
    """Return the files a run_config.json lists, those only that stay inside the tree."""
    try:
        files = json.loads(run_config.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    if not isinstance(files, list):
        return set()
    return {
        name
        for name in files
        if isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
    }
