"""How often is a verdict wrong? Simulated data sets on the cluster structure of real data, a line per question.

    python -m benchmarks.verdict_rates [--annotations A.jsonl] [--data_sets 2000] [--draws 2000] [--seed 0]

Source videos are drawn, with as many queries each as videos of the annotations have (QVHighlights val where none are
given); within a video two in five queries act as one. Wanted: false "helps" or "hurts" in at most 6 % of the data
sets, intervals that cover the truth in at least 93 % from 10 source videos on, false "equivalent" in at most 5 % where
the effect is as large as the margin, 80 +- 3 % power at the minimum detectable effect that the data state, and a slice
that is said to differ in at most 5 % of the data sets in which all slices are alike.

Measured with 2,000 data sets a line: false helps or hurts 0 to 3.5 % at 2 to 90 source videos; coverage 94.3 to 100 % at
10, 20 and 90; false equivalent 0 to 2.1 %; a slice said to differ 0 to 0.4 %; two groups said of one mode 0 to 2.5 %.
Power, half of the effects each way, at 6, 10, 20, 40, 90 and 474 source videos: 77.0 to 83.0 % from 20 on for AP effects and
for R1 of which 5, 10 or 20 % flip, and at 10 but for 73.9 % with 20 % flips; at 6 it is 76.3 % (AP), 79.3, 76.4 and 67.3 %.
With 2 % flips 81.2 to 85.5 %: few videos show a flip, and data sets that show one state too large an effect.

Data sets that share their cluster sizes, and the draws of the bootstrap, are columns of one call.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.intervals import Interval
from qd_detr.gates.analysis.resampling import contrast_bootstrap, false_discovery, paired_bootstrap
from qd_detr.gates.analysis.two_groups import BOUND as TWO_GROUPS_BOUND
from qd_detr.gates.analysis.two_groups import excess_mass_gains
from qd_detr.gates.analysis.verdicts import verdict_of
from qd_detr.gates.data.video_names import source_video

COLUMNS = 50
BOUNDS = (-100.0, 100.0)
ALIKE = 0.4
QUERIES_PER_VIDEO = {1: 51, 2: 39, 3: 236, 4: 49, 5: 90, 6: 2, 7: 1, 8: 6}  # QVHighlights val: 474 source videos
SLICE_SHARES = (0.1, 0.15, 0.2, 0.3, 0.3, 0.5, 0.5, 0.6, 0.7, 0.8)

Rng = np.random.Generator
Array = NDArray[np.float64]
Generator = Callable[[Rng, NDArray[np.intp], int], Array]


def _places(rng: Rng, video: NDArray[np.intp], columns: int) -> Array:
    """Return even numbers in [0, 1) (n, columns), alike within a video."""
    own, shared = rng.random((len(video), columns)), rng.random((int(video.max()) + 1, columns))
    return np.where(rng.random(own.shape) < ALIKE, shared[video], own)


def ap_effects(rng: Rng, video: NDArray[np.intp], columns: int) -> Array:
    """One query in five changes by much, few by more up than many down (8 % by 45 points, 12 % by -30); mean 0."""
    place = _places(rng, video, columns)
    size = rng.beta(2, 2, place.shape) + rng.random(place.shape)  # mean 1
    small = rng.normal(size=place.shape)
    return np.where(place < 0.08, 45 * size, np.where(place < 0.2, -30 * size, small))


def flips(up: float, down: float) -> Generator:
    """Right or wrong: a share `up` of the queries is rescued, `down` harmed; the mean is taken off."""

    def generate(rng: Rng, video: NDArray[np.intp], columns: int) -> Array:
        place = _places(rng, video, columns)
        return np.where(place < up, 100.0, np.where(place < up + down, -100.0, 0.0))

    return generate


def _more_flips(either_way: float) -> Moved:
    """Beside what flips either way, as many queries more are rescued (harmed) as the effect says."""
    return lambda points: flips(either_way + max(points, 0.0) / 100, either_way + max(-points, 0.0) / 100)


# the generator and its true mean, percent points
NO_EFFECT: dict[str, tuple[Generator, float]] = {
    "AP effects": (ap_effects, 0.0),
    "R1, 5 % flip": (flips(0.025, 0.025), 0.0),
    "R1, 10 % flip": (flips(0.05, 0.05), 0.0),
}
ONE_SIDED: dict[str, tuple[Generator, float]] = {
    "R1, 5 % flip, all rescued": (flips(0.05, 0.0), 5.0),
    "R1, 10 % flip, 4 in 5 rescued": (flips(0.08, 0.02), 6.0),
}


Moved = Callable[[float], Generator]
"""An effect, percent points, to the generator of data that have it."""
DETECTABLE: dict[str, tuple[Generator, Moved]] = {
    "AP effects, shifted": (ap_effects, lambda points: _plus(ap_effects, points)),
    **{
        f"R1, {flipped} % flip, and more one way": (flips(flipped / 200, flipped / 200), _more_flips(flipped / 200))
        for flipped in (2, 5, 10, 20)
    },
}


def structure(rng: Rng, sizes: NDArray[np.intp], clusters: int) -> NDArray[np.intp]:
    """Return the video of each query (n,)."""
    return np.repeat(np.arange(clusters), rng.choice(sizes, clusters))


def data_sets(
    rng: Rng, sizes: NDArray[np.intp], clusters: int, generate: Generator, count: int
) -> list[tuple[NDArray[np.intp], Array]]:
    """Return `count` data sets in groups that share a structure: videos (n,), values (n, columns)."""
    groups = []
    for first in range(0, count, COLUMNS):
        video = structure(rng, sizes, clusters)
        groups.append((video, generate(rng, video, min(COLUMNS, count - first))))
    return groups


def intervals(values: Array, video: NDArray[np.intp], draws: int, seed: int) -> list[Interval]:
    bounds = [BOUNDS] * values.shape[1]
    return paired_bootstrap(values, [f"{v:05d}" for v in video], seed=seed, draws=draws, bounds=bounds)


def percent(hits: list[bool]) -> str:
    return f"{100 * float(np.mean(hits)):5.1f} %"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, help="take the cluster sizes of these, .jsonl")
    parser.add_argument("--data_sets", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    sizes = _sizes(args.annotations)
    rng, n, draws = np.random.default_rng(args.seed), args.data_sets, args.draws
    print(f"{n} data sets a line, {draws} draws, {len(sizes)} source videos with {sizes.mean():.2f} queries each")
    print("\nfalse helps or hurts, effect 0 (wanted: <= 6 %)")
    for name, (generate, _) in NO_EFFECT.items():
        rates = []
        for clusters in (2, 3, 5, 6, 8, 10, 20, 90):
            found = [
                verdict_of(one)["verdict"] in ("helps", "hurts")
                for video, values in data_sets(rng, sizes, clusters, generate, n)
                for one in intervals(values, video, draws, args.seed)
            ]
            rates.append(f"{clusters}: {percent(found)}")
        print(f"  {name:32s} {'  '.join(rates)}", flush=True)
    print("\nthe interval covers the truth (wanted: >= 93 %)")
    for name, (generate, truth) in (NO_EFFECT | ONE_SIDED).items():
        rates = []
        for clusters in (10, 20, 90):
            found = [
                one["low"] is not None and one["high"] is not None and one["low"] <= truth <= one["high"]
                for video, values in data_sets(rng, sizes, clusters, generate, n)
                for one in intervals(values, video, draws, args.seed)
            ]
            rates.append(f"{clusters}: {percent(found)}")
        print(f"  {name:32s} {'  '.join(rates)}", flush=True)
    print("\nfalse equivalent, the effect is the margin (wanted: <= 5 %)")
    shifted: dict[str, tuple[Generator, float]] = {
        f"AP effects, {margin:g} points": (_plus(ap_effects, margin), margin) for margin in (2.0, 5.0, 10.0)
    }
    for name, (generate, truth) in (shifted | ONE_SIDED).items():
        rates = []
        for clusters in (10, 20, 90, 474):
            found = [
                verdict_of(one, margin=truth)["verdict"] == "equivalent"
                for video, values in data_sets(rng, sizes, clusters, generate, n if clusters < 400 else n // 2)
                for one in intervals(values, video, draws, args.seed)
            ]
            rates.append(f"{clusters}: {percent(found)}")
        print(f"  {name:32s} {'  '.join(rates)}", flush=True)
    print("\npower at the minimum detectable effect that another data set of the same structure states (80 +- 3 %)")
    for name, (generate, effect) in DETECTABLE.items():
        rates = []
        for clusters in (6, 10, 20, 40, 90, 474):
            count = n if clusters < 400 else n // 2
            rates.append(f"{clusters}: {percent(_detected(rng, sizes, clusters, generate, effect, count, draws))}")
        print(f"  {name:32s} {'  '.join(rates)}", flush=True)
    print(f"\none of {len(SLICE_SHARES)} slices said to differ, all alike (wanted: <= 5 %)")
    for name, (generate, _) in (NO_EFFECT | ONE_SIDED).items():
        rates = []
        for clusters in (20, 90):
            found = []
            for video, values in data_sets(rng, sizes, clusters, generate, n):
                masks = rng.random((len(video), len(SLICE_SHARES))) < np.array(SLICE_SHARES)
                found += _slices_said(values, masks, video, draws, args.seed)
            rates.append(f"{clusters}: {percent(found)}")
        print(f"  {name:32s} {'  '.join(rates)}", flush=True)
    print("\ntwo groups said, one mode (wanted: <= 5 %)")
    for name, shape in ONE_MODE.items():
        rates = []
        for videos in (20, 90, 474):
            found = []
            for first in range(0, n, 100):
                found += list(excess_mass_gains(shape(rng, (min(100, n - first), videos))) >= TWO_GROUPS_BOUND)
            rates.append(f"{videos}: {percent(found)}")
        print(f"  {name:32s} {'  '.join(rates)}", flush=True)
    return 0


ONE_MODE: dict[str, Callable[[Rng, tuple[int, int]], Array]] = {
    "even": lambda rng, shape: rng.random(shape),
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "lognormal": lambda rng, shape: np.exp(rng.normal(size=shape)),
    "beta(0.5, 3)": lambda rng, shape: rng.beta(0.5, 3, shape),
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "half at 0, half even": lambda rng, shape: np.where(rng.random(shape) < 0.5, 0.0, rng.random(shape)),
}


def _detected(
    rng: Rng, sizes: NDArray[np.intp], clusters: int, generate: Generator, moved: Moved, count: int, draws: int
) -> list[bool]:
    """Return per data set whether the verdict is right where half the effects help and half hurt, all just detectable."""
    groups = data_sets(rng, sizes, clusters, generate, count)
    stated = [
        verdict_of(one)["minimum_detectable"] for video, values in groups for one in intervals(values, video, 50, 0)
    ]
    typical = float(np.mean([effect for effect in stated if effect is not None]))
    found = []
    for i, (video, values) in enumerate(groups):
        sign, wanted = (1, "helps") if i % 2 else (-1, "hurts")
        fresh = moved(sign * typical)(rng, video, values.shape[1])
        found += [verdict_of(one)["verdict"] == wanted for one in intervals(fresh, video, draws, 0)]
    return found


def _plus(generate: Generator, shift: float) -> Generator:
    return lambda rng, video, columns: generate(rng, video, columns) + shift


def _slices_said(values: Array, masks: NDArray[np.bool_], video: NDArray[np.intp], draws: int, seed: int) -> list[bool]:
    """Return per data set (column of `values`) whether some slice stands after false-discovery control."""
    columns, parts = values.shape[1], masks.shape[1]
    every = contrast_bootstrap(
        np.repeat(values, parts, axis=1),
        np.tile(masks, (1, columns)),
        [f"{v:05d}" for v in video],
        seed=seed,
        draws=draws,
    )
    said = []
    for place in range(columns):
        mine = every[place * parts : (place + 1) * parts]
        control = false_discovery([one["p"] for one in mine])
        said.append(
            any(
                bool(decided)
                and one["low"] is not None
                and one["high"] is not None
                and not one["low"] <= 0 <= one["high"]
                for one, decided in zip(mine, control["significant"], strict=True)
            )
        )
    return said


def _sizes(annotations: Path | None) -> NDArray[np.intp]:
    """Return the number of queries of each source video."""
    if annotations is None:
        return np.repeat(list(QUERIES_PER_VIDEO), list(QUERIES_PER_VIDEO.values()))
    vids = re.findall(r'"vid": *"([^"]+)"', annotations.read_text(encoding="utf-8"))
    return np.array(list(Counter(source_video(vid) for vid in vids).values()))


if __name__ == "__main__":
    sys.exit(main())
