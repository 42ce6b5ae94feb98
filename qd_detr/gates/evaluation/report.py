"""Means over queries: the official metrics report, and unrounded aggregates for resampling.

Both are plain means over `PerQuery`, so that a bootstrap over queries resamples exactly what is reported.

Shapes: N queries, T IoU thresholds, A annotators, B resamples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qd_detr.gates.errors import RunError
from qd_detr.gates.evaluation.highlights import HIGHLIGHT_LEVELS, HighlightFigures
from qd_detr.gates.evaluation.moments import IOU_THRESHOLDS, LENGTH_RANGES_S, MomentFigures
from qd_detr.gates.evaluation.tvsum import TvsumPerQuery
from qd_detr.gates.files import write_whole


@dataclass(frozen=True, eq=False)
class PerQuery:
    """What every query scored, as fractions, in submission order.

    `qid` is (N,) of objects, so that ids stay int or str. The arrays over the full range of window lengths have no
    NaN; `moments.ap["short"]` and its like hold NaN for queries that drop out of that range. `highlights` is None where
    the labels are windows alone.
    """

    qid: np.ndarray
    moments: MomentFigures
    highlights: HighlightFigures | None

    def __len__(self) -> int:
        return len(self.qid)

    @property
    def ap_by_threshold(self) -> np.ndarray:
        """Average precision at each of `IOU_THRESHOLDS`, (N, T)."""
        return self.moments.ap["full"]

    @property
    def ap(self) -> np.ndarray:
        """Average precision, mean over IoU thresholds, (N,)."""
        return self.ap_by_threshold.mean(axis=1)

    @property
    def r1_iou(self) -> np.ndarray:
        """IoU of the first predicted window with the ground-truth window it overlaps best, as R1 judges it, (N,)."""
        return self.moments.r1_iou["full"]

    @property
    def best_iou(self) -> np.ndarray:
        """Highest IoU of any of the first 10 predicted windows with any ground-truth window, (N,)."""
        return self.moments.best_iou

    @property
    def hl_ap(self) -> dict[str, np.ndarray]:
        """Highlight AP, mean over annotators, (N,) for each level: "Fair", "Good", "VeryGood"; {} without them."""
        found = {} if self.highlights is None else self.highlights.ap_by_annotator
        return {level: ap.mean(axis=1) for level, ap in found.items()}

    @property
    def hit1(self) -> Mapping[str, np.ndarray]:
        """1.0 where the highest-scored clip is positive for any annotator, else 0.0, (N,) for each level."""
        return {} if self.highlights is None else self.highlights.hit1


# Each headline figure is the mean over queries of one per-query column; the names are the report's own.
_HEADLINE_COLUMNS = {
    "MR-full-R1@0.5": lambda per_query: per_query.r1_iou >= 0.5,
    "MR-full-R1@0.7": lambda per_query: per_query.r1_iou >= 0.7,
    "MR-full-mAP": lambda per_query: per_query.ap,
    "HL-min-VeryGood-mAP": lambda per_query: per_query.hl_ap["VeryGood"],
    "HL-min-VeryGood-Hit1": lambda per_query: per_query.hit1["VeryGood"],
}
HEADLINE_METRICS = tuple(_HEADLINE_COLUMNS)


def headline_columns(per_query: PerQuery) -> dict[str, np.ndarray]:
    """Return, for each of `HEADLINE_METRICS` that there is, the per-query column (N,) in percent whose mean it is."""
    judged = [name for name in HEADLINE_METRICS if per_query.highlights is not None or name.startswith("MR-")]
    return {name: 100.0 * _HEADLINE_COLUMNS[name](per_query) for name in judged}


def aggregate(per_query: PerQuery, indices: np.ndarray | None = None) -> dict[str, Any]:
    """Return the headline metrics in percent, unrounded, over all queries or over resamples of them.

    MR-full-mAP is the mean over queries of their AP: the same as the report's mean over thresholds of the mean
    over queries, as no query drops out of the full range. That does not hold for short, middle and long, whose
    number of queries changes with the resample: there take `np.nanmean` of the resampled `moments.ap[name]`.

    Args:
        per_query: Figures of N queries.
        indices: Rows to average over, (n,) for one resample or (B, n) for B; all rows when None.

    Returns:
        For each of `HEADLINE_METRICS` that there is a np.float64, or an array (B,) when `indices` is (B, n).
    """
    columns = headline_columns(per_query)
    if indices is None:
        return {name: column.mean() for name, column in columns.items()}
    return {name: column[indices].mean(axis=-1) for name, column in columns.items()}


def official_metrics(per_query: PerQuery) -> dict[str, Any]:
    """Return the report in the field's layout and key order: percent, rounded to 2 decimals.

    A length range that no query has a window in is None throughout: there is nothing to measure. The highlight metrics
    are left out where the labels are windows alone.
    """
    found = per_query.highlights
    highlights: dict[str, dict[str, float | None]] = {}
    if found is not None:
        highlights = {
            f"HL-min-{level}": {
                "HL-mAP": _percent(found.ap_by_annotator[level].mean()),
                "HL-Hit1": _percent(found.hit1[level].mean()),
            }
            for level in HIGHLIGHT_LEVELS
        }
    moments = {name: _range_metrics(per_query.moments, name) for name in LENGTH_RANGES_S}
    full = moments["full"]
    brief = {
        "MR-full-R1@0.5": full["MR-R1"]["0.5"],
        "MR-full-R1@0.7": full["MR-R1"]["0.7"],
        "MR-full-mAP": full["MR-mAP"]["average"],
        "MR-full-mAP@0.5": full["MR-mAP"]["0.5"],
        "MR-full-mAP@0.75": full["MR-mAP"]["0.75"],
    }
    brief |= {f"MR-{name}-mAP": moments[name]["MR-mAP"]["average"] for name in ("long", "middle", "short")}
    for level, values in highlights.items():
        brief |= {f"{level}-mAP": values["HL-mAP"], f"{level}-Hit1": values["HL-Hit1"]}
    return {"brief": brief, **highlights, **moments}


def tvsum_metrics(per_query: TvsumPerQuery) -> dict[str, Any]:
    """Return `{"brief": {"mAP": ...}}`: mAP over raters and videos, in percent, rounded to 2 decimals."""
    return {"brief": {"mAP": _percent(per_query.ap_by_rater.mean())}}


def write_metrics(metrics: dict[str, Any], path: Path) -> None:
    """Write the metrics file, to the byte as the official evaluation lays it out; whole or not at all.

    Raises:
        RunError: It cannot be written.
    """
    try:
        write_whole(path, json.dumps(metrics, indent=4, allow_nan=False))
    except OSError as error:
        raise RunError(f"metrics cannot be written to {path} ({error.strerror})") from None


def _range_metrics(moments: MomentFigures, name: str) -> dict[str, dict[str, float | None]]:
    kept = ~np.isnan(moments.r1_iou[name])
    keys = [str(threshold) for threshold in IOU_THRESHOLDS]
    if not kept.any():
        return {"MR-mAP": dict.fromkeys([*keys, "average"]), "MR-R1": dict.fromkeys(keys)}
    ap = moments.ap[name][kept].mean(axis=0)  # (T,)
    recall = [(moments.r1_iou[name][kept] >= threshold).mean() for threshold in IOU_THRESHOLDS]
    return {
        "MR-mAP": {key: _percent(value) for key, value in zip([*keys, "average"], [*ap, ap.mean()], strict=True)},
        "MR-R1": {key: _percent(value) for key, value in zip(keys, recall, strict=True)},
    }


def _percent(fraction: float) -> float:
    # Through text as the official evaluation does: round() of a NumPy number scales it first and differs near a half.
    return float(f"{100 * fraction:.2f}")
