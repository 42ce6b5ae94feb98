"""File names for sample ids: safe on every file system, distinct without regard to case, readable where possible."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

MAX_PLAIN = 80
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def file_names(sample_ids: Iterable[int | str]) -> dict[int | str, str]:
    """Return a file name part for every id.

    An id of at most 80 characters from A-Z a-z 0-9 . _ - that does not begin with a dot, and that no other id equals
    without regard to case, stands as it is. Any other becomes a cleaned prefix, "_" and 8 hex digits of its SHA-256
    (more digits in the case that even those coincide). The names depend on the set of ids, not on their order.
    """
    ids = list(dict.fromkeys(sample_ids))
    folded = Counter(str(sample_id).casefold() for sample_id in ids)
    plain = {
        sample_id
        for sample_id in ids
        if len(str(sample_id)) <= MAX_PLAIN
        and _PLAIN.fullmatch(str(sample_id))
        and folded[str(sample_id).casefold()] == 1
    }
    taken = {str(sample_id).casefold() for sample_id in plain}
    names: dict[int | str, str] = {sample_id: str(sample_id) for sample_id in ids if sample_id in plain}
    for sample_id in sorted((i for i in ids if i not in plain), key=lambda i: (str(i), isinstance(i, str))):
        digest = _digest(sample_id)
        digits = 8
        while (name := f"{_cleaned(str(sample_id))}_{digest[:digits]}").casefold() in taken:
            digits += 1
        taken.add(name.casefold())
        names[sample_id] = name
    return {sample_id: names[sample_id] for sample_id in ids}


def _cleaned(text: str) -> str:
    prefix = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40].strip("_-")
    return prefix or "id"


def _digest(sample_id: int | str) -> str:
    # "surrogatepass": an id from JSON may hold a lone surrogate, which plain UTF-8 refuses. An int and the same text
    # are two ids; the text is hashed as it is.
    text = sample_id if isinstance(sample_id, str) else f"int {sample_id}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
