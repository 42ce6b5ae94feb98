"""Ratios that hold on a noisy machine: two things timed in turn, A B A B ..., and the ratio taken pair by pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PairedRatio:
    """Median, least and greatest of the paired ratios a / b, and the medians of the two times in seconds."""

    median: float
    low: float
    high: float
    a_s: float
    b_s: float

    def __str__(self) -> str:
        return (
            f"{self.median:.3f} (quartiles {self.low:.3f} to {self.high:.3f}; "
            f"medians {1e3 * self.a_s:.1f} ms and {1e3 * self.b_s:.1f} ms)"
        )


def paired_ratio(a: Callable[[], object], b: Callable[[], object], rounds: int, warmup: int = 2) -> PairedRatio:
    """Time a and b in turn; who goes first alternates."""
    times = _paired_times(a, b, rounds, warmup)
    ratios = sorted(x / y for x, y in times)
    return PairedRatio(
        statistics.median(ratios),
        ratios[len(ratios) // 4],
        ratios[(3 * len(ratios)) // 4],
        statistics.median(x for x, _ in times),
        statistics.median(y for _, y in times),
    )


def paired_differences(a: Callable[[], object], b: Callable[[], object], rounds: int, warmup: int = 2) -> list[float]:
    """Return the seconds by which each a took longer than its b, timed in turn."""
    return [x - y for x, y in _paired_times(a, b, rounds, warmup)]


def _paired_times(
    a: Callable[[], object], b: Callable[[], object], rounds: int, warmup: int
) -> list[tuple[float, float]]:
    for _ in range(warmup):
        a()
        b()
    times: list[tuple[float, float]] = []
    for turn in range(rounds):
        first, second = (a, b) if turn % 2 == 0 else (b, a)
        one, other = _seconds(first), _seconds(second)
        times.append((one, other) if turn % 2 == 0 else (other, one))
    return times


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
