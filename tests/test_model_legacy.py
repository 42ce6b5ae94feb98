"""The three real checkpoints: what they recorded about themselves must come out again."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from legacy_model_adapter import load_legacy_model_with_gate_tracking
from qd_detr.gates.data.feature_layout import FeatureSpec
from qd_detr.gates.data.feature_search import FeatureSources
from qd_detr.gates.data.samples import Samples, open_samples
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs import inference
from qd_detr.gates.runs.inference import PassSettings, SampleResult, run_pass
from qd_detr.gates.runs.postprocess import PostprocessingOptions, lines_of

pytestmark = pytest.mark.usefixtures("one_thread")
TYPES = pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
STEP_S, LAST_S = 2.0, 150.0


@dataclass(frozen=True)
class Unrounded:
    """A sample's windows before rounding, best first: times (Q, 2) in seconds and scores (Q,)."""

    times_s: np.ndarray
    scores: np.ndarray


def differences(got: dict[str, Any], want: dict[str, Any], unrounded: Unrounded) -> list[str]:
    """Return how two submission lines differ beyond what product.md, "Batches", calls the same."""
    found = [f"{key}: {got[key]!r}, expected {want[key]!r}" for key in ("qid", "query", "vid") if got[key] != want[key]]
    windows, expected = got["pred_relevant_windows"], want["pred_relevant_windows"]
    if len(windows) != len(expected):
        return [*found, f"{len(windows)} windows, expected {len(expected)}"]
    free = set(range(len(windows)))
    for i, window in enumerate(expected):
        near = sorted((j for j in free if tied(unrounded.scores, i, j)), key=lambda j: abs(i - j))
        match = next((j for j in near if same_window(windows[j], window, unrounded.times_s[j])), None)
        if match is None:
            found.append(f"window {i}: {windows[i]}, expected {window}")
        free.discard(i if match is None else match)
    a, b = (np.array(line["pred_saliency_scores"]) for line in (got, want))
    if a.shape != b.shape:
        found.append(f"{len(a)} saliency scores, expected {len(b)}")
    elif not np.abs(a - b).max() <= 2e-2:
        found.append(f"saliency differs by {np.abs(a - b).max():.3g}")
    return found


def tied(scores: np.ndarray, i: int, j: int) -> bool:
    """Whether ranks i and j may be exchanged: neighbours all the way differ by less than 1e-5."""
    low, high = sorted((i, j))
    return bool((np.abs(np.diff(scores[low : high + 1])) < 1e-5).all())


def same_window(window: Sequence[float], expected: Sequence[float], times_s: np.ndarray) -> bool:
    return abs(window[2] - expected[2]) <= 2e-4 and all(
        a == b or (abs(a - b) == STEP_S and on_edge(t))
        for a, b, t in zip(window[:2], expected[:2], times_s, strict=True)
    )


def on_edge(time_s: float) -> bool:
    clamped = min(max(float(time_s), 0.0), LAST_S)
    return abs(clamped % STEP_S - STEP_S / 2) <= 1e-3


def line_of(windows: list[list[float]], saliency: Sequence[float] = (0.0, 1.0)) -> dict[str, Any]:
    return {
        "qid": 1,
        "query": "q",
        "vid": "v",
        "pred_relevant_windows": windows,
        "pred_saliency_scores": list(saliency),
    }


def test_lines_are_the_same_but_for_steps_on_the_edge_and_ties():
    raw = Unrounded(np.array([[10.1, 20.1], [30.9995, 40.1], [50.1, 60.1]]), np.array([0.9, 0.500004, 0.5]))
    base = [[10.0, 20.0, 0.9], [30.0, 40.0, 0.5], [50.0, 60.0, 0.5]]

    def changed(row: int, column: int, value: float) -> dict[str, Any]:
        windows = [list(w) for w in base]
        windows[row][column] = value
        return line_of(windows)

    assert not differences(line_of(base), line_of(base), raw)
    assert not differences(line_of(base), changed(1, 0, 32.0), raw)  # one step, on the edge
    assert not differences(line_of(base), line_of([base[0], base[2], base[1]]), raw)  # tied neighbours
    assert not differences(line_of(base), changed(0, 2, 0.9002 - 1e-9), raw)
    assert not differences(line_of(base), line_of(base, (0.015, 1.0)), raw)
    assert differences(line_of(base), changed(0, 0, 12.0), raw)  # one step, not on the edge
    assert differences(line_of(base), changed(1, 0, 34.0), raw)  # two steps
    assert differences(line_of(base), line_of([base[1], base[0], base[2]]), raw)  # not tied
    assert differences(line_of(base), changed(0, 2, 0.9003), raw)
    assert differences(line_of(base), line_of(base, (0.03, 1.0)), raw)
    assert differences(line_of(base), line_of(base, (0.0,)), raw)
    assert differences(line_of(base), line_of(base[:2]), raw)
    assert differences(line_of(base), {**line_of(base), "qid": 2}, raw)


@dataclass
class Legacy:
    """One checkpoint and everything that is needed to run it."""

    model: QDDETR
    samples: Samples
    options: PostprocessingOptions
    folder: Path


@cache
def legacy_of(shared: Path, gating_type: str) -> Legacy:
    folder = shared / "legacy" / gating_type
    model = load_legacy_model_with_gate_tracking(folder / "model_best.ckpt", device="cpu")
    o = model.options
    data_path = shared / "qvhighlights_sample" / "highlight_val_sample.jsonl"
    samples = open_samples(FeatureSpec.from_options(o, model.architecture), FeatureSources(data_path))
    return Legacy(model, samples, PostprocessingOptions.from_options(o), folder)


@pytest.fixture
def legacy(shared, gating_type) -> Legacy:
    return legacy_of(shared, gating_type)


def run(
    legacy: Legacy, batch_size: int, monkeypatch: pytest.MonkeyPatch, *, legacy_batches: bool = False
) -> tuple[list[SampleResult], list[Unrounded]]:
    """Run the product's own pass; also note every sample's windows before rounding."""
    noted: dict[Any, Unrounded] = {}

    def noting(queries, raw, options):
        for b, query in enumerate(queries):
            order = np.argsort(-raw.score[b], kind="stable")
            centre, width = raw.span_cxw[b].astype(float).T
            times = np.stack([centre - width / 2, centre + width / 2], axis=1) * query.duration_s
            noted[query.qid] = Unrounded(times[order], raw.score[b].astype(float)[order])
        return lines_of(queries, raw, options)

    monkeypatch.setattr(inference, "lines_of", noting)
    samples = legacy.samples.planned(batch_size, mixed_lengths=legacy_batches)
    settings = PassSettings(legacy_batches=legacy_batches, postprocessing=legacy.options)
    run_batches = run_pass(legacy.model, samples, settings)
    results = [result for batch in run_batches for result in batch]
    results.sort(key=lambda r: r.position)
    return results, [noted[r.query.qid] for r in results]


def recorded_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_lines_equal(results: list[SampleResult], unrounded: list[Unrounded], path: Path) -> None:
    expected = recorded_lines(path)
    assert len(results) == len(expected) == 96
    wrong = {
        result.query.qid: found
        for result, raw, line in zip(results, unrounded, expected, strict=True)
        if (found := differences(result.line, line, raw))
    }
    assert not wrong


@TYPES
def test_the_state_dict_is_the_checkpoints_to_the_bit(legacy):
    with torch.serialization.safe_globals([argparse.Namespace]):
        stored = torch.load(legacy.folder / "model_best.ckpt", map_location="cpu", weights_only=True)["model"]
    ours = legacy.model.state_dict()
    assert ours.keys() == stored.keys()
    assert all(torch.equal(ours[key], stored[key]) for key in stored)
    assert legacy.model.avigate_fusion is legacy.model.fusion
    assert not legacy.model.training


@TYPES
def test_gates_and_outputs_of_the_first_queries_are_the_recorded_ones(legacy, gating_type):
    recorded = np.load(legacy.folder / "gates_batch1.npz")
    model, fusion = legacy.model, legacy.model.fusion
    for position, qid in enumerate(recorded["qids"][:8]):
        batch = next(iter(legacy.samples.in_batches([[position]]).read_batches()))[1]
        fusion.enable_gate_tracking()
        fusion.set_current_sample_id(int(qid))
        with torch.no_grad():
            p = model.project(*(batch[f"src_{key}"] for key in ("txt", "txt_mask", "vid", "vid_mask", "aud")))
            fused = fusion(p.video, p.audio, p.vid_mask)
            outputs = model.decode(fused, p)
        entry = fusion.gate_history[int(qid)]
        for layer in range(fusion.num_layers):
            for kind in ("attention", "ffn"):
                want = recorded[f"q{qid}_{kind}_gate_{layer}"]
                got = entry[f"{kind}_gates"][layer]
                assert got.shape == want.shape
                assert np.abs(got - want).max() <= 1e-5
        assert np.abs(fused.numpy() - recorded[f"q{qid}_fused"]).max() <= 1e-4
        for name in ("pred_logits", "pred_spans", "saliency_scores"):
            bound = 1e-3 if name == "saliency_scores" else 1e-4
            assert np.abs(outputs[name].numpy() - recorded[f"q{qid}_{name}"]).max() <= bound, name
    fusion.disable_gate_tracking()


@TYPES
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_predictions_and_gate_statistics_of_all_are_those_of_batch_1(legacy, batch_size, monkeypatch):
    results, unrounded = run(legacy, batch_size, monkeypatch)
    assert_lines_equal(results, unrounded, legacy.folder / "preds_batch1.jsonl")
    recorded = np.load(legacy.folder / "gates_batch1.npz")
    assert [r.query.qid for r in results] == recorded["qids"].tolist()
    for result, want in zip(results, recorded["gate_stats"], strict=True):
        for layer in range(legacy.model.fusion.num_layers):
            for k, key in enumerate(("attention_gates", "ffn_gates")):
                gate = result.gates[key][layer].astype(np.float64)
                got = [gate.mean(), gate.std(), gate.min(), gate.max()]
                np.testing.assert_allclose(got, want[layer, k], atol=1e-5, rtol=0)


@TYPES
def test_legacy_batches_give_the_legacy_runs_own_predictions(legacy, monkeypatch):
    results, unrounded = run(legacy, legacy.model.options["eval_bsz"], monkeypatch, legacy_batches=True)
    assert_lines_equal(results, unrounded, legacy.folder / "best_hl_val_preds.jsonl")


def test_one_training_batch_gives_the_recorded_outputs_under_the_legacy_masks(shared):
    legacy = legacy_of(shared, "clipwise")
    recorded = np.load(legacy.folder / "losses_one_batch.npz")
    batch = {key[3:]: torch.from_numpy(recorded[key]) for key in recorded if key.startswith("in_")}
    model = legacy.model
    names = ("pred_logits", "pred_spans", "saliency_scores", "saliency_scores_neg")

    def worst(legacy_mask: bool) -> float:
        with torch.no_grad():
            p = model.project(*(batch[f"src_{key}"] for key in ("txt", "txt_mask", "vid", "vid_mask", "aud")))
            fused = model.fusion.fuse(p.video, p.audio, p.vid_mask)
            outputs = model.decode(fused, p, legacy_batch_mask=legacy_mask, training_extras=True)
        real = batch["src_vid_mask"].bool().numpy()
        return max(
            np.abs(outputs[name].numpy() - recorded[f"out_{name}"])[real if "saliency" in name else ...].max()
            for name in names
        )

    assert worst(True) <= 1e-4
    assert worst(False) > 1e-3
