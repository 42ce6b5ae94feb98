"""Highlight detection and TVSum: cases worked by hand, and an independent slow version."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qd_detr.gates.evaluation.highlights import clip_scores, highlight_figures
from qd_detr.gates.evaluation.tvsum import top_average_precision, tvsum_average_precision


def figures(saliency, scores):
    """One query; `scores` (C, 3)."""
    return highlight_figures([np.array(saliency, dtype=float)], [np.array(scores, dtype=float)])


def slow_average_precision(positive, saliency):
    """One annotator: a point per distinct threshold, precision the best at equal or higher recall."""
    saliency = list(saliency[: len(positive)]) + [0.0] * (len(positive) - len(saliency))
    if not any(positive):
        return 0.0
    if all(positive):
        return 1.0
    points = []
    for threshold in sorted(set(saliency), reverse=True):
        called = [is_positive for is_positive, score in zip(positive, saliency, strict=True) if score >= threshold]
        points.append((sum(called) / sum(positive), sum(called) / len(called)))
    kept, recall_before = [], 0.0
    for recall, _ in points:
        if np.float32(recall) != np.float32(recall_before):
            kept.append(max(precision for other, precision in points if other >= recall))
        recall_before = recall
    return sum(kept) / len(kept)


def test_hl_ap_of_a_case_worked_by_hand():
    # Ranked: clip 1 (4), clip 0 (0), clip 2 (3). Very good: 1. Good: (1 + 2/3) / 2.
    result = figures([0.5, 0.9, 0.1], [[0, 0, 0], [4, 4, 4], [3, 3, 3]])
    np.testing.assert_allclose(result.ap_by_annotator["VeryGood"][0], [1, 1, 1])
    np.testing.assert_allclose(result.ap_by_annotator["Good"][0], [5 / 6] * 3, rtol=1e-12)


def test_precision_is_made_monotone_towards_lower_recall():
    # Ranked: negative, positive, positive. Precision 1/2 then 2/3: the first takes the later, better one.
    result = figures([0.9, 0.8, 0.7], [[0, 0, 0], [4, 4, 4], [4, 4, 4]])
    np.testing.assert_allclose(result.ap_by_annotator["Fair"][0], 2 / 3, rtol=1e-12)


def test_clips_of_equal_saliency_make_one_point():
    result = figures([0.5, 0.5, 0.1], [[4, 4, 0], [0, 4, 0], [0, 0, 4]])
    np.testing.assert_allclose(result.ap_by_annotator["VeryGood"][0], [1 / 2, 1, 1 / 3], rtol=1e-12)


def test_all_negative_gives_zero_and_all_positive_one():
    result = figures([0.1, 0.9], [[0, 4, 2], [0, 4, 2]])
    assert result.ap_by_annotator["VeryGood"][0].tolist() == [0.0, 1.0, 0.0]
    assert result.ap_by_annotator["Fair"][0].tolist() == [0.0, 1.0, 1.0]


def test_a_longer_prediction_is_cut_and_a_shorter_one_filled_up_with_zero():
    longer = figures([0.9, 0.1, 5.0], [[4, 4, 4], [0, 0, 0]])
    assert longer.ap_by_annotator["VeryGood"][0].tolist() == [1.0] * 3
    # Filled up: -0.5, 0, 0; the positive third clip ties with the second.
    shorter = figures([-0.5], [[0, 0, 0], [0, 0, 0], [4, 4, 4]])
    assert shorter.ap_by_annotator["VeryGood"][0].tolist() == [0.5] * 3


def test_hit1_is_any_annotator_at_the_first_of_the_highest_clips():
    result = figures([0.1, 0.9, 0.9], [[4, 4, 4], [2, 0, 3], [4, 4, 4]])
    assert [result.hit1[level].tolist() for level in ("Fair", "Good", "VeryGood")] == [[1.0], [1.0], [0.0]]


def test_hit1_of_a_clip_past_the_ground_truth_is_a_miss():
    result = figures([0.1, 0.2, 0.9], [[4, 4, 4], [4, 4, 4]])
    assert result.hit1["Fair"].tolist() == [0.0]


def test_clips_that_are_not_relevant_score_zero():
    assert clip_scores(3, (1,), ((4, 2, 0),)).tolist() == [[0, 0, 0], [4, 2, 0], [0, 0, 0]]
    assert clip_scores(2, (), ()).tolist() == [[0, 0, 0]] * 2


saliency_lists = st.lists(st.integers(-4, 4).map(lambda value: value / 4), min_size=1, max_size=9)
score_lists = st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=9)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(saliency_lists, score_lists), min_size=1, max_size=4))
def test_figures_equal_those_of_the_slow_version(queries):
    result = highlight_figures(
        [np.array(saliency) for saliency, _ in queries], [np.array(scores, dtype=float) for _, scores in queries]
    )
    for row, (saliency, scores) in enumerate(queries):
        for level, at_least in (("Fair", 2), ("Good", 3), ("VeryGood", 4)):
            for annotator in range(3):
                positive = [clip[annotator] >= at_least for clip in scores]
                expected = slow_average_precision(positive, saliency)
                assert result.ap_by_annotator[level][row, annotator] == pytest.approx(expected, abs=1e-12)
            top = saliency.index(max(saliency))
            assert result.hit1[level][row] == (top < len(scores) and max(scores[top]) >= at_least)


def test_tvsum_ap_of_a_case_worked_by_hand():
    # Six clips ranked as they stand; the rater's median is 1.5, so clips 0, 2 and 5 are positive, the last past the
    # top 5. Points: 1/1, then 1/2, 2/3: ((1 + 1) / 2 + (1/2 + 2/3) / 2) / 2.
    labels = np.array([[5.0], [1], [2], [1], [1], [3]])
    ap = top_average_precision(np.array([6.0, 5, 4, 3, 2, 1]), labels)
    np.testing.assert_allclose(ap, [(1 + 7 / 12) / 2], rtol=1e-12)


def test_tvsum_rater_without_a_positive_among_the_top_clips_counts_zero():
    labels = np.array([[1.0, 3], [1, 3], [1, 3]])
    assert top_average_precision(np.array([1.0, 2, 3]), labels).tolist() == [0.0, 0.0]


def test_tvsum_prediction_longer_than_the_labels_is_cut():
    labels = np.array([[1.0], [2.0]])
    assert top_average_precision(np.array([0.1, 0.2, 0.9]), labels).tolist() == [1.0]


def test_tvsum_stacks_videos_of_different_length():
    ap = tvsum_average_precision(
        [np.array([0.1, 0.9]), np.array([0.9, 0.1, 0.2])], [np.array([[1.0, 2], [2, 1]]), np.ones((3, 2))]
    )
    # Rater 2 of the first video: miss, then hit, ((0 + 1/2) / 2).
    assert ap.tolist() == [[1.0, 0.25], [0.0, 0.0]]
