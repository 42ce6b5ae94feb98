"""NumPy's numbers in a checkpoint: read as plain Python numbers, by stand-ins for exactly what pickles of them name."""

from __future__ import annotations

import _codecs
from collections.abc import Callable
from typing import Any

import numpy as np

_KINDS = frozenset({"f2", "f4", "f8", "b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))})
_BYTE_ORDERS = frozenset("<>|=")


class PlainDtype:
    """Stands for `numpy.dtype` while a checkpoint is loaded: a real, whole or truth number of fixed size, no other.

    Raises:
        ValueError: any other dtype, objects among them.
    """

    def __init__(self, name: object, align: object = False, copy: object = False) -> None:
        if not isinstance(name, str) or name not in _KINDS:
            raise ValueError(f"a NumPy number of type {name!r:.40}; only plain numbers are loaded")
        self._name = name
        self.dtype = np.dtype(name)

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in _BYTE_ORDERS:
            raise ValueError(f"a NumPy number in the byte order {order!r:.40}")
        self.dtype = np.dtype(f"{order}{self._name}")


def plain_number(dtype: object, data: object = b"") -> int | float | bool:
    """Stand for `numpy.core.multiarray.scalar`: return the number as Python's own.

    Raises:
        ValueError: the dtype is none of `PlainDtype`, or the bytes are not those of one number.
    """
    if not isinstance(dtype, PlainDtype) or not isinstance(data, bytes) or len(data) != dtype.dtype.itemsize:
        raise ValueError("a NumPy number whose bytes do not fit its type")
    number: int | float | bool = np.frombuffer(data, dtype.dtype)[0].item()
    return number


ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    _codecs.encode,  # how pickles of protocol 2 hold bytes
    (PlainDtype, "numpy.dtype"),
    (plain_number, "numpy.core.multiarray.scalar"),
    (plain_number, "numpy._core.multiarray.scalar"),
]
"""For `torch.serialization.safe_globals`."""
