"""The trainer with the gate monitor on: it writes the evolution, and the run is the same to the bit."""

from __future__ import annotations

import json

import pytest

from qd_detr.gates.train import __main__ as train
from tests.training.small_runs import (
    assert_same_run,
    flags,
)


def test_a_run_with_the_monitor_equals_one_without_to_the_bit(dataset, finished, tmp_path):
    watched = tmp_path / "watched"
    assert train.main([*flags(dataset, watched, save_every=2), "--gate_monitor_every", "1"]) == 0
    assert_same_run(finished, watched)
    data = json.loads((watched / "training_analysis" / "gate_evolution.json").read_text())
    assert [record["epoch"] for record in data["epochs"]] == [1, 3]
    scores = [record["metrics"]["MR-full-mAP"] for record in data["epochs"]]
    lines = (watched / "eval.log.txt").read_text().splitlines()
    assert scores == [json.loads(line.split("[Metrics] ")[1])["brief"]["MR-full-mAP"] for line in lines]
    assert (watched / "training_analysis" / "gate_evolution.png").stat().st_size > 5000
    assert (watched / "training_analysis" / "epoch_3" / "overall_statistics.json").exists()


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3]), (2, [1, 3])])
def test_every_epoch_and_every_second_one_is_watched_where_that_is_asked(dataset, tmp_path, every, epochs):
    watched = tmp_path / "watched"
    assert train.main([*flags(dataset, watched, eval_every=1), "--gate_monitor_every", str(every), "--lang", "ko"]) == 0
    data = json.loads((watched / "training_analysis" / "gate_evolution.json").read_text())
    assert [record["epoch"] for record in data["epochs"]] == epochs
    assert "레이어" in (watched / "training_analysis" / "epoch_3" / "ANALYSIS_REPORT.md").read_text()
