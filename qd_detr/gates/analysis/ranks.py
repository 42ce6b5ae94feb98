"""Ranks with ties averaged, as Spearman's correlation needs them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return the ranks 1..n of `values` (..., n) along the last axis; equal values share the mean of their ranks."""
    array = np.asarray(values)
    order = np.argsort(array, axis=-1, kind="stable")
    ordered = np.take_along_axis(array, order, axis=-1)
    n = array.shape[-1]
    place = np.arange(n)
    if n == 0:
        return np.empty(array.shape)
    differs = ordered[..., 1:] != ordered[..., :-1]  # (..., n - 1)
    edge = np.ones((*array.shape[:-1], 1), dtype=bool)
    opens = np.concatenate([edge, differs], axis=-1)
    closes = np.concatenate([differs, edge], axis=-1)
    first = np.maximum.accumulate(np.where(opens, place, 0), axis=-1)
    last = np.minimum.accumulate(np.where(closes, place, n - 1)[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(array.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1.0, axis=-1)
    return ranks
