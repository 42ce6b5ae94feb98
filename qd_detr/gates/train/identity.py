"""What tells one run's data from another's, wherever they lie: kept in checkpoints, compared when a run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.train.data import Split

# Features that were normalised on another machine may differ in their last bits.
_RTOL, _ATOL = 1e-3, 1e-5


def mark_of(split: Split) -> dict[str, Any]:
    """Return a mark of a split's usable data, as plain values and tensors.

    Keys: queries (how many), sha256 (of their annotations, clip and token counts, in order), first_clip (video, audio
    and text of the first query's first clip and token, as the model takes them; float32, (1, columns)).

    Raises:
        DataError: the first query's features cannot be read.
    """
    digest = hashlib.sha256()
    for query, clips, tokens in zip(
        split.queries, split.samples.clip_counts, split.samples.index.token_counts, strict=True
    ):
        digest.update(f"{json.dumps([*_annotation(query), clips, tokens])}\n".encode())
    features = split.samples.reader.read(split.queries[0])
    return {
        "queries": len(split.queries),
        "sha256": digest.hexdigest(),
        "first_clip": [torch.tensor(rows[:1]) for rows in (features.video, features.audio, features.text)],
    }


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return in words how a split's data differ from those a run was begun with; None if they do not."""
    if now["queries"] != then["queries"]:
        return f"{now['queries']} usable queries instead of {then['queries']}"
    if now["sha256"] != then["sha256"]:
        return f"{now['queries']} usable queries as then, but other ones, other labels, another order or other lengths"
    for role, a, b in zip(("video", "audio", "text"), then["first_clip"], now["first_clip"], strict=True):
        if a.shape != b.shape or not torch.allclose(a, b, rtol=_RTOL, atol=_ATOL):
            return f"other {role} features, or their folders in another order"
    return None


def _annotation(query: Query) -> list[Any]:
    """Return what a query's annotation says, but for its line: a blank line more makes no other data."""
    ratings = None if query.rater_labels is None else query.rater_labels.tolist()
    return [
        query.qid,
        query.query,
        query.vid,
        query.duration_s,
        query.relevant_windows,
        query.relevant_clip_ids,
        query.saliency_scores,
        query.domain,
        ratings,
    ]
