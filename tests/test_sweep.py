"""Many conditions in one pass: equal to running each by itself, and to an independent slow implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qd_detr.gates.commands.certify.reference import Reference
from qd_detr.gates.data.annotations import read_annotations
from qd_detr.gates.data.feature_layout import FeatureFolders, FeatureSpec
from qd_detr.gates.data.samples import check_samples
from qd_detr.gates.runs.inference import PassSettings, run_pass
from qd_detr.gates.runs.interventions.binding import BatchFacts, bind
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, AUDIO_MODES, conditions_of, standard_sweep
from qd_detr.gates.runs.interventions.edits import Edit, Intervention
from qd_detr.gates.runs.interventions.plans import plan_of
from qd_detr.gates.runs.interventions.recorded import RecordedGates
from qd_detr.gates.runs.interventions.results import compact_line, submission_line
from qd_detr.gates.runs.interventions.sweep import SweepSettings, run_sweep
from qd_detr.gates.runs.parts import Parts
from qd_detr.gates.runs.postprocess import PostprocessingOptions, submission_lines
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.weights.checkpoint import build_model, read_checkpoint, resolve
from tests.fusion_facts import facts as fusion_facts
from tests.intervention_cases import GATING_TYPES, MemoryReader, samples_of, small_data, small_model

SHARED = Path(__file__).resolve().parents[2] / "shared"
BY_CHANCE = [
    Intervention("shuffled", (Edit("shuffle", seed=3),)),
    Intervention("swapped", (Edit("swap", None, (1,), ("attention",), 4),)),
    Intervention("dataset mean", (Edit("mean", "dataset", None, ("attention",)),)),
    Intervention("sample mean", (Edit("mean", "sample"),)),
    Intervention("several", (Edit("clamp", (-0.25, 0.5)), Edit("scale", 2.0, (0,)), Edit("set", 0.5, (1,), ("ffn",)))),
]


def sweep_of(model, index, reader, conditions, size=3, **more):
    return run_sweep(model, samples_of(index, reader, size), conditions, SweepSettings(**more))


def same_lines(a, b):
    return all(
        x["qid"] == y["qid"]
        and np.array_equal(x["pred_relevant_windows"], y["pred_relevant_windows"])
        and np.array_equal(x["pred_saliency_scores"], y["pred_saliency_scores"])
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_every_condition_gives_what_it_gives_run_by_itself_to_the_bit(gating_type):
    model = small_model(gating_type, layers=3)
    index, reader = small_data()
    interventions = [*standard_sweep(fusion_facts(num_layers=3)), *BY_CHANCE]
    run = sweep_of(model, index, reader, conditions_of(interventions))
    history = GateHistory()
    for results in run_pass(model, samples_of(index, reader), PassSettings()):
        history.update((result.query.qid, result.gates) for result in results)
    recorded = RecordedGates(history, index.queries)
    assert run.positions == list(range(len(index.queries)))
    for intervention in interventions:
        plan = plan_of(intervention, fusion_facts(gating_type, 3))
        lines = {}
        for positions, batch in samples_of(index, reader).read_batches():
            facts = BatchFacts(batch["qid"], batch["vid"], batch["src_vid_mask"])
            with torch.inference_mode():
                outputs = model(batch, gate_edit=bind(plan, facts, recorded))
            queries = [index.queries[p] for p in positions]
            lines |= zip(positions, submission_lines(queries, outputs, PostprocessingOptions()), strict=True)
        alone = [compact_line(lines[p]) for p in run.positions]
        assert same_lines(run.lines_of(intervention.name), alone), intervention.name


def test_the_baseline_is_the_main_runs_prediction_and_its_gates_are_the_recorded_ones():
    model = small_model("clipwise")
    index, reader = small_data()
    history, lines = GateHistory(), {}
    for results in run_pass(model, samples_of(index, reader), PassSettings()):
        lines |= {result.position: result.line for result in results}
        history.update((result.query.qid, result.gates) for result in results)
    run = sweep_of(model, index, reader, conditions_of())
    found = [submission_line(query, line) for query, line in zip(run.queries, run.lines_of("baseline"), strict=True)]
    assert found == [lines[p] for p in run.positions]
    for i, query in enumerate(run.queries):
        for layer in range(2):
            gates, injection = (history[query.qid][key][layer] for key in ("attention_gates", "attention_injection"))
            np.testing.assert_allclose(run.baseline.magnitude[i, layer, 0], np.abs(gates).mean(), rtol=1e-5)
            np.testing.assert_allclose(run.baseline.injection[i, layer, 0], injection.mean(), rtol=1e-5)
    assert not run.baseline.change.any()


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_legacy_batches_give_the_legacy_baseline_and_leave_padding_out_of_the_figures(gating_type):
    model = small_model(gating_type)
    index, reader = small_data()
    samples = samples_of(index, reader).planned(4, mixed_lengths=True)
    history, lines = GateHistory(), {}
    for results in run_pass(model, samples, PassSettings(legacy_batches=True)):
        lines |= {result.position: compact_line(result.line) for result in results}
        history.update((result.query.qid, result.gates) for result in results)
    run = run_sweep(model, samples, conditions_of(BY_CHANCE, ["shuffle"]), SweepSettings(legacy_batches=True))
    assert same_lines(run.lines_of("baseline"), [lines[p] for p in run.positions])
    for i, query in enumerate(run.queries):
        for layer in range(2):
            gates = history[query.qid]["attention_gates"][layer]
            np.testing.assert_allclose(run.baseline.magnitude[i, layer, 0], np.abs(gates).mean(), rtol=1e-5)


def test_gate_figures_are_those_after_the_intervention():
    model = small_model("clipwise")
    index, reader = small_data()
    run = sweep_of(model, index, reader, conditions_of([Intervention("half", (Edit("scale", 0.5, (0,)),))]))
    half, base = run.gates_of("half"), run.baseline
    np.testing.assert_allclose(half.magnitude[:, 0], base.magnitude[:, 0] / 2, rtol=1e-5)
    np.testing.assert_allclose(half.change[:, 0], base.magnitude[:, 0] / 2, rtol=1e-5)
    assert (half.change[:, 1] > 0).all()  # layer 1 answers to the changed video


def test_layers_below_the_intervened_one_run_once_and_equal_conditions_are_not_run_again():
    model = small_model("clipwise", layers=3)
    index, reader = small_data(clip_counts=(6, 6))
    calls = {"layer 0": 0, "layer 1": 0, "layer 2": 0, "audio": 0, "text": 0, "heads": 0}
    places = {f"layer {i}": layer.norm4 for i, layer in enumerate(model.fusion.fusion_layers)}
    places |= {"audio": model.input_aud_proj, "text": model.input_txt_proj, "heads": model.class_embed}
    for name, module in places.items():
        module.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    run = sweep_of(model, index, reader, conditions_of(standard_sweep(fusion_facts(num_layers=3))))
    # Distinct at layer 0: as it is, attention off (alone, with all), FFN off (alone, with all), three doses, flipped.
    # At layer 1: those 7, and of layer 0 as it is two more, of attention off and FFN off one more each. And so on.
    assert calls == {"layer 0": 7, "layer 1": 11, "layer 2": 13, "audio": 1, "text": 1, "heads": 13}
    assert len(run.conditions) == 15
    assert len(run.lines) == 13
    assert run.lines_of("attention gates x 1") is run.lines_of("baseline")


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_results_do_not_depend_on_the_batch_size(gating_type):
    model = small_model(gating_type).double()  # so that nothing lies on a rounding edge
    index, reader = small_data()
    conditions = conditions_of([*standard_sweep(fusion_facts(num_layers=2)), *BY_CHANCE], list(AUDIO_MODES), seed=1)
    runs = [sweep_of(model, index, reader, conditions, size) for size in (1, 2, 7)]
    for name in runs[0].lines:
        for other in runs[1:]:
            assert same_lines(runs[0].lines[name], other.lines[name]), name
            for figure in ("magnitude", "change"):
                here, there = (getattr(run.gates[name], figure) for run in (runs[0], other))
                np.testing.assert_allclose(here, there, atol=1e-6)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    model = small_model("clipwise")
    index, reader = small_data()
    runs = [
        sweep_of(model, index, reader, conditions_of([Intervention("s", (Edit("shuffle", seed=s),))], ["shift"], s))
        for s in (1, 1, 2)
    ]
    for name in ("s", "audio shift"):
        first, again, other = (run.gates_of(name).change for run in runs)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_what_was_recorded_before_is_taken_and_otherwise_a_first_pass_records_it():
    model = small_model("clipwise")
    index, reader = small_data()
    history = GateHistory()
    for results in run_pass(model, samples_of(index, reader), PassSettings()):
        history.update((result.query.qid, result.gates) for result in results)
    conditions = conditions_of(BY_CHANCE)
    given, own = (sweep_of(model, index, reader, conditions, history=h) for h in (history, None))
    assert all(same_lines(given.lines[name], own.lines[name]) for name in own.lines)
    assert not model.fusion.track_gates
    assert len(model.fusion.gate_history) == 0


def test_a_sweep_that_fails_leaves_the_model_as_it_was():
    model = small_model("clipwise").train()
    index, reader = small_data()
    broken = MemoryReader(index, reader.features, broken=index.queries[-1].qid)
    for conditions in (
        conditions_of(standard_sweep(fusion_facts(num_layers=2))),
        conditions_of(BY_CHANCE, list(AUDIO_MODES)),
    ):
        with pytest.raises(OSError, match="cannot read"):
            sweep_of(model, index, broken, conditions)
        assert model.training
        assert not model.fusion.track_gates
    with pytest.raises(ValueError, match="begin with the baseline"):
        sweep_of(model, index, reader, conditions_of(standard_sweep(fusion_facts(num_layers=2)))[1:])


def test_progress_counts_every_sample_once():
    counted = []
    index, reader = small_data()
    sweep_of(small_model(), index, reader, conditions_of(BY_CHANCE), progress=counted.append)
    assert sum(counted) == len(index.queries)


# -- against the certificate's NumPy reference, which knows nothing of interventions ----------------------------------------


class ScaledReference(Reference):
    """The reference with every attention gate multiplied by `scale`."""

    def __init__(self, model, scale):
        super().__init__({key: value.numpy() for key, value in model.state_dict().items()}, model.architecture)
        self.scale = scale

    def _gates(self, name, v, a):
        gates = super()._gates(name, v, a)
        return {**gates, "attention": self.scale * gates["attention"]}


def fused_by(model, samples, conditions, monkeypatch):
    """Return {condition: {qid: fused (n, D)}} as the sweep hands it to the decoder."""
    found, decode = [], model.decode

    def watched(fused, projected, **more):
        found.append(fused.numpy().copy())
        return decode(fused, projected, **more)

    monkeypatch.setattr(model, "decode", watched)
    run = run_sweep(model, samples, conditions)
    names = list(run.lines)
    fused = {name: {} for name in names}
    for b, batch in enumerate(samples.batches):
        for name, values in zip(names, found[b * len(names) : (b + 1) * len(names)], strict=True):
            fused[name] |= {samples.queries[p].qid: values[i] for i, p in enumerate(batch)}
    return fused


def check_against_slow(model, samples, monkeypatch):
    off = Intervention(ATTENTION_OFF, (Edit("scale", 0.0, None, ("attention",)),))
    fused = fused_by(model, samples, conditions_of([off]), monkeypatch)
    slow = {"baseline": ScaledReference(model, 1.0), ATTENTION_OFF: ScaledReference(model, 0.0)}
    for position in sorted(p for batch in samples.batches for p in batch):
        query = samples.queries[position]
        features = samples.reader.read(query)
        arrays = [x.astype(np.float64) for x in (features.video, features.audio, features.text)]
        for name, reference in slow.items():
            np.testing.assert_allclose(fused[name][query.qid], reference._fused(*arrays)[0], rtol=0, atol=1e-9)
    return fused


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_attention_gates_off_equals_g_0_in_the_slow_implementation(gating_type, monkeypatch):
    model = small_model(gating_type, layers=3).double()
    index, reader = small_data()
    fused = check_against_slow(model, samples_of(index, reader), monkeypatch)
    assert all(np.abs(fused["baseline"][q.qid] - fused[ATTENTION_OFF][q.qid]).max() > 0.01 for q in index.queries)


@pytest.mark.skipif(not (SHARED / "legacy").is_dir(), reason="needs ../shared/legacy")
@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_on_a_legacy_checkpoint_attention_gates_off_equals_g_0_in_the_slow_implementation(gating_type, monkeypatch):
    checkpoint = read_checkpoint(SHARED / "legacy" / gating_type / "model_best.ckpt")
    settings = resolve(checkpoint)
    sample = SHARED / "qvhighlights_sample"
    folders = FeatureFolders(
        video=(sample / "slowfast_features", sample / "clip_features"),
        text=sample / "clip_text_features",
        audio=sample / "pann_features",
    )
    queries = read_annotations(sample / "highlight_val_sample.jsonl")[:4]
    samples = check_samples(queries, folders, FeatureSpec.from_options(settings.options, settings.architecture))
    model = build_model(checkpoint, settings).double()
    fused = check_against_slow(model, samples, monkeypatch)
    with np.load(SHARED / "legacy" / gating_type / "gates_batch1.npz") as recorded:  # what the legacy code itself gave
        for query in queries:
            assert np.abs(fused["baseline"][query.qid] - recorded[f"q{query.qid}_fused"].squeeze()).max() < 1e-3


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_queries_of_one_video_have_the_results_that_each_has_alone(gating_type, monkeypatch):
    model = small_model(gating_type)
    index, reader = small_data((6, 6, 5), queries_per_video=3)
    conditions = conditions_of(BY_CHANCE[1:], ["shuffle", "shift"], share=True)
    rows: list[int] = []
    fuse = model.fusion.fuse
    monkeypatch.setattr(
        model.fusion, "fuse", lambda video, *rest, **more: rows.append(len(video)) or fuse(video, *rest, **more)
    )
    together, alone = ({}, {})
    for size, found in ((6, together), (1, alone)):
        for results in run_pass(model, samples_of(index, reader, size), PassSettings()):
            found |= {result.query.qid: result for result in results}
    assert rows == [2, 1] + 9 * [1]
    for qid, result in together.items():
        for key, values in result.gates.arrays.items():
            np.testing.assert_allclose(values, alone[qid].gates.arrays[key], atol=1e-6)
        np.testing.assert_allclose(*(one.line["pred_saliency_scores"] for one in (result, alone[qid])), atol=2e-2)
    swept = [sweep_of(model, index, reader, conditions, size) for size in (6, 1)]
    for name in swept[0].raw:
        for one, other in zip(*(run.raw[name] for run in swept), strict=True):
            np.testing.assert_allclose(one.score, other.score, atol=1e-5)
            np.testing.assert_allclose(one.span_cxw, other.span_cxw, atol=1e-5)
    for name in swept[0].gates:
        np.testing.assert_allclose(swept[0].gates[name].change, swept[1].gates[name].change, atol=1e-6)


@pytest.mark.parametrize("queries_per_video", [1, 3])
def test_a_recorded_baseline_stands_for_running_it_again_to_the_bit(queries_per_video, monkeypatch):
    model = small_model("elementwise")
    index, reader = small_data((6, 6, 5, 6), queries_per_video)
    samples = samples_of(index, reader)
    conditions = conditions_of([*standard_sweep(fusion_facts()), *BY_CHANCE[1:]], ["shift"], share=True)
    history, baseline = GateHistory(), {}
    for results in run_pass(model, samples, PassSettings()):
        history.update((result.query.qid, result.gates) for result in results)
        baseline |= {result.position: result.raw for result in results}
    decoded = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda *args, **more: decoded.append(1) or decode(*args, **more))
    again = run_sweep(model, samples, conditions, SweepSettings(history=history))
    before = len(decoded)
    run = run_sweep(model, samples, conditions, SweepSettings(history=history, baseline=baseline))
    assert len(decoded) - before == before - len(samples.batches)
    for name, lines in again.lines.items():
        assert same_lines(run.lines[name], lines), name
        assert all(
            np.array_equal(getattr(one, key), getattr(other, key))
            for one, other in zip(run.raw[name], again.raw[name], strict=True)
            for key in ("score", "span_cxw", "saliency")
        )
    for name, gates in again.gates.items():
        for key, values in vars(gates).items():
            found = getattr(run.gates[name], key)
            assert (found is None and values is None) or np.array_equal(found, values, equal_nan=True), (name, key)


def forged(piece):
    """Return variants of a part that nobody's run wrote, though their sums hold."""
    array = "0.score"
    yield {name: one for name, one in piece.items() if name != array}
    yield {name: one for name, one in piece.items() if name != "positions"}
    yield {**piece, "positions": piece["positions"] + 1000}
    yield {**piece, "positions": piece["positions"].astype(str)}
    yield {**piece, array: np.full_like(piece[array], np.nan)}
    yield {**piece, array: piece[array][:, :1]}
    yield {**piece, array: piece[array].astype(str)}
    yield {**piece, "0.saliency": piece["0.saliency"][:1]}
    yield {**piece, "0.magnitude": piece["0.magnitude"][:, :1]}  # would spread over all layers


def test_a_part_of_another_form_is_made_again_though_its_sum_holds(tmp_path):
    model = small_model("clipwise")
    index, reader = small_data()
    conditions = conditions_of([Intervention("half", (Edit("scale", 0.5, (0,)),))])
    run = sweep_of(model, index, reader, conditions)
    place = tmp_path / "part"
    place.mkdir()
    sweep_of(model, index, reader, conditions, parts=Parts([place], "conditions", "key"))
    (folder,) = place.iterdir()
    name = sorted(folder.iterdir())[0].stem
    (piece,) = Parts([place], "conditions", "key").found(name)
    for other in forged(piece):
        Parts([place], "conditions", "key").put(name, other)
        again = sweep_of(model, index, reader, conditions, parts=Parts([place], "conditions", "key"))
        for condition in run.lines:
            assert same_lines(again.lines_of(condition), run.lines_of(condition))
        np.testing.assert_array_equal(again.baseline.magnitude, run.baseline.magnitude)
