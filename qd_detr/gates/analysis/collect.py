"""From recorded gates to the numbers of a run: one pass over samples, nothing kept but sums and a row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qd_detr.gates.analysis.statistics import GateStatistics, SampleRow
from qd_detr.gates.gating import FusionFacts
from qd_detr.gates.tracking.entries import SampleGates, SampleId


@dataclass(frozen=True)
class GateAnalysis:
    """The numbers of a run: the statistics over all samples, and a row per sample in the order they were added."""

    facts: FusionFacts
    statistics: dict[str, Any]
    rows: list[SampleRow]

    @property
    def has_injection(self) -> bool:
        """Whether what the gates let through was measured."""
        first = self.rows[0].gates[self.facts.gates[0].kind] if self.rows else []
        return bool(first) and first[0].injection_mean is not None


class GateCollector:
    """Takes entries one by one and adds them up."""

    def __init__(self, facts: FusionFacts) -> None:
        self.facts = facts
        self._statistics = GateStatistics(facts)
        self._rows: list[SampleRow] = []

    def add(self, sample_id: SampleId, entry: SampleGates) -> list[SampleRow]:
        """Take in an entry; one of several samples gives a row each, named `id[0]`, `id[1]`, ...

        Raises:
            ValueError: a gate that is not finite or outside its stated range, by sample and layer.
        """
        samples = list(entry.samples())
        added = []
        for b, sample in enumerate(samples):
            name = sample_id if len(samples) == 1 else f"{sample_id}[{b}]"
            added.append(self._statistics.add(name, sample.gates, injection=sample.injection, cosine=sample.cosine))
        self._rows += added
        return added

    def result(self) -> GateAnalysis:
        """Return the numbers so far."""
        return GateAnalysis(self.facts, self._statistics.readout(), list(self._rows))
