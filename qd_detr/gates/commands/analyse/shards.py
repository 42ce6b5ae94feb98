"""A run in shards: each does the model's work for its share of the source videos, and what they hold becomes one tree.

A shard works alone and publishes `shards/{i}-of-{n}/`: its journal, and a manifest with the request, the share and the
sums of its files. The merge is the run itself, which finds in the shards' journals that all its work is done.
"""

from __future__ import annotations

import hashlib
import json
import time
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from qd_detr.gates import __version__
from qd_detr.gates.commands.analyse.checks import prepare
from qd_detr.gates.commands.analyse.execution import run
from qd_detr.gates.commands.analyse.provenance import fingerprint_of
from qd_detr.gates.commands.analyse.request import AnalysisRequest, PreparedRun
from qd_detr.gates.commands.analyse.work import failures, open_history, results_of, sweep_of, timelines_of
from qd_detr.gates.commands.launchers import Shard
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.data.video_names import source_video
from qd_detr.gates.errors import RequestError, first_few
from qd_detr.gates.figures.style import FIGURE_FORMATS
from qd_detr.gates.files import is_plain_file, natural, read_json, shown_short
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.tree import MANIFEST, PARTIAL, SHARDS, BusyError, JournalTree, sum_of
from qd_detr.gates.runs.journal import FinishedJournals, RunJournal
from qd_detr.gates.wording import LANGUAGES

_FORMAT = "qd_detr-gates shard/1"
# What may differ between the shards of one run: where and how it works, not what comes out.
_OF_THE_PROCESS = ("output_dir", "quiet", "resume", "history_memory_mb", "missing_list", "device", "shard")
_FILE_BYTES_MAX = 4 << 30  # of a shard of gates, many times over: a file that claims more is not read
_CHOICES = {"figure_format": FIGURE_FORMATS, "lang": LANGUAGES}
_SCHEMA = {
    "format": lambda value: value == _FORMAT,
    "shard": {"number": natural, "count": natural},
    "source_videos": {"first": natural, "end": natural, "of": natural},
    "request": dict,
    "request_sha256": str,
    "asked": dict,
    "files": [str],
    "sha256?": dict,
}


@dataclass(frozen=True)
class Share:
    """A shard's share: the source videos [first, end) of `of`, counted in the order of the annotations.

    positions: of their samples, among those that the run's batches hold.
    """

    positions: frozenset[int]
    first: int
    end: int
    of: int


def share_of(samples: Samples, shard: Shard) -> Share:
    """Return a shard's share: contiguous source videos, as many clips to each shard as their lengths allow.

    A source video goes where the middle of its clips lies, so shares of any count hold every video once.
    """
    clips: dict[str, int] = {}
    positions = sorted(position for batch in samples.batches for position in batch)
    for position in positions:
        source = source_video(samples.queries[position].vid)
        clips[source] = clips.get(source, 0) + samples.clip_counts[position]
    total, before = sum(clips.values()), 0
    owner: dict[str, int] = {}
    for source, count in clips.items():
        owner[source] = (2 * before + count) * shard.count // (2 * total)
        before += count
    owners = list(owner.values())
    first, end = (sum(one < bound for one in owners) for bound in (shard.number, shard.number + 1))
    own = frozenset(p for p in positions if owner[source_video(samples.queries[p].vid)] == shard.number)
    return Share(own, first, end, len(owners))


def run_shard(prepared: PreparedRun) -> tuple[Path, list[str]]:
    """Do a shard's work and publish it; return its folder, and the names of the shards that are still to come.

    With `resume`, a shard that is there already, of this request and unharmed, is not done again.

    Raises:
        As `run`.
    """
    request, shard = prepared.request, prepared.request.shard
    assert shard is not None
    started = time.time()
    place = shard_folder(request.output_dir, shard)
    identity = _identity(prepared)
    with JournalTree(place, resume=request.resume) as tree, failures():
        if request.resume and _is_done(place, identity):
            tree.forget()
        else:
            share = share_of(prepared.samples, shard)
            own = share.positions
            fingerprint = fingerprint_of(prepared) | {"shard": shard.name}
            journal = RunJournal(tree.journal_dir, fingerprint, resume=request.resume)
            history = open_history(prepared, journal)
            raw = {result.position: result.raw for result in results_of(prepared, journal, history, own)}
            if prepared.conditions:
                sweep_of(prepared, journal, history, raw, own)
            if request.timeline:
                timelines_of(prepared, journal, history, own)
            tree.publish(_manifest(prepared, shard, share, identity, started))
    others = [Shard(number, shard.count) for number in range(shard.count)]
    return place, [one.name for one in others if not _is_of(shard_folder(request.output_dir, one), identity)]


def shard_folder(output_dir: Path, shard: Shard) -> Path:
    """Return where a shard of a run into `output_dir` is published."""
    return output_dir / SHARDS / shard.name


def merge_if_last(prepared: PreparedRun) -> tuple[Path, RunFindings] | None:
    """Merge the shards of a run whose last one this process has done; None if another process is at it."""
    request = prepared.request
    assert request.shard is not None
    places = [shard_folder(request.output_dir, Shard(i, request.shard.count)) for i in range(request.shard.count)]
    check_shards(places)
    try:
        return run(replace(prepared, request=replace(request, shard=None, resume=False)), FinishedJournals(places))
    except BusyError:
        return None


def merge(folder: Path, *, quiet: bool = False) -> tuple[Path, RunFindings]:
    """Merge the shards of a results folder into its tree; return the report's path and what was found.

    Raises:
        RequestError: shards that leave a gap, overlap, are of another request, or are damaged, by name.
    """
    output_dir = folder.parent if folder.name == SHARDS else folder
    places = sorted(path.parent for path in (output_dir / SHARDS).glob(f"*-of-*/{MANIFEST}"))
    if not places:
        raise RequestError(f"--merge_shards {folder} holds no shards ({SHARDS}/0-of-2/{MANIFEST}, ...)")
    first = check_shards(places)[0]
    # The small runs that check the analysis give the same numbers with as many threads alone.
    threads = first["request"].get("threads")
    if natural(threads) and threads:
        torch.set_num_threads(threads)
    prepared = prepare(replace(_asked(first["asked"], places[0]), output_dir=output_dir, quiet=quiet))
    differing = _differing(first["request"], _identity(prepared))
    if differing:
        raise RequestError(
            f"the shards in {output_dir / SHARDS} are of another request than their files make now; different: "
            f"{differing}. Do the shards again"
        )
    return run(prepared, FinishedJournals(places))


def check_shards(places: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the shards' manifests if together they hold every source video once, unharmed, for one request.

    Raises:
        RequestError: they do not; it names the shard, and the file.
    """
    manifests = [_read_manifest(place) for place in places]
    for place, manifest in zip(places, manifests, strict=True):
        differing = _differing(manifests[0]["request"], manifest["request"])
        if differing:
            raise RequestError(
                f"{place} is of another request than {places[0]}; different: {differing}. Remove the one that does not "
                "belong, or do it again"
            )
        _check_files(place, manifest)
    ranges = sorted(
        (m["source_videos"]["first"], m["source_videos"]["end"], str(place))
        for m, place in zip(manifests, places, strict=True)
    )
    reached, before, total = 0, "", manifests[0]["source_videos"]["of"]
    for first, end, name in [*ranges, (total, total, "")]:
        if first < reached and end > first:
            raise RequestError(
                f"{name} and {before} overlap: both hold source video {first + 1} of {total}; remove one of them"
            )
        if first > reached:
            count = manifests[0]["shard"]["count"]
            held = {manifest["shard"]["number"] for manifest in manifests}
            lacking = [Shard(i, count).name for i in range(count) if i not in held]
            raise RequestError(
                f"source videos {reached + 1} to {first} of {total} are in no shard of {places[0].parent}: "
                f"{first_few(lacking)} is not there or not finished; run it, then merge again"
            )
        reached, before = max(reached, end), name if end > first else before
    return manifests


def _identity(prepared: PreparedRun) -> dict[str, Any]:
    """Return what must be equal for shards to be of one run, as JSON gives it back."""
    asked = {f"--{name}": value for name, value in _plain(prepared.request).items() if name not in _OF_THE_PROCESS}
    found: dict[str, Any] = json.loads(json.dumps(fingerprint_of(prepared) | asked))
    return found


def _plain(request: AnalysisRequest) -> dict[str, Any]:
    def text(value: Any) -> Any:
        if isinstance(value, tuple):
            return [text(one) for one in value]
        return str(value) if isinstance(value, Path) else value

    return {name: text(value) for name, value in asdict(request).items()}


def _asked(plain: Mapping[str, Any], place: Path) -> AnalysisRequest:
    """Return the request that a manifest keeps, but for what is of the process; a shard may come from elsewhere."""
    hints = typing.get_type_hints(AnalysisRequest)
    names = {one.name for one in fields(AnalysisRequest)} - {"shard", "missing_list", "output_dir"}
    kept = {name: value for name, value in plain.items() if name in names}
    wrong = [name for name, value in kept.items() if not _is_kept(hints[name], value)]
    wrong += [name for name, choices in _CHOICES.items() if kept.get(name, choices[0]) not in choices]
    wrong += sorted({"model_path", "data_path"} - set(kept))
    if wrong:
        raise RequestError(f"{place / MANIFEST} is damaged ({first_few(wrong)} in 'asked'); do that shard again")

    def made(name: str, value: Any) -> Any:
        make = Path if "Path" in str(hints[name]) else lambda one: one
        if isinstance(value, list):
            return tuple(make(one) for one in value)
        return value if value is None else make(value)

    return AnalysisRequest(**{name: made(name, value) for name, value in kept.items()})


def _is_kept(hint: Any, value: Any) -> bool:
    """Return whether JSON holds a value of this type as `_plain` writes it."""
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list) and all(_is_kept(typing.get_args(hint)[0], one) for one in value)
    if typing.get_args(hint):  # a union
        return any(_is_kept(one, value) for one in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if hint in (Path, str):
        return isinstance(value, str) and "\0" not in value
    return isinstance(value, (int, float) if hint is float else hint) and isinstance(value, bool) == (hint is bool)


def _manifest(
    prepared: PreparedRun, shard: Shard, share: Share, identity: dict[str, Any], started: float
) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "toolkit_version": __version__,
        "shard": {"number": shard.number, "count": shard.count},
        "source_videos": {"first": share.first, "end": share.end, "of": share.of},
        "samples": len(share.positions),
        "clips": sum(prepared.samples.clip_counts[position] for position in share.positions),
        "request_sha256": _sum_of_request(identity),
        "request": identity,
        "asked": _plain(replace(prepared.request, shard=None)),
        "device": str(next(prepared.model.parameters()).device),
        "seconds": round(time.time() - started, 1),
    }


def _sum_of_request(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode("utf-8", "backslashreplace")).hexdigest()


def _read_manifest(place: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = read_json(place / MANIFEST, _SCHEMA)
        if manifest["request_sha256"] != _sum_of_request(manifest["request"]):
            raise ValueError("its request is not the one it was written with")
    except (OSError, ValueError) as error:
        raise RequestError(f"{place / MANIFEST} is damaged ({error}); do that shard again") from None
    return manifest


def _check_files(place: Path, manifest: Mapping[str, Any]) -> None:
    """Raise RequestError unless a shard holds its files as they were written, and nothing else."""
    sums = manifest.get("sha256", {})
    there = {path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()}
    there = {name for name in there if name != MANIFEST and not name.startswith(PARTIAL)}
    for name in sorted(there | set(manifest["files"])):
        if name not in sums:
            raise RequestError(f"{place / name} is not in the shard's {MANIFEST}; remove it, or do that shard again")
        if not is_plain_file(place / name):
            raise RequestError(f"{place / name} is missing; do that shard again")
        if (place / name).stat().st_size > _FILE_BYTES_MAX or sum_of(place / name) != sums[name]:
            raise RequestError(
                f"{place / name} is damaged: its bytes are not those it was written with; do that shard again"
            )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    names = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
    return "; ".join(f"{key} ({shown_short(one.get(key))}, {shown_short(other.get(key))})" for key in names)


def _is_of(place: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether a finished shard of this request is there."""
    try:
        return _read_manifest(place)["request"] == identity
    except RequestError:
        return False


def _is_done(place: Path, identity: Mapping[str, Any]) -> bool:
    if not _is_of(place, identity):
        return False
    try:
        _check_files(place, _read_manifest(place))
    except RequestError:
        return False
    return True
