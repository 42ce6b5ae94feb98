"""Two groups of videos: planted ones are found where they part, one group is not made two."""

import numpy as np
import pytest

from qd_detr.gates.analysis.audio_help import audio_help
from qd_detr.gates.analysis.two_groups import BOUND, DENSITIES, excess_mass_gains, two_groups
from tests.test_audio_help import planted_run


def slow_gain(values):
    """The largest gain of two disjoint intervals over one, every pair of intervals tried."""
    x = np.sort(values)
    x = (x - x[0]) / (x[-1] - x[0])
    n, best = len(x), 0.0
    for density in DENSITIES:
        worth = {(i, j): (j - i + 1) / n - density * (x[j] - x[i]) for i in range(n) for j in range(i, n)}
        one = max(worth.values())
        two = max(w + v for (_, j), w in worth.items() for (k, _), v in worth.items() if k > j)
        best = max(best, two - one)
    return best / 2 * np.sqrt(n)


def test_the_statistic_equals_one_that_tries_every_pair_of_intervals():
    rng = np.random.default_rng(2)
    data = np.stack([rng.random(9), rng.normal(size=9), np.r_[rng.random(4), 5 + rng.random(5)]])
    assert excess_mass_gains(data).tolist() == pytest.approx([slow_gain(row) for row in data])


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_planted_groups_are_parted_between_them(shift):
    rng = np.random.default_rng(3)
    values = np.r_[rng.normal(0.1, 0.05, 54), rng.normal(0.9, 0.05, 42)] + shift
    found = two_groups(rng.permutation(values))
    assert found.statistic > BOUND
    assert np.sort(values)[53] < found.threshold < np.sort(values)[54]


def test_one_mode_is_one_group_in_most_data_sets():
    rng = np.random.default_rng(4)
    for shape in (rng.random, rng.standard_normal, rng.standard_exponential):
        assert (excess_mass_gains(shape((400, 90))) >= BOUND).mean() <= 0.05


def test_few_equal_and_undefined_values_are_no_groups():
    assert two_groups([0.0] * 9 + [1.0] * 9).threshold is None
    assert two_groups(np.ones(50)).threshold is None
    with pytest.raises(ValueError, match="NaN"):
        two_groups([np.nan] * 30)


def test_the_effect_is_told_within_each_group():
    open_videos = np.arange(40) % 4 < 2  # two queries a source video, both open or both closed
    magnitude = np.where(open_videos, 0.9, 0.1) + np.arange(40) / 1000
    record = audio_help(planted_run(~open_videos, magnitude=magnitude), draws=500)["groups"][0]
    assert (record["of"], record["n_videos"]) == ("gates", 20)
    assert 0.14 < record["threshold"] < 0.9
    (opened,), (closed,) = record["open"]["effects"], record["closed"]["effects"]
    assert (record["open"]["n_queries"], record["closed"]["n_queries"]) == (20, 20)
    assert (opened["effect"]["estimate"], closed["effect"]["estimate"]) == (pytest.approx(100), pytest.approx(0))
    assert opened["difference"]["estimate"] == pytest.approx(100)
