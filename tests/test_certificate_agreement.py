"""When two predictions agree: each allowance, and just past it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.runs.agreement import OwnPrediction, compare
from qd_detr.gates.runs.postprocess import PostprocessingOptions
from qd_detr.gates.runs.saved import SavedPredictions, agreement_with

DURATION_S = 100.0


def own(*windows: tuple[float, float, float], saliency: tuple[float, ...] = (1.0, 2.0)) -> OwnPrediction:
    """Return a prediction with unrounded (start s, end s, score) windows, best first."""
    spans = [((start + end) / 2 / DURATION_S, (end - start) / DURATION_S) for start, end, _ in windows]
    return OwnPrediction(
        Query(qid=1, query="a", vid="v", duration_s=DURATION_S, line=1),
        score=np.array([score for *_, score in windows], np.float32),
        span_cxw=np.array(spans, np.float32),
        saliency=np.array(saliency, np.float16),
    )


def saved(*windows: tuple[float, float, float], saliency: tuple[float, ...] = (1.0, 2.0)) -> dict[str, object]:
    return {
        "qid": 1,
        "vid": "v",
        "pred_relevant_windows": [list(window) for window in windows],
        "pred_saliency_scores": list(saliency),
    }


def agrees(line: dict[str, object], mine: OwnPrediction, **options: float) -> bool:
    return compare(line, mine, PostprocessingOptions(**options)).agrees  # type: ignore[arg-type]


def test_equal_predictions_agree() -> None:
    assert agrees(saved((10, 20, 0.9), (30, 40, 0.5)), own((10.3, 19.8, 0.9), (30.1, 40, 0.5)))


def test_a_time_a_step_off_agrees_only_at_the_rounding_edge() -> None:
    at_edge = compare(saved((12, 20, 0.9)), own((10.9996, 20, 0.9)), PostprocessingOptions())
    assert at_edge.agrees
    assert at_edge.edge_steps == 1
    assert not agrees(saved((12, 20, 0.9)), own((10.99, 20, 0.9)))
    assert not agrees(saved((14, 20, 0.9)), own((10.9996, 20, 0.9)))  # two steps


def test_scores_agree_within_2e_4() -> None:
    assert agrees(saved((10, 20, 0.9002)), own((10, 20, 0.9)))
    assert not agrees(saved((10, 20, 0.9003)), own((10, 20, 0.9)))


def test_saliency_agrees_within_2e_2_and_over_as_many_clips() -> None:
    assert agrees(saved((10, 20, 0.9), saliency=(1.015, 2.0)), own((10, 20, 0.9)))
    assert not agrees(saved((10, 20, 0.9), saliency=(1.05, 2.0)), own((10, 20, 0.9)))
    assert not agrees(saved((10, 20, 0.9), saliency=(1.0,)), own((10, 20, 0.9)))


def test_neighbours_may_stand_in_another_order_only_at_equal_score() -> None:
    line = saved((30, 40, 0.5), (10, 20, 0.5))
    swapped = compare(line, own((10, 20, 0.500004), (30, 40, 0.5)), PostprocessingOptions())
    assert swapped.agrees
    assert swapped.swapped == 2
    assert not agrees(line, own((10, 20, 0.50005), (30, 40, 0.5)))


def test_three_equal_scores_may_stand_in_any_order_but_each_window_once() -> None:
    mine = own((10, 20, 0.500006), (30, 40, 0.500003), (50, 60, 0.5))
    assert agrees(saved((50, 60, 0.5), (10, 20, 0.5), (30, 40, 0.5)), mine)
    assert not agrees(saved((50, 60, 0.5), (50, 60, 0.5), (30, 40, 0.5)), mine)


def test_another_number_of_windows_or_an_unreadable_line_does_not_agree() -> None:
    assert not agrees(saved((10, 20, 0.9)), own((10, 20, 0.9), (30, 40, 0.5)))
    assert not agrees({"qid": 1, "vid": "v"}, own((10, 20, 0.9)))
    assert not agrees({**saved((10, 20, 0.9)), "vid": "w"}, own((10, 20, 0.9)))


@pytest.mark.parametrize(
    "saliency", [[1.0, [2.0]], [1.0, None], [1.0, 10**400], [1.0, "x"], "ab", {"a": 1}, [1.0, True]]
)
def test_saved_saliency_that_is_no_list_of_numbers_agrees_with_nothing(saliency) -> None:
    line = {**saved((10, 20, 0.9)), "pred_saliency_scores": saliency}
    found = agreement_with(SavedPredictions(Path("p"), [line]), [0], {0: own((10, 20, 0.9))}, PostprocessingOptions())
    assert (found.agreeing, found.distance) == (0, float("inf"))


def test_windows_are_compared_after_suppression_if_the_run_suppressed() -> None:
    mine = own((10, 20, 0.9), (10, 20, 0.8), (30, 40, 0.5))
    assert agrees(saved((10, 20, 0.9), (30, 40, 0.5)), mine, nms_thd=0.7)
    assert not agrees(saved((10, 20, 0.9), (10, 20, 0.8), (30, 40, 0.5)), mine, nms_thd=0.7)
