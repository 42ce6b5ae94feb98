"""Damage through whole commands, their results compared with those of the same command without it.

A command is called as a user calls it. After each one: it ended with 0, 1 or 2; a refusal is one line; nothing on the
terminal steers it; nothing below the bench but the command's own output has changed; and where it was accepted, the
numbers are those of the undamaged input, unless the input itself says something else (read by Python's own parsers).
"""

from __future__ import annotations

import io
import json
import logging
import os
import random
import re
import shutil
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from qd_detr.gates.commands.analyse import execution
from qd_detr.gates.runs.journal import RunJournal
from run_gate_analysis import main as analyse
from tests.tiny_run import TinyRun, make_tiny_run

QUICK = ("--no_figures", "--no_effects", "--no_explorer")
NUMBERS = ("predictions.jsonl", "overall_statistics.json", "samples.csv", "metrics.json", "alignment.json")
_STEERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_MARKS = "\u200e\u200f\u061c\u2028\u2029"


class Wrong(AssertionError):
    """What a command must never do."""


@dataclass
class Outcome:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass
class Workplace:
    """A folder with inputs, a place for results, and neighbours that nobody may touch.

    `inputs/` are the model and its data, `out/` what commands write, `outside/` somebody's files, `cwd/` where commands
    run, `tmp/` their temporary files.
    """

    folder: Path
    tiny: TinyRun
    spare: dict[Path, tuple[bytes, int]] = field(default_factory=dict)
    made: list[Path] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> Workplace:
        """Lay everything out."""
        place = cls(folder, make_tiny_run(folder / "inputs", n_queries=3))
        for name in ("outside", "cwd", "tmp"):
            (folder / name).mkdir()
        (folder / "outside" / "precious.txt").write_text("precious " * 9)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            assert analyse(place.argv()) == 0  # what libraries write for themselves when they are loaded is no fault
        place.tidy()
        return place

    @property
    def out(self) -> Path:
        """Where commands write."""
        return self.folder / "out"

    @property
    def precious(self) -> Path:
        """A file of somebody's."""
        return self.folder / "outside" / "precious.txt"

    def put(self, path: Path, content: bytes) -> Path:
        """Write an input until the next `tidy`."""
        if b"\0" in os.fsencode(path):  # a name that no file can have is refused before it is remembered
            raise ValueError("embedded null byte")
        if path in self.made:
            pass
        elif path.exists() and not path.is_symlink():
            self.spare.setdefault(path, (path.read_bytes(), path.stat().st_mtime_ns))
        else:
            self.made.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def tidy(self) -> None:
        """Put every input back as it was, and take the results away."""
        shutil.rmtree(self.out, ignore_errors=True)
        for path in self.made:
            take_away(path)
        for path, (content, written_ns) in self.spare.items():
            take_away(path)
            path.write_bytes(content)
            os.utime(path, ns=(written_ns, written_ns))  # a run is only gone on with if its features are as old as then
        self.made.clear()
        self.spare.clear()

    def call(
        self, main: Callable[[Sequence[str]], int], argv: Sequence[object], ends: tuple[int, ...] = (0,)
    ) -> Outcome:
        """Call a command as its user does, and look at all it must not do; `ends` are its statuses of work done."""
        before = self._state()
        out, err = io.StringIO(), io.StringIO()
        root = logging.getLogger()
        handlers, root.handlers = root.handlers, []
        try:
            with (
                warnings.catch_warnings(record=True) as warned,
                redirect_stdout(out),
                redirect_stderr(err),
                self._inside(),
            ):
                warnings.simplefilter("always")
                try:
                    status = main([str(one) for one in argv])
                except SystemExit as stop:
                    status = int(stop.code or 0)
        finally:
            root.handlers = handlers
        outcome = Outcome(status, out.getvalue(), err.getvalue())
        self._look(outcome, before, [str(one.message) for one in warned], ends)
        return outcome

    @contextmanager
    def _inside(self) -> Iterator[None]:
        here, temporary = os.getcwd(), tempfile.tempdir
        os.chdir(self.folder / "cwd")
        tempfile.tempdir = str(self.folder / "tmp")
        try:
            yield
        finally:
            os.chdir(here)
            tempfile.tempdir = temporary

    def _look(self, outcome: Outcome, before: dict[str, Any], warned: list[str], ends: tuple[int, ...]) -> None:
        said = outcome.out + outcome.err
        if outcome.status not in (0, 1, 2):
            raise Wrong(f"exit status {outcome.status}: {said[-300:]}")
        steering = {
            char
            for char in said
            if (unicodedata.category(char) == "Cc" and char not in "\n\t")
            or unicodedata.bidirectional(char) in _STEERING
            or char in _MARKS
        }
        if steering:
            raise Wrong(f"control characters on the terminal: {sorted(steering)} in {said[-300:]!r}")
        lines = [line for line in outcome.err.splitlines() if line.startswith(("error: ", "failed: "))]
        if outcome.status not in ends and (len(lines) != 1 or not outcome.err.endswith(lines[0] + "\n")):
            raise Wrong(f"a refusal of {len(lines)} lines: {outcome.err[-600:]!r}")
        if lines and len(lines[0]) > 4000:
            raise Wrong(f"a message of {len(lines[0])} characters: {lines[0][:200]}")
        if "Traceback" in outcome.err or warned:
            raise Wrong(f"a traceback or a warning of Python's: {outcome.err[-600:]} {warned[:2]}")
        changed = {name for name, state in self._state().items() ^ before.items()}
        if changed:
            raise Wrong(f"changed outside the results: {sorted(changed)[:5]}")

    def _state(self) -> dict[str, Any]:
        """Return what every place but the results is: its kind, its size, when it was written, how many names it has."""
        found: dict[str, Any] = {}
        waiting = [str(self.folder)]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.path == str(self.out):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        found[entry.path] = status.st_mode
                    else:
                        # A link made in the results to a file here changes its time of change alone, so that is left out.
                        found[entry.path] = (status.st_mode, status.st_size, status.st_mtime_ns)
        return found

    def argv(self, *more: object) -> list[str]:
        """Return the flags of the main job, quick and quiet."""
        return [*self.tiny.argv(*QUICK, output=self.out), *map(str, more)]

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what was made under a key before, or make it now."""
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def baseline(self, *more: object) -> dict[str, bytes]:
        """Return the files of the undamaged job."""

        def run() -> dict[str, bytes]:
            self.tidy()
            outcome = self.call(analyse, self.argv(*more))
            assert outcome.status == 0, outcome.err
            found = tree(self.out)
            self.tidy()
            return found

        return dict(self.once(f"baseline {more}", run))


def tree(out: Path) -> dict[str, bytes]:
    """Return the files of a results tree but for run_config.json, which has times."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != "run_config.json"
    }


def same_numbers(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Raise Wrong if the numbers of two trees are not the same."""
    differing = [name for name in NUMBERS if found.get(name) != expected.get(name)]
    if differing:
        raise Wrong(f"accepted with other numbers: {differing}")


def close_numbers(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Raise Wrong if two trees differ by more than rounding: tensors laid out otherwise in memory round otherwise."""
    for name in ("predictions.jsonl", "overall_statistics.json"):
        texts = [re.split(r"(-?\d+\.\d+(?:e-?\d+)?)", files[name].decode()) for files in (found, expected)]
        numbers = [np.array(text[1::2], float) for text in texts]
        if texts[0][::2] != texts[1][::2] or not np.allclose(*numbers, rtol=1e-4, atol=2e-4):
            raise Wrong(f"accepted with other numbers: {name}")


def same_tree(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Raise Wrong if two trees are not the same, byte for byte."""
    differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if differing:
        raise Wrong(f"accepted with another tree: {differing[:5]}")


def unfinished(place: Workplace, flags: Sequence[object], last: bool) -> Path:
    """Return a copy of `.partial` of a run that was interrupted: after two of its three batches, or when all was done."""

    def interrupting(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    def make() -> Path:
        place.tidy()
        commit, done = RunJournal.commit, 0

        def after_two(*args: Any) -> None:
            nonlocal done
            if done == 2:
                raise KeyboardInterrupt
            done += 1
            commit(*args)

        patch = (
            mock.patch.object(execution, "write_run", interrupting)
            if last
            else mock.patch.object(RunJournal, "commit", staticmethod(after_two))
        )
        with patch, redirect_stderr(io.StringIO()):
            assert analyse([str(one) for one in place.argv(*flags)]) == 130
        kept = place.folder / f"unfinished {last}"
        shutil.copytree(place.out / ".partial", kept)
        place.tidy()
        return kept

    return Path(place.once(f"unfinished {last}", make))


def take_away(path: Path) -> None:
    """Remove whatever is at a path, if there is something."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def obstacle(rng: random.Random, place: Workplace, target: Path) -> str:
    """Put something into the place of a file: a link, a second name of a file, a pipe, a folder; return what."""
    kind = rng.choice(_OBSTACLES)
    take_away(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link to a file":
        target.symlink_to(place.precious)
    elif kind == "link to a folder":
        target.symlink_to(place.precious.parent)
    elif kind == "relative link":
        target.symlink_to(os.path.relpath(place.precious, target.parent))
    elif kind == "link to nothing":
        target.symlink_to(place.precious.parent / "nothing")
    elif kind == "link to itself":
        target.symlink_to(target.name)
    elif kind == "hard link":
        os.link(place.precious, target)
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            here = os.getcwd()
            os.chdir(target.parent)  # the path of a socket may have 107 bytes
            try:
                one.bind(target.name[:100])
            finally:
                os.chdir(here)
    elif kind == "folder":
        target.mkdir()
    elif kind == "folder with a file":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    elif kind == "unreadable":
        target.write_text("x")
        target.chmod(0)
    elif kind == "sparse file":
        with target.open("wb") as file:
            file.truncate(1 << 40)
    else:
        target.write_bytes(b"\xff\x00" * 9)
    return kind


_OBSTACLES = (
    *("link to a file", "link to a folder", "relative link", "link to nothing", "link to itself"),
    *("hard link", "hard link", "pipe", "pipe", "socket", "folder", "folder with a file", "unreadable"),
    *("sparse file", "other bytes"),
)


def json_of(content: bytes) -> Any:
    """Return what Python's own parser makes of JSON, or of JSON lines; `Wrong` itself where it makes nothing of it."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        try:
            return json.loads(text)
        except ValueError:
            return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError):
        return Wrong
