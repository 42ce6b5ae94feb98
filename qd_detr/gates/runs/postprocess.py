"""From a model's outputs to lines of a QVHighlights submission, to the digit as the legacy code wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.errors import RunError

MAX_TIME_S = 150.0
LEGACY_STEP_S = 2.0
Window = list[float]


@dataclass(frozen=True)
class PostprocessingOptions:
    """What a run's options say about the making of predictions.

    nms_thd < 0 means no suppression. clip_length_s is the step to which times are rounded.
    """

    clip_length_s: float = LEGACY_STEP_S
    nms_thd: float = -1
    max_before_nms: int = 10
    max_after_nms: int = 10
    sort_by_score: bool = True

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, own: bool = False) -> PostprocessingOptions:
        """Take them from a run's options by their legacy names.

        Args:
            own: of this project's own training run, which rounds to its clip length. The legacy code rounded to
                multiples of 2 s, whatever its options said.
        """
        return cls(
            clip_length_s=options["clip_length"] if own else LEGACY_STEP_S,
            nms_thd=options["nms_thd"],
            max_before_nms=options["max_before_nms"],
            max_after_nms=options["max_after_nms"],
            sort_by_score=not options["no_sort_results"],
        )


@dataclass(frozen=True)
class RawPredictions:
    """One batch's outputs on the host: score (B, Q), span_cxw (B, Q, 2) and saliency (B, L) as float16."""

    score: np.ndarray
    span_cxw: np.ndarray
    saliency: np.ndarray
    clip_counts: np.ndarray

    @classmethod
    def stacked(cls, samples: Sequence[RawPrediction]) -> RawPredictions:
        """Return the predictions of samples of equal clip count as those of one batch."""
        score, span_cxw, saliency = (
            np.stack([getattr(one, name) for one in samples]) for name in ("score", "span_cxw", "saliency")
        )
        return cls(score, span_cxw, saliency, np.full(len(samples), saliency.shape[1]))

    def sample(self, b: int) -> RawPrediction:
        """Return the prediction of one sample of the batch."""
        return RawPrediction(self.score[b], self.span_cxw[b], self.saliency[b, : self.clip_counts[b]])


@dataclass(frozen=True)
class RawPrediction:
    """One sample's outputs: score (Q,), span_cxw (Q, 2), unrounded, and saliency (n,) of its clips as float16."""

    score: np.ndarray
    span_cxw: np.ndarray
    saliency: np.ndarray

    @classmethod
    def restored(cls, kept: Mapping[str, Any], line: Mapping[str, Any]) -> RawPrediction:
        """Return it from plain lists of its scores and spans, and from its line, which holds the saliency unrounded."""
        score, spans = (np.array(kept[name], np.float32) for name in ("score", "span_cxw"))
        return cls(score, spans, np.array(line["pred_saliency_scores"], np.float16))


def raw_predictions(outputs: Mapping[str, Tensor]) -> RawPredictions:
    """Bring what predictions are made of to the host, in one wait for the device."""
    score = outputs["pred_logits"].float().softmax(dim=-1)[..., 0]
    spans, saliency = outputs["pred_spans"].float(), outputs["saliency_scores"].half()
    counts = outputs["video_mask"].sum(dim=1)
    slots = score.shape[1]
    packed = torch.cat([score, spans.flatten(1), saliency.float(), counts.float()[:, None]], dim=1).cpu().numpy()
    return RawPredictions(
        score=packed[:, :slots],
        span_cxw=packed[:, slots : 3 * slots].reshape(len(packed), slots, 2),
        saliency=packed[:, 3 * slots : -1].astype(np.float16),
        clip_counts=packed[:, -1].astype(int),
    )


def submission_lines(
    queries: Sequence[Query], outputs: Mapping[str, Tensor], options: PostprocessingOptions
) -> list[dict[str, Any]]:
    """Return a submission line per sample of a batch.

    Score = softmax(pred_logits)[0]; window = (c - w/2, c + w/2) * duration; sorted by score, descending and stable;
    all rounded to 4 decimals; times clamped to [0, 150] s and rounded to multiples of `clip_length_s`, half to even.
    Saliency is float16, unrounded, of the valid clips.
    """
    return lines_of(queries, raw_predictions(outputs), options)


def lines_of(queries: Sequence[Query], raw: RawPredictions, options: PostprocessingOptions) -> list[dict[str, Any]]:
    """Return `submission_lines` from outputs that are on the host already.

    Raises:
        RunError: an output that is not finite.
    """
    for query, score, spans, saliency in zip(queries, raw.score, raw.span_cxw, raw.saliency, strict=True):
        if not (np.isfinite(score).all() and np.isfinite(spans).all() and np.isfinite(saliency).all()):
            raise RunError(
                f"the model's output for qid {query.qid} holds NaN or Inf; check its features and the weights"
            )
    lines = []
    for b, query in enumerate(queries):
        windows = ranked_windows(raw.score[b], raw.span_cxw[b], query.duration_s, options)
        lines.append(
            {
                "qid": query.qid,
                "query": query.query,
                "vid": query.vid,
                "pred_relevant_windows": windows,
                "pred_saliency_scores": raw.saliency[b, : raw.clip_counts[b]].astype(float).tolist(),
            }
        )
    return lines


def ranked_windows(
    score: np.ndarray, span_cxw: np.ndarray, duration_s: float, options: PostprocessingOptions
) -> list[Window]:
    """Return [[start s, end s, score], ...] of one sample from score (Q,) and span_cxw (Q, 2)."""
    # float32 throughout, as the legacy code: a rounding edge is met or missed by the last digit.
    centre, half = span_cxw[:, 0], np.float32(0.5) * span_cxw[:, 1]
    duration = np.float32(duration_s)
    start, end = (centre - half) * duration, (centre + half) * duration
    order = np.argsort(-score, kind="stable") if options.sort_by_score else np.arange(len(score))
    windows = []
    for i in order:
        times = [_to_step(_four_decimals(t[i]), options.clip_length_s) for t in (start, end)]
        windows.append([*times, _four_decimals(score[i])])
    if options.nms_thd >= 0:
        windows = suppressed(windows[: options.max_before_nms], options.nms_thd)[: options.max_after_nms]
    return windows


def _four_decimals(value: np.floating[Any]) -> float:
    return float(f"{value:.4f}")


def _to_step(time_s: float, step_s: float) -> float:
    clamped = np.float32(min(max(time_s, 0.0), MAX_TIME_S))
    return float(np.rint(clamped / np.float32(step_s)) * np.float32(step_s))


def suppressed(windows: Sequence[Window], threshold: float) -> list[Window]:
    """Return the windows that greedy temporal NMS keeps, best score first.

    A window is dropped if its overlap with a better kept one is above the threshold; overlap = intersection /
    (max end - min start), 0 for 0/0.
    """
    kept: list[Window] = []
    for window in sorted(windows, key=lambda w: -w[2]):
        if all(_overlap(window, better) <= threshold for better in kept):
            kept.append(window)
    return kept


def _overlap(a: Window, b: Window) -> float:
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    hull = max(a[1], b[1]) - min(a[0], b[0])
    return intersection / hull if hull else 0.0
