"""adapt_legacy_model(record_only=True): gates of a model that nothing is proven of, which stays as it is."""

import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn

from gate_analysis_utils import GateAnalyzer
from legacy_model_adapter import adapt_legacy_model
from qd_detr.gates.errors import CheckpointError, RequestError
from qd_detr.gates.results import drawing
from tests.test_adapter import ForeignFusion, ForeignModel, filled

pytestmark = pytest.mark.usefixtures("one_thread")
B, L, D = 3, 6, 8


class SigmoidGate(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form
        width = D if form == "elementwise" else 1
        self.mlp_mha = nn.Sequential(nn.Linear(2 * D, 4), nn.ReLU(), nn.Linear(4, width))
        self.mlp_ffn = nn.Sequential(nn.Linear(2 * D, 4), nn.ReLU(), nn.Linear(4, width))

    def forward(self, v, a):
        joint = torch.cat((v, a), -1)
        if self.form in ("global", "flat"):
            joint = joint.mean(1, keepdim=self.form == "global")
        return 2 * torch.sigmoid(self.mlp_mha(joint)), 2 * torch.sigmoid(self.mlp_ffn(joint))


class Layer(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.gating_function = SigmoidGate(form)
        self.a_proj, self.ffn1 = nn.Linear(D, D), nn.Linear(D, D)


class Fusion(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.fusion_layers = nn.ModuleList(Layer(form) for _ in range(2))

    def forward(self, *args):
        raise AssertionError("this fusion is never called itself")


class OwnModel(nn.Module):
    """Goes through the fusion's layers by itself, for the video and then for the video of another sample."""

    def __init__(self, form="clipwise"):
        super().__init__()
        torch.manual_seed(1)
        self.fusion = Fusion(form)
        self.head = nn.Linear(D, 2)

    def fused(self, v, a):
        for layer in self.fusion.fusion_layers:
            heard, refined = (g[:, None] if g.dim() == 2 else g for g in layer.gating_function(v, a))
            v = v + heard * layer.a_proj(a)
            v = v + refined * layer.ffn1(v)
        return v

    def forward(self, v, a):
        return self.head(self.fused(v, a)), self.head(self.fused(v.roll(1, 0), a))


def inputs(seed=0):
    return torch.randn(2, B, L, D, generator=torch.Generator().manual_seed(seed)).unbind()


def gates_by_hand(model, v, a):
    """Return the gates (2 kinds, 2 layers, B, n, C) of one pass, written out."""
    found = []
    with torch.no_grad():
        for layer in model.fusion.fusion_layers:
            gate = layer.gating_function
            joint = torch.cat((v, a), -1)
            joint = joint.mean(1, keepdim=True) if gate.form in ("global", "flat") else joint
            pair = []
            for mlp in (gate.mlp_mha, gate.mlp_ffn):
                raw = mlp[2](mlp[0](joint).clamp(min=0))
                pair.append(2 / (1 + (-raw).exp()))
            found.append(torch.stack(pair))
            v = v + pair[0] * layer.a_proj(a)
            v = v + pair[1] * layer.ffn1(v)
    return torch.stack(found, 1).numpy()


def recorded(entry):
    return np.stack([entry["attention_gates"], entry["ffn_gates"]])


@pytest.mark.parametrize("form", ["flat", "global", "clipwise", "elementwise"])
def test_the_gates_of_the_first_call_are_recorded_and_the_model_stays_as_it_is(form):
    model = OwnModel(form)
    modules, keys, before = list(model.modules()), list(model.state_dict()), model(*inputs())
    assert adapt_legacy_model(model, record_only=True) is model
    tracker = model.avigate_fusion
    assert all(torch.equal(x, y) for x, y in zip(before, model(*inputs()), strict=True))
    assert not tracker.gate_history
    tracker.enable_gate_tracking()
    tracker.set_current_sample_id([7, 8, 9])
    assert all(torch.equal(x, y) for x, y in zip(before, model(*inputs()), strict=True))
    assert all(x is y for x, y in zip(modules, model.modules(), strict=True))
    assert list(model.state_dict()) == keys
    expected = gates_by_hand(model, *inputs())
    for b, sample_id in enumerate([7, 8, 9]):
        entry = tracker.gate_history[sample_id]
        np.testing.assert_allclose(recorded(entry), expected[:, :, b : b + 1], rtol=1e-5)
        assert entry.valid_lengths.tolist() == [L]
        assert not entry.injection
    assert tracker.gating_type == ("global" if form == "flat" else form)
    assert (tracker.num_layers, tracker.gate_range, tracker.has_injection) == (2, None, False)
    assert tracker.hidden_dim == D
    assert tracker.get_gate_statistics(8)[8]["attention_stats"][1]["mean"] == pytest.approx(expected[0, 1, 1].mean())


def test_every_call_counts_as_a_layer_of_its_own_when_asked():
    model = adapt_legacy_model(OwnModel(), record_only=True)
    tracker = model.avigate_fusion
    tracker.every_call = True
    tracker.enable_gate_tracking()
    tracker.set_current_sample_id("batch")
    v, a = inputs()
    model(v, a)
    expected = np.concatenate([gates_by_hand(model, v, a), gates_by_hand(model, v.roll(1, 0), a)], axis=1)
    np.testing.assert_allclose(recorded(tracker.gate_history["batch"]), expected, rtol=1e-5)
    assert tracker.num_layers == 4


def test_the_analysis_of_what_was_recorded_is_written(tmp_path):
    model = adapt_legacy_model(OwnModel(), record_only=True)
    tracker = model.avigate_fusion
    tracker.enable_gate_tracking()
    expected = []
    for step in range(2):
        tracker.set_current_sample_id([10 * step + b for b in range(B)])
        model(*inputs(step))
        expected.append(gates_by_hand(model, *inputs(step)))
    report = GateAnalyzer(model).analyze_all_samples(tmp_path / "out")
    assert (
        f"clipwise gating, 2 layers, hidden size {D}, gates in a range the gating function does not"
        in report.read_text()
    )
    header, *rows = (tmp_path / "out" / "samples.csv").read_text().splitlines()
    assert len(rows) == 2 * B
    assert "injection" not in header
    column = header.split(",").index("layer1_attention_mean")
    means = np.concatenate(expected, axis=2)[0, 1].mean(axis=(1, 2))
    assert [float(row.split(",")[column]) for row in rows] == pytest.approx(means.tolist(), rel=1e-4)
    assert list((tmp_path / "out").rglob("*.png"))
    tracker.save_gate_analysis(tmp_path / "one", 0)
    assert (tmp_path / "one" / "gate_analysis_0.png").is_file()


def test_layers_of_unknown_range_share_the_bins_of_one_figure():
    """With fewer bins than the figure's, a layer's counts were once laid on bins that are not theirs."""
    low = {"edges": [0.0, 1.0, 2.0], "counts": [3, 1]}
    high = {"edges": [2.0, 3.0, 4.0], "counts": [0, 5]}
    edges, counts = drawing._common([low, high])
    assert (edges[0], edges[-1], counts.shape) == (0.0, 4.0, (2, 128))
    filled = [{float(edges[i]): int(row[i]) for i in np.flatnonzero(row)} for row in counts]
    assert filled == [{0.5: 3, 1.5: 1}, {3.5: 5}]


def test_what_needs_a_proven_fusion_is_refused_by_name():
    model = adapt_legacy_model(OwnModel(), record_only=True)
    tracker = model.avigate_fusion
    for refused in (
        lambda: tracker.enable_gate_tracking(injection=True),
        lambda: tracker.fuse(*inputs()),
        lambda: tracker.switch_gating_type("global"),
        lambda: adapt_legacy_model(OwnModel(), "global", record_only=True),
    ):
        with pytest.raises(RequestError, match="adapted with record_only=True"):
            refused()
    with pytest.raises(AttributeError, match="once a forward has been recorded"):
        _ = tracker.facts
    assert adapt_legacy_model(model, record_only=True).avigate_fusion is tracker


def test_models_without_gates_with_two_fusions_or_with_the_name_taken_are_left_alone():
    with pytest.raises(CheckpointError, match="no gating function in this Linear"):
        adapt_legacy_model(nn.Linear(2, 2), record_only=True)
    two = OwnModel()
    two.second = Fusion("clipwise")
    with pytest.raises(CheckpointError, match=r"2 AVIGATE fusions .*fusion\., second\."):
        adapt_legacy_model(two, record_only=True)
    taken = OwnModel()
    taken.avigate_fusion = taken.fusion
    with pytest.raises(CheckpointError, match="which record_only would hide"):
        adapt_legacy_model(taken, record_only=True)
    assert not any(module._forward_hooks for model in (two, taken) for module in model.modules())


def test_a_copy_records_for_itself_and_calls_outside_the_model_are_told(caplog):
    model = adapt_legacy_model(OwnModel(), record_only=True)
    model.avigate_fusion.enable_gate_tracking()
    other = copy.deepcopy(model)
    other.avigate_fusion.set_current_sample_id("copied")
    other(*inputs())
    assert list(other.avigate_fusion.gate_history) == ["copied"]
    assert not model.avigate_fusion.gate_history
    with caplog.at_level(logging.WARNING):
        model.fused(*inputs())
    assert "outside a forward of the adapted model" in caplog.text
    assert not model.avigate_fusion.gate_history


def test_a_fusion_replaced_by_a_tracked_one_that_the_model_goes_around_is_told_once(caplog):
    class GoesAround(ForeignModel):
        def forward(self, v, a, mask):
            for layer in self.audio_visual_mixer.fusion_layers:
                v = layer(v, a, None)
            return self.after(v)

    v, a, mask = torch.randn(2, 4, 16), torch.randn(2, 4, 16), torch.ones(2, 4)
    around, through = (adapt_legacy_model(filled(model(ForeignFusion()))) for model in (GoesAround, ForeignModel))
    through(v, a, mask)
    assert not caplog.text
    around(v, a, mask)
    around(v, a, mask)
    assert caplog.text.count("adapt_legacy_model(model, record_only=True)") == 1


def test_a_forward_that_cannot_be_recorded_says_why():
    model = adapt_legacy_model(OwnModel(), record_only=True)
    model.avigate_fusion.enable_gate_tracking()
    model.avigate_fusion.set_current_sample_id([1, 2])
    with pytest.raises(ValueError, match="2 sample ids are set, but the batch has 3"):
        model(*inputs())
    model.avigate_fusion.set_current_sample_id("a")
    model(*inputs())
    del model.fusion.fusion_layers[1]
    with pytest.raises(RequestError, match=r"other gating functions than the first one recorded"):
        model(*inputs())
    gate = model.fusion.fusion_layers[0].gating_function
    gate.forward = lambda v, a: (torch.ones(B, L, 1),) * 3
    with pytest.raises(RequestError, match=r"layers\.0\.gating_function returns 3 values"):
        model(*inputs())
    gate.forward = lambda v, a: (torch.ones(B, L, L, 1),) * 2
    with pytest.raises(RequestError, match=r"returns a gate \(3, 6, 6, 1\)"):
        model(*inputs())


def compiled_by_itself(model):
    for layer in model.fusion.fusion_layers:
        layer.gating_function = torch.compile(layer.gating_function, backend="eager")
    return model


def compiled_fusion(model):
    model.fusion = torch.compile(model.fusion, backend="eager")
    return model


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def test_gates_of_compiled_gating_functions_are_recorded_and_those_inside_a_compiled_module_refused_by_name():
    model = compiled_by_itself(OwnModel())
    model(*inputs())
    tracker = adapt_legacy_model(model, record_only=True).avigate_fusion
    tracker.enable_gate_tracking()
    tracker.set_current_sample_id("batch")
    model(*inputs())
    np.testing.assert_allclose(recorded(tracker.gate_history["batch"]), gates_by_hand(OwnModel(), *inputs()), rtol=1e-5)
    for compile_it, named in [
        (compiled_fusion, "fusion is compiled"),
        (compiled_in_place, "the model itself is compiled"),
        (lambda model: torch.compile(model, backend="eager"), "the model itself is compiled"),
    ]:
        with pytest.raises(CheckpointError, match=f"{named} .torch.compile.*what was compiled before calls no hook"):
            adapt_legacy_model(compile_it(OwnModel()), record_only=True)
