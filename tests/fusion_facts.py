"""Facts of a fusion with the two plain gates, for tests of what reads them."""

from dataclasses import replace

from qd_detr.gates.gating import ATTENTION, FFN, FusionFacts


def facts(gating_type="clipwise", num_layers=2, hidden_dim=16, value_range=(-1.0, 1.0)):
    gates = tuple(replace(gate, value_range=value_range) for gate in (ATTENTION, FFN))
    return FusionFacts(gating_type, gating_type, num_layers, hidden_dim, gates)
