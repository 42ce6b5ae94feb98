"""Finished runs side by side: gating types with several seeds each, two checkpoints, two epochs, two splits of a model.

Everything is read from the results trees, one after the other. Runs are grouped by what differs in their options, the
seed aside; a difference is the second group minus the first, paired by query, with intervals over the runs of a group
and source videos.

Letters: G groups, R runs of a group, N queries.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.effects import CHANGE_BOUNDS, Predicted, predicted, without_test
from qd_detr.gates.analysis.finished_run import FinishedRun, column_of, read_config, read_run
from qd_detr.gates.analysis.resampling import DRAWS, LEVEL, false_discovery, paired_bootstrap
from qd_detr.gates.analysis.run_groups import RunFacts, RunGroup, facts_of, groups_of, run_names
from qd_detr.gates.analysis.run_ranking import ranking_of
from qd_detr.gates.analysis.run_rows import GroupTable, rows_of
from qd_detr.gates.analysis.verdicts import MARGIN_POINTS, verdict_of
from qd_detr.gates.data.annotations import Query, read_annotations
from qd_detr.gates.data.slice_files import OwnSlices, read_slices
from qd_detr.gates.data.video_names import source_video
from qd_detr.gates.errors import RequestError, first_few
from qd_detr.gates.evaluation import benchmark_of
from qd_detr.gates.wording import Reason

Array = NDArray[np.float64]
GATE_FIGURES = {"magnitude": "abs_mean", "injection": "injection_mean"}
"""What is compared of the gates, and how samples.csv calls it."""
_GATE_COLUMN = re.compile(rf"layer\d+_(.+)_(?:{'|'.join(GATE_FIGURES.values())})$")
_MEASURES = {"audio_effect_": 100.0, "audio_flip_": 100.0, "audio_share": 1.0, "first_window_iou_": 1.0}
_MEASURES |= {"timeline_effect": 1.0, "timeline_share_inside": 1.0}
"""The other columns of samples.csv that are compared, by how their names begin; effects and flips in percent points."""
PERCENT = (0.0, 100.0)


@dataclass(frozen=True, eq=False)
class RunColumns:
    """What stays of a run once it has been read: arrays of its N queries.

    Attributes:
        what: what comparison.json tells of the run. ids: of its queries, as text. qids: as they are.
        columns: of samples.csv, those that are compared.
        metrics: per headline metric, in percent; empty without labels. ap: as fractions; None without labels.
    """

    facts: RunFacts
    what: dict[str, Any]
    ids: list[str]
    qids: list[Any]
    vids: list[str]
    columns: dict[str, Array]
    metrics: Mapping[str, Array]
    ap: Array | None
    predicted: Predicted


def compare_runs(
    runs: Sequence[str | Path],
    *,
    named: Sequence[str | None] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
    margin: float = MARGIN_POINTS,
    slices: Sequence[str] = (),
) -> dict[str, Any]:
    """Return runs side by side, JSON-ready.

    Args:
        runs: results folders, two or more.
        named: the group that a run was put into by name, None for a run that its options group.
        seed: of the resampling. draws, level: likewise.
        margin: percent points within which a difference in a metric counts as none.
        slices: "NAME=FILE", a file of qids: the primary metric is compared on these queries too.

    Returns:
        {"paired" (False for one model on several splits), "runs": [{"name", "group", "seed", folder, checkpoint,
        epoch, gating, layers}], "groups": [{"name", "runs", "options" in which the groups differ}], "n_queries",
        "n_source_videos", "bootstrap", "margin", "ranking": see `ranking_of` or None, "metrics": {"available",
        "reason", "primary", "rows"}, "slices", "measures", "gates": rows, "predictions": [{"first", "second",
        "n_pairs", intervals}], "queries": [{"id", "vid", "AP": {run: value}}]}. A row is {"metric", "slice",
        "measure", or "layer", "kind" and "figure", "values": per group that has it {"group", "mean", "runs": {run:
        mean}, "interval", "seed_share"}, "differences": per pair of groups {"first", "second", "difference" (an
        interval; None with a "reason"), "df", "seed_share"}}, but for gates also "adjusted_p" and "significant", for
        metrics "verdict".

    Raises:
        RequestError: fewer than two runs, an unfinished or damaged tree, one folder twice, or runs on different data.
    """
    folders = [Path(run) for run in runs]
    _check_folders(folders)
    if not 0 < margin <= 100:
        raise RequestError(f"--margin must be above 0 and at most 100 percent points; got {margin:g}")
    settings: dict[str, Any] = {"seed": seed, "draws": draws, "level": level}
    configs = [read_config(folder) for folder in folders]
    same_data = len({config["annotations"]["sha256"] for config in configs}) == 1
    if not same_data and not _one_model(configs):
        raise _on_different_data(folders, configs)
    known, reason = _annotated(configs) if same_data else (None, Reason("compared.splits"))
    read: list[RunColumns] = []
    for folder in folders:  # one at a time: of each only the arrays stay
        run = read_run(folder)
        if read and same_data and not _same_samples(read[0], run, _one_model(configs)):
            same_data, reason = False, Reason("compared.splits")
        if known is not None and not read:
            reason = _unlabelled(known, list(run.samples))
            known = known if reason is None else None
        read.append(_columns(run, known, read[0].ids if read and same_data else list(run.samples)))
    names = run_names(folders)
    if same_data:
        groups = groups_of([one.facts for one in read], names, named or [None] * len(names))
    else:
        groups = [RunGroup(name, (place,), {}) for place, name in enumerate(names)]
        read = [replace(one, metrics={}, ap=None) for one in read]
    tables = GroupTable(groups, names, [[source_video(v) for v in one.vids] for one in read], same_data, settings)
    of_group = {place: group.name for group in groups for place in group.runs}
    return {
        "paired": same_data,
        "runs": [
            {"name": name, "group": of_group[place], "seed": read[place].facts.seed, **read[place].what}
            for place, name in enumerate(names)
        ],
        "groups": [{"name": g.name, "runs": [names[i] for i in g.runs], "options": g.options} for g in groups],
        "n_queries": len({one for run in read for one in run.ids}),
        "n_source_videos": len({source_video(vid) for run in read for vid in run.vids}),
        "bootstrap": {**settings, "clusters": "source videos"},
        "margin": margin,
        **_metrics(tables, read, reason, margin),
        "slices": _slices(tables, read, read_slices(slices, [q for run in read for q in run.qids])),
        "measures": _measures(tables, read),
        "gates": _gates(tables, read),
        "predictions": _predictions(tables, read, settings) if same_data else [],
        "queries": _queries(read, names) if same_data else [],
    }


def _check_folders(folders: Sequence[Path]) -> None:
    if len(folders) < 2:
        raise RequestError("--compare_runs takes two results folders or more")
    for first, second in combinations(folders, 2):
        if first.resolve() == second.resolve():
            raise RequestError(f"--compare_runs was given one folder twice ({first}); give each once")


def _one_model(configs: Sequence[dict[str, Any]]) -> bool:
    return len({(config["checkpoint"]["sha256"], config["gating"]["run_as"]) for config in configs}) == 1


def _on_different_data(folders: Sequence[Path], configs: Sequence[dict[str, Any]]) -> RequestError:
    marks = [config["annotations"]["sha256"] for config in configs]
    other = next(i for i, mark in enumerate(marks) if mark != marks[0])
    paths = [config["annotations"]["path"] for config in configs]
    return RequestError(
        f"{folders[0]} and {folders[other]} are runs on different data: annotations {paths[0]} ({marks[0][:8]}) and "
        f"{paths[other]} ({marks[other][:8]}); run both with the same --data_path"
    )


def _same_samples(first: RunColumns, second: FinishedRun, one_model: bool) -> bool:
    """Return whether two runs hold the same samples; else they must be of one model."""
    here, there = set(first.ids), second.samples.keys()
    if here == there:
        return True
    if one_model:
        return False
    apart = [one for one in (*first.ids, *second.samples) if (one in here) != (one in there)]
    raise RequestError(
        f"{first.facts.folder} and {second.folder} hold different samples ({len(here)} and {len(there)}; in one "
        f"alone: {first_few(apart)}); run both with the same --max_samples and --analyze_samples"
    )


def _annotated(configs: Sequence[dict[str, Any]]) -> tuple[dict[str, Query] | None, Reason | None]:
    """Return the annotations by id from where any of the runs read them, or why they cannot be had."""
    mark, options = configs[0]["annotations"]["sha256"], configs[0]["options"]
    paths = [Path(config["annotations"]["path"]) for config in configs]
    for path in paths:
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == mark:
            queries = read_annotations(path, options["dset_name"], options.get("dset_domain"))
            return {str(query.qid): query for query in queries}, None
    return None, Reason("labels.moved", {"path": paths[0]})


def _unlabelled(known: Mapping[str, Query], ids: Sequence[str]) -> Reason | None:
    missing = sum(not known[one].labelled for one in ids)
    return Reason("labels.missing", {"missing": missing, "n": len(ids)}) if missing else None


def _columns(run: FinishedRun, known: Mapping[str, Query] | None, ids: list[str]) -> RunColumns:
    """Return what stays of a run, in the order of `ids`."""
    columns: dict[str, Array] = {}
    for name in run.samples[ids[0]]:
        scale = next((scale for start, scale in _MEASURES.items() if name.startswith(start)), None)
        gate = name.startswith("layer") and name.endswith(tuple(GATE_FIGURES.values()))
        column = column_of(run, ids, name, complete=gate) if gate or scale is not None else None
        if column is not None and not np.isnan(column).all():
            columns[name] = (1.0 if scale is None else scale) * column
    lines = [run.lines[one] for one in ids]
    options, scores = run.config["options"], None
    if known is not None:
        judged = benchmark_of(options["dset_name"])
        scores = judged.score(lines, [known[one] for one in ids], float(options["clip_length"]))
    return RunColumns(
        facts=facts_of(run),
        what=_what(run),
        ids=ids,
        qids=[line["qid"] for line in lines],
        vids=[run.samples[one]["vid"] for one in ids],
        columns=columns,
        metrics={} if scores is None else scores.columns,
        ap=None if scores is None else scores.ap,
        predicted=predicted(lines),
    )


def _what(run: FinishedRun) -> dict[str, Any]:
    checkpoint = run.config["checkpoint"]
    return {
        "folder": run.folder.name,
        "checkpoint": Path(checkpoint["path"]).name,
        "checkpoint_folder": Path(checkpoint["path"]).parent.name,
        "checkpoint_sha256": checkpoint["sha256"],
        "epoch": checkpoint.get("epoch"),
        "gating_type": run.config["gating"]["run_as"],
        "trained_gating_type": run.config["gating"]["trained_as"],
        "num_layers": run.num_layers,
        "legacy_batches": run.config.get("batches", {}).get("legacy"),
        "annotations": Path(run.config["annotations"]["path"]).name,
    }


def _metrics(tables: GroupTable, read: Sequence[RunColumns], reason: Reason | None, margin: float) -> dict[str, Any]:
    """Return "metrics" and "ranking"."""
    names = list(read[0].metrics)
    if not names:
        return {"ranking": None, "metrics": {"available": False, "reason": reason, "primary": None, "rows": []}}
    primary = benchmark_of(str(read[0].facts.options["dset_name"])).primary
    rows = rows_of(tables, [run.metrics for run in read], names, bounds=[PERCENT] * len(names))
    found = [{"metric": name, **row} for name, row in zip(names, rows, strict=True)]
    # The primary metric was stated beforehand: the comparisons of groups in it are a table of their own.
    _control([row for row in found if row["metric"] == primary])
    _control([row for row in found if row["metric"] != primary])
    for row in found:
        for one in row["differences"]:
            settings = {"margin": margin, "adjusted_p": one["adjusted_p"], "df": one["df"]}
            one["verdict"] = verdict_of(one["difference"], **settings)
    first = next(row for row in found if row["metric"] == primary)
    shares = tables.best_shares([run.metrics for run in read], primary)
    return {
        "ranking": ranking_of(first, shares),
        "metrics": {"available": True, "reason": None, "primary": primary, "rows": found},
    }


def _control(rows: Sequence[dict[str, Any]]) -> None:
    """Add "adjusted_p" and "significant" to the differences of a table, Benjamini-Hochberg over all of them."""
    given = [one for row in rows for one in row["differences"]]
    control = false_discovery([one["difference"]["p"] if one["difference"] else None for one in given])
    for one, p, stands in zip(given, control["adjusted"], control["significant"], strict=True):
        one |= {"adjusted_p": p, "significant": stands}


def _measures(tables: GroupTable, read: Sequence[RunColumns]) -> list[dict[str, Any]]:
    names = [
        name for name in dict.fromkeys(n for run in read for n in run.columns) if name.startswith(tuple(_MEASURES))
    ]
    rows = rows_of(tables, [run.columns for run in read], names)
    found = [{"measure": name, **row} for name, row in zip(names, rows, strict=True)]
    _control(found)
    return found


def _slices(tables: GroupTable, read: Sequence[RunColumns], own: OwnSlices) -> list[dict[str, Any]]:
    """Return rows of the primary metric on slices of one's own; none without metrics."""
    if not own or not read[0].metrics:
        return []
    primary = benchmark_of(str(read[0].facts.options["dset_name"])).primary
    masks = {name: np.array([str(qid) in qids for qid in read[0].qids]) for name, qids in own.items()}
    columns = [{name: np.where(mask, run.metrics[primary], np.nan) for name, mask in masks.items()} for run in read]
    rows = rows_of(tables, columns, list(masks), bounds=[PERCENT] * len(masks))
    found = [
        {"slice": name, "n": int(mask.sum()), "metric": primary, **row}
        for (name, mask), row in zip(masks.items(), rows, strict=True)
    ]
    _control(found)
    return found


def _gates(tables: GroupTable, read: Sequence[RunColumns]) -> list[dict[str, Any]]:
    layers = max(run.what["num_layers"] for run in read)
    kinds = dict.fromkeys(found[1] for run in read for name in run.columns if (found := _GATE_COLUMN.match(name)))
    keys = [(layer, kind, figure) for layer in range(layers) for kind in kinds for figure in GATE_FIGURES]
    columns = {key: f"layer{key[0]}_{key[1]}_{GATE_FIGURES[key[2]]}" for key in keys}
    keys = [key for key in keys if any(columns[key] in run.columns for run in read)]
    rows = rows_of(tables, [run.columns for run in read], [columns[key] for key in keys])
    return [
        {"layer": layer, "kind": kind, "figure": figure, **row}
        for (layer, kind, figure), row in zip(keys, rows, strict=True)
    ]


def _predictions(tables: GroupTable, read: Sequence[RunColumns], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how predictions of two runs differ, on the mean over the pairs of runs, of two groups and within each."""
    found = []
    for g, h in combinations_with_replacement(range(len(tables.groups)), 2):
        one, other = tables.groups[g], tables.groups[h]
        pairs = list(combinations(one.runs, 2) if g == h else product(one.runs, other.runs))
        if not pairs:
            continue
        changes = [read[i].predicted.changes(read[j].predicted) for i, j in pairs]
        table = np.stack([np.mean([change[key] for change in changes], axis=0) for key in CHANGE_BOUNDS], axis=1)
        intervals = paired_bootstrap(table, tables.clusters[0], bounds=list(CHANGE_BOUNDS.values()), **settings)
        record: dict[str, Any] = {"first": one.name, "second": other.name, "n_pairs": len(pairs)}
        found.append(record | {key: without_test(i) for key, i in zip(CHANGE_BOUNDS, intervals, strict=True)})
    return found


def _queries(read: Sequence[RunColumns], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return query by query what each run scores; without labels, which query it is."""
    scored = {name: run.ap for name, run in zip(names, read, strict=True) if run.ap is not None}
    return [
        {"id": qid, "vid": vid, "AP": {name: float(ap[i]) for name, ap in scored.items()}}
        for i, (qid, vid) in enumerate(zip(read[0].qids, read[0].vids, strict=True))
    ]
