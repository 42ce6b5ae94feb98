"""What a video's name tells: which source video it was cut from."""

from __future__ import annotations

import re

_TIMES = re.compile(r"(.+)_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")


def source_video(vid: str) -> str:
    """Return the part of `vid` before its two times: 'aB3dE5gH7jK_210.0_360.0' -> 'aB3dE5gH7jK'; else the whole."""
    match = _TIMES.fullmatch(vid)
    return match.group(1) if match else vid
