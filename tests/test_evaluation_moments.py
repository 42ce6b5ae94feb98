"""Moment retrieval: cases worked by hand, and an independent slow version."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qd_detr.gates.evaluation.moments import IOU_THRESHOLDS, moment_figures


def figures(predicted, truth):
    return moment_figures(
        [np.array(query, dtype=float).reshape(-1, 3) for query in predicted],
        [np.array(query, dtype=float) for query in truth],
    )


def slow_iou(window, truth):
    overlap = max(0.0, min(window[1], truth[1]) - max(window[0], truth[0]))
    union = (window[1] - window[0]) + (truth[1] - truth[0]) - overlap
    return overlap / union if union > 0 else 0.0


def slow_average_precision(predicted, truth, threshold):
    """One query, one threshold, with plain loops and lists."""
    ranked = sorted(predicted[:10], key=lambda window: -window[2])
    taken: set[int] = set()
    precisions, recalls = [0.0], [0.0]
    hits = 0
    for rank, window in enumerate(ranked, start=1):
        ious = [slow_iou(window, gt) for gt in truth]
        # Falling IoU; of equals the later one first.
        for gt_idx in sorted(range(len(truth)), key=lambda i: (-ious[i], -i)):
            if ious[gt_idx] < threshold:
                break
            if gt_idx not in taken:
                taken.add(gt_idx)
                hits += 1
                break
        precisions.append(hits / rank)
        recalls.append(hits / len(truth))
    precisions.append(0.0)
    recalls.append(1.0)
    return sum(
        (recalls[i] - recalls[i - 1]) * max(precisions[i:])
        for i in range(1, len(recalls))
        if recalls[i] > recalls[i - 1]
    )


def test_exact_window_scores_one_at_every_threshold():
    result = figures([[[10, 20, 0.9]]], [[[10, 20]]])
    np.testing.assert_array_equal(result.ap["full"], np.ones((1, 10)))
    assert result.r1_iou["full"].tolist() == [1.0]


def test_ap_of_a_case_worked_by_hand():
    # Ranked by score: [0, 10] is the first window (IoU 1), [50, 60] nothing, [20, 28] the second (IoU 0.8).
    # To 0.8: 1/2 * 1 + 1/2 * 2/3 = 5/6. Above: 1/2 * 1.
    result = figures([[[50, 60, 0.5], [20, 28, 0.2], [0, 10, 0.9]]], [[[0, 10], [20, 30]]])
    np.testing.assert_allclose(result.ap["full"][0], [5 / 6] * 7 + [1 / 2] * 3, rtol=1e-12)


def test_r1_looks_at_the_first_window_in_submission_order_not_the_best_scored():
    result = figures([[[0, 5, 0.1], [0, 10, 0.9]]], [[[0, 10]]])
    assert result.r1_iou["full"].tolist() == [0.5]
    assert result.best_iou.tolist() == [1.0]


def test_a_ground_truth_window_is_taken_once():
    # The second prediction finds its window taken: a false positive after full recall costs nothing, before it does.
    result = figures([[[0, 10, 0.9], [0, 10, 0.8], [20, 30, 0.7]]], [[[0, 10], [20, 30]]])
    np.testing.assert_allclose(result.ap["full"][0], 1 / 2 + 1 / 2 * 2 / 3, rtol=1e-12)


def test_a_prediction_falls_back_on_the_next_best_free_window():
    # Both predictions fit [0, 10] best; at 0.5 the second still gets [0, 8] (IoU 0.8 with [0, 10]).
    result = figures([[[0, 10, 0.9], [0, 10, 0.8]]], [[[0, 10], [0, 8]]])
    np.testing.assert_allclose(result.ap["full"][0], [1.0] * 7 + [0.5] * 3, rtol=1e-12)


def test_of_equal_ious_the_last_ground_truth_window_is_taken():
    # [0, 20] fits both halves with IoU 0.5 and takes the second, so the first is free for its exact prediction.
    result = figures([[[0, 20, 0.9], [0, 10, 0.8]]], [[[0, 10], [10, 20]]])
    assert result.ap["full"][0, 0] == 1.0


def test_equal_scores_keep_submission_order():
    early = figures([[[0, 10, 0.5], [50, 60, 0.5]]], [[[0, 10]]])
    late = figures([[[50, 60, 0.5], [0, 10, 0.5]]], [[[0, 10]]])
    assert early.ap["full"][0, 0] == 1.0
    assert late.ap["full"][0, 0] == 0.5


def test_only_the_first_ten_windows_in_submission_order_count():
    misses = [[100, 110, 0.1]] * 10
    result = figures([[*misses, [0, 10, 0.9]]], [[[0, 10]]])
    assert result.ap["full"].max() == 0.0
    assert result.best_iou.tolist() == [0.0]


def test_length_ranges_include_their_upper_end_and_drop_queries_without_such_a_window():
    result = figures([[[0, 10, 1.0]], [[0, 30, 1.0]], [[0, 31, 1.0]]], [[[0, 10]], [[0, 30]], [[0, 31]]])
    assert [np.flatnonzero(~np.isnan(result.r1_iou[name])).tolist() for name in ("short", "middle", "long")] == [
        [0],
        [1],
        [2],
    ]
    assert np.isnan(result.ap["short"][1:]).all()
    assert not np.isnan(result.ap["full"]).any()


def test_a_window_above_150_s_is_in_the_full_range_only():
    result = figures([[[0, 160, 1.0]]], [[[0, 160]]])
    assert result.ap["full"].min() == 1.0
    assert all(np.isnan(result.r1_iou[name]).all() for name in ("short", "middle", "long"))


def test_a_range_filters_ground_truth_but_not_predictions():
    # Short keeps [0, 10] only; the prediction of the long window, ranked first, is then a false positive.
    result = figures([[[50, 100, 0.9], [0, 10, 0.8]]], [[[50, 100], [0, 10]]])
    np.testing.assert_allclose(result.ap["short"][0], 0.5, rtol=1e-12)
    assert result.r1_iou["short"].tolist() == [0.0]
    assert result.r1_iou["long"].tolist() == [1.0]


def test_no_prediction_and_an_empty_window_score_zero():
    result = figures([[], [[5, 5, 0.9]]], [[[0, 10]], [[0, 10]]])
    assert result.ap["full"].max() == 0.0
    assert result.r1_iou["full"].tolist() == [0.0, 0.0]


def test_a_query_scores_the_same_alone_and_among_others():
    predicted = [[[0, 10, 0.3], [4, 40, 0.9]], [[0, 150, 0.5]] * 10, []]
    truth = [[[0, 12], [30, 70], [4, 44]], [[0, 140]], [[2, 4]]]
    together = figures(predicted, truth)
    for row in range(3):
        alone = figures(predicted[row : row + 1], truth[row : row + 1])
        for name in together.ap:
            np.testing.assert_array_equal(alone.ap[name][0], together.ap[name][row])
            np.testing.assert_array_equal(alone.r1_iou[name][0], together.r1_iou[name][row])


seconds = st.integers(0, 20).map(lambda step: 2.0 * step)
predicted_window = st.tuples(seconds, seconds, st.sampled_from([0.1, 0.5, 0.9])).map(
    lambda window: (min(window[:2]), max(window[:2]), window[2])
)
truth_window = st.tuples(seconds, st.integers(1, 20)).map(lambda window: (window[0], window[0] + 2.0 * window[1]))
one_query = st.tuples(st.lists(predicted_window, max_size=13), st.lists(truth_window, min_size=1, max_size=6))


@settings(max_examples=150, deadline=None)
@given(st.lists(one_query, min_size=1, max_size=4))
def test_figures_equal_those_of_the_slow_version(queries):
    result = figures([predicted for predicted, _ in queries], [truth for _, truth in queries])
    bounds = {"full": (0, 1e9), "long": (30, 150), "middle": (10, 30), "short": (0, 10)}
    for row, (predicted, truth) in enumerate(queries):
        for name, (above, up_to) in bounds.items():
            kept = [window for window in truth if above < window[1] - window[0] <= up_to]
            if not kept:
                assert np.isnan(result.ap[name][row]).all()
                assert np.isnan(result.r1_iou[name][row])
                continue
            expected = [slow_average_precision(predicted, kept, threshold) for threshold in IOU_THRESHOLDS]
            np.testing.assert_allclose(result.ap[name][row], expected, atol=1e-12)
            first = max((slow_iou(predicted[0], window) for window in kept), default=0) if predicted else 0.0
            assert result.r1_iou[name][row] == pytest.approx(first, abs=1e-12)
        best = max((slow_iou(window, gt) for window in predicted[:10] for gt in truth), default=0.0)
        assert result.best_iou[row] == pytest.approx(best, abs=1e-12)
