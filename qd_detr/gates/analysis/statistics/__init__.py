"""Streaming, mergeable statistics of gates: one pass over the data feeds all, and nothing of it is kept.

NumPy alone. `GateStatistics` is the whole of a run, `ValueStatistics` one stream of values, `describe` one array.
"""

from qd_detr.gates.analysis.statistics.dead import DEAD_SPREAD, DeadGates
from qd_detr.gates.analysis.statistics.gates import GateRow, GateStatistics, SampleRow
from qd_detr.gates.analysis.statistics.sample import describe
from qd_detr.gates.analysis.statistics.values import NEAR_ZERO, PERCENTS, ValueStatistics, saturation_limits
from qd_detr.gates.analysis.statistics.variance import (
    CLIP_LEVEL,
    CONSTANT,
    CONSTANT_LIMIT,
    VIDEO_LEVEL,
    VariancePartition,
)

__all__ = [
    "CLIP_LEVEL",
    "CONSTANT",
    "CONSTANT_LIMIT",
    "DEAD_SPREAD",
    "NEAR_ZERO",
    "PERCENTS",
    "VIDEO_LEVEL",
    "DeadGates",
    "GateRow",
    "GateStatistics",
    "SampleRow",
    "ValueStatistics",
    "VariancePartition",
    "describe",
    "saturation_limits",
]
