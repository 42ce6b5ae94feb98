"""The audio's share in a prediction: against numbers by hand, a slow version, planted truth, and rewritten weights."""

import csv
import json
import math

import numpy as np
import pytest
import torch

import run_gate_analysis
from qd_detr.gates.analysis.audio_share import (
    LEAST_MOVED,
    audio_share,
    input_shares,
    saliency_distance,
    share_columns,
    slot_distance,
)
from qd_detr.gates.analysis.planted_truth import auc
from qd_detr.gates.data.demo import demo
from qd_detr.gates.planted import read_truth
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, MEAN_VIDEO, NEITHER, conditions_of
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.runs.interventions.sweep import run_sweep
from qd_detr.gates.runs.postprocess import RawPrediction
from tests.intervention_cases import GATING_TYPES, samples_of, small_data, small_model


def prediction(slots, saliency=(0.0, 0.0)):
    """Return a prediction of (score, start, end) slots."""
    score, start, end = np.array(slots, dtype=float).T
    return RawPrediction(score, np.stack([(start + end) / 2, end - start], axis=1), np.array(saliency))


def test_two_predictions_are_as_far_apart_as_their_slots_overlap_little():
    one = prediction([(0.9, 0.0, 0.5)])
    assert slot_distance(one, one) == 0
    assert slot_distance(one, prediction([(0.1, 0.0, 0.5)])) == pytest.approx(0)  # the same window, however sure
    assert slot_distance(one, prediction([(0.9, 0.5, 1.0)])) == 1
    assert slot_distance(one, prediction([(0.5, 0.25, 0.75)])) == pytest.approx(2 / 3)  # IoU 0.25 / 0.75
    # K of the pair is 0.9, of the second with itself 1 + 1 (its slots do not overlap).
    assert slot_distance(one, prediction([(1.0, 0.0, 0.5), (1.0, 0.5, 1.0)])) == pytest.approx(1 - 1 / math.sqrt(2))
    point = prediction([(1.0, 0.3, 0.3)])
    assert slot_distance(point, point) == 0


def test_saliency_series_are_a_bit_apart_when_they_point_at_other_clips():
    left, right = prediction([(1, 0, 1)], (60.0, 0.0)), prediction([(1, 0, 1)], (0.0, 60.0))
    assert saliency_distance(left, right) == pytest.approx(1)
    assert saliency_distance(left, left) == 0
    assert saliency_distance(left, prediction([(1, 0, 1)], (70.0, 10.0))) == pytest.approx(0)  # a constant more
    even = prediction([(1, 0, 1)], (0.0, 0.0))
    by_hand = (1 * math.log2(1 / 0.75) + 0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25)) / 2
    assert saliency_distance(left, even) == pytest.approx(by_hand)


def sweep_of(model, samples, size=3):
    return run_sweep(model, samples.planned(size), conditions_of(share=True))


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_the_four_forwards_are_those_of_the_model_on_changed_features(gating_type):
    model = small_model(gating_type)
    samples = samples_of(*small_data(queries_per_video=2))
    run = sweep_of(model, samples)
    videos = {query.vid: samples.reader.read(query).video[:, :-2] for query in samples.queries}
    mean = np.concatenate(list(videos.values())).astype(np.float64).mean(axis=0).astype(np.float32)

    def off(site, gate):
        return torch.zeros_like(gate) if site.kind == "attention" else gate

    for positions, batch in samples.planned(1).read_batches():
        still = batch["src_vid"].clone()
        still[..., :-2] = torch.from_numpy(mean)
        for name, video, edit in (
            (BASELINE, batch["src_vid"], None),
            (ATTENTION_OFF, batch["src_vid"], off),
            (MEAN_VIDEO, still, None),
            (NEITHER, still, off),
        ):
            with torch.no_grad():
                outputs = model({**batch, "src_vid": video}, gate_edit=edit)
            raw = run.raw[name][positions[0]]
            np.testing.assert_allclose(raw.span_cxw, outputs["pred_spans"][0], atol=1e-5)
            np.testing.assert_allclose(raw.score, outputs["pred_logits"].softmax(-1)[0, :, 0], atol=1e-5)


def test_shares_are_the_shapley_values_of_audio_and_video_whatever_the_batch_size():
    model = small_model("clipwise")
    samples = samples_of(*small_data())
    run = sweep_of(model, samples)
    shares = input_shares(run)
    before = run.raw[BASELINE]
    for i in range(len(before)):
        worth = {
            who: slot_distance(before[i], run.raw[name][i])
            for who, name in (("A", ATTENTION_OFF), ("V", MEAN_VIDEO), ("AV", NEITHER))
        }
        # What going away of the audio costs, alone and after the video has gone, each order half the time.
        by_hand = (worth["A"] + worth["AV"] - worth["V"]) / 2
        assert shares.phi_audio[i] == pytest.approx(by_hand)
        assert shares.phi_audio[i] + shares.phi_video[i] == pytest.approx(worth["AV"])
        moved = worth["AV"] > LEAST_MOVED
        assert np.isnan(shares.share[i]) != moved
    alone = input_shares(sweep_of(model, samples, size=1))
    np.testing.assert_allclose(alone.phi_audio, shares.phi_audio, atol=1e-5)
    section = json.loads(json.dumps(audio_share(run), allow_nan=False))
    assert section["readings"]["windows"]["n"] + section["readings"]["windows"]["n_unmoved"] == len(before)
    assert list(share_columns(section)["audio_share"]) == [query.qid for query in samples.queries]


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_a_rewrite_of_the_weights_that_changes_no_prediction_leaves_share_and_injection(gating_type):
    def shares_of(model):
        run = sweep_of(model, samples)
        return input_shares(run).share, run.baseline.injection, run

    model = small_model(gating_type)
    samples = samples_of(*small_data())
    share, injection, run = shares_of(model)
    plain = plain_injection(model, samples)
    rewrite(model, 3.0)
    share_after, injection_after, run_after = shares_of(model)
    for one, other in zip(run.raw[BASELINE], run_after.raw[BASELINE], strict=True):
        np.testing.assert_allclose(one.span_cxw, other.span_cxw, atol=1e-5)
    np.testing.assert_allclose(share_after, share, atol=1e-4)
    np.testing.assert_allclose(injection_after, injection, rtol=1e-3)
    assert plain_injection(model, samples) < 0.5 * plain  # what is not centred falls for no reason


def rewrite(model, constant):
    """Let the constant stand in the video before layer 0, where every norm and the gates' MLPs remove it, and go after."""
    with torch.no_grad():
        model.input_vid_proj[-1].net[1].bias += constant
        layer = model.fusion.fusion_layers[0]
        for mlp in (layer.gating_function.mlp_mha, layer.gating_function.mlp_ffn):
            first = mlp[0]
            of_video = first.weight[:, : model.fusion.hidden_dim]
            first.bias -= constant * of_video.sum(dim=1)
        layer.ffn2[-1].bias -= constant


def plain_injection(model, samples):
    """Return |g * branch| / |residual| of layer 0's attention gate, not centred, the mean over the first batch."""
    _, batch = next(samples.planned(3).read_batches())
    with torch.no_grad():
        projected = model.project(
            *(batch[key] for key in ("src_txt", "src_txt_mask", "src_vid", "src_vid_mask", "src_aud"))
        )
        layer = model.fusion.fusion_layers[0]
        gate, _ = layer.gating_function(projected.video, projected.audio)
        added = (gate * layer.audio_branch(projected.audio)).norm(dim=-1)
        return float((added / projected.video.norm(dim=-1)).mean())


def test_the_demo_gives_the_useful_videos_a_share_and_the_others_none(tmp_path):
    out = tmp_path / "out"
    assert run_gate_analysis.main(["--demo", "--no_figures", "--quiet", "--output_dir", str(out)]) == 0
    truth = read_truth(demo("native").data_path.parent)
    samples = json.loads((out / "audio_share.json").read_text())["samples"]
    useful = [truth[one["qid"]].audio == "useful" for one in samples]
    for reading in ("windows", "saliency"):
        share = np.array([one[reading]["share"] for one in samples])
        assert auc(share.tolist(), useful) > 0.98, reading
        assert abs(share[~np.array(useful)].mean()) < 0.05 < 0.3 < share[useful].mean(), reading
    with (out / "samples.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [float(row["audio_share"]) for row in rows] == pytest.approx(
        [one["windows"]["share"] for one in samples], rel=1e-5
    )


def test_no_effects_leaves_the_share_and_the_gates_off_out(tmp_path):
    out = tmp_path / "out"
    flags = ["--demo", "--no_figures", "--quiet", "--no_effects", "--max_samples", "3", "--output_dir", str(out)]
    assert run_gate_analysis.main(flags) == 0
    assert not {"audio_share.json", "audio_help.json", "interventions.json"} & {path.name for path in out.iterdir()}
    assert "audio_share" not in (out / "samples.csv").read_text()
