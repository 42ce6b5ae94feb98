"""Metrics as a training loop has them at hand, made plain numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


def plain_metrics(given: Any) -> dict[str, float | None]:
    """Return name -> number, None for one that is missing or not finite; what else there is, is left out with a warning.

    Args:
        given: a mapping, or None. Of the benchmark's nested layout its part "brief" counts.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        logger.warning("metrics must map names to numbers; got %s, left out", type(given).__name__)
        return {}
    brief = given.get("brief")
    if isinstance(brief, Mapping):
        given = brief
    plain: dict[str, float | None] = {}
    left_out = []
    for name, value in given.items():
        try:
            number = None if value is None else float(value)
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
            left_out.append(str(name))
            continue
        plain[str(name)] = number if number is not None and math.isfinite(number) else None
    if left_out:
        logger.warning("metrics that are no numbers are left out: %s", ", ".join(left_out[:5]))
    return plain
