"""A query's features as the model takes them.

Letters: n clips, T tokens, Dv/Da/Dt columns of video, audio and text. The steps and their order are the legacy
model's: cut to max_v_l, float32, normalise, cut to the shortest, concatenate, append the temporal endpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.feature_check import (
    FeatureIndex,
    MissingFeaturesError,
    check_features,
    write_missing_list,
)
from qd_detr.gates.data.feature_headers import UNREADABLE, read_rows, reason
from qd_detr.gates.data.feature_layout import FeatureFile, FeatureFolders, FeatureSpec, QueryFiles, files_of
from qd_detr.gates.data.feature_search import locate_features
from qd_detr.gates.errors import DataError

__all__ = [
    "FeatureFolders",
    "FeatureIndex",
    "FeatureReader",
    "FeatureSpec",
    "Features",
    "MissingFeaturesError",
    "check_features",
    "locate_features",
    "normalize_rows",
    "write_missing_list",
]

FloatArray = npt.NDArray[np.float32]

NORM_EPSILON = 1e-5
# Queries about one video stand near each other in a file; a few videos kept save most of the reading.
_VIDEOS_KEPT = 8


@dataclass(frozen=True, eq=False, slots=True)
class Features:
    """One query's features, float32 and read-only: video (n, Dv), audio (n, Da), text (T, Dt)."""

    video: FloatArray
    audio: FloatArray
    text: FloatArray


def normalize_rows(x: npt.NDArray[Any]) -> FloatArray:
    """Return x / (|x| + 1e-5) for each row of x (..., D), in float32 as the legacy model was trained."""
    x = x.astype(np.float32, copy=False)
    return x / (np.linalg.norm(x, axis=-1, keepdims=True) + np.float32(NORM_EPSILON))


def temporal_endpoints(clips: int) -> FloatArray:
    """Return [t/n, (t+1)/n] of each clip t, (n, 2) float32."""
    start = np.arange(clips, dtype=np.float32) / np.float32(clips)
    # The end is start + 1/n, not (t + 1)/n: equal but for the last bit, which recorded legacy inputs have so.
    return np.stack([start, start + np.float32(1 / clips)], axis=1)


class FeatureReader:
    """Reads the features of checked queries, and keeps the last few videos for the queries that share them."""

    def __init__(self, folders: FeatureFolders, spec: FeatureSpec, index: FeatureIndex) -> None:
        self.folders = folders
        self.spec = spec
        counts = zip(index.queries, index.clip_counts, index.token_counts, strict=True)
        self._counts = {str(query.qid): (clips, tokens) for query, clips, tokens in counts}
        self._videos: dict[str, tuple[FloatArray, FloatArray]] = {}

    def read(self, query: Query) -> Features:
        """Return the query's features.

        Raises:
            KeyError: The query is not in the index that the reader was made with.
            DataError: A file cannot be read, is not what the check found, or holds NaN or infinity.
        """
        if str(query.qid) not in self._counts:
            raise KeyError(f"query {query.qid} is not among the {len(self._counts)} that check_features let through")
        clips, tokens = self._counts[str(query.qid)]
        files = files_of(query, self.folders, self.spec)
        # Taken out and put back, so that the first of the dict is the one unused for longest. Each step holds
        # when two threads read at once: the worst is that a video is read twice.
        pair = self._videos.pop(query.vid, None)
        if pair is None:
            pair = self._read_video(files, clips)
        self._videos[query.vid] = pair
        for vid in list(self._videos)[:-_VIDEOS_KEPT]:
            self._videos.pop(vid, None)
        return Features(video=pair[0], audio=pair[1], text=self._read_text(files.text, tokens))

    def _read_video(self, files: QueryFiles, clips: int) -> tuple[FloatArray, FloatArray]:
        """Return the video's (n, Dv) and (n, Da)."""
        max_v_l, normalize = self.spec.max_v_l, self.spec.normalize_video
        groups = [[_load(file, max_v_l) for file in group] for group in files.video]
        audio_rows = _load(files.audio, max_v_l)
        n = min(len(audio_rows), *(len(rows) for group in groups for rows in group))
        _expect_rows(n, clips, files.audio)
        parts = []
        for group, group_files in zip(groups, files.video, strict=True):
            # TVSum's two streams of a folder are normalised as one; elsewhere a group is one file.
            rows = [_finite(part[:n], file) for part, file in zip(group, group_files, strict=True)]
            joined = np.concatenate(rows, axis=-1)  # (n, columns of the folder)
            parts.append(_normalized(joined, group_files[0]) if normalize else joined)
        audio = _finite(audio_rows[:n], files.audio)
        parts_audio = [_normalized(audio, files.audio) if normalize else audio]
        if self.spec.temporal_endpoints:
            endpoints = temporal_endpoints(n)  # (n, 2)
            parts.append(endpoints)
            parts_audio.append(endpoints)
        return _frozen(np.concatenate(parts, axis=-1)), _frozen(np.concatenate(parts_audio, axis=-1))

    def _read_text(self, file: FeatureFile, tokens: int) -> FloatArray:
        """Return the query's (T, Dt)."""
        rows = _load(file, self.spec.max_q_l)  # (T, Dt)
        _expect_rows(len(rows), tokens, file)
        text = _finite(rows, file)
        normalize = self.spec.normalize_text and self.spec.dataset.normalizes_text
        return _frozen(_normalized(text, file) if normalize else text)


def _load(file: FeatureFile, most: int) -> npt.NDArray[Any]:
    """Return the first rows of the file's array as they are stored, `most` of them at most."""
    try:
        return read_rows(file, most)
    except (*UNREADABLE, KeyError) as error:
        raise DataError(f"{file.path} cannot be read ({reason(error)}); copy or extract this file again") from None


def _expect_rows(rows: int, checked: int, file: FeatureFile) -> None:
    if rows != checked:
        raise DataError(
            f"{file.path} and its fellows give {rows} rows, where {checked} were found before the run; "
            "do not change the features while they are read"
        )


def _finite(rows: npt.NDArray[Any], file: FeatureFile) -> FloatArray:
    """Return the rows as float32; they have to be finite."""
    with np.errstate(over="ignore"):  # what overflows float32 is reported below, with its place
        values = rows.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        row, column = (int(place[0]) for place in np.nonzero(~finite))
        count = int((~finite).sum())
        raise DataError(
            f"{file.path} holds {rows[row, column]} at row {row}, column {column} ({count} of its values are not "
            "finite in float32); extract this file again"
        )
    return values


def _normalized(rows: FloatArray, file: FeatureFile) -> FloatArray:
    """Return `normalize_rows`; the norms have to be finite, for a row that overflows would come out as zeros."""
    with np.errstate(over="ignore"):
        overflowing = np.flatnonzero(~np.isfinite(np.linalg.norm(rows, axis=-1)))
    if overflowing.size:
        row = int(overflowing[0])
        raise DataError(
            f"{file.path} holds {np.abs(rows[row]).max():.3g} at row {row}, too large for the row to be normalised in "
            f"float32 ({overflowing.size} such rows); extract this file again"
        )
    return normalize_rows(rows)


def _frozen(array: FloatArray) -> FloatArray:
    """Return the array read-only: kept videos are given to several queries."""
    array.setflags(write=False)
    return array
