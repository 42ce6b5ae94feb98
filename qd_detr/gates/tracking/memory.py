"""Memory for what is recorded, outside the heap."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 20


class Blocks:
    """Gives out float32 arrays from blocks of memory of their own; a block goes with the last array in it.

    Left where a forward makes them, small arrays that live long would pin the large pieces of the heap that the forward
    frees: the process would grow by many times what is recorded.
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.float32)
        self._used = 0

    def take(self, size: int) -> NDArray[np.float32]:
        """Return an array (size,) of zeros that nothing else uses."""
        if size > len(self._block) - self._used:
            nbytes = max(_BLOCK_BYTES, 4 * size)
            # Private, so that a forked process writes to copies of its own.
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._block, self._used = np.frombuffer(memory, np.float32), 0
        taken = self._block[self._used : self._used + size]
        self._used += size
        return taken

    def __getstate__(self) -> dict[str, object]:
        # A copy begins a block of its own; what was given out of this one belongs to whoever asked.
        return {"_block": np.empty(0, np.float32), "_used": 0}
