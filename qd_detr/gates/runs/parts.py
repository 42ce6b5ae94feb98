"""Finished parts of a run that are arrays: a file each, written whole, so that a continued run makes only the rest.

Each file holds a sum over its arrays, their names and what it is a part of: one that was damaged, or put in the place of
another, is not taken.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.data.feature_headers import UNREADABLE
from qd_detr.gates.errors import RunError
from qd_detr.gates.files import is_plain_file, is_plain_folder, remove, write_whole

Arrays = dict[str, NDArray[Any]]
_SUM = "sha256"
NOT_OURS = (LookupError, TypeError, ValueError, OverflowError, RunError)
"""What taking in a part raises that is whole by its own sum, but not of arrays that a run has: it is made again."""


class Parts:
    """Parts by name, in the folder `{kind}-{digest of key}` of each of some folders.

    Args:
        folders: where parts are looked for; they are put into the first.
        key: text that is equal only where the parts are the same: parts of another key are not found.
    """

    def __init__(self, folders: Sequence[Path], kind: str, key: str) -> None:
        name = f"{kind}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
        self._places = [folder / name for folder in folders]
        self._kind, self._key = kind, key

    def found(self, name: str) -> list[Arrays]:
        """Return what there is of a part: one piece from each folder that holds any, unreadable ones left out."""
        pieces = [_read(place / f"{name}.npz") for place in self._places if is_plain_folder(place)]
        return [piece for piece in pieces if _take_out(piece, _SUM) == self._sum_of(name, piece)]

    def put(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a part down.

        Raises:
            OSError: the disk is full or failing; what was there before still is.
        """
        place = self._places[0]
        if not is_plain_folder(place):
            for other in place.parent.glob(f"{self._kind}-*"):  # parts of another key; a link is not followed
                remove(other)
            place.mkdir()
        content = io.BytesIO()
        np.savez(content, **{**arrays, _SUM: np.array(self._sum_of(name, arrays))})  # type: ignore[arg-type]
        write_whole(place / f"{name}.npz", content.getvalue())

    def _sum_of(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Return the sum of a part: of what it is, and of each of its arrays."""
        digest = hashlib.sha256(repr((self._kind, self._key, name)).encode("utf-8", "surrogatepass"))
        for one in sorted(arrays):
            digest.update(repr((one, arrays[one].dtype.str, arrays[one].shape)).encode("utf-8", "surrogatepass"))
            digest.update(np.ascontiguousarray(arrays[one]).tobytes())
        return digest.hexdigest()


def _take_out(piece: Arrays, name: str) -> str:
    """Return the text under a name, and take it out of a part's arrays."""
    return str(piece.pop(name, ""))


def _read(path: Path) -> Arrays:
    """Return a file's arrays; none where it is not there or cannot be read."""
    if not is_plain_file(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                return {}  # not as `put` writes it: packed, it could grow to any size
        with np.load(path, allow_pickle=False) as held:
            return {name: np.asarray(held[name]) for name in held.files}
    except (*UNREADABLE, KeyError):
        return {}
