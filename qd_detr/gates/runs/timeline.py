"""The audio timeline of many samples: contributions per layer and clip, and two checks of what they say.

Letters: A fusion layers, n clips of a sample, P points of a curve.

Faithfulness: clips are switched off (their attention gates in every layer), those first that an order puts first; the
better an order knows the clips that made the prediction, the faster F falls. Occlusion: a few neighbouring clips off at
a time, an independent measure of when the audio counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.batches import collate
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.contributions import AudioPath, Contributions, contributions
from qd_detr.gates.runs.interventions.partners import generator
from qd_detr.gates.runs.parts import NOT_OURS, Arrays, Parts
from qd_detr.gates.tracking.entries import SampleGates, SampleId

EXPECTED_FORWARDS = 180
"""What a sample costs in plain forwards, about; stated before a run, measured in it."""
FRACTIONS = tuple(i / 8 for i in range(9))
"""Shares of a sample's clips that are off at the points of a faithfulness curve."""
OCCLUDED_CLIPS = 3
OCCLUDED_SAMPLES = 24

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TimelineSettings:
    """How to make timelines.

    Attributes:
        seed: of the random order. progress: called after every sample with 1.
        faithfulness, occlusion: whether the checks are made; occlusion on `OCCLUDED_SAMPLES` spread over the samples.
        only: the positions that are wanted, where those are not all.
        parts: where finished timelines are looked for and put.
    """

    seed: int = 0
    faithfulness: bool = True
    occlusion: bool = True
    only: Collection[int] | None = None
    parts: Parts | None = None
    progress: Callable[[int], object] = lambda done: None


@dataclass(frozen=True, eq=False)
class SampleTimeline:
    """One sample's timeline.

    Attributes:
        targets: "prediction", F = sum of w_k IoU(span_k, the model's own first window), and with labels "annotation",
            the same with the best IoU over the annotated windows.
        curves: by order, F of the prediction with `FRACTIONS` of the clips off.
        occlusion: by how much F of the prediction falls with `OCCLUDED_CLIPS` clips around each clip off, (n,).
        forwards: what it cost, in plain forwards; a gradient counts as one more.
    """

    query: Query
    targets: Mapping[str, Contributions]
    curves: Mapping[str, Array]
    occlusion: Array | None
    forwards: int


def run_timeline(
    model: QDDETR,
    samples: Samples,
    positions: Sequence[int],
    history: Mapping[SampleId, SampleGates],
    settings: TimelineSettings | None = None,
) -> Iterator[SampleTimeline]:
    """Yield the timeline of each sample of `positions`.

    Args:
        history: gates by qid of a run without interventions; its orders are held against the contributions'.

    The model is in eval mode meanwhile; its mode is put back, and nothing else on it is touched, however this ends.
    """
    settings = settings or TimelineSettings()
    spread = np.linspace(0, len(positions) - 1, min(OCCLUDED_SAMPLES, len(positions))).round().astype(int)
    occluded = set(spread.tolist()) if settings.occlusion else set()
    was_training = model.training
    model.eval()
    try:
        for place, position in enumerate(positions):
            if settings.only is not None and position not in settings.only:
                continue
            query, name = samples.queries[position], f"{position:06d}"
            found = _kept(settings.parts, name, query, (model.avigate_fusion.num_layers, samples.clip_counts[position]))
            if found is None:
                path = AudioPath(model, collate([(query, samples.reader.read(query))]))
                found = _timeline(path, query, history[query.qid], settings, occlude=place in occluded)
                if settings.parts is not None:
                    settings.parts.put(name, _arrays_of(found))
            yield found
            settings.progress(1)
    finally:
        model.train(was_training)


def _kept(parts: Parts | None, name: str, query: Query, shape: tuple[int, int]) -> SampleTimeline | None:
    """Return a sample's timeline of (A, n) contributions from its part, None where there is none of this form."""
    for piece in [] if parts is None else parts.found(name):
        try:
            found = _from_arrays(query, piece)
        except NOT_OURS:
            continue
        curves, occlusion = found.curves.values(), found.occlusion
        if (
            "prediction" in found.targets
            and all(one.values.shape == shape for one in found.targets.values())
            and all(curve.shape == (len(FRACTIONS),) for curve in curves)
            and (occlusion is None or occlusion.shape == shape[1:])
        ):
            return found
    return None


def _arrays_of(one: SampleTimeline) -> Arrays:
    """Return a timeline as arrays; see `_from_arrays`."""
    arrays: Arrays = {"forwards": np.array(one.forwards)}
    for name, found in one.targets.items():
        arrays[f"target.{name}"] = found.values
        arrays[f"facts.{name}"] = np.array([found.with_audio, found.without_audio, found.bound, found.nodes])
    arrays |= {f"curve.{name}": curve for name, curve in one.curves.items()}
    return arrays if one.occlusion is None else {**arrays, "occlusion": one.occlusion}


def _from_arrays(query: Query, arrays: Mapping[str, NDArray[Any]]) -> SampleTimeline:
    targets = {}
    for key in (key for key in arrays if key.startswith("target.")):
        with_audio, without_audio, bound, nodes = arrays[f"facts.{key.removeprefix('target.')}"].tolist()
        targets[key.removeprefix("target.")] = Contributions(arrays[key], with_audio, without_audio, bound, int(nodes))
    curves = {key.removeprefix("curve."): curve for key, curve in arrays.items() if key.startswith("curve.")}
    return SampleTimeline(query, targets, curves, arrays.get("occlusion"), int(arrays["forwards"]))


def _timeline(
    path: AudioPath, query: Query, entry: SampleGates, settings: TimelineSettings, *, occlude: bool
) -> SampleTimeline:
    own = path.first_window()
    windows = {"prediction": own}
    if query.relevant_windows:
        annotated = torch.tensor(query.relevant_windows, dtype=own.dtype, device=own.device)
        windows["annotation"] = annotated[:, :2] / query.duration_s
    targets = dict(zip(windows, contributions(path, list(windows.values())), strict=True))
    curves = {}
    if settings.faithfulness:
        orders = _orders(targets["prediction"], entry, generator(settings.seed, query.qid))
        curves = _curves(path, orders, targets["prediction"], own)
    occlusion = _occlusion(path, targets["prediction"], own) if occlude else None
    return SampleTimeline(query, targets, curves, occlusion, path.forwards)


def _orders(found: Contributions, entry: SampleGates, rng: np.random.Generator) -> dict[str, NDArray[np.intp]]:
    """Return by name the clips (n,) in the order in which they are switched off; a gate without a clip axis has none."""
    n = found.values.shape[1]
    series = {"contributions": found.values.sum(axis=0)}
    if "attention" in entry.injection:
        series["injection"] = entry.injection["attention"][:, 0].mean(axis=0, dtype=np.float64)  # (n,)
    sizes = np.abs(entry.gates["attention"][:, 0]).mean(axis=(0, 2), dtype=np.float64)  # (n,) or (1,)
    if len(sizes) == n:
        series["gates"] = sizes
    return {name: np.argsort(-values, kind="stable") for name, values in series.items()} | {
        "random": rng.permutation(n)
    }


def _curves(
    path: AudioPath, orders: Mapping[str, NDArray[np.intp]], found: Contributions, own: torch.Tensor
) -> dict[str, Array]:
    inner = FRACTIONS[1:-1]
    scales = np.ones((len(orders), len(inner), path.num_layers, path.n_clips))
    for i, order in enumerate(orders.values()):
        for j, fraction in enumerate(inner):
            scales[i, j, :, order[: round(fraction * path.n_clips)]] = 0.0
    values = path.values(scales.reshape(-1, *scales.shape[2:]), [own]).reshape(len(orders), len(inner))
    return {
        name: np.concatenate([[found.with_audio], values[i], [found.without_audio]]) for i, name in enumerate(orders)
    }


def occluding_windows(n_clips: int) -> NDArray[np.bool_]:
    """Return which clips are off around each clip, (n, n)."""
    places = np.arange(n_clips)
    return np.abs(places[:, None] - places) <= OCCLUDED_CLIPS // 2


def _occlusion(path: AudioPath, found: Contributions, own: torch.Tensor) -> Array:
    kept = np.where(occluding_windows(path.n_clips), 0.0, 1.0)  # (n, n)
    scales = np.repeat(kept[:, None], path.num_layers, axis=1)  # (n, A, n)
    return found.with_audio - path.values(scales, [own])[:, 0]
