"""Where a model's features lie: the folders that flags name, or those that the options speak of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.feature_layout import FLAGS, FeatureFolders, FeatureSpec, Role, files_of
from qd_detr.gates.errors import MissingFileError, RequestError

# What other code bases put before a kind of features in a folder's name; "_features" may follow it or not.
_PREFIXES: dict[Role, str] = {"video": "vid_", "text": "txt_", "audio": "aud_"}


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

    @property
    def untold(self) -> FeatureSources:
        """The same without the folders that flags name."""
        return FeatureSources(self.data_path, self.checkpoint_path)


def locate_features(spec: FeatureSpec, sources: FeatureSources) -> FeatureFolders:
    """Return the folder of each kind of features.

    A folder that a flag names outright is taken, and nothing else in its place; so is `feature_root`/<last component
    of the options' folder>. Without flags it is the first of these that is there: the annotation file's folder/<last
    component>; the path as the options write it, taken from the checkpoint's folder, then from the working directory.
    A last component stands for the other names of its kind too: slowfast_features, slowfast, vid_slowfast.

    Raises:
        MissingFileError: A folder that a flag names is not there, or none was found for some features
            (what was tried, and the flags that help).
        RequestError: The options name no folder, two video folders become one, or video folders are named in another
            order than the options'.
    """
    root = sources.feature_root
    if root is not None and not os.path.isdir(root):
        raise MissingFileError(f"--feature_root {root} is not a folder; give the folder of the feature folders")
    search = _Search(sources)
    if sources.v_feat_dirs:
        video = tuple(_named_outright("video", folder) for folder in sources.v_feat_dirs)
        _refuse_other_order(spec.v_feat_dirs, video)
    else:
        video = tuple(search.find("video", written) for written in spec.v_feat_dirs or ("",))
    text_dir, audio_dir = sources.t_feat_dir, sources.a_feat_dir
    text = _named_outright("text", text_dir) if text_dir else search.find("text", spec.t_feat_dir)
    audio = _named_outright("audio", audio_dir) if audio_dir else search.find("audio", spec.a_feat_dir)
    search.raise_if_lost()
    if not sources.v_feat_dirs:
        _refuse_merged(spec.v_feat_dirs, video, search.found_by_name)
    return FeatureFolders(video, text, audio)


def found_elsewhere(query: Query, folders: FeatureFolders, spec: FeatureSpec, sources: FeatureSources) -> list[Path]:
    """Return the folders that hold the files of `query` which `folders` lack, where no flag was given: for a message."""
    try:
        others = locate_features(spec, sources.untold)
    except RequestError:
        return []
    places = []
    for file, other in zip(files_of(query, folders, spec).all, files_of(query, others, spec).all, strict=False):
        if not os.path.exists(file.path) and os.path.exists(other.path):
            places.append(other.folder)
    return list(dict.fromkeys(places))


def _named_outright(role: Role, folder: Path) -> Path:
    if not os.path.isdir(folder):
        raise MissingFileError(f"{FLAGS[role]} {folder} is not a folder; give the folder of the {role} features")
    return folder


def _last_component(written: str) -> str:
    """Return the last component of a path written on any system, "" if it has none that names a folder."""
    name = PureWindowsPath(written).name  # takes both slashes and a trailing one
    return "" if name == ".." else name


def _kind(role: Role, name: str) -> str:
    """Return what a folder's name says of its features: "slowfast" of slowfast_features, slowfast and vid_slowfast."""
    kind = name.removesuffix("_features").removeprefix(_PREFIXES[role])
    return kind.removesuffix("_text") if role == "text" else kind


def _names(role: Role, name: str) -> list[str]:
    """Return the names under which a folder's features may be stored, its own first."""
    kind = _kind(role, name)
    plain = f"{kind}_text" if role == "text" else kind
    return list(dict.fromkeys([name, f"{plain}_features", plain, f"{_PREFIXES[role]}{kind}"]))


class _Search:
    """Looks for the folders that the options name, and remembers which it did not find."""

    def __init__(self, sources: FeatureSources) -> None:
        self.data_dir = sources.data_path.parent
        self.checkpoint_dir = None if sources.checkpoint_path is None else sources.checkpoint_path.parent
        self.feature_root = sources.feature_root
        self.sources = sources
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
        by_name, as_written = self._candidates(role, written)
        places = [*by_name[:1], *as_written, *by_name[1:]]  # another name of its kind comes last
        for place in places:
            if os.path.isdir(place):
                if place in by_name:
                    self.found_by_name.add(place)
                return place
        tried = ", ".join(dict.fromkeys(str(place) for place in [*by_name[:1], *as_written]))
        lost = f"no folder found for the {role} features {written} (tried {tried})"
        if self.feature_root is not None:
            lost = f"--feature_root {self.feature_root} holds no folder for the {role} features {written}"
            other = _Search(self.sources.untold).find(role, written)
            lost += f"; there is {other}" if other != Path() else f" (tried {tried})"
        self.lost.append(lost)
        self.flags.append(FLAGS[role])
        self.root_helps = True
        return Path()

    def raise_if_lost(self) -> None:
        """Raise one MissingFileError for everything that was not found."""
        if self.lost:
            root = "give the folder that holds the feature folders with --feature_root, or " if self.root_helps else ""
            flags = " ".join(dict.fromkeys(self.flags))
            raise MissingFileError(f"{'; '.join(self.lost)}; {root}name the folders outright with {flags}")

    def _candidates(self, role: Role, written: str) -> tuple[list[Path], list[Path]]:
        """Return the places to try: by the last component, and by the path as it is written."""
        name = _last_component(written)
        root = self.data_dir if self.feature_root is None else self.feature_root
        by_name = [root / one for one in _names(role, name)] if name else []
        if self.feature_root is not None and name:
            return by_name, []
        # An absolute path stays itself when joined to a folder.
        starts = [start for start in (self.checkpoint_dir, Path()) if start is not None]
        return by_name, [start / written for start in starts]


def _refuse_other_order(written: Sequence[str], named: Sequence[Path]) -> None:
    """Raise if the folders that a flag names are the options', by their last components, in another order."""
    wanted = [_kind("video", _last_component(one)) for one in written]
    given = [_kind("video", folder.name) for folder in named]
    if sorted(wanted) == sorted(given) and wanted != given:
        raise RequestError(
            f"--v_feat_dirs names {', '.join(map(str, named))}, but the model takes them in the order of its options, "
            f"{', '.join(written)}; name them in that order"
        )


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
