"""Files: JSON that anyone may have written, files written whole or not at all, locks, and folders from elsewhere.

Below a folder that the user named nothing is trusted: a results tree may have been unpacked from an archive. A link, a
pipe or a second name of somebody's file there is never opened, followed or written through.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

JSON_BYTES_MAX = 64 << 20
JSON_DEPTH_MAX = 100
TEXT_BYTES_MAX = 1 << 30
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a pipe that nobody writes to would wait for ever


class NotPlainError(OSError):
    """A link, a pipe, a device, a folder or a file with a second name stands where a plain file is expected."""

    def __init__(self, path: Path, what: str = "not a plain file") -> None:
        super().__init__(f"{path} is {what}")
        self.strerror = str(self)


def parse_json(text: str | bytes) -> Any:
    """Return the parsed JSON.

    Raises:
        ValueError: not JSON, nested deeper than JSON_DEPTH_MAX, a number of thousands of digits, or an object that has a
            key twice: whoever wrote it meant one of the two values, and nothing tells which.
    """
    try:
        data = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # What was parsed at the edge of the interpreter's stack could not even be shown in a message.
    brackets = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, brackets)) > JSON_DEPTH_MAX and _deeper_than(data, JSON_DEPTH_MAX):  # type: ignore[arg-type]
        raise ValueError("nested too deeply")
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {shown_short(twice)} is there twice")
    return found


def read_json(path: Path, schema: Any = None) -> Any:
    """Return what a JSON file holds; a byte-order mark is let through.

    Args:
        schema: what it must hold, see `fault_in`; None for anything.

    Raises:
        OSError: it cannot be read. ValueError: not a plain file, over JSON_BYTES_MAX, not UTF-8, not of this schema, or
            as `parse_json`.
    """
    data = parse_json(read_text(path, JSON_BYTES_MAX))
    if schema is not None and (fault := fault_in(data, schema)):
        raise ValueError(fault)
    return data


def read_text(path: Path, most: int = TEXT_BYTES_MAX) -> str:
    """Return a text file, UTF-8; a byte-order mark is let through.

    Raises:
        OSError: it cannot be read. ValueError: not a plain file, over `most` bytes, or not UTF-8.
    """
    file = os.open(path, os.O_RDONLY | _NO_WAIT | getattr(os, "O_BINARY", 0))
    with open(file, "rb") as stream:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a plain file")  # a pipe or a device may never end
        if status.st_size > most:
            raise ValueError(f"larger than {most >> 20} MiB")
        return stream.read(most + 1).decode("utf-8-sig")


def to_json(data: Any) -> str:
    """Return JSON text, indented, with one newline at the end; the same data gives the same bytes."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def fault_in(data: Any, schema: Any, where: str = "") -> str | None:
    """Return the first way in which parsed JSON is not of a schema, None if it is.

    A schema is a type or a tuple of types (a bool is no int), a function from a value to bool, a list of one schema (a
    list of such), or a dict of schemas by key; a key that ends in "?" need not be there, and others are let through.
    """
    if isinstance(schema, dict):
        if not isinstance(data, dict):
            return f"{where or 'it'} is no object"
        for key, inner in schema.items():
            name = key.removesuffix("?")
            if name in data:
                if fault := fault_in(data[name], inner, f"{where}.{name}" if where else name):
                    return fault
            elif name == key:
                return f"{where + '.' if where else ''}{name} is missing"
        return None
    if isinstance(schema, list):
        if not isinstance(data, list):
            return f"{where or 'it'} is no list"
        faults = (fault_in(item, schema[0], f"{where}[{i}]") for i, item in enumerate(data))
        return next((fault for fault in faults if fault), None)
    if isinstance(schema, (type, tuple)):
        kinds = schema if isinstance(schema, tuple) else (schema,)
        good = isinstance(data, kinds) and (not isinstance(data, bool) or bool in kinds)
    else:
        good = bool(schema(data))
    return None if good else f"{where or 'it'} is {shown_short(data)}"


def shown_short(value: Any, most: int = 40) -> str:
    """Return JSON data as text for a message, at most `most` characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else text[: most - 3] + "..."


def natural(value: Any) -> bool:
    """Return whether parsed JSON is a whole number from 0 up that fits 63 bits: a count or a place in a file."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def is_plain_file(path: Path) -> bool:
    """Return whether a path is a regular file under one name: no link, no pipe, no hard link to somebody's file."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def is_plain_folder(path: Path) -> bool:
    """Return whether a path is a folder itself, not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def open_plain(path: Path, flags: int, *, below: Path, mode: int = 0o666) -> int:
    """Open a plain file without following a link below the folder `below`, nor waiting for a pipe.

    Raises:
        NotPlainError: no regular file, or one with a second name, which is somebody's. OSError: it cannot be opened.
    """
    *folders, name = path.relative_to(below).parts
    flags |= _NO_FOLLOW | _NO_WAIT | getattr(os, "O_BINARY", 0)
    try:
        if os.open in os.supports_dir_fd:
            place = os.open(below, os.O_RDONLY)
            try:
                for folder in folders:
                    inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW, dir_fd=place)
                    os.close(place)
                    place = inner
                file = os.open(name, flags, mode, dir_fd=place)
            finally:
                os.close(place)
        else:
            file = os.open(path, flags, mode)
    except OSError as error:
        if path.is_symlink() or any(parent.is_symlink() for parent in _between(path, below)):
            raise NotPlainError(path, "a link, or behind one") from None
        raise error
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(file)
        raise NotPlainError(path)
    return file


def in_the_way(root: Path, names: Iterable[str]) -> tuple[Path, str] | None:
    """Return the first place where a file of ours, by name relative to `root`, cannot be put, and what stands there."""
    checked: set[Path] = set()
    for name in names:
        for folder in _between(root / name, root):
            if folder not in checked and os.path.lexists(folder) and not is_plain_folder(folder):
                return folder, "not a plain folder"
            checked.add(folder)
        if is_plain_folder(root / name):
            return root / name, "it is a folder"
    return None


def write_whole(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write a file beside `path`, then put it in its place: a reader never sees half of it, and no link is followed.

    Args:
        content: what it holds (text as UTF-8), or a function that writes it to the path it is given.

    Raises:
        OSError: it cannot be written; what stood there before still does.
    """
    if isinstance(content, str):
        # A lone surrogate, which JSON allows in an id, has no UTF-8; its escape is JSON for the very same id.
        content = content.encode("utf-8", "backslashreplace")
    partial = path.with_name(f".{path.stem}.partial{path.suffix}" if callable(content) else f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # what a killed process left, or a link: the name is ours
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(file, "wb") as stream:
            if not callable(content):
                stream.write(content)
        if callable(content):
            content(partial)
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def take_lock(file: int) -> bool:
    """Lock an open file or folder for as long as it is open; return False if another process has it.

    Where the system or the file system knows no such locks, nobody is kept out.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove(place: Path) -> None:
    """Remove what this project made: a file, a link itself, or a folder with all in it; links are not followed."""
    if is_plain_folder(place):
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def obstacle_to_writing(directory: Path) -> str | None:
    """Return why a folder, which need not be there yet, could not be written to; None if it could. Writes nothing."""
    existing = directory
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"no permission in {existing}"


def _between(path: Path, root: Path) -> list[Path]:
    """Return the folders between a path and the root above it, outermost first."""
    return [root.joinpath(*path.relative_to(root).parts[:n]) for n in range(1, len(path.relative_to(root).parts))]


def _deeper_than(data: Any, limit: int) -> bool:
    level = [data]
    for _ in range(limit):
        level = [
            child
            for node in level
            if isinstance(node, (list, dict))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True
