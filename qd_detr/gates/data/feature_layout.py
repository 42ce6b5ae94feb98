"""Where a model's features lie: the folders, and the files that a query needs in them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, Protocol

from qd_detr.gates.data.annotations import Query, file_name_problem
from qd_detr.gates.data.datasets import Dataset, dataset_of
from qd_detr.gates.errors import DataError, MissingFileError, RequestError

logger = logging.getLogger(__name__)

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
            max_v_l=options["max_v_l"],
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
class FeatureSources:
    """Where to look for the data: the annotation file, and whatever else a command was told.

    Attributes:
        feature_root: holds the feature folders under the last components of the options' paths.
        v_feat_dirs, t_feat_dir, a_feat_dir: the folders themselves.
    """

    data_path: Path
    checkpoint_path: Path | None = None
    feature_root: Path | None = None
    v_feat_dirs: Sequence[Path] | None = None
    t_feat_dir: Path | None = None
    a_feat_dir: Path | None = None


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
    """Return the files that hold `query`'s features.

    Raises:
        DataError: Its vid or qid would name a file outside the folder.
    """
    for field, name in (("vid", query.vid), ("qid", str(query.qid))):
        problem = file_name_problem(name)
        if problem is not None:
            raise DataError(f"{field} {name!r} of annotation {query.line} {problem}; it has to name a feature file")
    dataset = spec.dataset
    video_key = dataset.video_key if dataset.video_suffix == ".npz" else None
    video = tuple(
        tuple(
            FeatureFile("video", folder, stem.format(vid=query.vid) + dataset.video_suffix, video_key)
            for stem in dataset.video_stems
        )
        for folder in folders.video
    )
    text_name = dataset.text_stems[0].format(qid=query.qid) + ".npz"
    return QueryFiles(
        video,
        FeatureFile("text", folders.text, text_name, dataset.text_key),
        FeatureFile("audio", folders.audio, f"{query.vid}.npy", None),
    )


def locate_features(spec: FeatureSpec, sources: FeatureSources) -> FeatureFolders:
    """Return the folder of each kind of features; the first of these that is there:

    the folder a flag names outright; `feature_root`/<last component of the options' folder>; the
    annotation file's folder/<last component>; the path as the options write it, taken from the
    checkpoint's folder, then from the working directory.

    Raises:
        MissingFileError: A folder that a flag names is not there, or none was found for some features
            (what was tried, and the flags that help).
        RequestError: The options name no folder, or two video folders become one.
    """
    root = sources.feature_root
    if root is not None and not os.path.isdir(root):
        raise MissingFileError(f"--feature_root {root} is not a folder; give the folder of the feature folders")
    search = _Search(sources)
    if sources.v_feat_dirs:
        video = tuple(_named_outright("video", folder) for folder in sources.v_feat_dirs)
    else:
        video = tuple(search.find("video", written) for written in spec.v_feat_dirs or ("",))
    text_dir, audio_dir = sources.t_feat_dir, sources.a_feat_dir
    text = _named_outright("text", text_dir) if text_dir else search.find("text", spec.t_feat_dir)
    audio = _named_outright("audio", audio_dir) if audio_dir else search.find("audio", spec.a_feat_dir)
    search.raise_if_lost()
    if not sources.v_feat_dirs:
        _refuse_merged(spec.v_feat_dirs, video, search.found_by_name)
    return FeatureFolders(video, text, audio)


def _named_outright(role: Role, folder: Path) -> Path:
    if not os.path.isdir(folder):
        raise MissingFileError(f"{FLAGS[role]} {folder} is not a folder; give the folder of the {role} features")
    return folder


def _last_component(written: str) -> str:
    """Return the last component of a path written on any system, "" if it has none that names a folder."""
    name = PureWindowsPath(written).name  # takes both slashes and a trailing one
    return "" if name == ".." else name


class _Search:
    """Looks for the folders that the options name, and remembers which it did not find."""

    def __init__(self, sources: FeatureSources) -> None:
        self.data_dir = sources.data_path.parent
        self.checkpoint_dir = None if sources.checkpoint_path is None else sources.checkpoint_path.parent
        self.feature_root = sources.feature_root
        self.found_by_name: set[Path] = set()
        self.lost: list[str] = []
        self.flags: list[str] = []
        self.root_helps = False

    def find(self, role: Role, written: str) -> Path:
        """Return the folder; what could not be found is kept for `raise_if_lost`."""
        if not written.strip():
            self.lost.append(f"the options name no folder of {role} features")
            self.flags.append(FLAGS[role])
            return Path()
        by_name, as_written = self._candidates(written)
        for place in (*by_name, *as_written):
            if not os.path.isdir(place):
                continue
            if self.feature_root is not None and place.parent != self.feature_root:
                logger.warning("%s features are not in --feature_root %s; using %s", role, self.feature_root, place)
            if place in by_name:
                self.found_by_name.add(place)
            return place
        tried = ", ".join(dict.fromkeys(str(place) for place in (*by_name, *as_written)))
        self.lost.append(f"no folder found for the {role} features {written} (tried {tried})")
        self.flags.append(FLAGS[role])
        self.root_helps = True
        return Path()

    def raise_if_lost(self) -> None:
        """Raise one MissingFileError for everything that was not found."""
        if self.lost:
            root = "give the folder that holds the feature folders with --feature_root, or " if self.root_helps else ""
            flags = " ".join(dict.fromkeys(self.flags))
            raise MissingFileError(f"{'; '.join(self.lost)}; {root}name the folders outright with {flags}")

    def _candidates(self, written: str) -> tuple[list[Path], list[Path]]:
        """Return the places to try: by the last component, and by the path as it is written."""
        name = _last_component(written)
        roots = [root for root in (self.feature_root, self.data_dir) if root is not None and name]
        # An absolute path stays itself when joined to a folder.
        starts = [start for start in (self.checkpoint_dir, Path()) if start is not None]
        return [root / name for root in roots], [start / written for start in starts]


def _refuse_merged(written: Sequence[str], found: Sequence[Path], found_by_name: set[Path]) -> None:
    """Raise if two differently written video folders were taken for one because their last names agree."""
    first: dict[Path, str] = {}
    for name, folder in zip(written, found, strict=True):
        other = first.setdefault(folder, name)
        if folder in found_by_name and os.path.normpath(other) != os.path.normpath(name):
            raise RequestError(
                f"the options' video features {other} and {name} would both be read from {folder}; "
                "name the folders outright, in the options' order, with --v_feat_dirs"
            )
