"""Checkpoints and annotation files below a folder, looked for with bounds."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECKPOINT_SUFFIXES = (".ckpt", ".pth")
DATA_SUFFIXES = (".jsonl", ".json")
MAX_DEPTH, MAX_FOLDERS, MAX_ENTRIES, MAX_OFFERED = 4, 500, 20_000, 15
_HEAD_BYTES = 4096
_SKIPPED = {"__pycache__", "node_modules", "site-packages"}


@dataclass(frozen=True)
class Found:
    """What was found, nearest first. `folders` were looked into; `cut_short` if there were more."""

    checkpoints: list[Path]
    data: list[Path]
    folders: int
    cut_short: bool


def look_around(root: Path) -> Found:
    """Look for checkpoints (.ckpt, .pth) and annotations below a folder; hidden folders are passed over.

    A link to a folder is followed, but no link in what it leads to, and no folder is looked into twice.
    """
    checkpoints: list[Path] = []
    data: list[Path] = []
    waiting = deque([(root, 0, False)])
    seen: set[str] = set()
    folders = entries = 0
    while waiting and folders < MAX_FOLDERS and entries < MAX_ENTRIES:
        folder, depth, linked = waiting.popleft()
        place = os.path.realpath(folder)
        if place in seen:
            continue
        seen.add(place)
        folders += 1
        try:
            with os.scandir(folder) as listing:
                children = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            continue  # a folder that may not be read offers nothing
        entries += len(children)
        for entry in children:
            path = folder / entry.name
            if _leads_to(stat.S_ISDIR, path):
                passed_over = entry.name.startswith(".") or entry.name in _SKIPPED or (linked and entry.is_symlink())
                if depth < MAX_DEPTH and not passed_over:
                    waiting.append((path, depth + 1, linked or entry.is_symlink()))
            elif path.suffix in (*CHECKPOINT_SUFFIXES, *DATA_SUFFIXES) and _leads_to(stat.S_ISREG, path):
                if path.suffix in CHECKPOINT_SUFFIXES:
                    checkpoints.append(path)
                elif looks_like_annotations(path):
                    data.append(path)
    many = len(checkpoints) > MAX_OFFERED or len(data) > MAX_OFFERED
    return Found(checkpoints[:MAX_OFFERED], data[:MAX_OFFERED], folders, bool(waiting) or many)


def _leads_to(kind: Callable[[int], bool], path: Path) -> bool:
    try:
        return kind(os.stat(path).st_mode)
    except OSError:  # a link to nothing, or to itself
        return False


def looks_like_annotations(path: Path) -> bool:
    """Return whether a file begins as annotations do; predictions and options do not."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n[")
    named = all(f'"{name}"'.encode() in head for name in ("qid", "query", "vid"))
    return first.startswith(b"{") and named and b'"pred_' not in head
