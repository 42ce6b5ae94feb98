"""ANALYSIS_REPORT.md: findings in sentences with their numbers. It only reads what was computed."""

from qd_detr.gates.results.report.document import report_place, report_text, shard_place, terminal_summary

__all__ = ["report_place", "report_text", "shard_place", "terminal_summary"]
