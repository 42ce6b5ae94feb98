"""From recorded gates to the numbers of a run: one pass over samples, nothing kept but sums and a row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qd_detr.gates.analysis.statistics import GateStatistics, SampleRow
from qd_detr.gates.gating import Gate, GatingType, ValueRange, gating_named, range_of
from qd_detr.gates.tracking.entries import COSINE_KEYS, GATE_KEYS, INJECTION_KEYS, GateEntry, SampleId, samples_of


@dataclass(frozen=True)
class FusionFacts:
    """What the analysis needs to know of a fusion, without holding on to the model.

    Attributes:
        gates: the gates of every layer, in the order of use.
    """

    gating_type: str
    trained_gating_type: str
    num_layers: int
    hidden_dim: int
    gates: tuple[Gate, ...]

    @property
    def gating(self) -> GatingType:
        """The type of the gates as they were run."""
        return gating_named(self.gating_type)

    @property
    def gate_range(self) -> ValueRange | None:
        """The interval that holds every gate, None if one of them states none."""
        return range_of(self.gates)

    @property
    def gating_note(self) -> str | None:
        """The sentence that goes into every result when the gating type was changed; None when it was not."""
        if self.gating_type == self.trained_gating_type:
            return None
        return (
            f"Trained with {self.trained_gating_type} gating, run with {self.gating_type} as asked: the weights fit "
            "both, the function is another; these are not the gates the model was trained with."
        )


@dataclass(frozen=True)
class GateAnalysis:
    """The numbers of a run: the statistics over all samples, and a row per sample in the order they were added."""

    facts: FusionFacts
    statistics: dict[str, Any]
    rows: list[SampleRow]

    @property
    def has_injection(self) -> bool:
        """Whether what the gates let through was measured."""
        return bool(self.rows) and self.rows[0].attention[0].injection_mean is not None


class GateCollector:
    """Takes entries one by one and adds them up."""

    def __init__(self, facts: FusionFacts) -> None:
        self.facts = facts
        self._statistics = GateStatistics(facts.gating_type, facts.num_layers, facts.gate_range, facts.hidden_dim)
        self._rows: list[SampleRow] = []

    def add(self, sample_id: SampleId, entry: GateEntry) -> list[SampleRow]:
        """Take in an entry; one of several samples gives a row each, named `id[0]`, `id[1]`, ...

        Raises:
            ValueError: a gate that is not finite or outside its stated range, by sample and layer.
        """
        samples = list(samples_of(entry))
        added = []
        for b, arrays in enumerate(samples):
            name = sample_id if len(samples) == 1 else f"{sample_id}[{b}]"
            added.append(
                self._statistics.add(
                    name,
                    arrays[GATE_KEYS["attention"]],
                    arrays[GATE_KEYS["ffn"]],
                    attention_injection=arrays.get(INJECTION_KEYS["attention"]),
                    ffn_injection=arrays.get(INJECTION_KEYS["ffn"]),
                    attention_cosine=arrays.get(COSINE_KEYS["attention"]),
                    ffn_cosine=arrays.get(COSINE_KEYS["ffn"]),
                )
            )
        self._rows += added
        return added

    def result(self) -> GateAnalysis:
        """Return the numbers so far."""
        return GateAnalysis(self.facts, self._statistics.readout(), list(self._rows))
