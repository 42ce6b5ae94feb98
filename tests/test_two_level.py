"""Means over runs and queries: intervals in which seeds and source videos both count."""

import numpy as np
import pytest

from qd_detr.gates.analysis.resampling import paired_bootstrap
from qd_detr.gates.analysis.two_level import two_level_bootstrap

CLUSTERS = [f"v{i // 2}" for i in range(40)]


def runs_of(rng, n_runs, columns=1, seed_part=3.0):
    video = np.repeat(rng.normal(size=(20, columns)), 2, axis=0)
    own = video + rng.normal(size=(40, columns))
    of_seed = seed_part * rng.normal(size=(n_runs, 1, columns))
    return 50 + 10 * own + of_seed + 4 * rng.normal(size=(n_runs, 40, columns))


def test_with_one_run_a_group_it_is_the_bootstrap_over_source_videos():
    rng = np.random.default_rng(1)
    groups = [runs_of(rng, 1, columns=2) for _ in range(3)]
    found = two_level_bootstrap(groups, CLUSTERS, seed=5, draws=500)
    for (g, h), estimates in found.differences.items():
        plain = paired_bootstrap(groups[h][0] - groups[g][0], CLUSTERS, seed=5, draws=500)
        for estimate, expected in zip(estimates, plain, strict=True):
            assert (estimate.df, estimate.seed_share) == (19, None)
            assert {k: v for k, v in estimate.interval.items() if v is not None} == pytest.approx(
                {k: v for k, v in expected.items() if v is not None}, rel=1e-9
            )


def slow_variance(groups):
    """Return the variance of second minus first, videos' part and seeds' part, by loops over runs and videos."""
    n, videos, seeds = len(CLUSTERS), [], 0.0
    names = sorted(set(CLUSTERS))
    places = [[i for i, c in enumerate(CLUSTERS) if c == name] for name in names]
    apart = groups[1].mean(axis=0) - groups[0].mean(axis=0)
    videos = [sum(apart[i] - apart.mean() for i in place) / n for place in places]
    of_videos = 20 / 19 * sum(x * x for x in videos)
    for group in groups:
        n_runs = len(group)
        means = [run.mean() for run in group]
        of_runs = sum((m - np.mean(means)) ** 2 for m in means) / (n_runs - 1) / n_runs
        both = 0.0
        for run, mean in zip(group, means, strict=True):
            own = run - group.mean(axis=0)
            both += sum((sum(own[i] - (mean - np.mean(means)) for i in place) / n) ** 2 for place in places)
        seeds += max(0.0, of_runs - 20 / 19 * both / (n_runs - 1) / n_runs)
    return of_videos, seeds, max(abs(x) for x in videos)


def test_the_variance_is_that_of_the_videos_and_of_the_seeds_and_the_draws_have_it():
    rng = np.random.default_rng(2)
    groups = [runs_of(rng, n, seed_part=9.0)[:, :, 0] for n in (4, 3)]
    found = two_level_bootstrap([group[:, :, None] for group in groups], CLUSTERS, seed=0, draws=20_000)
    of_videos, of_seeds, largest = slow_variance(groups)
    (estimate,) = found.differences[0, 1]
    assert of_seeds > 0.5
    assert estimate.interval["standard_error"] ** 2 == pytest.approx(of_videos + largest**2 + of_seeds)
    assert estimate.seed_share == pytest.approx(of_seeds / (of_videos + largest**2 + of_seeds))
    # The bootstrap over 20 videos leaves 19 / 20 of their variance.
    drawn = found.drawn[:, 1, 0] - found.drawn[:, 0, 0]
    assert drawn.var() == pytest.approx(19 / 20 * of_videos + of_seeds, rel=0.05)
    assert 2 <= estimate.df < 19
    alone = paired_bootstrap(groups[1].mean(axis=0) - groups[0].mean(axis=0), CLUSTERS, seed=0)[0]
    assert estimate.interval["low"] < alone["low"]
    assert estimate.interval["high"] > alone["high"]


def test_runs_that_differ_no_more_than_their_videos_explain_add_no_variance():
    rng = np.random.default_rng(4)
    base = runs_of(rng, 1)[0]
    # Each run is the same but for pairs of queries that trade points within runs: all means are equal.
    trade = np.where(np.arange(40)[:, None] % 2, 1.0, -1.0)
    group = np.stack([base + trade, base - trade])
    found = two_level_bootstrap([group, np.stack([base, base])], CLUSTERS, seed=0, draws=500)
    (estimate,) = found.means[0]
    assert (estimate.seed_share, estimate.df) == (0.0, 19)


def test_a_query_without_a_value_in_any_run_drops_out_of_its_column_and_is_counted():
    rng = np.random.default_rng(3)
    first, second = runs_of(rng, 2, columns=2), runs_of(rng, 2, columns=2)
    second[1, 7, 0] = np.nan
    found = two_level_bootstrap([first, second], CLUSTERS, seed=0, draws=200)
    hole, whole = (estimate.interval for estimate in found.differences[0, 1])
    assert (hole["n"], hole["n_undefined"], whole["n"]) == (39, 1, 40)
    kept = np.arange(40) != 7
    assert hole["estimate"] == pytest.approx(np.mean(second[:, kept, 0]) - np.mean(first[:, kept, 0]))


def test_equal_groups_share_the_draws_in_which_they_are_best():
    rng = np.random.default_rng(6)
    one = runs_of(rng, 1)
    found = two_level_bootstrap([one, one, one - 100], CLUSTERS, seed=0, draws=100)
    assert found.best_shares(0) == [0.5, 0.5, 0.0]


def test_groups_of_other_queries_are_refused():
    with pytest.raises(ValueError, match="one n and K"):
        two_level_bootstrap([np.zeros((1, 40, 1)), np.zeros((1, 39, 1))], CLUSTERS, seed=0)
