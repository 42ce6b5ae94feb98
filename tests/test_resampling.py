"""Intervals by resampling source videos: against slow versions, SciPy, and the truth of simulated data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qd_detr.gates.analysis import resampling
from qd_detr.gates.analysis.ranks import average_ranks
from qd_detr.gates.analysis.resampling import (
    bootstrap_correlation,
    contrast_bootstrap,
    false_discovery,
    paired_bootstrap,
    ratio_bootstrap,
)
from qd_detr.gates.analysis.student import t_cdf, t_quantile
from qd_detr.gates.analysis.verdicts import minimum_detectable
from qd_detr.gates.data.video_names import source_video
from qd_detr.gates.results.report.wording import in_english
from qd_detr.gates.wording import Reason


def clustered(rng, n_clusters, most=6):
    return np.repeat([f"video {i}" for i in range(n_clusters)], rng.integers(1, most + 1, n_clusters))


@pytest.mark.parametrize(
    ("vid", "source"),
    [
        ("aB3dE5gH7jK_210.0_360.0", "aB3dE5gH7jK"),
        ("c-BcDeFgHi8_60.0_210.0", "c-BcDeFgHi8"),
        ("a_b-_c__0.0_150.0", "a_b-_c_"),
        ("_x_1.5_2.5_60.0_210.0", "_x_1.5_2.5"),
        ("3MSZA_60_210", "3MSZA"),
        ("AwmHb44_ouw", "AwmHb44_ouw"),
        ("video7", "video7"),
        ("_1.0_2.0", "_1.0_2.0"),
        ("", ""),
    ],
)
def test_source_video_is_the_part_before_the_two_times(vid, source):
    assert source_video(vid) == source


def slow_draws(values, clusters, draws, seed):
    """Means over queries of clusters drawn one by one, from the same stream of integers."""
    names = sorted(set(clusters))
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        pool = []
        for drawn in rng.integers(0, len(names), size=len(names)):
            pool += [v for v, c in zip(values, clusters, strict=True) if c == names[drawn] and not math.isnan(v)]
        means.append(np.mean(pool))
    return np.array(means)


def slow_error(values, clusters):
    """The cluster-robust standard error of a mean, and one more cluster as far off as the farthest seen."""
    known = [(v, c) for v, c in zip(values, clusters, strict=True) if not math.isnan(v)]
    mean = sum(v for v, _ in known) / len(known)
    names = {c for _, c in known}
    off = [sum(v - mean for v, c in known if c == name) / len(known) for name in names]
    return math.sqrt(len(names) / (len(names) - 1) * sum(x * x for x in off) + max(x * x for x in off))


def test_paired_bootstrap_equals_a_slow_version():
    rng = np.random.default_rng(3)
    clusters = clustered(rng, 12)
    values = rng.normal(0.3, 1, len(clusters))
    values[::5] = np.nan
    got = paired_bootstrap(values, clusters, seed=8, draws=300)[0]
    drawn = slow_draws(values, clusters, 300, 8)
    n_clusters = len({c for c, v in zip(clusters, values, strict=True) if not np.isnan(v)})
    tail = stats.norm.cdf(stats.t.ppf(0.025, n_clusters - 1) * np.sqrt(n_clusters / (n_clusters - 1)))
    mean, error = np.nanmean(values), slow_error(values, clusters)
    assert got["estimate"] == pytest.approx(mean, rel=1e-12)
    assert got["standard_error"] == pytest.approx(error, rel=1e-12)
    of_draws = np.quantile(drawn, [tail, 1 - tail])
    of_t = stats.t.interval(0.95, n_clusters - 1, loc=mean, scale=error)
    both = min(of_draws[0], of_t[0]), max(of_draws[1], of_t[1])
    assert (got["low"], got["high"]) == pytest.approx(both, rel=1e-10)
    share = (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / 301
    p = 2 * stats.t.cdf(stats.norm.ppf(share) * np.sqrt((n_clusters - 1) / n_clusters), n_clusters - 1)
    assert got["p"] == pytest.approx(max(p, 2 * stats.t.sf(abs(mean) / error, n_clusters - 1)), rel=1e-8)
    assert got["n"] == np.isfinite(values).sum()
    assert got["n_undefined"] == np.isnan(values).sum()
    assert got["n_clusters"] == n_clusters


def assert_alike(got, expected):
    """Equal but for the rounding of sums taken in another order."""
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert got[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_columns_are_treated_as_if_each_stood_alone():
    rng = np.random.default_rng(4)
    clusters = clustered(rng, 20)
    values = rng.normal(size=(len(clusters), 3))
    values[:7, 1] = np.nan
    together = paired_bootstrap(values, clusters, seed=5, draws=500)
    for column, interval in enumerate(together):
        alone = paired_bootstrap(values[:, column], clusters, seed=5, draws=500)[0]
        assert_alike(alone, interval)
    json.dumps(together, allow_nan=False)


def test_block_size_and_query_order_do_not_change_the_numbers(monkeypatch):
    rng = np.random.default_rng(6)
    clusters = clustered(rng, 30)
    values = rng.exponential(size=len(clusters))
    whole = paired_bootstrap(values, clusters, seed=2, draws=1000)
    assert paired_bootstrap(values, clusters, seed=2, draws=1000) == whole
    turn = rng.permutation(len(clusters))
    assert_alike(paired_bootstrap(values[turn], clusters[turn], seed=2, draws=1000)[0], whole[0])
    sums = rng.normal(size=(30, 4))
    assert not np.allclose(*(next(resampling.resampled_totals(sums, 500, seed)) for seed in (2, 3)))
    blocks = [
        np.concatenate(list(resampling.resampled_totals(sums, 500, 1, size))) for size in (1 << 24, 8 * 30 * 37, 1)
    ]
    np.testing.assert_allclose(blocks[1], blocks[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(blocks[2], blocks[0], rtol=0, atol=1e-12)


def simulated(kind, rng, clusters, columns):
    _, video = np.unique(clusters, return_inverse=True)
    shape = (len(video), columns)
    shared = rng.random((video.max() + 1, columns))[video]
    if kind == "normal":
        return 0.1 + rng.normal(size=shape) + stats.norm.ppf(shared), 0.1
    if kind == "skewed":
        return rng.exponential(size=shape) - np.log(shared), 2.0
    place = np.where(rng.random(shape) < 0.4, shared, rng.random(shape))
    return np.where(place < 0.1, 1.0, np.where(place < 0.15, -1.0, 0.0)), 0.05


@pytest.mark.parametrize("kind", ["normal", "skewed", "mostly zero"])
def test_intervals_cover_the_truth_of_simulated_videos(kind):
    # 3,000 data sets, an error of 0.4 %; benchmarks/coverage.py has more kinds and more draws.
    rng = np.random.default_rng(12)
    hits = []
    for seed in range(60):
        clusters = clustered(rng, 90)
        values, truth = simulated(kind, rng, clusters, 50)
        for interval in paired_bootstrap(values, clusters, seed=seed, draws=1000):
            hits.append(interval["low"] <= truth <= interval["high"])
    assert 0.93 <= np.mean(hits) <= 0.97


def test_p_values_are_even_where_there_is_no_effect_and_agree_with_the_interval():
    rng = np.random.default_rng(13)
    clusters = clustered(rng, 90)
    intervals = paired_bootstrap(rng.normal(size=(len(clusters), 400)), clusters, seed=1, draws=2000)
    p = np.array([interval["p"] for interval in intervals])
    assert stats.kstest(p, "uniform").pvalue > 0.001
    outside = np.array([interval["low"] > 0 or interval["high"] < 0 for interval in intervals])
    near = np.abs(p - 0.05) < 0.003
    np.testing.assert_array_equal(outside[~near], p[~near] < 0.05)


def test_an_effect_is_found_and_its_p_value_is_small_but_never_zero():
    rng = np.random.default_rng(14)
    clusters = clustered(rng, 90)
    got = paired_bootstrap(1 + rng.normal(size=len(clusters)), clusters, seed=1)[0]
    assert got["low"] > 0
    assert 0 < got["p"] < 0.001


def test_degenerate_data_is_said_plainly():
    zero, one, nothing = (
        paired_bootstrap(np.zeros(6), list("aabbcc"), seed=0)[0],
        paired_bootstrap([1.0, 2.0], ["a", "a"], seed=0)[0],
        paired_bootstrap([np.nan, np.nan], ["a", "b"], seed=0)[0],
    )
    assert (zero["estimate"], zero["low"], zero["high"], zero["reason_key"]) == (0, None, None, "too_few_clusters")
    assert (one["estimate"], one["low"], one["high"], one["p"]) == (1.5, None, None, None)
    assert one["reason"] == Reason("interval.one_video")
    assert (nothing["estimate"], nothing["n"], nothing["n_undefined"]) == (None, 0, 2)
    assert paired_bootstrap([], [], seed=0)[0]["reason"] == Reason("interval.no_value")
    rough = paired_bootstrap([1.0, 2.0, 4.0, 3.0, 2.0, 0.0], list("abcdef"), seed=0)[0]
    assert rough["reason"] == Reason("interval.rough", {"n": 6})
    assert paired_bootstrap(np.zeros((0, 3)), [], seed=0)[2]["n"] == 0


def test_where_all_videos_agree_the_interval_is_that_of_the_rule_of_three():
    zero, all_right, unbounded = (
        paired_bootstrap(np.full(40, value), [str(i // 2) for i in range(40)], seed=0, bounds=bounds)[0]
        for value, bounds in ((0.0, [(-100, 100)]), (100.0, [(0, 100)]), (3.0, None))
    )
    # 20 videos: up to 3 / 20 of them could be otherwise, each by at most 100.
    assert (zero["low"], zero["high"], zero["p"], zero["rule_of_three"]) == (-15.0, 15.0, 1.0, 0.15)
    assert (all_right["low"], all_right["high"]) == (85.0, 100.0)
    assert (unbounded["low"], unbounded["reason_key"]) == (None, "same_value")


def test_an_interval_of_a_share_ends_at_0_and_100_percent():
    nearly_all = np.full(40, 100.0)
    nearly_all[3] = 0.0
    clusters = [str(i) for i in range(40)]
    (free,) = paired_bootstrap(nearly_all, clusters, seed=0, draws=500)
    (ended,) = paired_bootstrap(nearly_all, clusters, seed=0, draws=500, bounds=[(0.0, 100.0)])
    assert free["high"] > 100
    assert (ended["low"], ended["high"]) == (free["low"], 100.0)


def test_from_six_to_nine_videos_the_interval_is_a_cluster_t_interval():
    rng = np.random.default_rng(5)
    clusters = np.repeat(list("abcdefgh"), [1, 2, 3, 1, 2, 5, 1, 3])
    values = rng.normal(1, 2, len(clusters))
    got = paired_bootstrap(values, clusters, seed=0, draws=100)[0]
    error = slow_error(values, clusters)
    low, high = stats.t.interval(0.95, 7, loc=values.mean(), scale=error)
    assert (got["low"], got["high"]) == (pytest.approx(low), pytest.approx(high))
    assert got["p"] == pytest.approx(2 * stats.t.sf(abs(values.mean()) / error, 7))
    assert got["standard_error"] == pytest.approx(error)
    off = [sum(values[clusters == name] - values.mean()) / len(values) for name in "abcdefgh"]
    unrelated = values.var(ddof=1) / len(values)
    assert got["design_effect"] == pytest.approx(8 / 7 * sum(x * x for x in off) / unrelated)
    assert got["reason_key"] == "few_clusters"


def test_the_minimum_detectable_effect_counts_the_scatter_of_the_queries_that_make_it_up():
    # 20 videos of one query: 2 rescued, 2 harmed
    right_or_wrong = np.array([100.0, 100, -100, -100] + [0.0] * 16)
    (effect,) = paired_bootstrap(right_or_wrong, [f"{i:02d}" for i in range(20)], seed=0, draws=500)
    assert (effect["estimate"], effect["change_size"], effect["design_effect"]) == (0.0, 100.0, pytest.approx(1.0))
    # variance of the mean 40000 / (19 * 20), and a video more that flips: 5 points
    assert effect["standard_error"] == pytest.approx(math.sqrt(40000 / (19 * 20) + 25))
    reach = 2.0930 + 0.8610  # Student's t with 19 degrees of freedom at 97.5 % and 80 %
    d = 20.0
    for _ in range(200):  # the fixed point, by iteration
        d = reach * math.sqrt(effect["standard_error"] ** 2 + (1 + 2 * math.log(20) / 20) * d * (100 - d) / 20)
    assert minimum_detectable(effect) == pytest.approx(d, rel=1e-4)
    uneven = right_or_wrong * np.linspace(1, 0.9, 20)
    (effect,) = paired_bootstrap(uneven, [f"{i:02d}" for i in range(20)], seed=0, draws=500)
    assert effect["change_size"] is None
    assert minimum_detectable(effect) == pytest.approx(reach * effect["standard_error"], rel=1e-4)


def test_a_part_is_compared_with_all_others():
    rng = np.random.default_rng(6)
    clusters = clustered(rng, 40)
    values, part = rng.normal(size=len(clusters)), rng.random(len(clusters)) < 0.4
    got = contrast_bootstrap(values, part, clusters, seed=3, draws=400)[0]
    by_hand = values[part].mean() - values[~part].mean()
    assert got["estimate"] == pytest.approx(by_hand)
    # A query a video: close to Welch's interval for two groups.
    alone = [str(i) for i in range(400)]
    x = np.r_[rng.normal(0, 1, 150), rng.normal(0.5, 2, 250)]
    got = contrast_bootstrap(x, np.arange(400) < 150, alone, seed=3)[0]
    welch = stats.ttest_ind(x[:150], x[150:], equal_var=False).confidence_interval()
    assert (got["low"], got["high"]) == (pytest.approx(welch.low, abs=0.03), pytest.approx(welch.high, abs=0.03))
    assert contrast_bootstrap(values, np.ones(len(values)), clusters, seed=3)[0]["estimate"] is None


def test_a_subset_in_one_video_has_no_interval_while_the_others_do():
    values = np.full((6, 2), np.nan)
    values[:, 0] = [1.0, 2.0, 3.0, 7.0, 2.0, 4.0]
    values[0, 1] = 5.0
    whole, part = paired_bootstrap(values, list("abcdef"), seed=0)
    assert whole["low"] is not None
    assert part["estimate"] == 5.0
    assert part["low"] is None


@pytest.mark.parametrize(
    "wrong", [{"clusters": ["a"]}, {"level": 1.0}, {"draws": 0}, {"differences": [1.0, np.inf]}, {"differences": 1.0}]
)
def test_wrong_requests_are_refused(wrong):
    right = {"differences": [1.0, 2.0], "clusters": ["a", "b"], "seed": 0}
    with pytest.raises(ValueError, match=r"."):
        paired_bootstrap(**{**right, **wrong})
    with pytest.raises(ValueError, match="denominator"):
        ratio_bootstrap([1.0], [-1.0], ["a"], seed=0)


def test_ratio_bootstrap_is_a_weighted_mean_and_a_mean_over_a_subset():
    rng = np.random.default_rng(15)
    clusters = clustered(rng, 25)
    values, weights = rng.normal(size=len(clusters)), rng.integers(0, 3, len(clusters)).astype(float)
    weighted = ratio_bootstrap(weights * values, weights, clusters, seed=1, draws=400)[0]
    repeated = np.repeat(values, weights.astype(int)), np.repeat(clusters, weights.astype(int))
    # A video whose queries all weigh 0 still is drawn; give it an empty place in the repeated data as well.
    empty = sorted(set(clusters) - set(repeated[1]))
    by_hand = paired_bootstrap(np.r_[repeated[0], [np.nan] * len(empty)], [*repeated[1], *empty], seed=1, draws=400)[0]
    for key in ("estimate", "low", "high", "p"):
        assert weighted[key] == pytest.approx(by_hand[key], rel=1e-9)
    assert weighted["n"] == (weights > 0).sum()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 4))
def test_ranks_share_ties_as_scipy_does(values, rows):
    array = np.array([values] * rows, dtype=float)
    array[-1] = array[-1][::-1]
    np.testing.assert_array_equal(average_ranks(array), stats.rankdata(array, axis=1))


def exact_rank_draws(x, y, clusters, draws, seed):
    names, video = np.unique(clusters, return_inverse=True)
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, len(names), size=len(names)), minlength=len(names))
        pick = np.repeat(np.arange(len(x)), times[video])
        result.append(stats.spearmanr(x[pick], y[pick])[0])
    return np.array(result)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.85])
def test_correlation_interval_is_close_to_that_with_ranks_made_anew_in_each_draw(rho):
    rng = np.random.default_rng(16)
    clusters = clustered(rng, 90, most=3)
    x = rng.normal(size=len(clusters))
    y = np.round(rho * x + np.sqrt(1 - rho**2) * rng.normal(size=len(x)), 1)
    got = bootstrap_correlation(x, y, clusters, seed=4, draws=1500)[0]
    drawn = exact_rank_draws(x, y, clusters, 1500, 4)
    tail = stats.norm.cdf(stats.t.ppf(0.025, 89) * np.sqrt(90 / 89))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    assert got["estimate"] == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
    assert got["low"] == pytest.approx(low, abs=0.1 * (high - low))
    assert got["high"] == pytest.approx(high, abs=0.1 * (high - low))


def test_correlation_intervals_cover_the_truth():
    rng = np.random.default_rng(17)
    rho, hits = 0.8, []
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's correlation of normal pairs
    for seed in range(10):
        clusters = clustered(rng, 90, most=3)
        shape = (len(clusters), 40)
        x = rng.normal(size=shape)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=shape)
        for interval in bootstrap_correlation(x, y, clusters, seed=seed, draws=1000):
            hits.append(interval["low"] <= truth <= interval["high"])
    assert 0.92 <= np.mean(hits) <= 0.98


def test_correlation_leaves_out_undefined_queries_and_says_when_there_is_none():
    x = np.array([[1.0, 7.0], [2.0, 7.0], [np.nan, 7.0], [4.0, 7.0], [3.0, 7.0]])
    y = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    some, constant = bootstrap_correlation(x, y, list("abcde"), seed=0, draws=200)
    assert (some["estimate"], some["n"], some["n_undefined"], some["n_clusters"]) == (pytest.approx(1.0), 3, 2, 3)
    assert constant["estimate"] is None
    assert constant["reason"] == Reason("interval.too_few")
    assert bootstrap_correlation([], [], [], seed=0)[0]["estimate"] is None
    json.dumps(in_english([some, constant]), allow_nan=False)


def test_false_discovery_by_hand_and_against_scipy():
    got = false_discovery([0.01, None, 0.04, 0.03, float("nan"), 0.005])
    assert got["n_tests"] == 4
    assert got["adjusted"] == [
        pytest.approx(0.02),
        None,
        pytest.approx(0.04),
        pytest.approx(0.04),
        None,
        pytest.approx(0.02),
    ]
    assert got["significant"] == [True, None, True, True, None, True]
    p = np.random.default_rng(1).random(50) ** 2
    np.testing.assert_allclose(false_discovery(list(p))["adjusted"], stats.false_discovery_control(p))
    assert false_discovery([])["adjusted"] == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        false_discovery([1.2])


def test_student_t_agrees_with_scipy():
    for df in (1, 2, 5, 89, 473, 5000):
        for t in (-30.0, -4.0, -0.01, 0.0, 0.5, 7.0):
            assert t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-11)
        assert t_quantile(0.025, df) == pytest.approx(stats.t.ppf(0.025, df), rel=1e-9)
    with pytest.raises(ValueError, match="df"):
        t_cdf(1.0, 0)
    with pytest.raises(ValueError, match="probability"):
        t_quantile(0.0, 3)
