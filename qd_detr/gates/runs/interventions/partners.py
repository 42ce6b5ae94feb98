"""Chance, tied to names instead of to an order of calls: results do not depend on batches.

Letters: n clips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.data.video_names import source_video
from qd_detr.gates.errors import RequestError


def generator(seed: int, name: object) -> np.random.Generator:
    """Return the random generator that belongs to a seed and a name (compared as text)."""
    digest = hashlib.sha256(str(name).encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], "<u4").tolist()])


def other_videos(vids: Sequence[str], seed: int) -> dict[str, str]:
    """Return for each video another one, no two the same: a derangement of the distinct `vids`.

    The other one is cut from another source video wherever that is possible; it is unless more than half of the
    videos are cut from one. The result depends on the set of videos and the seed alone.

    Raises:
        RequestError: there are fewer than two videos.
    """
    names = sorted(set(vids))
    if len(names) < 2:
        raise RequestError(
            f"to exchange the audio or the gates of videos takes at least two videos; there is {len(names)}: "
            "analyse more samples"
        )
    rng = generator(seed, "other videos")
    by_source: dict[str, list[str]] = {}
    for index in rng.permutation(len(names)):
        by_source.setdefault(source_video(names[index]), []).append(names[index])
    # Turned by the size of the largest group, no video meets one of its own group unless that holds over half of all.
    ordered = [name for group in by_source.values() for name in group]
    step = max(map(len, by_source.values()))
    if 2 * step > len(ordered):
        step = len(ordered) - step if step < len(ordered) else 1
    return {name: ordered[(place + step) % len(ordered)] for place, name in enumerate(ordered)}


def fitted_rows(available: int, wanted: int) -> NDArray[np.intp]:
    """Return which of `available` rows stand in `wanted` places: cut at the end, or repeated from the start."""
    return np.arange(wanted) % available


def shift_of(n_clips: int, seed: int, vid: str) -> int:
    """Return by how many clips a video's audio is turned: at least a quarter of it either way, 0 for a single clip."""
    quarter = -(-n_clips // 4)
    if n_clips < 2:
        return 0
    return int(generator(seed, vid).integers(quarter, n_clips - quarter + 1))
