"""The audio timeline: contributions that sum to the effect, in the right clips, whatever runs beside them."""

import csv
import json

import numpy as np
import pytest
import torch

import run_gate_analysis
from qd_detr.gates.analysis.planted_truth import auc
from qd_detr.gates.analysis.timeline import timeline_section
from qd_detr.gates.data.batches import collate
from qd_detr.gates.data.demo import demo
from qd_detr.gates.planted import read_truth
from qd_detr.gates.runs.contributions import AudioPath, bound_of, contributions, weighted_overlap
from qd_detr.gates.runs.inference import PassSettings, run_pass
from qd_detr.gates.runs.interventions.binding import BatchFacts, bind
from qd_detr.gates.runs.interventions.edits import Edit, Intervention
from qd_detr.gates.runs.interventions.plans import plan_of
from qd_detr.gates.runs.parts import Parts
from qd_detr.gates.runs.timeline import FRACTIONS, TimelineSettings, run_timeline
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.wording import Reason
from tests.fusion_facts import facts as fusion_facts
from tests.intervention_cases import GATING_TYPES, samples_of, small_data, small_model

WINDOWS = torch.tensor([[0.1, 0.6], [0.7, 0.9]])


def path_of(model, samples, position=0):
    query = samples.queries[position]
    return AudioPath(model, collate([(query, samples.reader.read(query))]))


def test_the_target_is_the_mean_best_overlap_of_the_slots_weighted_by_score():
    score = torch.tensor([[0.6, 0.2]])
    spans = torch.tensor([[[0.1, 0.35], [0.6, 0.9]]])
    # Slot 0 is half of the first window, slot 1 holds the second, two thirds of it.
    assert weighted_overlap(score, spans, WINDOWS).tolist() == [pytest.approx((0.6 * 0.5 + 0.2 * 2 / 3) / 0.8)]


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_contributions_are_the_integral_of_slopes_by_finite_differences(gating_type):
    """Slopes taken by differences of plain forwards, in double precision, of a path cut finely."""
    model = small_model(gating_type).double()
    path = path_of(model, samples_of(*small_data()))
    (found,) = contributions(path, [WINDOWS.double()])
    shape, points, step = (2, 6), 100, 1e-5
    slow = np.zeros(shape)
    for a in (np.arange(points) + 0.5) / points:
        scales = np.full((2 * 12, *shape), a)
        for i in range(12):
            scales[2 * i][np.unravel_index(i, shape)] += step
            scales[2 * i + 1][np.unravel_index(i, shape)] -= step
        values = path.values(scales, [WINDOWS.double()])[:, 0].reshape(12, 2)
        slow += ((values[:, 0] - values[:, 1]) / (2 * step)).reshape(shape) / points
    assert np.abs(slow).max() > 1e-3  # there is something to find
    np.testing.assert_allclose(found.values, slow, atol=found.bound)
    assert found.complete
    assert found.bound == bound_of(found.effect)


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_the_path_leads_from_gates_off_to_the_model_as_it_is(gating_type):
    model, samples = small_model(gating_type), samples_of(*small_data())
    query = samples.queries[0]
    batch = collate([(query, samples.reader.read(query))])
    path = AudioPath(model, batch)
    (found,) = contributions(path, [WINDOWS])
    plan = plan_of(Intervention("off", (Edit("scale", 0.0, None, ("attention",)),)), fusion_facts(gating_type, 2))
    off = bind(plan, BatchFacts([query.qid], [query.vid], batch["src_vid_mask"]))
    for edit, value in ((None, found.with_audio), (off, found.without_audio)):
        with torch.no_grad():
            outputs = model(batch, gate_edit=edit)
        centre, width = outputs["pred_spans"].unbind(-1)
        spans = torch.stack([centre - width / 2, centre + width / 2], dim=-1)
        score = outputs["pred_logits"].softmax(-1)[..., 0]
        assert float(weighted_overlap(score, spans, WINDOWS)) == pytest.approx(value, abs=1e-6)


def timelines_of(model, samples, size, **settings):
    samples = samples.planned(size)
    history = GateHistory()
    for results in run_pass(model, samples, PassSettings()):
        history.update((result.query.qid, result.gates) for result in results)
    return list(run_timeline(model, samples, range(len(samples)), history, TimelineSettings(**settings)))


def test_a_timeline_of_another_form_is_made_again_though_its_sum_holds(tmp_path):
    model, samples = small_model("clipwise"), samples_of(*small_data())
    parts = Parts([tmp_path], "timelines", "key")
    whole = timelines_of(model, samples, 3, parts=parts)
    (piece,) = parts.found("000000")
    values = piece["target.prediction"]
    for change in (
        {"target.prediction": values[:, :1]},
        {"target.prediction": values.astype(str)[0]},
        {"facts.prediction": np.zeros(2)},
        {"forwards": np.array("many")},
        {"occlusion": np.zeros(1)},
    ):
        parts.put("000000", {**piece, **change})
        again = timelines_of(model, samples, 3, parts=parts)
        np.testing.assert_array_equal(again[0].targets["prediction"].values, whole[0].targets["prediction"].values)
        assert again[0].forwards == whole[0].forwards
        np.testing.assert_array_equal(again[0].occlusion, whole[0].occlusion)


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_timelines_do_not_depend_on_batches_and_know_no_padding(gating_type):
    model, samples = small_model(gating_type), samples_of(*small_data())
    training = model.train()
    together, alone = timelines_of(training, samples, 5), timelines_of(training, samples, 1)
    assert training.training
    for one, other, n in zip(together, alone, samples.clip_counts, strict=True):
        assert list(one.targets) == ["prediction", "annotation"]
        for target in one.targets:
            assert one.targets[target].values.shape == (2, n)
            np.testing.assert_allclose(one.targets[target].values, other.targets[target].values, atol=1e-5)
        orders = {"contributions", "injection", "random"} | (set() if gating_type == "global" else {"gates"})
        assert set(one.curves) == orders


def test_a_path_of_padded_clips_is_refused(tiny_model, tiny_batch):
    with pytest.raises(ValueError, match="one sample without padding"):
        AudioPath(tiny_model(), tiny_batch(clips=(5, 3)))


def test_a_closed_gate_contributes_nothing_and_an_order_is_followed():
    model, samples = small_model("clipwise"), samples_of(*small_data())
    with torch.no_grad():
        for layer in model.fusion.fusion_layers:
            layer.out_proj.weight.zero_()
            layer.out_proj.bias.zero_()
    section = timeline_section(timelines_of(model, samples, 3), 2.0, seed=0)
    assert section["targets"]["prediction"]["mean_size"] < 1e-6
    assert section["moments"] == {
        "applies": False,
        "reason": Reason("timeline.no_moments"),
    }
    assert section["occlusion"] is None

    model = small_model("clipwise")
    one = timelines_of(model, samples, 3)[0]
    order = np.argsort(-one.targets["prediction"].values.sum(axis=0))
    scales = np.ones((1, 2, 6))
    scales[:, :, order[:3]] = 0
    path = path_of(model, samples)
    assert one.curves["contributions"][FRACTIONS.index(0.5)] == pytest.approx(
        path.values(scales, [path.first_window()])[0, 0], abs=1e-6
    )


def test_the_demo_shows_the_event_and_its_lookalike_better_than_injection_does(tmp_path):
    out = tmp_path / "out"
    truth = read_truth(demo("native").data_path.parent)
    useful = [qid for qid, video in truth.items() if video.audio == "useful" and video.split == "val"][:5]
    flags = ["--demo", "--timeline", "--no_figures", "--save_raw_data", "--quiet", "--output_dir", str(out)]
    assert run_gate_analysis.main([*flags, "--analyze_samples", *map(str, useful)]) == 0
    section = json.loads((out / "timeline.json").read_text())
    arrays = np.load(out / "timeline.npz")
    assert section["targets"]["prediction"]["n_complete"] == len(useful)
    by_contributions, by_injection = [], []
    for i, one in enumerate(section["samples"]):
        video = truth[one["qid"]]
        found = arrays["prediction"][:, arrays["offsets"][i] : arrays["offsets"][i + 1]]
        assert found.sum() == pytest.approx(
            one["targets"]["prediction"]["effect"] + one["targets"]["prediction"]["residual"], abs=1e-5
        )
        decides = np.zeros(video.clips, bool)
        for start, end in (video.window, video.lookalike):
            decides[start // 2 : end // 2] = True
        injection = [np.load(out / f"raw_data/{one['qid']}_layer{layer}_injection.npy")[0] for layer in (0, 1)]
        by_contributions.append(auc(np.abs(found).sum(axis=0).tolist(), decides.tolist()))
        by_injection.append(auc(np.mean(injection, axis=0).tolist(), decides.tolist()))
    assert np.mean(by_contributions) > 0.9
    assert np.mean(by_contributions) > np.mean(by_injection) + 0.1
    with (out / "samples.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [int(row["timeline_complete"]) for row in rows] == [1] * len(useful)
    assert [float(row["timeline_peak_s"]) for row in rows] == [one["peak_s"] for one in section["samples"]]
