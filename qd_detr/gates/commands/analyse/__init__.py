"""The main job: from a request to a results tree."""

from qd_detr.gates.commands.analyse.checks import prepare
from qd_detr.gates.commands.analyse.comparison import compare
from qd_detr.gates.commands.analyse.execution import run
from qd_detr.gates.commands.analyse.request import AnalysisRequest, PreparedRun

__all__ = ["AnalysisRequest", "PreparedRun", "compare", "prepare", "run"]
