"""How much of each video the model sees: clips against seconds.

Letters: V videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.feature_layout import FLAGS, FeatureSpec
from qd_detr.gates.errors import DataError, first_few

# A factor is told from rounding by this share, and from single odd videos by what share of them agrees on it.
_FACTOR_FROM, _AGREE_WITHIN, _AGREEING_SHARE = 0.2, 0.1, 0.8
_VIDEOS_FOR_FEWER = 3  # one short feature file is a fault of that file, not of all


@dataclass(frozen=True, slots=True)
class VideoClips:
    """One video: its annotated duration, the clips its video and audio files hold, and those the model takes."""

    vid: str
    duration_s: float
    video: int
    audio: int
    taken: int


@dataclass(frozen=True)
class Coverage:
    """The videos that the model does not see as they are, each as a message names it.

    Attributes:
        cut: longer than max_v_l clips, by more than a clip. short_video: their video features end more than a clip
            before the video does. short_audio: cut because their audio features are shorter than their video features.
        long_video: their features go on for more than a clip after the annotated end.
        windows: annotated windows; windows_beyond: those that begin where the model sees nothing any more;
        queries_beyond: ids of the queries all of whose windows do.
    """

    cut: tuple[str, ...] = ()
    short_video: tuple[str, ...] = ()
    short_audio: tuple[str, ...] = ()
    long_video: tuple[str, ...] = ()
    windows: int = 0
    windows_beyond: int = 0
    queries_beyond: tuple[int | str, ...] = ()


def coverage_of(videos: Sequence[VideoClips], queries: Sequence[Query], spec: FeatureSpec) -> Coverage:
    """Return what the model sees of the videos, (V,), and of the windows that are annotated in them."""
    clip_s = spec.clip_length_s
    cut: list[str] = []
    short_video: list[str] = []
    short_audio: list[str] = []
    long_video: list[str] = []
    for one in videos:
        seen_s, stored_s = one.taken * clip_s, one.video * clip_s
        whole = f"{one.vid} ({seen_s:g} of {one.duration_s:g} s)"
        if one.audio < min(one.video, spec.max_v_l):
            short_audio.append(f"{one.vid} ({one.audio} clips of audio, {min(one.video, spec.max_v_l)} of video)")
        elif one.duration_s > seen_s + clip_s:
            (cut if one.video >= spec.max_v_l else short_video).append(whole)
        if stored_s > one.duration_s + clip_s:
            long_video.append(f"{one.vid} ({stored_s:g} s of features, {one.duration_s:g} s by the annotation)")
    seen = {one.vid: one.taken * clip_s for one in videos}
    starts = {query.qid: [start for start, _ in query.relevant_windows or ()] for query in queries}
    beyond = {query.qid: [start >= seen[query.vid] for start in starts[query.qid]] for query in queries}
    return Coverage(
        cut=tuple(cut),
        short_video=tuple(short_video),
        short_audio=tuple(short_audio),
        long_video=tuple(long_video),
        windows=sum(map(len, starts.values())),
        windows_beyond=sum(map(sum, beyond.values())),
        queries_beyond=tuple(qid for qid, past in beyond.items() if past and all(past)),
    )


def refuse_other_clip_length(videos: Sequence[VideoClips], spec: FeatureSpec) -> None:
    """Raise DataError if the features of nearly all videos have a factor more or fewer clips than their durations.

    Then they were extracted at another clip length than the model was trained with, and its time axis would be wrong.
    A file that ends at max_v_l clips may have been cut there, and says nothing.
    """
    told = [one for one in videos if one.video != spec.max_v_l or one.duration_s <= one.video * spec.clip_length_s]
    if not told:
        return
    clips = np.array([one.video for one in told], dtype=np.float64)  # (V,)
    expected = np.array([one.duration_s / spec.clip_length_s for one in told])
    factor = float(np.median(clips / expected))
    if abs(factor - 1) < _FACTOR_FROM or (factor < 1 and len(told) < _VIDEOS_FOR_FEWER):
        return
    # Of a clip more or less nothing can be said.
    apart = np.abs(clips - factor * expected) > np.maximum(1.0, _AGREE_WITHIN * factor * expected)
    explained = np.abs(clips - expected) <= 1.5
    if apart.mean() > 1 - _AGREEING_SHARE or explained.any():
        return
    few = [f"{one.vid} ({one.video} clips for {one.duration_s:g} s)" for one in told]
    raise DataError(
        f"the features have {factor:.3g} times the clips that the durations of {len(told)} videos hold at clip_length "
        f"{spec.clip_length_s:g} s: {first_few(few)}; give features of one clip every {spec.clip_length_s:g} s with "
        f"{FLAGS['video']} and {FLAGS['audio']}, correct the durations, or, if the model was trained on these, give "
        f"options with clip_length {spec.clip_length_s / factor:.3g}"
    )
