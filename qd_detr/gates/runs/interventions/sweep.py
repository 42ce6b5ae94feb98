"""Many conditions in one pass over the data: what does not depend on a condition is computed once.

Features are read and projected once. The fusion is walked as a tree: conditions that have done the same to all gates
so far share one run of the layers, and part where they first differ, attention gate before FFN gate. So the layers
below an intervened one run once, and of equal conditions one runs.

Letters: B batch, L clips, D hidden, C channels of a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.fusion import GateStep
from qd_detr.gates.gating import FusionFacts
from qd_detr.gates.model.qd_detr import QDDETR, Projected, SharedVideos
from qd_detr.gates.runs.inference import PassSettings, run_pass, shared_by
from qd_detr.gates.runs.interventions.audio import AudioEdits
from qd_detr.gates.runs.interventions.binding import BatchFacts, edited
from qd_detr.gates.runs.interventions.conditions import AudioEdit, Condition, alike
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.runs.interventions.plans import Plan, Site, Steps, needs_recorded, plan_of
from qd_detr.gates.runs.interventions.recorded import RecordedGates
from qd_detr.gates.runs.interventions.results import GateFigures, SweepRun, compact_line
from qd_detr.gates.runs.parts import NOT_OURS, Parts
from qd_detr.gates.runs.postprocess import (
    PostprocessingOptions,
    RawPrediction,
    RawPredictions,
    lines_of,
    raw_predictions,
)
from qd_detr.gates.tracking.entries import SampleGates, SampleId
from qd_detr.gates.tracking.history import GateHistory


class _Branch(NamedTuple):
    """A condition that is run, and what it does to each gate."""

    name: str
    plan: Plan


class _Inputs(NamedTuple):
    """What features a condition runs on; the recorded ones but for what is named."""

    audio: AudioEdit | None
    mean_video: bool


class _Passed(NamedTuple):
    """A gate on a path through the tree: the value used, and its injection (B, L) if measured."""

    gate: Tensor
    injection: Tensor | None


@dataclass(frozen=True)
class SweepSettings:
    """How to run a sweep.

    Attributes:
        legacy_batches: mix masks between the samples of a batch, as the legacy run did.
        postprocessing: how predictions are made of outputs.
        history: gates by qid of a run without interventions. Where interventions need them and they are not all
            there, a first pass records them.
        baseline: what the model as it is predicts, by position. Where it and `history` hold a batch, the model is not
            run as it is once more.
        only: the positions whose results are wanted, where those are not all; batches without any are not run.
        parts: where the results of finished batches are looked for and put.
        progress: called after every batch with the number of its samples.
    """

    legacy_batches: bool = False
    postprocessing: PostprocessingOptions = field(default_factory=PostprocessingOptions)
    history: Mapping[SampleId, SampleGates] | None = None
    baseline: Mapping[int, RawPrediction] = field(default_factory=dict)
    only: Collection[int] | None = None
    parts: Parts | None = None
    progress: Callable[[int], object] = lambda done: None


def run_sweep(
    model: QDDETR, samples: Samples, conditions: Sequence[Condition], settings: SweepSettings | None = None
) -> SweepRun:
    """Run every condition on every sample of the batches.

    Args:
        samples: in the batches that are to be run. Those in them are the data set of means over the data and of
            exchanges between videos.
        conditions: the baseline first; see `conditions_of`.

    The model is in eval mode meanwhile; its mode is put back, and nothing else on it is touched, however this ends.

    Raises:
        ValueError: the first condition is not the baseline, or a name is there twice.
        RequestError: features that cannot be read; an exchange between fewer than two videos.
    """
    settings = settings or SweepSettings()
    names = [condition.name for condition in conditions]
    if names[:1] != [BASELINE] or len(set(names)) < len(names):
        raise ValueError(f"conditions must begin with the baseline and have names of their own; got {names}")
    facts = model.avigate_fusion.facts
    same_as = alike(conditions, facts)
    trees: dict[_Inputs, list[_Branch]] = {}
    for condition in conditions:
        if condition.name not in same_as:
            plan = plan_of(condition.intervention, facts)
            trees.setdefault(_Inputs(condition.audio, condition.mean_video), []).append(_Branch(condition.name, plan))
    data = sorted(position for batch in samples.batches for position in batch)
    wanted = set(data if settings.only is None else settings.only)
    positions = [position for position in data if position in wanted]
    ran = [condition.name for condition in conditions if condition.name not in same_as]
    gathered = _Gathered(positions, ran, samples.queries, facts, settings)
    left = [batch for batch in samples.batches if not gathered.has_parts_of(batch)]
    if left:
        recorded = None
        if any(needs_recorded(branch.plan) for tree in trees.values() for branch in tree):
            recorded = _recorded(model, samples, [samples.queries[position] for position in data], settings)
        _run_batches(_Sweep(model, trees, settings, recorded, gathered), samples, left)
    return SweepRun(
        queries=[samples.queries[position] for position in positions],
        positions=positions,
        conditions=list(conditions),
        same_as=same_as,
        lines={name: [gathered.lines[name][p] for p in positions] for name in ran},
        gates={name: GateFigures(**figures) for name, figures in gathered.figures.items()},
        kinds=facts.kinds,
        raw={name: [gathered.raw[name][p] for p in positions] for name in ran},
    )


def _run_batches(sweep: _Sweep, samples: Samples, batches: Sequence[Sequence[int]]) -> None:
    """Run batches of the data and gather what they give; samples: all of the data."""
    model = sweep.model
    edits = [inputs.audio for inputs in sweep.trees if inputs.audio is not None]
    mean_video = any(inputs.mean_video for inputs in sweep.trees)
    audio = AudioEdits(edits, samples, mean_video=mean_video)
    was_training = model.training
    model.eval()
    try:
        for positions, batch, edited_audio in audio.batches(batches):
            queries = [samples.queries[p] for p in positions]
            with torch.inference_mode():
                video = audio.mean_video(batch) if mean_video else None
                part = sweep.run_batch(queries, positions, batch, edited_audio, video)
            sweep.gathered.put(positions, part)
    finally:
        model.train(was_training)


def _recorded(model: QDDETR, samples: Samples, queries: Sequence[Query], settings: SweepSettings) -> RecordedGates:
    history = settings.history
    if history is None or any(query.qid not in history for query in queries):
        history = _first_pass(model, samples, settings.legacy_batches)
    return RecordedGates(history, queries)


def _first_pass(model: QDDETR, samples: Samples, legacy_batches: bool) -> GateHistory:
    history = GateHistory()
    settings = PassSettings(legacy_batches=legacy_batches, injection=False)
    for results in run_pass(model, samples, settings):
        history.update((result.query.qid, result.gates) for result in results if result.gates is not None)
    return history


@dataclass
class _Gathered:
    """Results so far: lines and raw predictions by condition and position, figures by condition and name, (N, A, K).

    A batch's part holds by condition, by its place among those that are run, "{place}.{field}": the fields of
    `RawPredictions` (B, ...) and of `GateFigures` (B, A, K).
    """

    positions: Sequence[int]
    ran: Sequence[str]
    queries: Sequence[Query]
    facts: FusionFacts
    settings: SweepSettings
    lines: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    raw: dict[str, dict[int, RawPrediction]] = field(default_factory=dict)
    figures: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rows = {position: row for row, position in enumerate(self.positions)}
        self.lines = {name: {} for name in self.ran}
        self.raw = {name: {} for name in self.ran}

    def has_parts_of(self, batch: Sequence[int]) -> bool:
        """Take in the finished parts of a batch; return whether they hold all that is wanted of it."""
        wanted = [position for position in batch if position in self._rows]
        pieces = [] if self.settings.parts is None or not wanted else self.settings.parts.found(_part_name(batch))
        try:
            held = [position for piece in pieces for position in piece["positions"].tolist()]
            if not set(wanted) <= set(held):
                return not wanted
            for piece in pieces:
                self._take(piece)
        except NOT_OURS:
            return False
        self.settings.progress(len(wanted))
        return True

    def put(self, batch: Sequence[int], part: Mapping[str, np.ndarray]) -> None:
        """Take in what a batch gave, the rows of the positions that are wanted, and write it down."""
        kept = [b for b, position in enumerate(batch) if position in self._rows]
        piece = {name: array[kept] for name, array in part.items()}
        piece["positions"] = np.array([batch[b] for b in kept])
        self._take(piece)
        if self.settings.parts is not None:
            self.settings.parts.put(_part_name(batch), piece)
        self.settings.progress(len(kept))

    def _take(self, piece: Mapping[str, np.ndarray]) -> None:
        positions = piece["positions"].tolist()
        queries = [self.queries[position] for position in positions]
        rows = [self._rows[position] for position in positions]
        shape = (len(self.positions), self.facts.num_layers, len(self.facts.kinds))
        for place, name in enumerate(self.ran):
            raw = RawPredictions(*(piece[f"{place}.{one.name}"] for one in fields(RawPredictions)))
            if raw.span_cxw.shape != (*raw.score.shape, 2) or {len(raw.score), len(raw.saliency)} != {len(rows)}:
                raise ValueError("predictions of another form")
            lines = lines_of(queries, raw, self.settings.postprocessing)
            self.lines[name].update((p, compact_line(line)) for p, line in zip(positions, lines, strict=True))
            self.raw[name].update((p, raw.sample(b)) for b, p in enumerate(positions))
            for one in fields(GateFigures):
                if (values := piece.get(f"{place}.{one.name}")) is not None:
                    if values.shape != (len(rows), *shape[1:]):
                        raise ValueError("figures of gates of another form")
                    store = self.figures.setdefault(name, {})
                    store.setdefault(one.name, np.full(shape, np.nan))[rows] = values


def _part_name(batch: Sequence[int]) -> str:
    return f"{min(batch):06d}"  # a position stands in one batch alone


@dataclass(frozen=True)
class _Sweep:
    """What is the same for all batches of a sweep."""

    model: QDDETR
    trees: Mapping[_Inputs, Sequence[_Branch]]
    settings: SweepSettings
    recorded: RecordedGates | None
    gathered: _Gathered

    def run_batch(
        self,
        queries: Sequence[Query],
        positions: Sequence[int],
        batch: Mapping[str, Any],
        edited_audio: Mapping[AudioEdit, Tensor],
        mean_video: Tensor | None,
    ) -> dict[str, np.ndarray]:
        """Run all conditions on one batch; return its part, see `_Gathered`."""
        model = self.model
        shared = self._shared(queries)
        rows = range(len(queries)) if shared is None else shared.first.tolist()
        of_rows = [queries[b] for b in rows]

        def once(features: Tensor) -> Tensor:
            return features if shared is None else features[shared.first]

        video_inputs = (once(batch[name]) for name in ("src_vid", "src_vid_mask", "src_aud"))
        projected = model.project(batch["src_txt"], batch["src_txt_mask"], *video_inputs)
        of_samples = projected if shared is None else projected.of_samples(shared)
        facts = BatchFacts([query.qid for query in of_rows], [query.vid for query in of_rows], projected.vid_mask)
        places = {name: place for place, name in enumerate(self.gathered.ran)}
        baseline = self._recorded_baseline(of_rows, positions)
        known = bool(baseline)
        part: dict[str, np.ndarray] = {}

        def keep(name: str, raw: RawPredictions, path: list[_Passed] | None) -> None:
            found = dict(vars(raw))
            if path is not None:
                figures = _figures(path, baseline, projected.vid_mask, model.avigate_fusion.facts)
                found |= {key: values if shared is None else values[shared.of] for key, values in figures.items()}
            part.update((f"{places[name]}.{key}", array) for key, array in found.items())

        def finish(inputs: _Inputs, name: str, fused: Tensor, path: list[_Passed]) -> None:
            if name == BASELINE:
                baseline.extend(path)
            of = None if shared is None else shared.of.to(fused.device)
            spread = fused if of is None else fused[of]
            outputs = model.decode(spread, of_samples, legacy_batch_mask=self.settings.legacy_batches)
            keep(name, raw_predictions(outputs), None if inputs.mean_video else path)

        if known:
            keep(BASELINE, RawPredictions.stacked([self.settings.baseline[p] for p in positions]), baseline)
        # The recorded features come first, the baseline first of its branches.
        for inputs, branches in self.trees.items():
            branches = [branch for branch in branches if not (known and branch.name == BASELINE)]
            changed = inputs.audio is not None
            given = projected
            if inputs.audio is not None:
                given = given.with_audio(model.project_audio(once(edited_audio[inputs.audio])))
            if inputs.mean_video and mean_video is not None:
                given = replace(given, video=model.project_video(once(mean_video)))
            walk = _Walk(
                model,
                given,
                facts,
                self.recorded,
                legacy_batches=self.settings.legacy_batches,
                measure_all=changed,
                finish=partial(finish, inputs),
            )
            if branches:
                walk.from_start(branches)
        return part

    def _recorded_baseline(self, queries: Sequence[Query], positions: Sequence[int]) -> list[_Passed]:
        """Return the gates that a run of the model as it is recorded of these queries, if it ran as this one does."""
        settings, history = self.settings, self.settings.history
        if settings.legacy_batches or self._by_query or history is None or self.model.dtype != torch.float32:
            return []
        if any(p not in settings.baseline for p in positions) or any(query.qid not in history for query in queries):
            return []
        entries = [history[query.qid] for query in queries]
        if not all(entry.injection for entry in entries):
            return []
        device = self.model.global_rep_token.device
        return [
            _Passed(
                *(
                    torch.from_numpy(np.concatenate([one[kind][layer_idx] for one in values])).to(device)
                    for values in ([entry.gates for entry in entries], [entry.injection for entry in entries])
                )
            )
            for layer_idx in range(entries[0].n_layers)
            for kind in entries[0].gates
        ]

    @cached_property
    def _by_query(self) -> bool:
        """Whether some condition treats the queries of a video differently: each query's clips are shuffled its own way."""
        plans = (branch.plan for branches in self.trees.values() for branch in branches)
        return any(step.op == "shuffle" for plan in plans for steps in plan.values() for step in steps)

    def _shared(self, queries: Sequence[Query]) -> SharedVideos | None:
        if self._by_query:
            return None
        return shared_by(self.model, queries, PassSettings(legacy_batches=self.settings.legacy_batches))


class _Walk:
    """Walks the fusion of one batch and one audio for many plans at once."""

    def __init__(
        self,
        model: QDDETR,
        projected: Projected,
        facts: BatchFacts,
        recorded: RecordedGates | None,
        *,
        legacy_batches: bool,
        measure_all: bool,
        finish: Callable[[str, Tensor, list[_Passed]], None],
    ) -> None:
        self._model = model
        self._projected = projected
        self._legacy_batches = legacy_batches
        self._facts = facts
        self._recorded = recorded
        self._measure_all = measure_all
        self._finish = finish

    def from_start(self, branches: Sequence[_Branch]) -> None:
        """Run the fusion for all plans."""
        video = self._model.first_video(self._projected, legacy_batch_mask=self._legacy_batches)
        self.from_layer(0, video, branches, [])

    def from_layer(self, layer_idx: int, video: Tensor, branches: Sequence[_Branch], path: list[_Passed]) -> None:
        """Run the layers from `layer_idx` on for plans that so far were equal, and gave `video` (B, L, D)."""
        if layer_idx == self._model.avigate_fusion.num_layers:
            for branch in branches:
                self._finish(branch.name, video, path)
            return
        first = self._model.first_gate(layer_idx, video, self._projected, legacy_batch_mask=self._legacy_batches)
        self._from_gate(layer_idx, first, branches, path)

    def _from_gate(
        self, layer_idx: int, at: GateStep | Tensor, branches: Sequence[_Branch], path: list[_Passed]
    ) -> None:
        """Go on from a gate, or from the layer's output, for plans that were equal up to there."""
        if isinstance(at, Tensor):
            self.from_layer(layer_idx + 1, at, branches, path)
            return
        site = (layer_idx, at.which.kind)
        for steps, members in _grouped(branches, site):
            gate = edited(steps, site, at.gate, self._facts, self._recorded)
            measured = self._measure_all or members[0].name == BASELINE
            passed = _Passed(gate, at.let_through(gate)[0] if measured else None)
            self._from_gate(layer_idx, at.then(gate), members, [*path, passed])


def _grouped(branches: Sequence[_Branch], site: Site) -> list[tuple[Steps, list[_Branch]]]:
    """Return the branches by what they do to one gate, in order of first appearance."""
    groups: dict[Steps, list[_Branch]] = {}
    for branch in branches:
        groups.setdefault(branch.plan.get(site, ()), []).append(branch)
    return list(groups.items())


def _figures(
    path: Sequence[_Passed], baseline: Sequence[_Passed], vid_mask: Tensor, facts: FusionFacts
) -> dict[str, np.ndarray]:
    """Return the fields of `GateFigures`, each (B, A, K)."""
    pairs = [(here.gate, before.gate) for here, before in zip(path, baseline, strict=True)]
    figures = {
        "magnitude": torch.stack([_over_clips(gate.abs(), vid_mask) for gate, _ in pairs]),
        "change": torch.stack([_moved(gate, base, vid_mask) for gate, base in pairs]),
    }
    measured = [
        (here.injection[..., None], before.injection[..., None])
        for here, before in zip(path, baseline, strict=True)
        if here.injection is not None and before.injection is not None
    ]
    if len(measured) == len(pairs):
        figures["injection"] = torch.stack([_over_clips(value, vid_mask) for value, _ in measured])
        figures["injection_change"] = torch.stack([_moved(value, base, vid_mask) for value, base in measured])
    shape = (len(vid_mask), facts.num_layers, len(facts.kinds))
    return {name: values.T.double().cpu().numpy().reshape(shape) for name, values in figures.items()}


def _moved(values: Tensor, base: Tensor, vid_mask: Tensor) -> Tensor:
    if values is base:
        return values.new_zeros(len(values))
    return _over_clips((values - base).abs(), vid_mask)


def _over_clips(values: Tensor, vid_mask: Tensor) -> Tensor:
    """Return the mean (B,) of values (B, L or 1, C) over real clips and channels, leaving out what is not finite."""
    kept = torch.isfinite(values)
    if values.shape[1] > 1:
        kept &= (vid_mask > 0)[..., None]
    return torch.where(kept, values, 0.0).sum(dim=(1, 2)) / kept.sum(dim=(1, 2))
