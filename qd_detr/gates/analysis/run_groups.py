"""Runs in groups: those of one group differ in their seed alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qd_detr.gates.analysis.finished_run import FinishedRun

_SEED = "seed"
_FOLDERS = ("v_feat_dirs", "t_feat_dir", "a_feat_dir")


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in their seed alone.

    Attributes:
        name: what sets the group apart, as "clipwise", or "clipwise, lr 0.001" where the gating type is not enough; or as
            the user named it.
        runs: places of its runs among all.
        options: the options in which the groups differ, and the group's values of them.
    """

    name: str
    runs: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class RunFacts:
    """What a run was, as far as groups go: kept when the run itself is not.

    Attributes:
        training: what two checkpoints of one training have in common. options: all but the seed, gating type first.
    """

    folder: Path
    sha256: str
    seed: Any
    training: tuple[str, Any]
    options: dict[str, Any]


def facts_of(run: FinishedRun) -> RunFacts:
    """Return what a run was."""
    given, checkpoint = run.config["options"], run.config["checkpoint"]
    options: dict[str, Any] = {"gating_type": run.config["gating"]["run_as"]}
    options |= {"trained_gating_type": run.config["gating"]["trained_as"]}
    options |= {key: value for key, value in given.items() if key not in (_SEED, "gating_type")}
    for key in _FOLDERS:  # the same features elsewhere are the same features
        if key in options:
            options[key] = _last_components(options[key])
    seed = given.get(_SEED)
    return RunFacts(run.folder, checkpoint["sha256"], seed, (str(Path(checkpoint["path"]).parent), seed), options)


def _last_components(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_last_components(one) for one in value]
    return Path(value).name if isinstance(value, str) else value


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, as much of each path as tells them apart."""
    paths = [folder.resolve() for folder in folders]
    names = [path.name for path in paths]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        twice = {name for name, count in Counter(names).items() if count > 1}
        names = [
            "/".join(path.parts[-depth:]) if name in twice else name for name, path in zip(names, paths, strict=True)
        ]
    return names


def groups_of(runs: Sequence[RunFacts], names: Sequence[str], given: Sequence[str | None]) -> list[RunGroup]:
    """Return the groups in the order of their first runs.

    Runs are grouped by the options in which they differ, the seed aside. Two checkpoints of one training, or one
    checkpoint twice, are no two seeds: then each run of their group stands for itself. So it does where nothing but the
    seed differs anywhere: what is asked then is how one run differs from another.

    Args:
        runs: what each was. names: of the runs. given: the group that the user put a run into, None for none.
    """
    differing = _differing(runs)
    keys: list[tuple[str, ...]] = []
    for run, own in zip(runs, given, strict=True):
        keys.append(("named", own) if own is not None else ("", *(_text(run.options.get(key)) for key in differing)))
    places: dict[tuple[str, ...], list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    told = _telling(runs, list(places.values()), differing)
    groups = []
    for members in places.values():
        options = {name: runs[members[0]].options.get(name) for name in differing}
        label = given[members[0]] or ", ".join(_said(name, options[name]) for name in told)
        alone = len(places) == 1 or (len(members) > 1 and not _independent([runs[i] for i in members]))
        if alone:
            groups += [RunGroup(_joined(label, names[i], len(places)), (i,), options) for i in members]
        else:
            groups.append(RunGroup(label, tuple(members), options))
    return groups


def _telling(runs: Sequence[RunFacts], places: Sequence[Sequence[int]], differing: Sequence[str]) -> Sequence[str]:
    """Return the options that name the groups: the gating type alone where it tells them apart, else all that differ."""
    types = [runs[members[0]].options["gating_type"] for members in places]
    return ["gating_type"] if len(set(types)) == len(types) > 1 else differing


def _joined(label: str, name: str, n_groups: int) -> str:
    return f"{label}: {name}" if n_groups > 1 and label else name


def _independent(runs: Sequence[RunFacts]) -> bool:
    return len({run.sha256 for run in runs}) == len({run.training for run in runs}) == len(runs)


def _differing(runs: Sequence[RunFacts]) -> list[str]:
    """Return the options in which runs differ; a consequence of another one is not told again."""
    keys = list(dict.fromkeys(key for run in runs for key in run.options))
    columns = {key: [_text(run.options.get(key)) for run in runs] for key in keys}
    differing = [key for key in keys if len(set(columns[key])) > 1]
    if "gating_type" in differing and columns.get("trained_gating_type") == columns["gating_type"]:
        differing.remove("trained_gating_type")
    return differing


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _said(name: str, value: Any) -> str:
    if name == "gating_type":
        return str(value)
    return f"{name} {value if isinstance(value, str) else _text(value)}"
