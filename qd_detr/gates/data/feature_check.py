"""Checks every feature file of a run by its header before anything runs; the data itself is not read.

Letters: n clips of a query, T tokens.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qd_detr.gates.command_line import progress as counting
from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.coverage import VideoClips
from qd_detr.gates.data.feature_headers import Fault, Header, read_header
from qd_detr.gates.data.feature_layout import (
    ENDPOINTS_DIM,
    FLAGS,
    FeatureFile,
    FeatureFolders,
    FeatureSpec,
    QueryFiles,
    Role,
    files_of,
)
from qd_detr.gates.errors import DataError, RequestError, first_few
from qd_detr.gates.files import write_whole

logger = logging.getLogger(__name__)

# How a message says each fault that no flag lets pass, and what to do about it.
_FAULTS = {
    "empty": ("hold no rows", "extract these files again, or leave them out with --skip_missing"),
    "damaged": ("cannot be read", "copy or extract these files again"),
    "key": ("lack the array {key!r}", "save it under that name, or give another folder with {flag}"),
    "array": ("are not rows x columns of real numbers", "extract these files again"),
}


# Names of a folder that a message looks through.
_NAMES_READ = 100_000


class MissingFeaturesError(DataError):
    """Feature files that are not there or hold no rows; `missing` has (qid, path) for every one of them."""

    def __init__(self, message: str, missing: Sequence[tuple[int | str, Path]]) -> None:
        super().__init__(message)
        self.missing = list(missing)


@dataclass(frozen=True)
class FeatureIndex:
    """What the check found out about the queries that can be run.

    `clip_counts` (n) and `token_counts` (T) go with `queries`, after the cut to max_v_l and max_q_l and to the
    shorter of video and audio. `missing` has (qid, path) for every file that is missing or holds no rows; its queries
    are not in `queries`.
    `length_mismatches` counts the videos whose audio and (shortest) video features differ in clips once cut to
    max_v_l; `video_length_mismatches` those whose video features differ among themselves. `file_sizes` maps
    "<folder name>/<file>" to bytes; folders of one name are told apart by their parents' names. `videos` has the clips
    of each video, once.
    """

    queries: list[Query]
    clip_counts: list[int]
    token_counts: list[int]
    missing: list[tuple[int | str, Path]]
    length_mismatches: int
    video_length_mismatches: int
    file_sizes: dict[str, int]
    videos: list[VideoClips] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A query, its files, and what each of them was found to be (aligned with `files.all`)."""

    query: Query
    files: QueryFiles
    found: tuple[Header | Fault, ...]

    def faults(self) -> list[tuple[FeatureFile, Fault]]:
        pairs = zip(self.files.all, self.found, strict=True)
        return [(file, found) for file, found in pairs if isinstance(found, Fault)]

    def missing(self) -> list[FeatureFile]:
        """Return the files that are not there or hold nothing: those that may be left out."""
        return [file for file, fault in self.faults() if fault.kind in ("missing", "empty")]

    def headers(self, role: Role) -> list[Header]:
        """Return what the files of `role` hold; of no use to a caller while one of them has a fault."""
        pairs = zip(self.files.all, self.found, strict=True)
        return [found for file, found in pairs if file.role == role and isinstance(found, Header)]

    def name(self, role: Role) -> str:
        """Return what a file of `role` is counted by: the query for text, the video otherwise."""
        return str(self.query.qid) if role == "text" else self.query.vid


def check_features(
    queries: Sequence[Query],
    folders: FeatureFolders,
    spec: FeatureSpec,
    *,
    skip_missing: bool = False,
    progress: bool = False,
) -> FeatureIndex:
    """Return the index of the queries whose features can be read and fit the model, in the given order.

    With `skip_missing`, queries that lack a file, or have one without rows, are left out; a file that cannot be used
    for another reason is an error either way. `progress` shows how far it is if it takes long.

    Raises:
        MissingFeaturesError: Files are missing or empty and may not be skipped, or no query has all of its files.
        DataError: Files are damaged, hold something else, or are too wide or too narrow for the model.
    """
    if not queries:
        raise DataError("there are no queries to check features for")
    known: dict[FeatureFile, Header | Fault] = {}
    checked: list[_Checked] = []
    with counting(len(queries), "checking features", "sample", quiet=not progress, brief=True) as advance:
        for query in queries:
            files = files_of(query, folders, spec)
            for file in files.all:
                if file not in known:  # a video is shared by several queries
                    known[file] = read_header(file)
            checked.append(_Checked(query, files, tuple(known[file] for file in files.all)))
            advance()

    missing = [(each.query.qid, file.path) for each in checked for file in each.missing()]
    complete = [each for each in checked if not each.missing()]
    if missing and not (skip_missing and complete):
        raise MissingFeaturesError(_missing_message(checked, skip_missing), missing)
    problems = [*_fault_messages(complete), *_width_messages(complete, spec)]
    if problems:
        raise DataError("; ".join(problems))
    return _build_index(complete, missing, spec)


def write_missing_list(missing: Iterable[tuple[int | str, Path]], path: str | Path) -> None:
    """Write one `qid<TAB>path` line for each missing file; the list appears whole or not at all.

    Raises:
        RequestError: The list cannot be written there.
    """
    path = Path(path)
    try:
        write_whole(path, "".join(f"{qid}\t{file}\n" for qid, file in missing))
    except OSError as error:
        raise RequestError(
            f"--missing_list {path} cannot be written ({error.strerror}); name a file in a folder that is there"
        ) from None


@dataclass
class _FaultGroup:
    """Faults of one kind in one folder: whose files they are, and each file as a message shows it."""

    file: FeatureFile
    names: set[str]
    shown: dict[str, None]


def _group_faults(checked: Sequence[_Checked]) -> dict[tuple[Role, Path, str], _FaultGroup]:
    """Return the faults by role, folder and kind, in the order in which they were met."""
    groups: dict[tuple[Role, Path, str], _FaultGroup] = {}
    for each in checked:
        for file, fault in each.faults():
            group = groups.setdefault((file.role, file.folder, fault.kind), _FaultGroup(file, set(), {}))
            group.names.add(each.name(file.role))
            group.shown[f"{file.name} ({fault.detail})" if fault.detail else file.name] = None
    return groups


def _count(names: set[str], checked: Sequence[_Checked], role: Role) -> str:
    """Return "3 of 1550 videos": videos are counted once, however many queries they have."""
    total = len({each.name(role) for each in checked})
    return f"{len(names)} of {total} {'queries' if role == 'text' else 'videos'}"


def _missing_message(checked: Sequence[_Checked], skip_missing: bool) -> str:
    """Say for each folder how many videos or queries lack files there, and the first few files."""
    parts, flags = [], []
    for (role, folder, kind), group in _group_faults(checked).items():
        few = first_few(list(group.shown))
        if kind == "missing":
            parts.append(
                f"features missing for {_count(group.names, checked, role)} in {folder}: {few} "
                f"({what_is_there(group.file)})"
            )
            flags.append(FLAGS[role])
        elif kind == "empty":
            parts.append(f"features of {_count(group.names, checked, role)} in {folder} hold no rows: {few}")
            flags.append(FLAGS[role])
    found = f"{'; '.join(parts)}; give the folder with {' '.join(dict.fromkeys(flags))}"
    if skip_missing:
        return f"{found}: no query has all of its features, so --skip_missing leaves none"
    return f"{found}, or leave them out with --skip_missing (--missing_list FILE writes all)"


def what_is_there(file: FeatureFile) -> str:
    """Return in words what the folder of a file that is not there holds instead, its next of kin first."""
    folder = file.path.parent
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in itertools.islice(entries, _NAMES_READ))
    except OSError as error:
        return f"there is no folder {folder}" if isinstance(error, FileNotFoundError) else f"{folder} cannot be listed"
    if not names:
        return "the folder is empty"
    stem = file.path.stem.removeprefix("qid")
    akin = [name for name in names if stem in name]
    if akin:
        are = "is" if len(akin) == 1 else "are"
        return f"{first_few(akin)} {are} there, {file.path.name} was expected"
    return f"the folder holds {len(names)} file{'s' * (len(names) > 1)}, as {first_few(names, shown=2)}"


def _fault_messages(checked: Sequence[_Checked]) -> list[str]:
    """Return a message for each kind of unusable file in each folder."""
    messages = []
    for (role, folder, kind), group in _group_faults(checked).items():
        what, remedy = (part.format(key=group.file.key, flag=FLAGS[role]) for part in _FAULTS[kind])
        count = _count(group.names, checked, role)
        messages.append(f"features of {count} in {folder} {what}: {first_few(list(group.shown))}; {remedy}")
    return messages


def _width_messages(checked: Sequence[_Checked], spec: FeatureSpec) -> list[str]:
    """Return a message for each kind of features that is wider or narrower than the model's input."""
    messages = []
    for role in FLAGS:
        wanted = spec.stored_dim(role)
        shown: dict[str, str] = {}
        for each in checked:
            if any(file.role == role for file, _ in each.faults()):
                continue
            widths = [header.columns for header in each.headers(role)]
            if sum(widths) != wanted:
                total = f" = {sum(widths)}" if len(widths) > 1 else ""
                shown[each.name(role)] = f"{each.name(role)} has {' + '.join(map(str, widths))}{total}"
        if shown:
            files = [file for file in checked[0].files.all if file.role == role]
            folders = " + ".join(dict.fromkeys(str(file.folder) for file in files))
            endpoints = spec.temporal_endpoints and role != "text"
            with_them = f" ({wanted + ENDPOINTS_DIM} with the {ENDPOINTS_DIM} temporal endpoints)" if endpoints else ""
            order = ", in its order," if role == "video" else ""
            messages.append(
                f"{role} features of {_count(set(shown), checked, role)} in {folders} do not fit the model, which "
                f"takes {wanted} columns{with_them}: {first_few(list(shown.values()))}; "
                f"give what the model was trained on{order} with {FLAGS[role]}"
            )
    return messages


def _build_index(checked: Sequence[_Checked], missing: list[tuple[int | str, Path]], spec: FeatureSpec) -> FeatureIndex:
    """Return the index of queries whose files are all there and fit."""
    clip_counts, token_counts = [], []
    differing: dict[str, tuple[bool, bool]] = {}
    videos: dict[str, VideoClips] = {}
    for each in checked:
        video = [min(header.rows, spec.max_v_l) for header in each.headers("video")]
        audio, text = each.headers("audio")[0].rows, each.headers("text")[0].rows
        stored = min(header.rows for header in each.headers("video"))
        taken = min(stored, audio, spec.max_v_l)
        videos.setdefault(each.query.vid, VideoClips(each.query.vid, each.query.duration_s, stored, audio, taken))
        audio = min(audio, spec.max_v_l)
        clip_counts.append(min(*video, audio))
        token_counts.append(min(text, spec.max_q_l))
        differing[each.query.vid] = (min(video) != audio, min(video) != max(video))
    index = FeatureIndex(
        queries=[each.query for each in checked],
        clip_counts=clip_counts,
        token_counts=token_counts,
        missing=missing,
        length_mismatches=sum(with_audio for with_audio, _ in differing.values()),
        video_length_mismatches=sum(within_video for _, within_video in differing.values()),
        file_sizes=_file_sizes(checked),
        videos=list(videos.values()),
    )
    if index.length_mismatches or index.video_length_mismatches:
        logger.info(
            "clip counts differ between video and audio for %d videos, among video features for %d; cut to the shorter",
            index.length_mismatches,
            index.video_length_mismatches,
        )
    return index


def _file_sizes(checked: Sequence[_Checked]) -> dict[str, int]:
    """Return the bytes of each file under "<folder name>/<file>"."""
    folders = list(dict.fromkeys(file.folder for file in checked[0].files.all))
    parts = {folder: Path(os.path.abspath(folder)).parts for folder in folders}
    places, depth = set(parts.values()), 1
    # Two folders of one name, as in rgb/features and flow/features, take as many parents as tell them apart.
    while len({place[-depth:] for place in places}) < len(places):
        depth += 1
    labels = {folder: "/".join(parts[folder][-depth:]) for folder in folders}
    sizes: dict[str, int] = {}
    for each in checked:
        for file, found in zip(each.files.all, each.found, strict=True):
            if isinstance(found, Header):
                sizes[f"{labels[file.folder]}/{file.name}"] = found.file_bytes
    return sizes
