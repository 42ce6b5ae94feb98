"""Finished parts of a run that are arrays: a file each, written whole, so that a continued run makes only the rest."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.files import is_plain_file, is_plain_folder, remove, write_whole

Arrays = dict[str, NDArray[Any]]


class Parts:
    """Parts by name, in the folder `{kind}-{digest of key}` of each of some folders.

    Args:
        folders: where parts are looked for; they are put into the first.
        key: text that is equal only where the parts are the same: parts of another key are not found.
    """

    def __init__(self, folders: Sequence[Path], kind: str, key: str) -> None:
        name = f"{kind}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
        self._places = [folder / name for folder in folders]
        self._kind = kind

    def found(self, name: str) -> list[Arrays]:
        """Return what there is of a part: one piece from each folder that holds any, unreadable ones left out."""
        pieces = (_read(place / f"{name}.npz") for place in self._places if is_plain_folder(place))
        return [piece for piece in pieces if piece is not None]

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
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_whole(place / f"{name}.npz", content.getvalue())


def _read(path: Path) -> Arrays | None:
    """Return a part's arrays; None where there is none, or where it is not as it was written."""
    if not is_plain_file(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as held:  # checks the CRC-32 of every array
            return {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
