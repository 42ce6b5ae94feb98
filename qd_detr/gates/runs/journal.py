"""What a killed run can be continued from: every finished batch, on disk, and what the run was.

A batch is committed with its gates (shards) and its predictions (the commit's note) in one line of the index. A
continued run reads the finished batches in the order they ran and computes only the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qd_detr.gates.errors import RequestError, RunError, first_few
from qd_detr.gates.files import fault_in, is_plain_folder, natural, read_json, remove, shown_short, write_whole
from qd_detr.gates.runs.inference import SampleResult
from qd_detr.gates.runs.parts import Parts
from qd_detr.gates.tracking.entries import SampleId
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.tracking.shards import Place, ShardStore

_FINGERPRINT = "fingerprint.json"
_NOTE = {
    "batch": natural,
    "lines": [{"pred_relevant_windows": [[(int, float)]], "pred_saliency_scores": [(int, float)]}],
    "raw": [{"score": [float], "span_cxw": [[float]]}],
    "marks": [[str]],
}


class RunJournal:
    """The journal of one run, in its folder.

    Args:
        directory: the folder; with `resume`, what an earlier run left there is continued.
        fingerprint: plain JSON data that must be equal for results to be the same run's.

    Raises:
        RequestError: `resume` of a run with another fingerprint, naming what differs. The folder is untouched then.
    """

    def __init__(self, directory: Path, fingerprint: dict[str, Any], *, resume: bool) -> None:
        self.directory = directory
        mark = directory / _FINGERPRINT
        fingerprint = json.loads(json.dumps(fingerprint))
        before = _read(mark) if resume else {}
        if before:
            differing = sorted(k for k in {*before, *fingerprint} if before.get(k) != fingerprint.get(k))
            if differing:
                hint = (
                    f"; for as many threads, set OMP_NUM_THREADS={before['threads']}"
                    if differing == ["threads"] and natural(before.get("threads"))
                    else ""
                )
                raise RequestError(
                    f"--resume refused: the unfinished run in {directory.parent} is another one; different: "
                    + "; ".join(
                        f"{k} ({shown_short(before.get(k))} then, {shown_short(fingerprint.get(k))} now)"
                        for k in differing
                    )
                    + f". Give the same request again{hint}, or leave --resume out to start over"
                )
        if not before:  # nothing to continue, or nothing that tells what it was
            remove(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if not before:
            write_whole(mark, json.dumps(fingerprint, indent=1))  # half a fingerprint would be another run's
        if not is_plain_folder(directory / "gates"):
            remove(directory / "gates")  # a link; nothing is read or written behind it
        self._store = ShardStore(directory / "gates")

    def history(self, memory_bytes: int) -> GateHistory:
        """Return a history that keeps its entries in this journal."""
        return GateHistory(memory_bytes, self._store, only_commits=True)

    def parts(self, kind: str, key: str) -> Parts:
        """Return the parts of a kind that this journal keeps; see `Parts`."""
        return Parts([self.directory], kind, key)

    def finished(
        self, expected: Sequence[Sequence[SampleId]]
    ) -> Iterator[tuple[dict[str, Any], dict[SampleId, Place]]]:
        """Yield ({"batch": its number, "lines": submission lines, "raw": ..., "marks": ...}, where the gates are).

        Args:
            expected: the ids of each batch of this run. The first commit that is not of the batch it should be ends
                what is kept: it and all that follow are computed again.
        """
        kept = 0
        for ids, (note, places) in zip(expected, self._store.commits(), strict=False):
            if not _sound(note, list(ids)) or list(places) != list(ids) or note["batch"] != kept:
                break
            kept += 1
            yield note, places
        self._store.keep(kept)

    @staticmethod
    def commit(history: GateHistory, batch: int, results: list[SampleResult]) -> None:
        """Write a finished batch down.

        Raises:
            OSError: the disk is full or failing; what was committed before stays good.
        """
        note = {
            "batch": batch,
            "lines": [result.line for result in results],
            "raw": [
                {"score": result.raw.score.tolist(), "span_cxw": result.raw.span_cxw.tolist()} for result in results
            ],
            "marks": [list(result.marks) for result in results],
        }
        history.commit([result.query.qid for result in results], note)


class FinishedJournals:
    """The journals of a run's shards, read as the journal of the whole run; nothing in them is touched.

    Args:
        directories: one of each shard, unharmed and complete.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = list(directories)
        self._found: dict[SampleId, tuple[dict[str, Any], Place]] = {}
        for directory in self._directories:
            for note, places in ShardStore(directory / "gates", finished=True).commits():
                if not _sound(note, list(places)):
                    raise RunError(
                        f"{directory} is damaged: a line of its index is not of its gates; do that shard again"
                    )
                for line, raw, marks in zip(note["lines"], note["raw"], note["marks"], strict=True):
                    self._found[line["qid"]] = ({"lines": line, "raw": raw, "marks": marks}, places[line["qid"]])

    def history(self, memory_bytes: int) -> GateHistory:
        """Return a history that adopts entries of these journals."""
        return GateHistory(memory_bytes)

    def parts(self, kind: str, key: str) -> Parts:
        """Return the parts of a kind that the journals hold together."""
        return Parts(self._directories, kind, key)

    def finished(
        self, expected: Sequence[Sequence[SampleId]]
    ) -> Iterator[tuple[dict[str, Any], dict[SampleId, Place]]]:
        """Yield what `RunJournal.finished` yields, for every batch.

        Raises:
            RunError: no journal holds a sample.
        """
        for batch, ids in enumerate(expected):
            missing = [one for one in ids if one not in self._found]
            if missing:
                raise RunError(f"no shard holds the gates of qid {first_few(missing)}; do the shards again")
            found = [self._found[one] for one in ids]
            note = {name: [one[name] for one, _ in found] for name in ("lines", "raw", "marks")}
            yield {"batch": batch, **note}, {one: place for one, (_, place) in zip(ids, found, strict=True)}


def _sound(note: Mapping[str, Any], ids: Sequence[SampleId]) -> bool:
    """Whether what a batch's note holds is of these samples, and of what a model can give."""
    return (
        fault_in(note, _NOTE) is None
        and [line.get("qid") for line in note["lines"]] == list(ids)
        and len(note["marks"]) == len(note["raw"]) == len(ids)
        and all(_within(line["pred_saliency_scores"], np.float16) for line in note["lines"])
        and all(len(window) == 3 for line in note["lines"] for window in line["pred_relevant_windows"])
        and all(_within(one["score"], np.float32) and _within(one["span_cxw"], np.float32) for one in note["raw"])
    )


def _within(values: Sequence[Any], dtype: type[np.floating]) -> bool:
    try:
        return bool(np.abs(np.asarray(values, float)).max(initial=0) <= np.finfo(dtype).max)
    except (ValueError, TypeError, OverflowError):  # ragged, no numbers, or beyond any float
        return False


def _read(mark: Path) -> dict[str, Any]:
    try:
        data = read_json(mark)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
