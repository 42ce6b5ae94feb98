"""The main job: from a request to a results tree."""

from qd_detr.job.checks import prepare
from qd_detr.job.comparison import compare
from qd_detr.job.execution import run
from qd_detr.job.request import AnalysisRequest, PreparedRun, feature_spec

__all__ = ["AnalysisRequest", "PreparedRun", "compare", "feature_spec", "prepare", "run"]
