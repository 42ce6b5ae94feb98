"""Which videos, and how much: the audio's share in what makes a prediction, from four forwards and no labels.

Letters: N queries, Q slots, n clips.

The distance of two predictions, each a set of slots with scores s and unrounded spans, is

    d(p, q) = 1 - K(p, q) / sqrt(K(p, p) K(q, q)),     K(p, q) = sum over slot pairs of s_i s_j IoU_ij

With d(off), d(mean video), d(neither) the distances of the model as it is to itself without audio (all attention gates
off), without video (the data's mean video in every clip) and without both,

    phi_A = (d(off) + d(neither) - d(mean video)) / 2,   phi_V = (d(mean video) + d(neither) - d(off)) / 2

are the two-player Shapley values of "what makes this prediction"; they sum to d(neither). The share of the audio is
phi_A / (|phi_A| + |phi_V|), given only where the prediction moves at all. Nothing in it depends on how the weights
write the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, MEAN_VIDEO, NEITHER
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.runs.interventions.results import SweepRun
from qd_detr.gates.runs.postprocess import RawPrediction
from qd_detr.gates.tracking.entries import SampleId

LEAST_MOVED = 0.05
"""A share is given where phi_A + phi_V is above this."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class InputShares:
    """Per query (N,): Shapley values of audio and video, and the audio's share, NaN where the prediction hardly moves."""

    phi_audio: Array
    phi_video: Array
    share: Array


def slot_distance(p: RawPrediction, q: RawPrediction) -> float:
    """Return d(p, q) of two predictions' slots, in [0, 1]: 0 for the same windows with the same relative scores."""
    kernels = [_kernel(a, b) for a, b in ((p, q), (p, p), (q, q))]
    # Rounding may leave a prediction's distance to itself at -1e-16.
    return float(max(0.0, 1.0 - kernels[0] / np.sqrt(kernels[1] * kernels[2])))


def _kernel(p: RawPrediction, q: RawPrediction) -> float:
    (a_start, a_end), (b_start, b_end) = _edges(p), _edges(q)
    overlap = np.minimum(a_end[:, None], b_end) - np.maximum(a_start[:, None], b_start)  # (Q, Q)
    overlap = np.maximum(overlap, 0.0)
    union = (a_end - a_start)[:, None] + (b_end - b_start) - overlap
    same = (a_start[:, None] == b_start) & (a_end[:, None] == b_end)  # of two points the IoU is 0 / 0
    iou = np.divide(overlap, union, out=same.astype(np.float64), where=union > 0)
    return float(p.score.astype(np.float64) @ iou @ q.score.astype(np.float64))


def _edges(prediction: RawPrediction) -> tuple[Array, Array]:
    centre, width = prediction.span_cxw.astype(np.float64).T
    return centre - width / 2, centre + width / 2


def saliency_distance(p: RawPrediction, q: RawPrediction) -> float:
    """Return the Jensen-Shannon divergence, in bits (0 to 1), of the two saliency series, each a softmax over clips."""
    a, b = (_softmax(one.saliency.astype(np.float64)) for one in (p, q))
    middle = (a + b) / 2
    return max(0.0, (_divergence(a, middle) + _divergence(b, middle)) / 2)


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def _divergence(a: Array, b: Array) -> float:
    kept = a > 0
    return float((a[kept] * np.log2(a[kept] / b[kept])).sum())


Distance = Callable[[RawPrediction, RawPrediction], float]


def input_shares(run: SweepRun, distance: Distance = slot_distance) -> InputShares:
    """Return the shares of audio and video from a sweep of `share_conditions`.

    Raises:
        KeyError: one of the four was not run.
    """
    before = run.raw[BASELINE]
    off, still, neither = (
        np.array([distance(p, q) for p, q in zip(before, run.raw[run.run_name(name)], strict=True)])
        for name in (ATTENTION_OFF, MEAN_VIDEO, NEITHER)
    )
    phi_audio, phi_video = (off + neither - still) / 2, (still + neither - off) / 2
    total = np.abs(phi_audio) + np.abs(phi_video)
    moved = phi_audio + phi_video > LEAST_MOVED
    share = np.divide(phi_audio, total, out=np.full(len(total), np.nan), where=moved)
    return InputShares(phi_audio, phi_video, share)


READINGS: dict[str, Distance] = {"windows": slot_distance, "saliency": saliency_distance}


def audio_share(run: SweepRun) -> dict[str, Any]:
    """Return the section "audio_share", JSON-ready.

    Returns:
        {"least_moved", "readings": {"windows" and "saliency": {"n" (queries with a share), "n_unmoved", "mean",
        "median" (None without any), "phi_audio", "phi_video" (means over all queries)}},
        "samples": [{"qid", "windows" and "saliency": {"share" (None where unmoved), "phi_audio", "phi_video"}}]}
    """
    shares = {name: input_shares(run, distance) for name, distance in READINGS.items()}
    return {
        "least_moved": LEAST_MOVED,
        "readings": {name: _summary(one) for name, one in shares.items()},
        "samples": [
            {"qid": query.qid, **{name: _of_query(one, i) for name, one in shares.items()}}
            for i, query in enumerate(run.queries)
        ],
    }


def _summary(shares: InputShares) -> dict[str, Any]:
    given = shares.share[~np.isnan(shares.share)]
    return {
        "n": len(given),
        "n_unmoved": len(shares.share) - len(given),
        "mean": float(given.mean()) if len(given) else None,
        "median": float(np.median(given)) if len(given) else None,
        "phi_audio": float(shares.phi_audio.mean()),
        "phi_video": float(shares.phi_video.mean()),
    }


def _of_query(shares: InputShares, i: int) -> dict[str, float | None]:
    share = float(shares.share[i])
    return {
        "share": None if np.isnan(share) else share,
        "phi_audio": float(shares.phi_audio[i]),
        "phi_video": float(shares.phi_video[i]),
    }


def share_columns(section: dict[str, Any]) -> dict[str, dict[SampleId, Any]]:
    """Return columns for samples.csv from the section: the share, its parts, and the share by saliency."""
    samples: Sequence[dict[str, Any]] = section["samples"]
    return {
        "audio_share": {one["qid"]: one["windows"]["share"] for one in samples},
        "audio_share_phi_audio": {one["qid"]: one["windows"]["phi_audio"] for one in samples},
        "audio_share_phi_video": {one["qid"]: one["windows"]["phi_video"] for one in samples},
        "audio_share_saliency": {one["qid"]: one["saliency"]["share"] for one in samples},
    }
