"""Streams of values and single arrays against NumPy, exact fractions, and themselves in other orders."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qd_detr.gates.analysis.statistics import PERCENTS, ValueStatistics, describe
from qd_detr.gates.analysis.statistics.exact import grid_sum, short_sums

TANH = (-1.0, 1.0)
PERCENT_KEYS = ["1", "5", "25", "75", "95", "99"]

gate_values = st.one_of(
    st.floats(-1, 1, width=32),
    st.sampled_from([-1.0, 1.0, 0.0, 0.95, -0.95, 0.05, -0.05, 1e-30, -0.995, -0.99500006]),
)
gate_arrays = hnp.arrays(np.float32, st.integers(1, 60), elements=gate_values)
free_values = st.one_of(st.floats(-1e6, 1e6, width=32), st.floats(0, 2, width=32))
free_arrays = hnp.arrays(np.float32, st.integers(1, 60), elements=free_values)


def stream(arrays: list[np.ndarray], value_range: tuple[float, float] | None = TANH) -> ValueStatistics:
    result = ValueStatistics(value_range)
    for array in arrays:
        result.add(array)
    return result


def slow_moments(values: np.ndarray) -> tuple[float, float]:
    exact = [Fraction(float(value)) for value in values.ravel()]
    mean = sum(exact) / len(exact)
    return float(mean), math.sqrt(sum((value - mean) ** 2 for value in exact) / len(exact))


def assert_equals_numpy(readout: dict, values: np.ndarray, percentile_tolerance: float, scale: float) -> None:
    """Compare; `scale` is the magnitude that the grid of the sums is laid for."""
    wide = values.astype(np.float64).ravel()
    for part, expected in ((readout, wide), (readout["magnitude"], np.abs(wide))):
        mean, std = slow_moments(expected)
        assert part["mean"] == pytest.approx(mean, rel=1e-12, abs=1e-20 * scale)
        assert part["std"] == pytest.approx(std, rel=1e-9, abs=1e-11 * scale)
        assert (part["min"], part["max"]) == (expected.min(), expected.max())
        assert abs(part["median"] - np.median(expected)) <= percentile_tolerance
        assert list(part["percentiles"]) == PERCENT_KEYS
        for key in PERCENT_KEYS:
            assert abs(part["percentiles"][key] - np.percentile(expected, int(key))) <= percentile_tolerance
    assert readout["count"] == wide.size
    assert readout["share_positive"] == np.mean(wide > 0)
    assert readout["share_near_zero"] == np.mean(np.abs(wide) < 0.05)


@given(st.lists(gate_arrays, min_size=1, max_size=5))
def test_a_stream_of_known_range_equals_numpy_on_all_values(arrays):
    values = np.concatenate(arrays)
    readout = stream(arrays).readout()
    assert_equals_numpy(readout, values, 1e-4, scale=1.0)
    assert readout["share_saturated"] == np.mean(np.abs(values.astype(np.float64)) > 0.95)


@given(st.lists(free_arrays, min_size=1, max_size=5))
def test_a_stream_of_unknown_range_equals_numpy_on_all_values(arrays):
    values = np.concatenate(arrays)
    readout = stream(arrays, None).readout()
    # A bin is 2**-10 of the value wide.
    largest = float(np.abs(values).max())
    assert_equals_numpy(readout, values, 1e-9 + largest / 1024, scale=largest)
    assert readout["share_saturated"] is None


@given(st.lists(gate_arrays, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_merging_in_any_order_equals_one_stream_to_the_bit(arrays, random):
    whole = ValueStatistics(TANH)
    whole.add(np.concatenate(arrays))
    parts = [stream([array]) for array in arrays]
    random.shuffle(parts)
    while len(parts) > 1:
        parts.insert(random.randrange(len(parts) - 1), parts.pop().merge(parts.pop()))
        random.shuffle(parts)
    assert parts[0].readout(16) == whole.readout(16)


@given(st.lists(free_arrays, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_merging_streams_of_unknown_range_gives_equal_histograms_and_moments(arrays, random):
    whole = ValueStatistics(None)
    whole.add(np.concatenate(arrays))
    random.shuffle(arrays)
    merged = ValueStatistics(None)
    for array in arrays:
        merged.merge(stream([array], None))
    got, expected = merged.readout(16), whole.readout(16)
    scale = whole.readout()["magnitude"]["max"]
    for a, b in ((got, expected), (got["magnitude"], expected["magnitude"])):
        assert a.pop("mean") == pytest.approx(b.pop("mean"), rel=1e-12, abs=1e-20 * scale)
        assert a.pop("std") == pytest.approx(b.pop("std"), rel=1e-12, abs=1e-11 * scale)
    assert got == expected


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["bimodal", "narrow", "wide", "saturated"]))
def test_large_arrays_give_what_small_ones_give_to_the_bit(seed, shape):
    rng = np.random.default_rng(seed)
    centre, spread = {
        "bimodal": (rng.choice([-3.0, 3.0], 40_000), 0.2),
        "narrow": (-3.0, 1e-5),
        "wide": (0.0, 1.0),
        "saturated": (0.0, 50.0),
    }[shape]
    values = np.tanh(centre + spread * rng.normal(size=40_000)).astype(np.float32)
    cuts = np.sort(rng.integers(0, values.size, size=20))
    at_once, in_pieces, as_float64 = ValueStatistics(TANH), ValueStatistics(TANH), ValueStatistics(TANH)
    at_once.add(values.reshape(200, 200))
    for piece in np.split(values, cuts):
        in_pieces.add(piece)
    as_float64.add(values.astype(np.float64))
    assert at_once.readout(64) == in_pieces.readout(64) == as_float64.readout(64)
    for key, percent in zip(PERCENT_KEYS, PERCENTS, strict=True):
        expected = np.percentile(values.astype(np.float64), percent)
        assert abs(at_once.readout()["percentiles"][key] - expected) <= 1e-4


@given(
    hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(2.0**-14, 1, width=32)),
    hnp.arrays(np.bool_, 50),
    st.integers(-3, 3),
)
def test_the_fast_sums_equal_the_general_ones_to_the_bit(magnitudes, signs, exponent):
    values = np.where(signs[: magnitudes.size], -1, 1) * magnitudes.astype(np.float64) * 2.0**exponent
    assert short_sums(values, exponent) == (grid_sum(values, exponent), grid_sum(values**2, 2 * exponent))


def test_tiny_values_among_large_ones_are_summed_without_rounding_error():
    rng = np.random.default_rng(11)
    # All the bits of a float32 are in use, from 2**-40 to 1: a plain float64 sum of these would round.
    values = (rng.choice([-1, 1], 30_000) * 2.0 ** rng.uniform(-40, 0, 30_000)).astype(np.float32)
    in_one_block, in_single_steps = stream([values]), stream(list(rng.permutation(values).reshape(-1, 10)))
    assert in_one_block.readout() == in_single_steps.readout()
    assert in_one_block.readout()["mean"] == pytest.approx(slow_moments(values)[0], rel=1e-14)


@pytest.mark.parametrize("copies", [1, 10_000])
def test_a_float32_next_to_a_limit_is_on_its_true_side(copies):
    # float32(1.95) is above 1.95, float32(0.05) above 0.05: one is saturated for it, the other not near zero.
    readout = stream([np.tile(np.float32([1.95, 0.05]), copies)], (0.0, 2.0)).readout()
    assert readout["share_saturated"] == 0.5
    assert readout["share_near_zero"] == 0.0
    # float32(0.95) is below 0.95.
    assert stream([np.tile(np.float32([0.95, -0.95]), copies)]).readout()["share_saturated"] == 0.0


def test_a_mean_that_cancels_keeps_its_digits():
    rng = np.random.default_rng(3)
    half = rng.uniform(0.9, 0.96, 20_000).astype(np.float32)
    values = rng.permutation(np.concatenate([half, -half, np.float32([1e-7])]))
    expected = float(np.float32(1e-7)) / values.size
    assert stream([values]).readout()["mean"] == pytest.approx(expected, rel=1e-12)


def test_the_spread_of_a_nearly_constant_gate_keeps_its_digits():
    values = np.full(30_000, -0.995, dtype=np.float32)
    values[::3] = np.nextafter(np.float32(-0.995), np.float32(0))
    assert stream([values]).readout()["std"] == pytest.approx(slow_moments(values)[1], rel=1e-12)


def test_a_median_in_the_gap_of_bimodal_data_is_the_middle_of_the_gap():
    readout = stream([np.float32([-0.9] * 50 + [0.9] * 50)]).readout()
    assert readout["median"] == pytest.approx(0.0, abs=1e-4)
    assert readout["percentiles"]["25"] == pytest.approx(-0.9, abs=1e-4)


def test_one_outlier_leaves_the_percentiles_of_an_unknown_range_sharp():
    values = np.append(np.linspace(0.2, 0.9, 10_001), 1e6)
    readout = stream([values], None).readout()
    assert readout["median"] == pytest.approx(np.median(values), rel=1e-3)
    assert readout["max"] == 1e6


def test_limits_are_exact_and_not_by_bin():
    edge, step = np.float64(0.05), 2.0**-40
    readout = stream([np.array([edge, -edge, edge - step, -edge + step])]).readout()
    assert readout["share_near_zero"] == 0.5
    # float32(0.95) is below 0.95 and float32(0.05) above 0.05.
    readout = stream([np.float32([0.95, np.nextafter(np.float32(0.95), np.float32(1)), 0.05])]).readout()
    assert readout["share_saturated"] == 1 / 3
    assert readout["share_near_zero"] == 0.0


def test_saturation_of_a_general_range_is_within_two_and_a_half_percent_of_either_end():
    readout = stream([np.array([0.0, 0.049, 0.051, 1.0, 1.949, 1.951])], (0.0, 2.0)).readout()
    assert readout["share_saturated"] == 0.5
    assert readout["percentiles"]["75"] == pytest.approx(
        np.percentile([0, 0.049, 0.051, 1, 1.949, 1.951], 75), abs=1e-4
    )


@pytest.mark.parametrize(
    ("value_range", "bad"),
    [
        (TANH, 1.001),
        (TANH, -1.1),
        (TANH, np.nan),
        (TANH, np.inf),
        (None, np.nan),
        (None, -np.inf),
        (None, 1e200),
        ((0.0, 1.0), -0.01),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_changes_nothing(value_range, bad):
    values = stream([np.array([0.5])], value_range)
    before = values.readout()
    with pytest.raises(ValueError, match="values: "):
        values.add(np.array([0.25, bad]))
    assert values.readout() == before


def test_rounding_beyond_the_range_is_kept_as_it_is():
    readout = stream([np.float32([1.0000001, -1.0])]).readout(4)
    assert readout["max"] == float(np.float32(1.0000001))
    assert readout["histogram"] == {"counts": [1, 0, 0, 1], "edges": [-1.0, -0.5, 0.0, 0.5, 1.0]}


@given(st.lists(gate_arrays, min_size=1, max_size=4), st.integers(1, 100))
def test_a_coarse_histogram_is_numpys_over_its_own_edges(arrays, bins):
    counts, edges = stream(arrays).histogram(bins)
    expected, _ = np.histogram(np.concatenate(arrays).astype(np.float64), bins=edges)
    assert counts.tolist() == expected.tolist()
    assert np.allclose(edges, np.linspace(-1, 1, bins + 1), atol=1e-4)


@given(st.lists(free_arrays, min_size=1, max_size=4), st.integers(1, 30))
def test_a_coarse_histogram_of_unknown_range_is_numpys_over_its_own_edges(arrays, bins):
    counts, edges = stream(arrays, None).histogram(bins)
    values = np.concatenate(arrays).astype(np.float64)
    assert counts.tolist() == np.histogram(values, bins=edges)[0].tolist()
    assert counts.sum() == values.size


def test_the_magnitude_histogram_folds_the_negative_half_over():
    counts, edges = stream([np.array([-0.9, -0.8, 0.1, 0.6, -1.0])]).magnitude_histogram(2)
    assert counts.tolist() == [1, 4]
    assert edges.tolist() == [0.0, 0.5, 1.0]


def test_an_empty_stream_reads_out_none_and_has_no_histogram():
    empty = ValueStatistics(TANH)
    empty.add(np.empty((0, 3)))
    readout = empty.readout(8)
    assert readout["count"] == 0
    assert (
        readout["mean"]
        is readout["percentiles"]["25"]
        is readout["magnitude"]["median"]
        is readout["histogram"]
        is None
    )
    with pytest.raises(ValueError, match="no values"):
        empty.histogram(4)
    assert stream([np.array([0.5])]).merge(empty).readout() == stream([np.array([0.5])]).readout()


def test_streams_of_different_ranges_do_not_merge():
    with pytest.raises(ValueError, match="range"):
        ValueStatistics(TANH).merge(ValueStatistics(None))
    with pytest.raises(ValueError, match="low < high"):
        ValueStatistics((1.0, -1.0))


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3), elements=gate_values))
def test_describe_equals_numpy_to_the_bit(values):
    result = json.loads(json.dumps(describe(values, TANH, histogram_bins=8), allow_nan=False))
    wide = values.astype(np.float64)
    assert result["shape"] == list(values.shape)
    for part, expected in ((result, wide), (result["magnitude"], np.abs(wide))):
        assert (part["min"], part["max"], part["median"]) == (expected.min(), expected.max(), np.median(expected))
        assert part["mean"] == pytest.approx(expected.mean(), rel=1e-12, abs=1e-15)
        assert part["std"] == pytest.approx(expected.std(), rel=1e-9, abs=1e-15)
        for percent in PERCENTS:
            assert part["percentiles"][str(percent)] == np.percentile(expected, percent)
    assert result["share_positive"] == np.mean(wide > 0)
    assert result["share_near_zero"] == np.mean(np.abs(wide) < 0.05)
    assert result["share_saturated"] == np.mean(np.abs(wide) > 0.95)
    assert sum(result["histogram"]["counts"]) == values.size


def test_describe_refuses_what_has_no_statistics():
    for bad in (np.empty(0), np.array([np.nan]), np.array(["a"])):
        with pytest.raises(ValueError, match="values of a sample"):
            describe(bad)
    with pytest.raises(ValueError, match="expected within"):
        describe(np.array([1.5]), TANH)
    assert describe(np.array([1.5]))["share_saturated"] is None
