"""Named checks, one after another: each passes or fails with its reason, and the others still run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


class CheckFailed(Exception):
    """A check found something else than it expects; the message says what."""


def expect(truth: object, reason: str) -> None:
    """Raise CheckFailed with the reason unless `truth` holds."""
    if not truth:
        raise CheckFailed(reason)


@dataclass(frozen=True)
class CheckResult:
    """How one check went. detail: what was found, or why it failed."""

    name: str
    passed: bool
    detail: str
    seconds: float


@dataclass
class Ledger:
    """The checks made so far; `tell` is given each result as it comes."""

    tell: Callable[[CheckResult], object] = lambda result: None
    results: list[CheckResult] = field(default_factory=list)

    def check(self, name: str, function: Callable[[], str | None]) -> bool:
        """Make a check: it passes unless `function` raises; what it returns is told beside its name."""
        began = time.perf_counter()
        try:
            passed, detail = True, function() or ""
        except CheckFailed as failure:
            passed, detail = False, str(failure)
        except Exception as error:
            # Whatever broke, it is this check's result, and the others go on.
            passed, detail = False, f"{type(error).__name__}: {error}"
        self.results.append(CheckResult(name, passed, " ".join(detail.split()), time.perf_counter() - began))
        self.tell(self.results[-1])
        return passed

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if not result.passed]
