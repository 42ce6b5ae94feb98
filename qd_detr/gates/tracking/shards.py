"""Gate entries on disk: append-only shards of raw float32, and an index whose every whole line is a commit,
with the CRC-32 of its JSON before it and that of the entry's bytes in it.

A line of the index is written after the bytes it speaks of, so a process killed at any moment leaves a prefix of
whole commits; what follows the last sound one is cut off when the folder is opened again.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qd_detr.gates.errors import RunError
from qd_detr.gates.files import fault_in, is_plain_file, natural, open_plain, parse_json, remove
from qd_detr.gates.tracking.entries import SampleGates, SampleId

INDEX = "index.jsonl"
SHARD_BYTES = 256 << 20
_SHARD_NAME = re.compile(r"shard_(\d{5})\.f32")


@dataclass(frozen=True)
class Place:
    """Where an entry's bytes are, and what they are."""

    shard: Path
    offset: int
    nbytes: int
    layout: dict[str, Any]

    def load(self) -> SampleGates:
        """Return the entry as read-only views on a memory map that lives as long as they do."""
        if not self.nbytes:  # a sample without a real clip; an empty map cannot be made
            return _entry_from(np.empty(0, np.float32), self.layout)
        words = np.memmap(self.shard, dtype=np.float32, mode="r", offset=self.offset, shape=(self.nbytes // 4,))
        return _entry_from(words, self.layout)


class ShardStore:
    """Appends batches of entries to shards in one folder.

    Args:
        directory: made if it is not there. Commits found there are kept and continued.
        finished: a store that is only read: nothing in its folder is touched.
    """

    def __init__(self, directory: Path, *, finished: bool = False) -> None:
        self.directory = directory
        self._index = directory / INDEX
        self._process = -1 if finished else os.getpid()
        if finished:
            self._lines: list[tuple[dict[str, Any], int]] = list(self._sound_lines())
            return
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():  # in a folder from elsewhere a link could lead to a file of somebody's
            if (path == self._index or _SHARD_NAME.fullmatch(path.name)) and not is_plain_file(path):
                remove(path)
        self._lines = list(self._sound_lines())
        self.keep(len(self._lines))

    def keep(self, count: int) -> None:
        """Keep the first `count` commits of those found when the folder was opened, and cut off all that follows."""
        del self._lines[count:]
        ends = {line["shard"]: line["end"] for line, _ in self._lines}
        self._shard = max(ends, default=0)
        self._end = ends.get(self._shard, 0)
        sizes = {self._shard_path(number): end for number, end in ends.items()}
        sizes[self._index] = sum(size for _, size in self._lines)
        for path in self.directory.iterdir():
            if path == self._index or _SHARD_NAME.fullmatch(path.name):
                file = open_plain(path, os.O_WRONLY, below=self.directory)
                try:
                    os.ftruncate(file, sizes.get(path, 0))
                finally:
                    os.close(file)

    @property
    def owned(self) -> bool:
        """Whether this process opened the store; a forked child must not write where its parent does."""
        return self._process == os.getpid()

    def commits(self) -> Iterator[tuple[dict[str, Any], dict[SampleId, Place]]]:
        """Yield what each earlier commit carried: its note and where its entries are."""
        for line, _ in list(self._lines):
            yield line["note"], self._places(line)

    def append(self, entries: Sequence[tuple[SampleId, SampleGates]], note: dict[str, Any]) -> dict[SampleId, Place]:
        """Commit a batch of entries with a note (JSON); return where they are.

        Raises:
            OSError: the disk is full or failing; the batch is not committed. RunError: another process opened this store.
        """
        if not self.owned:
            raise RunError(f"{self.directory} is another process's: only the one that opened it can write there")
        if self._end >= SHARD_BYTES:
            self._shard, self._end = self._shard + 1, 0
        layouts, offset = [], self._end
        shard = open_plain(self._shard_path(self._shard), os.O_WRONLY | os.O_CREAT, below=self.directory)
        with open(shard, "wb") as file:
            os.ftruncate(shard, self._end)
            file.seek(self._end)
            for sample_id, entry in entries:
                layout = _layout_of(entry)
                nbytes = checksum = 0
                for array in entry.arrays.values():
                    if array.size:  # a view of nothing cannot be cast to bytes
                        data = np.ascontiguousarray(array, dtype=np.float32).data.cast("B")
                        nbytes, checksum = nbytes + file.write(data), zlib.crc32(data, checksum)
                place = {"id": sample_id, "offset": offset, "nbytes": nbytes, "crc32": checksum, "layout": layout}
                layouts.append(place)
                offset += nbytes
        line = {"shard": self._shard, "end": offset, "entries": layouts, "note": note}
        text = json.dumps(line, separators=(",", ":")).encode()
        index = open_plain(self._index, os.O_WRONLY | os.O_CREAT | os.O_APPEND, below=self.directory)
        with open(index, "ab") as file:
            file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        self._end = offset
        return self._places(line)

    def _holds(self, line: dict[str, Any]) -> bool:
        """Return whether the shard that a commit speaks of holds its entries as they were written."""
        try:
            shard = open_plain(self._shard_path(line["shard"]), os.O_RDONLY, below=self.directory)
        except OSError:
            return False
        with open(shard, "rb") as file:
            if os.fstat(shard).st_size < line["end"]:
                return False
            for entry in line["entries"]:
                file.seek(entry["offset"])
                if zlib.crc32(file.read(entry["nbytes"])) != entry["crc32"]:
                    return False
        return True

    def _places(self, line: dict[str, Any]) -> dict[SampleId, Place]:
        shard = self._shard_path(line["shard"])
        return {e["id"]: Place(shard, e["offset"], e["nbytes"], e["layout"]) for e in line["entries"]}

    def _shard_path(self, number: int) -> Path:
        return self.directory / f"shard_{number:05d}.f32"

    def _sound_lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each commit and the size of its line, up to the first that is not as it was written."""
        if not self._index.exists():
            return
        ends: dict[int, int] = {}
        with open(open_plain(self._index, os.O_RDONLY, below=self.directory), "rb") as file:
            for raw in file:
                line = _checked_line(raw)
                # Torn by the kill, or what a full disk or a crash of the machine left; all before it is good.
                if line is None or not _follows(line, ends.get(line["shard"], 0)) or not self._holds(line):
                    return
                ends[line["shard"]] = line["end"]
                yield line, len(raw)


_SHAPE = [natural]
_COMMIT = {
    "shard": lambda number: natural(number) and number < 100_000,
    "end": natural,
    "note": dict,
    "entries": [
        {
            "id": (int, str),
            "offset": natural,
            "nbytes": natural,
            "crc32": natural,
            "layout": {
                "layers": natural,
                "shapes": dict,
                "clips": _SHAPE,
                "valid": lambda bits: bits is None or isinstance(bits, str),
                "gating_type": str,
                "hidden_dim": lambda size: size is None or natural(size),
            },
        }
    ],
}


def _checked_line(raw: bytes) -> dict[str, Any] | None:
    """Return the commit in a line of the index, None if it is not as `append` writes one."""
    mark, _, text = raw.removesuffix(b"\n").partition(b" ")
    if not raw.endswith(b"\n") or mark != b"%08x" % zlib.crc32(text):
        return None
    try:
        line = parse_json(text)
    except ValueError:
        return None
    if fault_in(line, _COMMIT) is not None:
        return None
    sound = all(_fits(entry["layout"], entry["nbytes"]) for entry in line["entries"])
    return line if sound else None


def _follows(line: dict[str, Any], start: int) -> bool:
    """Return whether a commit's entries lie one after another from where the commit before it ended in its shard."""
    for entry in line["entries"]:
        if entry["offset"] != start:
            return False
        start += entry["nbytes"]
    return bool(start == line["end"])


def _fits(layout: dict[str, Any], nbytes: int) -> bool:
    """Return whether a layout speaks of as many bytes as its entry has."""
    shapes, bits = layout["shapes"], layout["valid"]
    names = [key.rpartition("_")[2] for key in shapes]
    if "gates" not in names or not set(names) <= {"gates", "injection", "cosine"}:
        return False
    if any(fault_in(shape, _SHAPE) for shape in shapes.values()) or len(layout["clips"]) != 2:
        return False
    words = sum(math.prod(shape) for shape in shapes.values()) * layout["layers"]
    if bits is not None:
        try:
            if len(bytes.fromhex(bits)) != -(-math.prod(layout["clips"]) // 8):
                return False
        except ValueError:
            return False
    return bool(words * 4 == nbytes)


def _layout_of(entry: SampleGates) -> dict[str, Any]:
    valid = entry.valid_clips
    return {
        "layers": entry.n_layers,
        "shapes": {key: list(array.shape[1:]) for key, array in entry.arrays.items()},
        "clips": list(valid.shape),
        "valid": None if valid.all() else np.packbits(valid).tobytes().hex(),
        "gating_type": entry.gating_type,
        "hidden_dim": entry.hidden_dim,
    }


def _entry_from(words: np.ndarray, layout: dict[str, Any]) -> SampleGates:
    found: dict[str, dict[str, np.ndarray]] = {"gates": {}, "injection": {}, "cosine": {}}
    start = 0
    for key, shape in layout["shapes"].items():
        kind, _, name = key.rpartition("_")
        end = start + layout["layers"] * int(np.prod(shape))
        found[name][kind] = words[start:end].reshape(layout["layers"], *shape)
        start = end
    clips = tuple(layout["clips"])
    if layout["valid"] is None:
        valid = np.ones(clips, bool)
    else:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(layout["valid"]), np.uint8))
        valid = bits[: int(np.prod(clips))].reshape(clips).astype(bool)
    return SampleGates(
        found["gates"], valid, layout["gating_type"], layout["hidden_dim"], found["injection"], found["cosine"]
    )
