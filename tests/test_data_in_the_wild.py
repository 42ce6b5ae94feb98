"""Data as other people lay it out: taken for what it is, or refused by one line that names the thing and the remedy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from qd_detr.gates.evaluation.tvsum import youtube_average_precision
from run_gate_analysis import main
from tests.test_run_requests import refused
from tests.tiny_run import TinyRun, make_tiny_run


@pytest.fixture
def tiny(tmp_path) -> TinyRun:
    return make_tiny_run(tmp_path / "data of others", n_queries=4)


def analysed(tiny: TinyRun, *flags: object) -> str:
    """Run the analysis, which has to succeed; return its report."""
    assert main(tiny.argv("--no_figures", *map(str, flags))) == 0
    return (tiny.folder / "out" / "ANALYSIS_REPORT.md").read_text(encoding="utf-8")


def result(tiny: TinyRun, name: str):
    return json.loads((tiny.folder / "out" / name).read_text(encoding="utf-8"))


# --- labels ---


def test_windows_alone_give_moment_metrics_and_alignment_and_the_missing_ones_are_said(tiny):
    for query in tiny.queries:
        del query["saliency_scores"], query["relevant_clip_ids"]
    tiny.rewrite()
    report = analysed(tiny)
    metrics = result(tiny, "metrics.json")
    assert list(metrics) == ["brief", "full", "long", "middle", "short"]
    assert all(name.startswith("MR-") for name in metrics["brief"])
    assert result(tiny, "alignment.json")["annotation"]["applies"]
    assert "Highlight metrics are missing: 4 of 4 queries have windows and no saliency scores." in report


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"duration": 1.5, "relevant_clip_ids": [], "saliency_scores": []}, "1.5 s hold no clip of 2 s"),
        ({"relevant_clip_ids": [1, 12]}, "relevant clip 12 lies past the end of the video, which has 12 clips"),
    ],
)
def test_faults_of_labels_are_found_before_the_first_forward(tiny, capsys, changes, said):
    tiny.queries[0] |= changes
    tiny.rewrite()
    forwards = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda module, given: forwards.append(module))
    try:
        refused(tiny, capsys, tiny.argv(), "qid 100", said)
    finally:
        hook.remove()
    assert not forwards


def test_youtube_highlights_are_judged_by_the_ap_over_all_clips():
    # Ranked: clips 2, 0, 1 with labels 1, 0, 1. Recall rises at ranks 1 and 3:
    # 1/2 * (1 + 1) / 2 + 1/2 * (1/2 + 2/3) / 2 = 1/2 + 7/24.
    ap = youtube_average_precision([np.array([0.5, 0.2, 0.9])], [np.array([[0.0], [1.0], [1.0]])])
    assert ap.shape == (1, 1)
    assert ap[0, 0] == pytest.approx(1 / 2 + 7 / 24)
    assert youtube_average_precision([np.array([0.5])], [np.array([[-1.0]])])[0, 0] == 0
