"""The main job: from a request to a results tree."""

from qd_detr.gates.commands.analyse.checks import prepare
from qd_detr.gates.commands.analyse.comparison import compare
from qd_detr.gates.commands.analyse.execution import run
from qd_detr.gates.commands.analyse.gate_log import LogRequest, analyse_log
from qd_detr.gates.commands.analyse.request import AnalysisRequest, PreparedRun
from qd_detr.gates.commands.analyse.shards import merge, merge_if_last, run_shard

__all__ = [
    "AnalysisRequest",
    "LogRequest",
    "PreparedRun",
    "analyse_log",
    "compare",
    "merge",
    "merge_if_last",
    "prepare",
    "run",
    "run_shard",
]
