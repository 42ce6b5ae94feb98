"""Gate entries on disk: append-only shards of raw float32, and an index whose every whole line is a commit,
with the CRC-32 of its JSON before it.

A line of the index is written after the bytes it speaks of, so a process killed at any moment leaves a prefix of
whole commits; what follows the last of them is cut off when the folder is opened again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qd_detr.gates.tracking.entries import SampleGates, SampleId

INDEX = "index.jsonl"
SHARD_BYTES = 256 << 20


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
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._index = directory / INDEX
        self._commits, index_end, ends = self._read_index()
        if self._index.exists():
            os.truncate(self._index, index_end)
        self._shard = max(ends, default=0)
        for path in directory.glob("shard_*.f32"):
            kept = ends.get(int(path.stem.split("_")[1]), 0)
            os.truncate(path, kept)
        self._end = ends.get(self._shard, 0)

    def commits(self) -> Iterator[tuple[dict[str, Any], dict[SampleId, Place]]]:
        """Yield what each earlier commit carried: its note and where its entries are."""
        for line in self._commits:
            yield line["note"], self._places(line)

    def append(self, entries: Sequence[tuple[SampleId, SampleGates]], note: dict[str, Any]) -> dict[SampleId, Place]:
        """Commit a batch of entries with a note (JSON); return where they are.

        Raises:
            OSError: the disk is full or failing; the batch is not committed.
        """
        if self._end >= SHARD_BYTES:
            self._shard, self._end = self._shard + 1, 0
        layouts, offset = [], self._end
        with open(self._shard_path(self._shard), "r+b" if self._end else "wb") as file:
            file.seek(self._end)
            for sample_id, entry in entries:
                layout = _layout_of(entry)
                nbytes = 0
                for array in entry.arrays.values():
                    if array.size:  # a view of nothing cannot be cast to bytes
                        nbytes += file.write(np.ascontiguousarray(array, dtype=np.float32).data.cast("B"))
                layouts.append({"id": sample_id, "offset": offset, "nbytes": nbytes, "layout": layout})
                offset += nbytes
        line = {"shard": self._shard, "end": offset, "entries": layouts, "note": note}
        text = json.dumps(line, separators=(",", ":")).encode()
        with open(self._index, "ab") as file:
            file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        self._end = offset
        return self._places(line)

    def _holds(self, line: dict[str, Any]) -> bool:
        """Return whether the shard that a commit speaks of is there and long enough."""
        shard = self._shard_path(line["shard"])
        return shard.is_file() and not shard.is_symlink() and shard.stat().st_size >= line["end"]

    def _places(self, line: dict[str, Any]) -> dict[SampleId, Place]:
        shard = self._shard_path(line["shard"])
        return {e["id"]: Place(shard, e["offset"], e["nbytes"], e["layout"]) for e in line["entries"]}

    def _shard_path(self, number: int) -> Path:
        return self.directory / f"shard_{number:05d}.f32"

    def _read_index(self) -> tuple[list[dict[str, Any]], int, dict[int, int]]:
        commits: list[dict[str, Any]] = []
        end, ends = 0, {}
        if self._index.exists():
            with open(self._index, "rb") as file:
                for raw in file:
                    if not raw.endswith(b"\n"):
                        break  # torn by the kill
                    line = _checked_line(raw)
                    if line is None or not self._holds(line):
                        break  # what a full disk or a crash of the machine left; all before it is good
                    commits.append(line)
                    ends[line["shard"]] = line["end"]
                    end += len(raw)
        return commits, end, ends


def _checked_line(raw: bytes) -> dict[str, Any] | None:
    """Return the commit in a line of the index, None if it is not as it was written."""
    mark, _, text = raw.removesuffix(b"\n").partition(b" ")
    # With the sum of its bytes a line is one that `append` wrote, and needs no other check.
    return json.loads(text) if mark == b"%08x" % zlib.crc32(text) else None


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
