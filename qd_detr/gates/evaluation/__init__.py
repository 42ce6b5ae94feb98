"""Evaluation of predictions against annotations: the field's metrics, and the per-query figures behind them.

NumPy only. `evaluate(predictions, queries)` is the way in; `python -m qd_detr.gates.evaluation` is the command.
"""

from qd_detr.gates.evaluation.benchmarks import Benchmark, Scores, benchmark_of
from qd_detr.gates.evaluation.report import (
    HEADLINE_METRICS,
    PerQuery,
    aggregate,
    headline_columns,
    official_metrics,
    write_metrics,
)
from qd_detr.gates.evaluation.scoring import Evaluation, TvsumEvaluation, evaluate, evaluate_tvsum
from qd_detr.gates.evaluation.submission import read_submission
from qd_detr.gates.evaluation.tvsum import TvsumPerQuery

__all__ = [
    "HEADLINE_METRICS",
    "Benchmark",
    "Evaluation",
    "PerQuery",
    "Scores",
    "TvsumEvaluation",
    "TvsumPerQuery",
    "aggregate",
    "benchmark_of",
    "evaluate",
    "evaluate_tvsum",
    "headline_columns",
    "official_metrics",
    "read_submission",
    "write_metrics",
]
