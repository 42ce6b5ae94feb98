"""GateTracking: the tracking API of a fusion, whatever it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from qd_detr.gates.gating import FusionFacts, Gate, GatingType, gating_named
from qd_detr.gates.tracking.entries import SampleGates, SampleId
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.tracking.recorder import Forward, GateRecorder, GateUse, Sink


class GateTracking:
    """Base of a fusion whose gates can be watched: `class Fusion(GateTracking, nn.Module)`.

    Attributes:
        gates: the gates of every layer, in the order of use. gating_type, trained_gating_type, num_layers, hidden_dim.

    The fusion's constructor calls `_start_tracking`, its forward `_listeners` before and `_record` after. Recording is
    `with fusion.recording(sink)`; the methods below it are what users' scripts call, a recording of their own whose
    sink is a history.
    """

    gating_type: str
    trained_gating_type: str
    hidden_dim: int

    @property
    def num_layers(self) -> int:
        """Number of fusion layers."""
        raise NotImplementedError

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates of every layer, in the order in which it uses them; a range holds that gate in all layers."""
        raise NotImplementedError

    @property
    def gating(self) -> GatingType:
        """The type of the gates."""
        return gating_named(self.gating_type)

    @property
    def gate_range(self) -> tuple[float, float] | None:
        """The interval that holds every gate of every layer, or None if a gating function does not know its own."""
        return self.facts.gate_range

    @property
    def facts(self) -> FusionFacts:
        """What the analysis needs to know of this fusion."""
        return FusionFacts(self.gating_type, self.trained_gating_type, self.num_layers, self.hidden_dim, self.gates)

    # -- what a fusion's forward calls --------------------------------------------------------------------------------

    def _start_tracking(self) -> None:
        self._history = GateHistory()
        self._own = GateRecorder(None)
        self._inside: list[GateRecorder] = []

    def __getstate__(self) -> dict[str, Any]:
        # A copy holds the last batch too, which may be on its way from the device still; who records this model beside
        # its own history does not record the copy.
        self._own.finish()
        return {**self.__dict__, "_inside": []}

    def _listeners(self, batch_size: int) -> list[GateRecorder]:
        """Return who records this forward.

        Raises:
            ValueError: sample ids that do not fit the batch. RuntimeError: a replica of DataParallel.
        """
        listening = [recorder for recorder in self._recorders() if recorder.sink is not None]
        for recorder in listening:
            recorder.check_batch(batch_size, replica=getattr(self, "_is_replica", False))
        return [recorder for recorder in listening if recorder.sink is not None]

    def _record(
        self,
        listeners: Sequence[GateRecorder],
        layers: Sequence[Sequence[GateUse]],
        pad_mask: Tensor | None,
        n_clips: int,
    ) -> None:
        for recorder in listeners:
            recorder.record(Forward(layers, pad_mask, n_clips, self.gating_type, self.hidden_dim))

    def _recorders(self) -> list[GateRecorder]:
        """Return the recorders that forwards reach now: the fusion's own and those beside it, or who put it aside."""
        reached = [self._own]
        for recorder in self._inside:
            reached = [*reached, recorder] if recorder.beside else [recorder]
        return reached

    # -- recording ----------------------------------------------------------------------------------------------------

    @contextmanager
    def recording(self, sink: Sink | None, *, measure: bool = True, beside: bool = False) -> Iterator[GateRecorder]:
        """Hand the gates of the forwards inside to `sink(sample_id, entry)`, under the ids set inside.

        Args:
            sink: called once per id and forward, at the latest when the context is left; None records nothing.
            measure: also what every gate lets through, and its cosine, per clip and layer.
            beside: the fusion's own tracking goes on, and whatever goes wrong here is kept in `failure` and never
                raised into a forward. Otherwise it rests meanwhile, its history and its sample id untouched.
        """
        recorder = GateRecorder(sink, measure=measure, beside=beside)
        self._inside.append(recorder)
        try:
            yield recorder
            recorder.finish()
        finally:
            self._inside.remove(recorder)

    @property
    def is_recorded(self) -> bool:
        """Whether anybody records the forwards."""
        return any(recorder.sink is not None for recorder in self._recorders())

    # -- what users' scripts call -------------------------------------------------------------------------------------

    def enable_gate_tracking(self, *, injection: bool = True, history: GateHistory | None = None) -> None:
        """Start recording, with an empty history.

        Args:
            injection: also record |g * branch| / |residual| and its cosine per clip, layer and gate.
            history: where to record; a new one in memory if not given.
        """
        self.gate_history = GateHistory() if history is None else history
        self._own.measure = injection
        self.track_gates = True

    def disable_gate_tracking(self) -> None:
        """Stop recording and keep the history."""
        self.track_gates = False

    @property
    def track_gates(self) -> bool:
        """Whether forwards are being recorded; assigning True goes on with the history there is."""
        return self._own.sink is not None

    @track_gates.setter
    def track_gates(self, on: bool) -> None:
        self._own.sink = self._history.__setitem__ if on else None

    @property
    def gate_history(self) -> GateHistory:
        """What has been recorded, by sample id; behaves as a dict. Assigning `{}` empties it."""
        self._own.finish()
        return self._history

    @gate_history.setter
    def gate_history(self, entries: Mapping[SampleId, SampleGates]) -> None:
        if not isinstance(entries, GateHistory):
            given, entries = entries, GateHistory()
            entries.update(given)
        on = self.track_gates
        self._own.count_from(0)
        self._history = entries
        self.track_gates = on

    @property
    def current_sample_id(self) -> SampleId | list[SampleId] | None:
        """The id, or list of ids, under which the next forward is stored."""
        return self._recorders()[0].current_sample_id

    def set_current_sample_id(self, sample_id: SampleId | Sequence[SampleId] | None) -> None:
        """Name the next forwards: one id for the whole batch, a list of one id per sample, or None for automatic ids.

        Sticky until changed. Raises ValueError for a list with an id twice, TypeError for ids neither int nor str.
        """
        for recorder in self._recorders():
            recorder.set_sample_id(sample_id)

    def get_gate_statistics(self, sample_id: SampleId | None = None) -> dict[SampleId, dict[str, Any]]:
        """Return {id: {"attention_stats": [per layer], "ffn_stats": [per layer], "layer_info": [per layer]}}.

        Raises:
            KeyError: that id is not there, or nothing has been recorded; so below.
        """
        from qd_detr.gates.analysis import samples  # what stands above is only asked for when a user calls for it

        return samples.gate_statistics(self.gate_history, self.gates, sample_id)

    def print_gate_summary(self, sample_id: SampleId | None = None) -> None:
        """Print one line per sample, layer and gate."""
        from qd_detr.gates.analysis import samples

        print(samples.summary_text(self.gate_history, self.gates, sample_id))

    def save_gate_analysis(self, directory: str | Path, sample_id: SampleId | None = None) -> None:
        """Write `gate_analysis_{id}.png` per sample and `gate_statistics_{id or all}.json` into `directory`."""
        from qd_detr.gates.results import sample_files

        sample_files.save_analysis(self.gate_history, directory, sample_id, self.gates)

    def compare_samples_gates(
        self, sample_ids: Sequence[SampleId], directory: str | Path | None = None
    ) -> dict[SampleId, dict[str, list[float]]]:
        """Return {id: {"att_means": [per layer], "ffn_means": [per layer]}}; draw `gate_comparison.png` if asked."""
        from qd_detr.gates.analysis import samples
        from qd_detr.gates.results import sample_files

        means = samples.layer_means(self.gate_history, self.gates, sample_ids)
        if directory is not None:
            sample_files.save_comparison(self.gate_history, sample_ids, directory, self.gates)
        return means
