"""The parts of a run that run the model over its samples, each kept in a journal as it is finished.

A run does them for all of its samples and goes on; a shard does them for its own, and the run that merges the shards
finds all of them done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch

from qd_detr.gates.command_line import progress
from qd_detr.gates.commands.analyse.request import PreparedRun
from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.runs.inference import SampleResult, run_pass
from qd_detr.gates.runs.interventions.results import SweepRun
from qd_detr.gates.runs.interventions.sweep import SweepSettings, run_sweep
from qd_detr.gates.runs.journal import FinishedJournals, RunJournal
from qd_detr.gates.runs.postprocess import RawPrediction
from qd_detr.gates.runs.timeline import EXPECTED_FORWARDS, SampleTimeline, TimelineSettings, run_timeline
from qd_detr.gates.tracking.history import GateHistory

Journal = RunJournal | FinishedJournals


@contextmanager
def failures() -> Iterator[None]:
    """Turn what stops a run on the way into a RunError that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RunError(f"the run stopped: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        few = str(error).strip().splitlines()[:1]
        raise RunError(
            f"the run stopped: out of memory ({''.join(few) or 'no details'}); "
            "try a smaller --batch_size or --history_memory, then --resume"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch raises a plain RuntimeError, told only by its words.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def open_history(prepared: PreparedRun, journal: Journal) -> GateHistory:
    """Return the history of a run, kept in its journal."""
    return journal.history(int(prepared.request.history_memory_mb * (1 << 20)))


def results_of(
    prepared: PreparedRun, journal: Journal, history: GateHistory, own: Collection[int] | None = None
) -> Iterator[SampleResult]:
    """Yield the wanted samples' results: those of finished batches from the journal, then the rest as they run.

    own: the positions that this process takes care of, where those are not all.
    """
    samples = prepared.samples
    wanted = set(prepared.wanted) if own is None else {p for p in prepared.wanted if p in own}
    batches = [batch for batch in samples.batches if not wanted.isdisjoint(batch)]
    done = 0
    with progress(len(wanted), "samples", "sample", quiet=prepared.request.quiet) as advance:
        expected = [[samples.queries[p].qid for p in batch if p in wanted] for batch in batches]
        for note, places in journal.finished(expected):
            history.adopt(places)
            done = note["batch"] + 1
            kept = [position for position in batches[note["batch"]] if position in wanted]
            for position, line, raw, marks in zip(kept, note["lines"], note["raw"], note["marks"], strict=True):
                query, restored = samples.queries[position], RawPrediction.restored(raw, line)
                yield SampleResult(position, query, line, history[query.qid], restored, tuple(marks))
                advance()
        running = run_pass(prepared.model, samples.in_batches(batches[done:]), prepared.pass_settings)
        for number, results in enumerate(running, start=done):
            kept_results = [result for result in results if result.position in wanted]
            history.update((one.query.qid, one.gates) for one in kept_results if one.gates is not None)
            RunJournal.commit(history, number, kept_results)
            for result in kept_results:
                yield result
                advance()


def sweep_of(
    prepared: PreparedRun,
    journal: Journal,
    history: GateHistory,
    baseline: Mapping[int, RawPrediction],
    own: Collection[int] | None = None,
) -> SweepRun:
    """Run the conditions asked for; `own` as in `results_of`, baseline: what the model as it is gave, by position."""
    request, samples = prepared.request, prepared.samples
    total = sum(map(len, samples.batches)) if own is None else len(own)
    with progress(total, "conditions", "sample", quiet=request.quiet) as advance:
        settings = SweepSettings(
            legacy_batches=request.legacy_batches,
            postprocessing=prepared.pass_settings.postprocessing,
            history=history,
            baseline=baseline,
            only=own,
            parts=journal.parts("conditions", repr(prepared.conditions)),
            progress=advance,
        )
        return run_sweep(prepared.model, samples, prepared.conditions, settings)


def timelines_of(
    prepared: PreparedRun, journal: Journal, history: GateHistory, own: Collection[int] | None = None
) -> list[SampleTimeline]:
    """Run the timeline of every sample asked for; `own` as in `results_of`."""
    request = prepared.request
    what = f"timeline, about {EXPECTED_FORWARDS} forwards a sample"
    total = sum(own is None or position in own for position in prepared.wanted)
    with progress(total, what, "sample", quiet=request.quiet) as advance:
        parts = journal.parts("timelines", f"seed {request.seed}")
        settings = TimelineSettings(seed=request.seed, only=own, parts=parts, progress=advance)
        return list(run_timeline(prepared.model, prepared.samples, prepared.wanted, history, settings))
