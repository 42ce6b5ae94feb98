"""How a command reads its flags, what it is called, how it speaks, how far it says it is, and how it ends.

A command ends with an exit status, and one line on stderr where it could not do what was asked. A console that cannot
show a character, a reader that went away and a stream that was never open do not stop it.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.wording import for_terminal

T = TypeVar("T")

PROGRESS_FIRST_LINE_S, PROGRESS_LINE_EVERY_S = 5.0, 30.0  # where stderr goes to a file


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the flag that was probably meant."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the parsed flags; a mistake ends the program with status 2."""
        prepare_streams()
        given = list(sys.argv[1:] if args is None else args)
        for flag in (str(one).partition("=")[0] for one in given[: given.index("--") if "--" in given else None]):
            if flag.startswith("--") and len(flag) > 2 and not self._knows(flag):
                near = self._nearest(flag)
                self.error(f"unknown flag {flag}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return super().parse_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """End the program with status 2 and one line on stderr."""
        if message.startswith("unrecognized arguments"):
            message += "; every value goes with a flag"
        say(f"error: {_one_line(message)} (see {self.prog} --help)", sys.stderr)
        sys.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            say(message.removesuffix("\n"), file or sys.stderr)

    def _knows(self, flag: str) -> bool:
        known = self._option_string_actions
        return flag in known or (self.allow_abbrev and any(name.startswith(flag) for name in known))

    def _nearest(self, flag: str) -> list[str]:
        flag = flag.replace("-", "_").replace("__", "--", 1)
        names = [name for name in self._option_string_actions if name.startswith("--")]
        longer = [name for name in names if name.startswith(flag)]
        return longer[:3] or difflib.get_close_matches(flag, names, n=1)


def prepare_streams() -> None:
    """Let stdout and stderr take any text: replaced where the console cannot show it, dropped where they are closed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get this number, and what is written to it
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the rest of the process
        elif getattr(getattr(sys, name), "errors", "") == "strict" and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")


def say(text: str, file: IO[str] | None = None, end: str = "\n") -> None:
    """Print text; what it holds of elsewhere cannot steer the terminal, and nobody needs to read it."""
    stream = sys.stdout if file is None else file
    try:
        print(for_terminal(text), file=stream, end=end, flush=True)
    except BrokenPipeError:  # `... | head`: the work is done all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_END_OF_A_TEXT = 1500


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line for the terminal."""
        return _both_ends(for_terminal(super().format(record)))


def log_to_stderr(level: int = logging.WARNING) -> None:
    """Send log records of this level and above to stderr, unless the program has a place for them already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_SafeFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.raiseExceptions = False  # a closed stderr would be told on stderr


def exit_status(work: Callable[[], int | None], *, interrupted: str = "interrupted") -> int:
    """Do a command's work and return its exit status: work's own (None is 0), or that of what stopped it.

    2 the request was wrong (RequestError), 1 the run failed (RunError, or the system refused a file), 130 Ctrl-C.

    Args:
        interrupted: what to say after Ctrl-C.
    """
    try:
        return work() or 0
    except RequestError as error:
        say(f"error: {_one_line(error)}", sys.stderr)
        return 2
    except (RunError, OSError) as error:
        say(f"failed: {_one_line(error)}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        say(interrupted, sys.stderr)
        return 130


@contextmanager
def progress(
    total: int, what: str, unit: str, *, quiet: bool = False, done: int = 0, brief: bool = False
) -> Iterator[Callable[..., object]]:
    """Show how far something has come; the function yielded takes how many more are done (1 if not given).

    On a terminal it is a bar. Elsewhere a line names the phase, another one soon after says how long it will take, and
    more follow now and then.

    Args:
        what: the phase, as the line begins. done: how many were done before, of an earlier run. brief: it is often over
            at once, and then nothing is shown.
    """
    if quiet or sys.stderr is None:
        yield lambda more=1: None
    elif sys.stderr.isatty():
        from tqdm import tqdm  # not for --help

        with tqdm(total=total, initial=done, desc=what, unit=unit, file=sys.stderr, delay=float(brief)) as bar:
            yield bar.update
    else:
        if not brief:
            say(f"{what}: {done} of {total} {unit}s", sys.stderr)
        yield _Lines(total, what, unit, done).update


class _Lines:
    def __init__(self, total: int, what: str, unit: str, done: int) -> None:
        self._total, self._what, self._unit, self._done = total, what, unit, done
        self._first, self._began = done, time.monotonic()
        self._next = self._began + PROGRESS_FIRST_LINE_S

    def update(self, more: int = 1) -> None:
        """Count, and print a line if the last one was some time ago."""
        self._done += more
        now = time.monotonic()
        if now < self._next or self._done <= self._first:
            return
        self._next = now + PROGRESS_LINE_EVERY_S
        left_s = (now - self._began) / (self._done - self._first) * (self._total - self._done)
        left = f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"
        say(f"{self._what}: {self._done} of {self._total} {self._unit}s, about {left} left", sys.stderr)


def check_not_swapped(model_path: Path, data_path: Path | None) -> None:
    """Raise RequestError if the checkpoint and the annotations were given in each other's place."""
    suffixes: Sequence[str] = (".ckpt", ".pth", ".pt")
    swapped = model_path.suffix in (".jsonl", ".json") and data_path is not None and data_path.suffix in suffixes
    if swapped:
        raise RequestError(
            f"--model_path {model_path} and --data_path {data_path} are swapped: the checkpoint goes with --model_path, "
            "the annotations with --data_path"
        )
    if data_path is not None and data_path.suffix in suffixes:
        raise RequestError(
            f"--data_path {data_path} is a checkpoint by its name; it takes the annotations, .jsonl or .json"
        )


def request_of(kind: type[T], args: argparse.Namespace, **more: Any) -> T:
    """Return a dataclass filled from the flags of its fields' names, lists as tuples; `more` are fields besides."""
    flags = {field.name: getattr(args, field.name) for field in fields(kind) if field.name in args}  # type: ignore[arg-type]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()} | more)


def program(in_checkout: str) -> str:
    """Return what a command calls itself: the name it was installed under, else how it is called in a checkout."""
    called = Path(sys.argv[0]).stem
    return called if called.startswith("qd-detr-gates") else in_checkout


def _one_line(error: object) -> str:
    """Return a message as one line for the terminal."""
    return _both_ends(for_terminal(" ".join(str(error).split())))


def _both_ends(text: str) -> str:
    """Return a text without the middle where a foreign name made it endless: what it is of, and the remedy, stay."""
    return text if len(text) <= 2 * _END_OF_A_TEXT else f"{text[:_END_OF_A_TEXT]} [...] {text[-_END_OF_A_TEXT:]}"
