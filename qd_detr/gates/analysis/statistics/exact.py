"""Sums of floats that do not depend on the order or the grouping of their terms.

Each term is rounded to a grid so fine that nothing of interest is lost and so coarse that a float64 sum of a block of
terms makes no rounding error at all: x = high + low, with `high` a multiple of 2**(e - 36) and `low` one of
2**(e - 74), where every |x| <= 2**e. The block's two sums are exact, and Python integers carry them on. Merging two
accumulators is therefore the same number, to the bit, as one accumulator that saw everything: also where values near
+-0.95 cancel to a mean of 1e-9, and where a gate sits at -0.995 with a spread of 1e-7.
"""

from __future__ import annotations

import math

import numpy as np

MAX_TERMS = 2**15
"""Most terms of one block; more could make its float64 sums inexact."""

HIGH_BITS = 36
LOW_BITS = 74
UNIT_BITS = 1200
"""The integer accumulators count in units of 2**-UNIT_BITS."""

MIN_EXPONENT = -500
MAX_EXPONENT = 500
"""Magnitudes up to 2**500 (1e150) can be squared; anything below 2**-575 counts as 0."""

SHORT_BITS = 14
"""A float32 of magnitude 2**(e - SHORT_BITS) or more is a multiple of 2**(e - 37): `short_sums` can take it."""

FEW_TERMS = 8
"""Up to this many values Python's integers are faster than NumPy's passes."""

DOT_TERMS = 8192
"""BLAS works a product of up to 10,000 terms in one thread; waiting for a second would cost more than it brings."""


def magnitude_exponent(magnitude: float) -> int:
    """Return the smallest allowed e with magnitude <= 2**e."""
    if magnitude == 0.0:
        return MIN_EXPONENT
    mantissa, exponent = math.frexp(magnitude)
    if mantissa == 0.5:
        exponent -= 1
    return max(exponent, MIN_EXPONENT)


def grid_sum(values: np.ndarray, exponent: int) -> int:
    """Return the sum of float64 `values` in units of 2**-UNIT_BITS.

    Args:
        values: (n,) with n <= MAX_TERMS and |value| <= 2**exponent (a little beyond does no harm).
        exponent: Fixes the grid. The same exponent for every block makes the total independent of the blocks.
    """
    high = _rounded(values, exponent - HIGH_BITS)
    low = _rounded(values - high, exponent - LOW_BITS)
    return _units(_exact_sum(high)) + _units(_exact_sum(low))


def short_sums(values: np.ndarray, exponent: int) -> tuple[int, int]:
    """Return what `grid_sum` gives for values and for their squares, to the bit, in a third of the time.

    Args:
        values: float64 (n,), n <= MAX_TERMS, each 0 or a float32 with 2**(exponent - SHORT_BITS) <= |value| <=
            2**exponent. These are multiples of 2**(exponent - 37), so their plain sum is exact; and so are the three
            dot products of their upper and lower 18 bits.
    """
    upper = _rounded(values, exponent - 18)
    lower = values - upper
    squares = _units(_exact_dot(upper, upper)) + 2 * _units(_exact_dot(upper, lower)) + _units(_exact_dot(lower, lower))
    return _units(_exact_sum(values)), squares


def _rounded(values: np.ndarray, grid_exponent: int) -> np.ndarray:
    """Return the values rounded to multiples of 2**grid_exponent, for magnitudes below 2**51 of them."""
    # Next to 1.5 * 2**52 grid steps a float64 has no bits left below the grid.
    rounder = math.ldexp(1.5, 52 + grid_exponent)
    result = values + rounder
    result -= rounder
    return result


def _exact_sum(values: np.ndarray) -> float:
    # Exact in any order, so the plain loop of einsum may stand in for the slower pairwise sum.
    return float(np.einsum("i->", values))


def _exact_dot(left: np.ndarray, right: np.ndarray) -> float:
    return sum(
        float(np.dot(left[start : start + DOT_TERMS], right[start : start + DOT_TERMS]))
        for start in range(0, left.size, DOT_TERMS)
    )


def _units(value: float) -> int:
    """Return a float as an integer number of units; it is a multiple of a unit."""
    numerator, denominator = value.as_integer_ratio()
    return (numerator << UNIT_BITS) // denominator


class Moments:
    """Count, sum, sum of magnitudes and sum of squares of a stream, exact up to the grid (see the module)."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0
        self._magnitude_sum = 0
        self._square_sum = 0

    def add(self, values: np.ndarray, sign: int, exponent: int) -> None:
        """Take in a block.

        Args:
            values: float64 (n,), n <= MAX_TERMS.
            sign: 1 if no value is negative, -1 if none is positive, 0 if both occur (spares a pass where it is not 0).
            exponent: As in `grid_sum`.
        """
        self.count += values.size
        if values.size <= FEW_TERMS:
            self._add_few(values.tolist(), exponent)
            return
        total = grid_sum(values, exponent)
        self._sum += total
        self._magnitude_sum += sign * total if sign else grid_sum(np.abs(values), exponent)
        self._square_sum += grid_sum(np.square(values), 2 * exponent)

    def add_float32(self, values: np.ndarray, small: np.ndarray, sign: int, exponent: int) -> None:
        """Take in a block of float32 values widened to float64; the sums are those of `add`, to the bit.

        Args:
            values: As in `add`; those at `small` are set to 0.
            small: Indices of the values with magnitudes below 2**(exponent - SHORT_BITS): few, in most blocks.
            sign: As in `add`.
            exponent: As in `add`.
        """
        if small.size:
            self.add(values[small], sign, exponent)
            values[small] = 0.0
        total, squares = short_sums(values, exponent)
        self.count += values.size - small.size
        self._sum += total
        self._magnitude_sum += sign * total if sign else _units(_exact_sum(np.abs(values)))
        self._square_sum += squares

    def _add_few(self, values: list[float], exponent: int) -> None:
        """Take in single values, each rounded to the grid as `grid_sum` does."""
        for value in values:
            steps = round(math.ldexp(value, LOW_BITS - exponent)) << (UNIT_BITS + exponent - LOW_BITS)
            self._sum += steps
            self._magnitude_sum += abs(steps)
            self._square_sum += round(math.ldexp(value * value, LOW_BITS - 2 * exponent)) << (
                UNIT_BITS + 2 * exponent - LOW_BITS
            )

    def merge(self, other: Moments) -> None:
        """Take in another stream's sums."""
        self.count += other.count
        self._sum += other._sum
        self._magnitude_sum += other._magnitude_sum
        self._square_sum += other._square_sum

    def mean(self) -> float:
        """Return the mean, correctly rounded."""
        return self._sum / (self.count << UNIT_BITS)

    def std(self) -> float:
        """Return the population's standard deviation (ddof 0)."""
        return self._std(self._sum)

    def magnitude_mean(self) -> float:
        """Return the mean of |value|."""
        return self._magnitude_sum / (self.count << UNIT_BITS)

    def magnitude_std(self) -> float:
        """Return the standard deviation of |value| (ddof 0)."""
        return self._std(self._magnitude_sum)

    def _std(self, total: int) -> float:
        # count * sum(x^2) - sum(x)^2 in integers: no cancellation, however small the spread is beside the mean.
        spread = self.count * (self._square_sum << UNIT_BITS) - total * total
        return math.sqrt(max(spread, 0) / (self.count**2 << 2 * UNIT_BITS))
