"""What a command is called and how it ends: its exit status, and one line on stderr where it could not do what was asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from qd_detr.gates.errors import RequestError, RunError


def exit_status(work: Callable[[], int | None], *, interrupted: str = "interrupted") -> int:
    """Do a command's work and return its exit status: work's own (None is 0), or that of what stopped it.

    2 the request was wrong (RequestError), 1 the run failed (RunError, or the system refused a file), 130 Ctrl-C.

    Args:
        interrupted: what to say after Ctrl-C.
    """
    try:
        return work() or 0
    except RequestError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"failed: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def program(in_checkout: str) -> str:
    """Return what a command calls itself: the name it was installed under, else how it is called in a checkout."""
    called = Path(sys.argv[0]).stem
    return called if called.startswith("qd-detr-gates") else in_checkout


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
