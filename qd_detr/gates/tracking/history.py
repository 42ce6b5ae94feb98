"""What has been recorded, by sample: a dict-like history of gates that does not outgrow the memory it is given."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from qd_detr.gates.errors import first_few
from qd_detr.gates.tracking.entries import SampleGates, SampleId
from qd_detr.gates.tracking.shards import Place, ShardStore

DEFAULT_MEMORY_BYTES = 64 << 20


class GateHistory(MutableMapping[SampleId, SampleGates]):
    """Recorded gates by sample id, in the order of first recording; see `qd_detr.gates.tracking.entries`.

    Up to `memory_bytes` entries stay in memory. Beyond, they go to shards on disk and are memory-mapped, read-only,
    when they are looked up. Looking up an id that is not there raises a KeyError that names some that are.

    Args:
        memory_bytes: what may stay in memory.
        store: where to put the rest; a temporary folder that goes with the history if not given.
        only_commits: entries go to the store when they are committed, and not before: every line of the store's index
            is then a commit of the caller's. What is not committed yet stays in memory beyond the limit.
    """

    def __init__(
        self,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        store: ShardStore | None = None,
        *,
        only_commits: bool = False,
    ) -> None:
        self._limit = memory_bytes
        self._store = store
        self._only_commits = only_commits
        self._order: dict[SampleId, None] = {}
        self._memory: dict[SampleId, SampleGates] = {}
        self._held = 0
        self._places: dict[SampleId, Place] = {}

    def __getitem__(self, sample_id: SampleId) -> SampleGates:
        if sample_id in self._memory:
            return self._memory[sample_id]
        if sample_id in self._places:
            return self._places[sample_id].load()
        raise KeyError(self._no_such(sample_id))

    def __setitem__(self, sample_id: SampleId, entry: SampleGates) -> None:
        self._forget(sample_id)
        self._order.setdefault(sample_id)
        self._memory[sample_id] = entry
        self._held += entry.nbytes
        if self._held > self._limit:
            self._spill()

    def __delitem__(self, sample_id: SampleId) -> None:
        if sample_id not in self._order:
            raise KeyError(self._no_such(sample_id))
        self._forget(sample_id)
        del self._order[sample_id]

    def __iter__(self) -> Iterator[SampleId]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._order

    def __repr__(self) -> str:
        return f"GateHistory of {len(self)} samples: {first_few([repr(i) for i in self])}"

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or a pickle, must not share or lose the shards of the one it came from.
        return _history_from, (self._limit, [(sample_id, entry.copied()) for sample_id, entry in self.items()])

    def commit(self, sample_ids: Iterable[SampleId], note: dict[str, Any]) -> None:
        """Write these entries to the store now, as one commit with a note; they may stay in memory too.

        Raises:
            OSError: the disk is full or failing; nothing was committed.
        """
        ids = list(sample_ids)
        self._places |= self._shards().append([(i, self[i]) for i in ids], note)
        if self._held > self._limit:
            self._spill()

    def adopt(self, places: dict[SampleId, Place]) -> None:
        """Take in entries that an earlier run committed to the store."""
        self._order |= dict.fromkeys(places)
        self._places |= places

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the entries that are held in memory."""
        return self._held

    def _spill(self) -> None:
        unsaved = [(i, entry) for i, entry in self._memory.items() if i not in self._places]
        if unsaved and not self._only_commits:
            self._places |= self._shards().append(unsaved, {})
            unsaved = []
        self._memory = dict(unsaved)
        self._held = sum(entry.nbytes for _, entry in unsaved)

    def _shards(self) -> ShardStore:
        # A forked child reads what its parent recorded, and puts what it records itself in a folder of its own.
        if self._store is None or not (self._store.owned or self._only_commits):
            folder = tempfile.mkdtemp(prefix="gate_history_")
            weakref.finalize(self, _remove_own, folder, os.getpid())
            self._store = ShardStore(Path(folder))
        return self._store

    def _forget(self, sample_id: SampleId) -> None:
        if sample_id in self._memory:
            self._held -= self._memory.pop(sample_id).nbytes
        self._places.pop(sample_id, None)

    def _no_such(self, sample_id: object) -> str:
        if not len(self):
            return (
                f"no gates of sample {sample_id!r}: nothing has been recorded yet; "
                "call enable_gate_tracking() and run a forward"
            )
        return f"no gates of sample {sample_id!r}; there are {len(self)}: {first_few([repr(i) for i in self])}"


def _remove_own(folder: str, process: int) -> None:
    if os.getpid() == process:  # at the end of a forked child, its parent still reads there
        shutil.rmtree(folder, ignore_errors=True)


def _history_from(limit: int, entries: list[tuple[SampleId, SampleGates]]) -> GateHistory:
    history = GateHistory(limit)
    for sample_id, entry in entries:
        history[sample_id] = entry
    return history
