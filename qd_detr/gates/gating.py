"""The types of gates there are, as the option `gating_type` names them."""

from __future__ import annotations

GATING_TYPES = ("global", "clipwise", "elementwise")
"""One number per sample; one per clip; one per clip and channel."""
