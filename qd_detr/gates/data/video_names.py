"""What a video's name tells: which source video it was cut from."""

from __future__ import annotations

import re

_YOUTUBE = re.compile(r"[A-Za-z0-9_-]{11}")
_TIMES = re.compile(r"(.+)_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")


def youtube_link(vid: str, second: float = 0.0) -> str | None:
    """Return the address of the original video at `second` of a cut of it, where the name is that of a YouTube video
    and two times; else None."""
    match = _TIMES.fullmatch(vid)
    if match is None or not _YOUTUBE.fullmatch(match.group(1)):
        return None
    return f"https://www.youtube.com/watch?v={match.group(1)}&t={int(float(match.group(2)) + second)}s"


def source_video(vid: str) -> str:
    """Return the part of `vid` before its two times: 'aB3dE5gH7jK_210.0_360.0' -> 'aB3dE5gH7jK'; else the whole."""
    match = _TIMES.fullmatch(vid)
    return match.group(1) if match else vid
