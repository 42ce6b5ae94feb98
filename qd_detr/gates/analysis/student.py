"""Normal and Student t probabilities, by quadrature (there is no SciPy at run time)."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_PANELS = 16


def t_cdf(t: float, df: float) -> float:
    """Return P(T <= t) for Student's t with `df` degrees of freedom, to about 1e-12.

    With t = sqrt(df) tan(a) the density becomes c cos(a)^(df - 1), smooth on a finite range.
    """
    if df < 1:
        raise ValueError(f"df is {df}; expected at least 1")
    log_c = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(math.pi) / 2
    angle = math.atan(abs(t) / math.sqrt(df))
    edges = np.linspace(0.0, angle, _PANELS + 1)
    half = angle / _PANELS / 2
    angles = edges[:-1, None] + half * (1 + _NODES)  # (panels, nodes)
    tail = 0.5 - math.exp(log_c) * half * float((np.cos(angles) ** (df - 1) @ _WEIGHTS).sum())
    return max(tail, 0.0) if t < 0 else min(1.0 - tail, 1.0)


@lru_cache(maxsize=8192)
def t_quantile(probability: float, df: float) -> float:
    """Return t with P(T <= t) = `probability`, by bisection."""
    if not 0 < probability < 1:
        raise ValueError(f"probability is {probability}; expected a number between 0 and 1")
    low, high = -1.0, 1.0
    while t_cdf(low, df) > probability:
        low *= 2
    while t_cdf(high, df) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if middle in (low, high):  # neighbours: there is nothing between them
            break
        low, high = (middle, high) if t_cdf(middle, df) < probability else (low, middle)
    return (low + high) / 2
