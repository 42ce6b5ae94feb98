"""Where a model's features lie: the folders, and the files that a query needs in them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from qd_detr.gates.data.annotations import Query, file_name_problem
from qd_detr.gates.data.datasets import Dataset, dataset_of
from qd_detr.gates.errors import DataError

Role = Literal["video", "text", "audio"]
FLAGS: dict[Role, str] = {"video": "--v_feat_dirs", "text": "--t_feat_dir", "audio": "--a_feat_dir"}
# The start and the end of each clip, as fractions of the video: columns that are computed, not read.
ENDPOINTS_DIM = 2


class InputSizes(Protocol):
    """Columns of a model's inputs, temporal endpoints included."""

    @property
    def video_dim(self) -> int:
        """All video features together."""

    @property
    def audio_dim(self) -> int:
        """Audio features."""

    @property
    def text_dim(self) -> int:
        """Text features."""


NO_CUT = 1 << 31
"""More clips than any video has: what the option max_v_l means by -1."""


@dataclass(frozen=True)
class FeatureSpec:
    """What a model wants of its features, as its options and its weights say.

    The folders are as written in the options; `dset_domain` is TVSum's. `max_v_l` counts clips, `max_q_l` tokens. `video_dim`,
    `audio_dim` and `text_dim` are the model's input sizes: with `temporal_endpoints` ("tef" in ctx_mode)
    the first two count two computed columns that no file holds.
    """

    dset_name: str
    v_feat_dirs: tuple[str, ...]
    t_feat_dir: str
    a_feat_dir: str
    max_v_l: int
    max_q_l: int
    normalize_video: bool
    normalize_text: bool
    temporal_endpoints: bool
    video_dim: int
    audio_dim: int
    text_dim: int
    clip_length_s: float = 2.0
    dset_domain: str | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any], sizes: InputSizes) -> FeatureSpec:
        """Return what a run's options, by their legacy names, and the sizes of its model's inputs say."""
        return cls(
            dset_name=options["dset_name"],
            v_feat_dirs=tuple(options["v_feat_dirs"]),
            t_feat_dir=options["t_feat_dir"],
            a_feat_dir=options["a_feat_dir"],
            max_v_l=NO_CUT if options["max_v_l"] == -1 else options["max_v_l"],
            max_q_l=options["max_q_l"],
            normalize_video=not options["no_norm_vfeat"],
            normalize_text=not options["no_norm_tfeat"],
            temporal_endpoints="tef" in options["ctx_mode"],
            video_dim=sizes.video_dim,
            audio_dim=sizes.audio_dim,
            text_dim=sizes.text_dim,
            clip_length_s=float(options["clip_length"]),
            dset_domain=options["dset_domain"],
        )

    @property
    def dataset(self) -> Dataset:
        """The data set's facts."""
        return dataset_of(self.dset_name)

    def stored_dim(self, role: Role) -> int:
        """Return how many columns the files of `role` have to hold (all video folders together)."""
        if role == "text":
            return self.text_dim
        input_dim = self.video_dim if role == "video" else self.audio_dim
        return input_dim - ENDPOINTS_DIM if self.temporal_endpoints else input_dim


@dataclass(frozen=True)
class FeatureFolders:
    """The folders that were found; `video` in the order in which the model concatenates them."""

    video: tuple[Path, ...]
    text: Path
    audio: Path


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """One file of features; `key` is the array's name in an .npz, None for an .npy."""

    role: Role
    folder: Path
    name: str
    key: str | None

    @property
    def path(self) -> Path:
        """Where the file is, or should be."""
        return self.folder / self.name


@dataclass(frozen=True, slots=True)
class QueryFiles:
    """The files of one query. `video` has a group per folder; TVSum keeps two files in each (rgb, opt)."""

    video: tuple[tuple[FeatureFile, ...], ...]
    text: FeatureFile
    audio: FeatureFile

    @property
    def all(self) -> tuple[FeatureFile, ...]:
        """Every file: video in model order, then text, then audio."""
        return (*(file for group in self.video for file in group), self.text, self.audio)


def files_of(query: Query, folders: FeatureFolders, spec: FeatureSpec) -> QueryFiles:
    """Return the files that hold `query`'s features, as .npz or .npy, text with or without `qid` in its name.

    Raises:
        DataError: Its vid or qid would name a file outside the folder.
    """
    for field, name in (("vid", query.vid), ("qid", str(query.qid))):
        problem = file_name_problem(name)
        if problem is not None:
            raise DataError(f"{field} {name!r} of annotation {query.line} {problem}; it has to name a feature file")
    dataset = spec.dataset
    video = tuple(
        tuple(
            _stored("video", folder, [stem.format(vid=query.vid)], dataset.video_suffix, dataset.video_key)
            for stem in dataset.video_stems
        )
        for folder in folders.video
    )
    text_stems = [stem.format(qid=query.qid) for stem in dataset.text_stems]
    return QueryFiles(
        video,
        _stored("text", folders.text, text_stems, ".npz", dataset.text_key),
        _stored("audio", folders.audio, [query.vid], ".npy", dataset.audio_key),
    )


def _stored(role: Role, folder: Path, stems: Sequence[str], suffix: str, key: str) -> FeatureFile:
    """Return the first file that is there: by stem, each with its usual suffix first; the usual one if none is."""
    suffixes = (suffix, ".npy" if suffix == ".npz" else ".npz")
    files = [
        FeatureFile(role, folder, stem + end, key if end == ".npz" else None) for stem in stems for end in suffixes
    ]
    return next((file for file in files if os.path.lexists(file.path)), files[0])
