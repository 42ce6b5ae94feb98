"""Questions and answers on a terminal: back, quit, Ctrl-C and Ctrl-D at every one of them, paths completed with Tab."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from qd_detr.gates.wording import Texts, display_width, padded, wrapped

readline: ModuleType | None
try:
    import readline
except ImportError:  # Windows: no completion there
    readline = None

_BACK, _QUIT = ("b", "back", "뒤로"), ("q", "quit", "끝")


class Back(Exception):
    """The user wants the question before this one."""


class Leave(Exception):
    """The user ends the guide; `status` is its exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class Terminal:
    """Speaks one language, in lines of the terminal's width."""

    texts: Texts
    read: Callable[[str], str] = input
    write: Callable[[str], object] = print

    @property
    def completes_paths(self) -> bool:
        """Whether Tab completes paths here."""
        return readline is not None

    @property
    def width(self) -> int:
        """Columns to fill."""
        return max(40, min(shutil.get_terminal_size((100, 24)).columns, 100))

    def say(self, key: str, indent: str = "", **values: object) -> None:
        """Show a text."""
        self.write(wrapped(indent + self.texts(key, **values), self.width, indent))

    def gap(self) -> None:
        """Show an empty line."""
        self.write("")

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Show numbered rows, their columns aligned whatever the width of the characters in them."""
        widths = [max(display_width(row[column]) for row in rows) for column in range(len(rows[0]))]
        digits = len(str(len(rows)))
        for number, row in enumerate(rows, start=1):
            cells = "  ".join(padded(cell, width) for cell, width in zip(row, widths, strict=True))
            self.write(f"  {number:>{digits}}) {cells}".rstrip())

    def ask(self, key: str, default: str = "", **values: object) -> str:
        """Return an answer, `default` for an empty one if there is a default.

        Raises:
            Back, Leave: the user said so, or pressed Ctrl-C or Ctrl-D.
        """
        while True:
            try:
                answer = self.read(f"{self.texts(key, **values)}: ").strip()
            except EOFError:
                self.gap()
                raise Leave(0) from None
            except KeyboardInterrupt:
                self.gap()
                raise Leave(130) from None
            if answer.lower() in _BACK:
                raise Back
            if answer.lower() in _QUIT:
                raise Leave(0)
            if answer or default:
                return answer or default

    def ask_path(self, key: str, default: str = "", **values: object) -> str:
        """Return an answer that may be a path, `~` expanded; quotes around it, as a shell would need, are taken off."""
        with _path_completion():
            answer = self.ask(key, default, **values)
        if len(answer) > 1 and answer[0] == answer[-1] and answer[0] in "'\"":
            answer = answer[1:-1]
        return os.path.expanduser(answer)

    def choose_path(self, key: str, offered: Sequence[Path]) -> Path:
        """Return one of the offered paths by its number, or another that is there."""
        while True:
            # The only one offered is the suggestion; among several there is none.
            default = "1" if len(offered) == 1 else ""
            answer = self.ask_path(key, default)
            if answer.isdecimal() and 1 <= int(answer) <= len(offered):
                return offered[int(answer) - 1]
            if os.path.exists(answer):
                return Path(answer)
            if offered:
                self.say("not_a_number", answer=answer, count=len(offered))
            else:
                self.say("no_such_path", answer=answer)

    def agree(self, key: str) -> bool:
        """Return whether the user says yes; Enter is yes."""
        while True:
            answer = self.ask(key, "y").lower()
            if answer in ("y", "yes", "ㅛ", "예", "네"):
                return True
            if answer in ("n", "no", "ㅜ", "아니오", "아니요"):
                return False
            self.say("yes_or_no")


@contextmanager
def _path_completion() -> Iterator[None]:
    """Complete paths with Tab while a path is asked for; other questions have no use for it."""
    if readline is None:
        yield
        return
    completer, delimiters = readline.get_completer(), readline.get_completer_delims()
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    readline.set_completer_delims("\t\n")  # a path may hold spaces
    readline.set_completer(_completion)
    try:
        yield
    finally:
        readline.set_completer(completer)
        readline.set_completer_delims(delimiters)


def _completion(typed: str, state: int) -> str | None:
    found = completions(typed)
    return found[state] if state < len(found) else None


def completions(typed: str) -> list[str]:
    """Return the paths that begin as typed, folders with a slash behind."""
    pattern = glob.escape(os.path.expanduser(typed)) + "*"
    return [path + os.sep if os.path.isdir(path) else path for path in sorted(glob.glob(pattern))]
