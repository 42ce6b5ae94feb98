"""The report, the resampling aggregate, pairing by qid, and the five metric files of real submissions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qd_detr.gates.data.annotations import Query, read_annotations
from qd_detr.gates.errors import DataError
from qd_detr.gates.evaluation import HEADLINE_METRICS, aggregate, evaluate, evaluate_tvsum, read_submission

SHARED = Path(__file__).resolve().parents[2] / "shared"
METRICS, LEGACY = SHARED / "metrics", SHARED / "legacy"
REAL = {
    "submission_a": (METRICS / "submission_a.jsonl", METRICS / "submission_a_metrics.json"),
    "submission_b": (METRICS / "submission_b.jsonl", METRICS / "submission_b_metrics.json"),
    **{
        gating: (
            LEGACY / gating / "best_hl_val_preds.jsonl",
            LEGACY / gating / "best_hl_val_preds_metrics.json",
        )
        for gating in ("global", "clipwise", "elementwise")
    },
}


def make_query(qid, windows=((0.0, 10.0),), clip_ids=(0, 1), scores=((4, 4, 4), (3, 2, 1)), duration_s=20.0, **more):
    return Query(
        qid=qid,
        query="a dog",
        vid="v",
        duration_s=duration_s,
        line=1,
        relevant_windows=windows,
        relevant_clip_ids=clip_ids,
        saliency_scores=scores,
        **more,
    )


def make_prediction(qid, windows=((0, 10, 0.9),), saliency=(0.9, 0.5, 0.1)):
    return {
        "qid": qid,
        "pred_relevant_windows": [list(window) for window in windows],
        "pred_saliency_scores": list(saliency),
    }


def two_queries():
    # IoU 1 for qid 1; 0.6 for qid 2, whose highest clip is of no annotator.
    predictions = [make_prediction(2, ((0, 6, 0.9),), (0.1, 0.2, 0.9)), make_prediction(1)]
    return predictions, [make_query(1), make_query(2)]


@pytest.mark.parametrize("name", list(REAL))
def test_every_number_of_a_real_metrics_file_is_given_exactly(name):
    submission, expected = REAL[name]
    annotations = (
        METRICS / "highlight_val_release.jsonl"
        if name.startswith("submission")
        else SHARED / "qvhighlights_sample" / "highlight_val_sample.jsonl"
    )
    for path in (submission, expected, annotations):
        if not path.is_file():
            pytest.skip(f"needs {path}")
    metrics = evaluate(read_submission(submission), read_annotations(annotations)).metrics
    # As text: values, key order and layout.
    assert json.dumps(metrics, indent=4) == expected.read_text(encoding="utf-8")


def test_report_of_two_queries_worked_by_hand():
    metrics = evaluate(*two_queries()).metrics
    # AP is 1 for one query at all thresholds, for the other at 0.5, 0.55 and 0.6.
    assert metrics["full"]["MR-mAP"]["0.6"] == 100.0
    assert metrics["full"]["MR-mAP"]["0.65"] == 50.0
    assert metrics["brief"]["MR-full-mAP"] == 65.0
    assert metrics["brief"]["MR-full-R1@0.5"] == 100.0
    assert metrics["brief"]["MR-full-R1@0.7"] == 50.0
    assert metrics["brief"]["HL-min-VeryGood-Hit1"] == 50.0
    # Ten clips. qid 1 ranks its one very good clip first. qid 2: behind clips 2 and 1, so 1/3; the mean is 2/3.
    assert metrics["HL-min-VeryGood"]["HL-mAP"] == 66.67


def test_a_range_without_queries_is_null_not_a_number():
    metrics = evaluate(*two_queries()).metrics
    assert metrics["brief"]["MR-long-mAP"] is None
    assert set(metrics["long"]["MR-R1"].values()) == {None}
    assert metrics["brief"]["MR-short-mAP"] == 65.0


def test_per_query_figures_are_in_submission_order():
    per_query = evaluate(*two_queries()).per_query
    assert per_query.qid.tolist() == [2, 1]
    np.testing.assert_allclose(per_query.ap, [0.3, 1.0])
    np.testing.assert_allclose(per_query.r1_iou, [0.6, 1.0])
    np.testing.assert_allclose(per_query.best_iou, [0.6, 1.0])
    np.testing.assert_allclose(per_query.hl_ap["VeryGood"], [1 / 3, 1.0])
    assert per_query.hit1["VeryGood"].tolist() == [0.0, 1.0]


def test_aggregate_over_all_queries_is_the_brief_unrounded():
    evaluation = evaluate(*two_queries())
    figures = aggregate(evaluation.per_query)
    assert tuple(figures) == HEADLINE_METRICS
    for name, value in figures.items():
        assert f"{value:.2f}" == f"{evaluation.metrics['brief'][name]:.2f}"


def test_aggregate_over_resamples_equals_evaluating_the_resampled_queries():
    predictions, queries = two_queries()
    by_qid = {query.qid: query for query in queries}
    draws = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]])
    figures = aggregate(evaluate(predictions, queries).per_query, draws)
    for draw, rows in enumerate(draws):
        # The same query under three names.
        renamed = [{**predictions[row], "qid": f"copy{place}"} for place, row in enumerate(rows)]
        copies = [
            make_query(f"copy{place}", by_qid[predictions[row]["qid"]].relevant_windows)
            for place, row in enumerate(rows)
        ]
        alone = aggregate(evaluate(renamed, copies).per_query)
        for name in HEADLINE_METRICS:
            assert figures[name].shape == (3,)
            assert figures[name][draw] == pytest.approx(alone[name], abs=1e-9)


def test_qids_are_compared_as_text():
    per_query = evaluate([make_prediction("7")], [make_query(7)]).per_query
    assert per_query.qid.tolist() == [7]


def test_a_query_without_any_relevant_clip_is_all_negative():
    per_query = evaluate([make_prediction(1)], [make_query(1, clip_ids=(), scores=())]).per_query
    assert per_query.hl_ap["Fair"].tolist() == [0.0]
    assert per_query.hit1["Fair"].tolist() == [0.0]


def test_tvsum_report_is_percent_over_raters_and_videos():
    labels = np.ones((3, 20))
    labels[0, :5] = 5.0  # a quarter of the raters, ranked second: (0 + 1/2) / 2 for them
    query = make_query("v1", windows=None, clip_ids=None, scores=None, rater_labels=labels)
    evaluation = evaluate_tvsum([{"qid": "v1", "pred_saliency_scores": [0.5, 0.9, 0.1]}], [query])
    assert evaluation.metrics == {"brief": {"mAP": 6.25}}
    assert evaluation.per_query.ap.tolist() == [0.0625]


@pytest.mark.parametrize(
    ("predictions", "queries", "message"),
    [
        ([make_prediction(1)], [make_query(1), make_query(2)], "lacks 1 of 2 annotated qids: 2"),
        ([make_prediction(1), make_prediction(3)], [make_query(1)], "1 of 2 predicted qids are not among .*: 3"),
        ([make_prediction(1), make_prediction("1")], [make_query(1)], "more than once in the submission: 1"),
        ([make_prediction(1)], [make_query(1), make_query(1)], "more than once in the annotations: 1"),
        ([make_prediction(True)], [make_query(1)], "'qid' is True"),
        ([], [], "no predictions and no annotations"),
        ([make_prediction(1)], [make_query(1, windows=None)], "1 of 1 annotations have no labels"),
        ([make_prediction(1)], [make_query(1, clip_ids=(0, 10))], "relevant clip 10 lies past the end .* 10 clips"),
        ([make_prediction(1)], [make_query(1, duration_s=1.5, clip_ids=(), scores=())], "1.5 s hold no clip of 2 s"),
        ([make_prediction(1, [(0, 10)])], [make_query(1)], r"holds \[0, 10\], expected \[start s, end s, score\]"),
        ([make_prediction(1, [(0, 10, 1), (5, 2, 1)])], [make_query(1)], r"\[5, 2, 1\], which ends before it starts"),
        ([make_prediction(1, [(0, 10, 1), (5, float("nan"), 1)])], [make_query(1)], r"holds \[5, nan, 1\]"),
        ([make_prediction(1, [(0, "10", 1)])], [make_query(1)], r"holds \[0, '10', 1\]"),
        ([make_prediction(1, [(0, None, 1)])], [make_query(1)], r"holds \[0, None, 1\]"),
        ([make_prediction(1, saliency=())], [make_query(1)], "expected at least one score"),
        ([make_prediction(1, saliency=(1.0, None))], [make_query(1)], "all finite numbers"),
        ([{"qid": 1, "pred_saliency_scores": [1.0]}], [make_query(1)], "'pred_relevant_windows' is not there"),
        ([{"qid": 1, "pred_relevant_windows": []}], [make_query(1)], "'pred_saliency_scores' is not there"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(predictions, queries, message):
    with pytest.raises(DataError, match=message):
        evaluate(predictions, queries)


def test_tvsum_without_rater_labels_is_refused():
    with pytest.raises(DataError, match=r"no labels \(label\)"):
        evaluate_tvsum([make_prediction(1)], [make_query(1)])
