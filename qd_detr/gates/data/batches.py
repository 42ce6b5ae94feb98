"""Batches: which queries go together, and their padded tensors.

Letters: B batch, L clips of the longest video, T tokens of the longest text, Dv/Da/Dt feature columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.features import FeatureIndex, FeatureReader, Features, FloatArray
from qd_detr.gates.errors import RequestError


def plan_batches(clip_counts: Sequence[int], batch_size: int, *, mixed_lengths: bool = False) -> list[list[int]]:
    """Return the positions of the queries in each batch; every position stands in exactly one.

    By default a batch holds queries of equal clip count only: such a batch needs no video padding, and gives each
    query what the model gives it at batch size 1. With `mixed_lengths` it is the file's order, cut every
    `batch_size`: the legacy run's own batches, in which batch mates change the results.

    Raises:
        RequestError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise RequestError(f"--batch_size is {batch_size}; expected 1 or more")
    groups: dict[int, list[int]] = {}
    for position, clips in enumerate(clip_counts):
        groups.setdefault(0 if mixed_lengths else clips, []).append(position)
    return [
        group[start : start + batch_size] for group in groups.values() for start in range(0, len(group), batch_size)
    ]


def collate(items: Sequence[tuple[Query, Features]]) -> dict[str, Any]:
    """Return the model's batch: features zero-padded to the longest video and text, float32 masks (1 = real).

    Keys: qid and vid (lists of B), src_txt (B, T, Dt), src_txt_mask (B, T), src_vid (B, L, Dv), src_vid_mask (B, L),
    src_aud (B, L, Da), src_aud_mask (B, L).

    Raises:
        ValueError: `items` is empty.
    """
    if not items:
        raise ValueError("a batch needs at least one query")
    src_txt, src_txt_mask = _pad([features.text for _, features in items])
    src_vid, src_vid_mask = _pad([features.video for _, features in items])
    src_aud, src_aud_mask = _pad([features.audio for _, features in items])
    return {
        "qid": [query.qid for query, _ in items],
        "vid": [query.vid for query, _ in items],
        "src_txt": src_txt,
        "src_txt_mask": src_txt_mask,
        "src_vid": src_vid,
        "src_vid_mask": src_vid_mask,
        "src_aud": src_aud,
        "src_aud_mask": src_aud_mask,
    }


def _pad(rows: Sequence[FloatArray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the arrays (length, D) stacked and zero-padded, (B, longest, D), and their mask (B, longest)."""
    longest = max(len(array) for array in rows)
    padded = np.zeros((len(rows), longest, rows[0].shape[1]), dtype=np.float32)
    mask = np.zeros((len(rows), longest), dtype=np.float32)
    for place, array in enumerate(rows):
        padded[place, : len(array)] = array
        mask[place, : len(array)] = 1.0
    return torch.from_numpy(padded), torch.from_numpy(mask)


def iter_batches(
    index_or_queries: FeatureIndex | Sequence[Query], reader: FeatureReader, batches: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Yield (positions, batch) for each of `batches`, reading the next one in the background meanwhile.

    An error of reading is raised here when its batch is asked for. Closing the generator, or leaving the loop, ends
    the background thread.
    """
    queries = index_or_queries.queries if isinstance(index_or_queries, FeatureIndex) else index_or_queries

    def load(positions: Sequence[int]) -> dict[str, Any]:
        return collate([(queries[position], reader.read(queries[position])) for position in positions])

    if not batches:
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as pool:
        ahead = pool.submit(load, batches[0])
        for place, positions in enumerate(batches):
            batch = ahead.result()
            if place + 1 < len(batches):
                ahead = pool.submit(load, batches[place + 1])
            yield list(positions), batch
