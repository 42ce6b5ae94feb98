"""Slices of one's own: files of qids, by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from qd_detr.gates.errors import MissingFileError, RequestError
from qd_detr.gates.files import read_text

OwnSlices = dict[str, frozenset[str]]
"""Per name the qids of a slice, as text."""


def read_slices(given: Sequence[str], qids: Collection[object]) -> OwnSlices:
    """Return the slices that "NAME=FILE" texts name; a file holds a qid a line.

    Args:
        given: of --slice. qids: of the queries there are.

    Raises:
        MissingFileError: a file that cannot be read. RequestError: a text of another form, a name twice, or a slice that
            holds none of the queries.
    """
    known = {str(qid) for qid in qids}
    found: OwnSlices = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise RequestError(f"--slice {text}: expected NAME=FILE")
        if name in found:
            raise RequestError(f"--slice: two slices are called {name}; give each a name of its own")
        found[name] = _qids(Path(path))
        if not found[name] & known:
            raise RequestError(f"--slice {text}: none of the {len(found[name])} qids in it is a query of this data")
    return found


def _qids(path: Path) -> frozenset[str]:
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise MissingFileError(f"--slice: {path} cannot be read as text ({error})") from None
    return frozenset(line.strip() for line in lines if line.strip())
