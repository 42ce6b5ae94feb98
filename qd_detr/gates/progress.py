"""How far a long loop has come: a bar on a terminal, a line now and then where stderr goes to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from qd_detr.gates.command_line import say

LINE_EVERY_S = 30.0


@contextmanager
def progress(
    total: int, what: str, unit: str, *, quiet: bool = False, done: int = 0
) -> Iterator[Callable[..., object]]:
    """Show how far something has come; the function yielded takes how many more are done (1 if not given).

    Args:
        what: the phase, as the line begins. done: how many were done before, of an earlier run.
    """
    if quiet or sys.stderr is None:
        yield lambda more=1: None
    elif sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=what, unit=unit, file=sys.stderr) as bar:
            yield bar.update
    else:
        yield _Lines(total, what, unit, done).update


class _Lines:
    def __init__(self, total: int, what: str, unit: str, done: int) -> None:
        self._total, self._what, self._unit, self._done = total, what, unit, done
        self._first, self._began = done, time.monotonic()
        self._told = self._began

    def update(self, more: int = 1) -> None:
        """Count, and print a line if the last one was some time ago."""
        self._done += more
        now = time.monotonic()
        if now - self._told < LINE_EVERY_S or self._done <= self._first:
            return
        self._told = now
        left_s = (now - self._began) / (self._done - self._first) * (self._total - self._done)
        left = f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"
        say(f"{self._what}: {self._done} of {self._total} {self._unit}s, about {left} left", sys.stderr)
