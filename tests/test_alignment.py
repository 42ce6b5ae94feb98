"""Gates against moments: independent slow versions, planted truth, false alarms."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from qd_detr.gates.analysis.alignment import MomentAlignment, SeriesKey, clip_saliency, clips_inside
from qd_detr.gates.analysis.shift_null import (
    COLUMNS,
    CORRELATION,
    DIFFERENCE,
    ENDS,
    LAGS,
    N_STATISTICS,
    STARTS,
    Target,
    shift_table,
    window_edges,
)
from qd_detr.gates.results.report.wording import in_english
from qd_detr.gates.wording import Reason

ATTENTION = SeriesKey(0, "attention", "magnitude")
INJECTION = SeriesKey(0, "attention", "injection")


def random_sample(rng, n, series=2):
    """Series with ties and trends, two windows, saliency on a few clips."""
    values = np.round(rng.normal(size=(series, n)).cumsum(axis=1), 1).astype(np.float32)
    inside = np.zeros(n, dtype=bool)
    inside[2 : 2 + n // 4] = True
    inside[n - n // 4 :] = rng.random() < 0.5
    saliency = np.where(inside, rng.integers(0, 5, n), 0).astype(float)
    return values, inside, saliency


def slow_statistics(series, inside, saliency):
    """One series at one shift, clip by clip."""
    inner = [x for x, i in zip(series, inside, strict=True) if i]
    outer = [x for x, i in zip(series, inside, strict=True) if not i]
    result = {"inside_minus_outside": [np.mean(inner) - np.mean(outer)]}
    result["saliency_correlation"] = [stats.spearmanr(series, saliency)[0]]
    n, mean = len(series), np.mean(series)
    starts = [c for c in range(1, n) if inside[c] and not inside[c - 1]]
    ends = [c for c in range(1, n) if inside[c - 1] and not inside[c]]
    for name, edges in (("around_starts", starts), ("around_ends", ends)):
        result[name] = []
        for lag in LAGS:
            seen = [series[e + lag] - mean for e in edges if 0 <= e + lag < n]
            result[name].append(np.mean(seen) if seen else np.nan)
    return result


@pytest.mark.parametrize("n", [8, 13, 30])
def test_every_statistic_at_every_shift_equals_the_slow_version(n):
    rng = np.random.default_rng(n)
    values, inside, saliency = random_sample(rng, n)
    table = shift_table(values, Target(inside, saliency))
    for shift in range(n):
        for index, row in enumerate(values.astype(float)):
            slow = slow_statistics(np.roll(row, shift), inside, saliency)
            for name, where in COLUMNS.items():
                got = np.where(table.defined[index, where], table.values[shift, index, where], np.nan)
                np.testing.assert_allclose(got, slow[name], atol=1e-10, err_msg=f"{name} at shift {shift}")


def test_every_statistic_averages_to_zero_over_all_shifts():
    values, inside, saliency = random_sample(np.random.default_rng(0), 21)
    table = shift_table(values, Target(inside, saliency))
    np.testing.assert_allclose(table.values.mean(axis=0), 0.0, atol=1e-12)


def test_columns_fill_the_table_without_gaps():
    taken = [i for where in (DIFFERENCE, CORRELATION, STARTS, ENDS) for i in range(N_STATISTICS)[where]]
    assert taken == list(range(N_STATISTICS))


def test_a_clip_is_inside_when_its_centre_is():
    assert np.flatnonzero(clips_inside([[2, 6]], 5, 2.0)).tolist() == [1, 2]
    assert np.flatnonzero(clips_inside([[0.9, 1.1], [7.1, 99.0, 0.8]], 5, 2.0)).tolist() == [0, 4]
    assert np.flatnonzero(clips_inside([[1.0, 3.0]], 5, 2.0)).tolist() == [0]  # centres 1 s and 3 s: [start, end)
    assert not clips_inside([], 5, 2.0).any()
    with pytest.raises(ValueError, match="start <= end"):
        clips_inside([[6, 2]], 5, 2.0)


def test_saliency_is_summed_over_annotators_and_zero_elsewhere():
    assert clip_saliency([1, 3, 9], [[1, 2, 3], [0, 0, 4], [4, 4, 4]], 5).tolist() == [0, 6, 0, 4, 0]
    assert clip_saliency([], [], 3).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="expected 1 rows"):
        clip_saliency([2], [[1, 1, 1], [2, 2, 2]], 5)
    with pytest.raises(ValueError, match="count from 0"):
        clip_saliency([-1], [[1, 1, 1]], 5)


def test_edges_are_those_within_the_video_and_touching_windows_make_one():
    inside = clips_inside([[0, 4], [8, 12], [12, 14], [18, 20]], 10, 2.0)
    starts, ends = window_edges(inside)
    assert (starts.tolist(), ends.tolist()) == ([4, 9], [2, 7])


def add_random(alignment, rng, count, queries_a_video=1, n=20, effect=0.0, predicted=True):
    for index in range(count):
        if index % queries_a_video == 0:
            shared = rng.normal(size=n)
        start = int(rng.integers(1, n - 8))
        length = int(rng.integers(2, 7))
        series = shared.copy()
        series[start : start + length] += effect
        alignment.add(
            f"q{index}",
            f"v{index // queries_a_video}",
            {ATTENTION: series, INJECTION: np.exp(series)},
            windows_s=[[2.0 * start, 2.0 * (start + length)]],
            relevant_clip_ids=list(range(start, start + length)),
            saliency_scores=rng.integers(1, 5, (length, 3)),
            predicted_windows_s=[[0.0, 10.0, 0.9]] if predicted else None,
            predicted_saliency=rng.normal(size=n) if predicted else None,
        )


def record(readout, key=ATTENTION, against="annotation"):
    return next(r for r in readout[against]["series"] if (r["layer"], r["kind"], r["series"]) == key)


def test_the_readout_equals_a_slow_version_of_means_and_null():
    rng = np.random.default_rng(5)
    alignment = MomentAlignment(2.0, "clipwise")
    samples = {}
    for index, (vid, n) in enumerate([("b", 12), ("a", 9), ("b", 12), ("c", 10)]):
        values, inside, saliency = random_sample(rng, n)
        windows = [[2.0 * c, 2.0 * c + 2.0] for c in np.flatnonzero(inside)]
        ids = np.flatnonzero(saliency)
        series = dict(zip((ATTENTION, INJECTION), values, strict=True))
        scores = np.stack([saliency[ids], 0 * ids], axis=1)
        alignment.add(f"q{index}", vid, series, windows_s=windows, relevant_clip_ids=ids, saliency_scores=scores)
        samples.setdefault(vid, []).append((values[0].astype(float), inside, saliency))
    got = record(alignment.readout(7, draws=60))

    draw = np.random.default_rng(7)
    shifts = {vid: draw.integers(0, len(samples[vid][0][0]), size=60) for vid in sorted(samples)}
    for name in COLUMNS:

        def mean(shift_of, name=name):
            each = [
                slow_statistics(np.roll(x, shift_of[vid]), inside, saliency)[name]
                for vid in samples
                for x, inside, saliency in samples[vid]
            ]
            return np.nanmean(each, axis=0)

        observed = mean(dict.fromkeys(samples, 0))
        null = np.array([mean({vid: s[d] for vid, s in shifts.items()}) for d in range(60)])
        np.testing.assert_allclose(got[name]["effect"], observed.squeeze(), atol=1e-9)
        np.testing.assert_allclose(got[name]["null_mean"], null.mean(axis=0).squeeze(), atol=1e-9)
        np.testing.assert_allclose(got[name]["null_low"], np.quantile(null, 0.025, axis=0).squeeze(), atol=1e-9)
        np.testing.assert_allclose(got[name]["null_high"], np.quantile(null, 0.975, axis=0).squeeze(), atol=1e-9)
        reached = np.abs(null) >= np.abs(observed) - 1e-9
        np.testing.assert_allclose(got[name]["p"], ((1 + reached.sum(axis=0)) / 61).squeeze(), atol=1e-12)
    assert (got["inside_minus_outside"]["n_samples"], got["inside_minus_outside"]["n_videos"]) == (4, 3)


def test_a_series_that_follows_the_window_is_found_by_every_statistic():
    alignment = MomentAlignment(2.0, "clipwise")
    add_random(alignment, np.random.default_rng(1), 60, effect=1.0)
    readout = alignment.readout(0, draws=500)
    found = record(readout)
    assert found["inside_minus_outside"]["effect"] == pytest.approx(1.0, abs=0.25)
    assert found["inside_minus_outside"]["effect"] > found["inside_minus_outside"]["null_high"] > 0
    for name in COLUMNS:
        p = found[name]["p_any_lag" if name.startswith("around") else "p"]
        assert p == pytest.approx(1 / 501)
    starts = found["around_starts"]
    lag = dict(zip(starts["lags_clips"], starts["effect"], strict=True))
    assert lag[0] > 0 > lag[-1]
    ends = dict(zip(LAGS, found["around_ends"]["effect"], strict=True))
    assert ends[-1] > 0 > ends[0]
    assert record(readout, against="prediction")["inside_minus_outside"]["p"] > 0.01


@pytest.mark.parametrize("queries_a_video", [1, 3])
def test_noise_raises_false_alarms_at_the_stated_rate(queries_a_video):
    # Three queries share each video's series: shifting them one by one would alarm far too often.
    rng = np.random.default_rng(2)
    p = []
    for seed in range(200):
        alignment = MomentAlignment(2.0, "clipwise")
        add_random(alignment, rng, 24, queries_a_video, n=12, predicted=False)
        found = record(alignment.readout(seed, draws=199))
        p.append(
            [
                found["inside_minus_outside"]["p"],
                found["saliency_correlation"]["p"],
                found["around_starts"]["p"][5],
                found["around_ends"]["p_any_lag"],
            ]
        )
    p = np.array(p)  # (simulations, 4)
    rate = (p <= 0.05).mean(axis=0)
    assert (rate <= 0.10).all(), rate  # 0.05 and three standard errors of 200 simulations
    assert (stats.kstest(p, "uniform", axis=0).pvalue > 0.001).all()


def test_a_group_reads_as_if_its_videos_stood_alone_and_all_tests_are_controlled_together():
    rng = np.random.default_rng(11)
    whole = MomentAlignment(2.0, "clipwise")
    add_random(whole, rng, 16, 2, effect=0.6)
    groups = {f"v{i}": "open" if i < 5 else "closed" for i in range(7)}  # v7 belongs to neither
    got = whole.readout(3, groups=groups, draws=99)["annotation"]
    open_alone = MomentAlignment(2.0, "clipwise")
    open_alone._keys = whole._keys
    open_alone._samples = {name: one for name, one in whole._samples.items() if groups.get(one.vid) == "open"}
    alone = open_alone.readout(3, draws=99)["annotation"]
    for mine, theirs in zip(got["groups"]["open"], alone["series"], strict=True):
        assert set(mine) == {"layer", "kind", "series", "inside_minus_outside", "saliency_correlation"}
        for name in ("inside_minus_outside", "saliency_correlation"):
            assert {**mine[name], "adjusted_p": 0} == {**theirs[name], "adjusted_p": 0}
    assert got["groups"]["closed"][0]["inside_minus_outside"]["n_videos"] == 2
    records = [
        one[name] for part in (got["series"], *got["groups"].values()) for one in part for name in list(COLUMNS)[:2]
    ]
    assert got["n_tests"] == len(records) == 3 * 2 * 2
    np.testing.assert_allclose(
        [one["adjusted_p"] for one in records], stats.false_discovery_control([one["p"] for one in records])
    )
    assert alone["groups"] == {}


def test_merge_in_any_order_equals_all_at_once_to_the_bit():
    rng = np.random.default_rng(3)
    whole = MomentAlignment(2.0, "clipwise")
    add_random(whole, rng, 12, 2)
    parts = [MomentAlignment(2.0, "clipwise") for _ in range(3)]
    for index, (sample_id, sample) in enumerate(whole._samples.items()):
        parts[index % 3]._samples[sample_id] = sample
        parts[index % 3]._keys = whole._keys
    merged = MomentAlignment(2.0, "clipwise")
    for part in reversed(parts):
        merged.merge(part)
    assert len(merged) == 12
    expected = json.dumps(whole.readout(4, draws=50), allow_nan=False)
    assert json.dumps(merged.readout(4, draws=50), allow_nan=False) == expected
    assert json.dumps(merged.readout(5, draws=50), allow_nan=False) != expected
    with pytest.raises(ValueError, match="both parts"):
        merged.merge(parts[0])
    with pytest.raises(ValueError, match="cannot merge"):
        merged.merge(MomentAlignment(1.0, "clipwise"))


def test_what_drops_out_is_counted_with_its_reason():
    alignment = MomentAlignment(2.0, "clipwise")
    n = 10
    rise, flat, broken = np.arange(n), np.full(n, 0.1), np.where(np.arange(n) == 3, np.nan, 1.0)
    cases = {
        "good": (rise, [[4, 8]], [2, 3], [[4, 4, 4], [3, 3, 3]]),
        "everywhere": (rise, [[0, 20]], list(range(n)), np.ones((n, 3))),
        "nowhere": (rise, [], [], []),
        "flat": (flat, [[4, 8]], [2], [[1, 1, 1]]),
        "broken": (broken, [[4, 8]], [2], [[1, 1, 1]]),
        "unlabelled": (rise, None, None, None),
    }
    for sample_id, (series, windows, ids, scores) in cases.items():
        alignment.add(
            sample_id, sample_id, {ATTENTION: series}, windows_s=windows, relevant_clip_ids=ids, saliency_scores=scores
        )
    readout = alignment.readout(0, draws=20)
    found = record(readout)
    assert found["inside_minus_outside"]["dropped"] == {
        "no_clip_outside": 1,
        "no_clip_inside": 1,
        "series_not_finite": 1,
        "no_windows_given": 1,
    }
    assert found["inside_minus_outside"]["n_samples"] == 2
    assert found["inside_minus_outside"]["effect"] == pytest.approx((2.5 - 40 / 8 + 0.0) / 2)
    assert found["saliency_correlation"]["dropped"] == {
        "saliency_constant": 2,
        "series_constant": 1,
        "series_not_finite": 1,
        "no_saliency_given": 1,
    }
    assert found["around_starts"]["n_samples"][0] == 0  # a start at clip 2 has no clip 5 before it
    assert found["around_starts"]["effect"][0] is None
    assert found["around_starts"]["dropped"]["no_edge_within_the_video"] == 2
    assert readout["prediction"] == {
        "applies": False,
        "reason": Reason("alignment.no_prediction"),
    }
    json.dumps(in_english(readout), allow_nan=False)


def test_a_constant_series_is_no_alarm():
    alignment = MomentAlignment(2.0, "clipwise")
    for index in range(5):
        alignment.add(str(index), str(index), {ATTENTION: np.full(11, 0.1)}, windows_s=[[4, 8]])
    found = record(alignment.readout(0, draws=50))
    assert (found["inside_minus_outside"]["effect"], found["inside_minus_outside"]["p"]) == (0.0, 1.0)
    assert found["around_starts"]["p_any_lag"] == 1.0


def test_global_gates_and_an_empty_run_say_that_it_does_not_apply():
    alignment = MomentAlignment(2.0, "global")
    alignment.add("q", "v", {ATTENTION: [0.5]}, windows_s=[[0, 2]])
    assert alignment.readout(0)["applies"] is False
    assert alignment.readout(0)["reason"] == Reason("alignment.global")
    assert MomentAlignment(2.0, "clipwise").readout(0) == {"applies": False, "reason": Reason("alignment.no_sample")}


def test_queries_that_saw_different_lengths_of_a_video_are_both_counted():
    alignment = MomentAlignment(2.0, "clipwise")
    for n in (8, 10):
        alignment.add(str(n), "v", {ATTENTION: np.arange(n)}, windows_s=[[4, 8]])
    assert record(alignment.readout(0, draws=10))["inside_minus_outside"]["n_samples"] == 2


def test_the_same_id_again_replaces_the_earlier_one():
    alignment = MomentAlignment(2.0, "clipwise")
    for value in (1.0, 3.0):
        alignment.add("q", "v", {ATTENTION: np.where(np.arange(6) == 2, value, 0.0)}, windows_s=[[4, 6]])
    assert len(alignment) == 1
    assert record(alignment.readout(0, draws=10))["inside_minus_outside"]["effect"] == pytest.approx(3.0)


def test_wrong_samples_are_refused_and_leave_nothing_behind():
    alignment = MomentAlignment(2.0, "clipwise")
    good = {ATTENTION: np.arange(5.0)}
    for wrong, match in (
        ({"series": {}}, "at least one"),
        ({"series": {ATTENTION: np.zeros((5, 1))}}, "expected one"),
        ({"series": {ATTENTION: np.zeros(5), INJECTION: np.zeros(4)}}, "expected one"),
        ({"series": {ATTENTION: np.zeros(0)}}, "expected one"),
        ({"relevant_clip_ids": [1]}, "together"),
        ({"predicted_saliency": [1.0, 2.0]}, "5 finite scores"),
        ({"windows_s": [[0, float("nan")]]}, "start <= end"),
    ):
        with pytest.raises(ValueError, match=match):
            alignment.add("q", "v", **{"series": good, **wrong})
    assert len(alignment) == 0
    alignment.add("q", "v", good)
    with pytest.raises(ValueError, match="brings the series"):
        alignment.add("r", "v", {INJECTION: np.arange(5.0)})
    with pytest.raises(ValueError, match="clip_length_s"):
        MomentAlignment(0.0, "clipwise")
    with pytest.raises(ValueError, match="draws"):
        alignment.readout(0, draws=0)
