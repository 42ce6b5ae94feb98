"""adapt_legacy_model on classes that the package has never seen, and load_legacy_model_with_gate_tracking.

The foreign classes below are written the way users write them: other names, other nesting, other ways of computing.
"""

import copy
import logging
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn

from legacy_model_adapter import adapt_legacy_model, load_legacy_model_with_gate_tracking
from qd_detr.gates.errors import CheckpointError, RequestError
from qd_detr.gates.fusion import AVIGATEFusionCustom

pytestmark = pytest.mark.usefixtures("one_thread")
GATING = pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
D, H = 16, 2


class ForeignGate(nn.Module):
    def __init__(self, kind, tanh_inside=False, squash=torch.tanh):
        super().__init__()
        self.kind, self.tanh_inside, self.squash = kind, tanh_inside, squash
        width = D if kind == "elementwise" else 1
        tail = [nn.Tanh()] if tanh_inside else []
        self.mlp_mha = nn.Sequential(nn.Linear(2 * D, D // 2), nn.ReLU(), nn.Linear(D // 2, width), *tail)
        self.mlp_ffn = nn.Sequential(nn.Linear(2 * D, D // 2), nn.ReLU(), nn.Linear(D // 2, width), *tail)

    def forward(self, v, a):
        if self.kind == "global":
            joint = torch.cat((v.mean(1, keepdim=True), a.mean(1, keepdim=True)), -1)
        else:
            joint = torch.cat((v, a), -1)
        gates = self.mlp_mha(joint), self.mlp_ffn(joint)
        return gates if self.tanh_inside else tuple(self.squash(g) for g in gates)


class ForeignLayer(nn.Module):
    def __init__(self, kind, **gate):
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(D) for _ in range(4))
        self.ffn1, self.ffn2 = (nn.Sequential(nn.Linear(D, 4 * D), nn.ReLU(), nn.Linear(4 * D, D)) for _ in range(2))
        self.a_proj, self.out_proj = nn.Linear(D, D), nn.Linear(D, D)
        self.self_attention = nn.MultiheadAttention(D, H, batch_first=True)
        self.gating_function = ForeignGate(kind, **gate)

    def forward(self, v, a, pad):
        g1, g2 = self.gating_function(v, a)
        z = v + g1 * self.out_proj(self.a_proj(self.norm1(a)))
        z = z + g2 * self.ffn1(self.norm2(z))
        n = self.norm3(z)
        r = z + self.self_attention(n, n, n, key_padding_mask=pad)[0]
        return r + self.ffn2(self.norm4(r))


class ForeignFusion(nn.Module):
    """Not called AVIGATEFusionCustom, and with no attribute that tells its gating type."""

    def __init__(self, kind="clipwise", layers=2, **gate):
        super().__init__()
        self.fusion_layers = nn.ModuleList(ForeignLayer(kind, **gate) for _ in range(layers))
        self.note = {"made by": "a user"}

    def forward(self, video_feat, audio_feat, video_mask=None, audio_mask=None):
        return self.run(video_feat, audio_feat, video_mask)

    def run(self, v, a, mask):
        pad = None if mask is None else ~mask.bool()
        for layer in self.fusion_layers:
            v = layer(v, a, pad)
        return v


class ForeignModel(nn.Module):
    """The fusion under an odd name, between layers of the user's own."""

    def __init__(self, fusion):
        super().__init__()
        self.before = nn.Linear(D, D)
        self.audio_visual_mixer = fusion
        self.after = nn.Linear(D, 3)

    def forward(self, v, a, mask):
        return self.after(self.audio_visual_mixer(self.before(v), a, mask, mask))


class Nested(nn.Module):
    def __init__(self, fusion):
        super().__init__()
        self.core = ForeignModel(fusion)
        self.backbone = self.core.before  # a second name for the same module

    def forward(self, v, a, mask):
        return self.core(v, a, mask)


class InDict(nn.Module):
    def __init__(self, fusion):
        super().__init__()
        self.parts = nn.ModuleDict({"mix": fusion, "head": nn.Linear(D, 3)})

    def forward(self, v, a, mask):
        return self.parts["head"](self.parts["mix"](v, a, mask))


class InList(nn.Module):
    def __init__(self, fusion):
        super().__init__()
        self.stages = nn.ModuleList([nn.ModuleList([nn.Linear(D, D), fusion])])

    def forward(self, v, a, mask):
        return self.stages[0][1](self.stages[0][0](v), a, mask)


class WrappedFusion(nn.Module):
    """The fusion alone sits in DataParallel."""

    def __init__(self, fusion):
        super().__init__()
        self.mixer = nn.DataParallel(fusion)

    def forward(self, v, a, mask):
        return self.mixer(v, a, mask)


class HeldTwice(ForeignModel):
    """A plain attribute holds the fusion a second time, registered modules only once."""

    def __init__(self, fusion):
        super().__init__(fusion)
        self.__dict__["shortcut"] = fusion

    def forward(self, v, a, mask):
        return self.after(self.shortcut(self.before(v), a, mask))


class NamedAlready(nn.Module):
    """The fusion already has the name that scripts know."""

    def __init__(self, fusion):
        super().__init__()
        self.avigate_fusion = fusion

    def forward(self, v, a, mask):
        return self.avigate_fusion(v, a, mask)


class ByProperty(ForeignModel):
    @property
    def avigate_fusion(self):
        return self.audio_visual_mixer


HOMES = [ForeignModel, Nested, InDict, InList, WrappedFusion, HeldTwice, NamedAlready, ByProperty]


class Keywords(ForeignFusion):
    """Other argument names; the model below calls by them."""

    def forward(self, vid, aud, vid_mask=None, aud_mask=None, return_gates=False):
        assert not return_gates
        return self.run(vid, aud, vid_mask)


class KeywordModel(ForeignModel):
    def forward(self, v, a, mask):
        return self.after(
            self.audio_visual_mixer(aud=a, vid=self.before(v), aud_mask=None, vid_mask=mask, return_gates=False)
        )


class OneMask(ForeignFusion):
    def forward(self, x, sound, mask=None):
        return self.run(x, sound, mask)


class OneMaskModel(ForeignModel):
    def forward(self, v, a, mask):
        return self.after(self.audio_visual_mixer(self.before(v), a, mask=mask))


class OtherOrder(ForeignFusion):
    """Every feature beside its mask, audio first."""

    def forward(self, audio, audio_mask, video, video_mask):
        return self.run(video, audio, video_mask)


class OtherOrderModel(ForeignModel):
    def forward(self, v, a, mask):
        return self.after(self.audio_visual_mixer(a, None, self.before(v), mask))


class NoMask(ForeignFusion):
    def forward(self, v, a):
        return self.run(v, a, None)


class NoMaskModel(ForeignModel):
    def forward(self, v, a, mask):
        return self.after(self.audio_visual_mixer(self.before(v), a))


class TerseNames(ForeignFusion):
    def forward(self, v, a, vm=None, am=None):
        return self.run(v, a, vm)


class AnyArguments(ForeignFusion):
    def forward(self, *args, **kwargs):
        return self.run(*args[:2], args[2] if len(args) > 2 else kwargs.get("video_mask"))


SIGNATURES = [
    (Keywords, KeywordModel),
    (OneMask, OneMaskModel),
    (OtherOrder, OtherOrderModel),
    (NoMask, NoMaskModel),
    (TerseNames, ForeignModel),
    (AnyArguments, ForeignModel),
]


def filled(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def batch(dtype=torch.float32):
    v, a = torch.randn(2, 3, 7, D, generator=torch.Generator().manual_seed(5)).to(dtype)
    mask = torch.ones(3, 7)
    mask[1, 4:] = 0
    return v, a, mask.to(dtype)


def outputs_of(model, dtype=torch.float32):
    with torch.no_grad():
        return model(*batch(dtype))


def state_of(model):
    """Everything that must not change: keys, bits, flags."""
    return {
        "keys": list(model.state_dict()),
        "bits": [value.clone() for value in model.state_dict().values()],
        "objects": [id(p) for p in model.parameters()],
        "names": [name for name, _ in model.named_parameters()],
        "grad": [p.requires_grad for p in model.parameters()],
        "training": {name: module.training for name, module in model.named_modules()},
    }


def assert_same_state(before, after):
    bits = [s.pop("bits") for s in (before, after)]
    assert before == after
    assert all(torch.equal(a, b) for a, b in zip(*bits, strict=True))


@pytest.mark.parametrize("home", HOMES, ids=lambda c: c.__name__)
@GATING
def test_the_fusion_is_found_anywhere_and_computes_the_same(home, gating_type):
    model = filled(home(ForeignFusion(gating_type)))
    before, state = outputs_of(model), state_of(model)
    assert adapt_legacy_model(model) is model
    assert_same_state(state, state_of(model))
    fusion = model.avigate_fusion
    assert isinstance(fusion, AVIGATEFusionCustom)
    assert fusion.gating_type == fusion.trained_gating_type == gating_type
    fusion.enable_gate_tracking(injection=True)
    fusion.set_current_sample_id(["a", "b", "c"])
    torch.testing.assert_close(outputs_of(model), before, atol=1e-5, rtol=0)
    assert list(fusion.gate_history) == ["a", "b", "c"]
    assert [layer["layer_idx"] for layer in fusion.gate_history["b"]["layer_info"]] == [0, 1]


@pytest.mark.parametrize(("fusion_class", "home"), SIGNATURES, ids=lambda c: c.__name__)
def test_the_users_model_goes_on_calling_its_fusion_its_own_way(fusion_class, home):
    model = filled(home(fusion_class("clipwise")))
    before = outputs_of(model)
    adapt_legacy_model(model)
    for one in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        one.avigate_fusion.enable_gate_tracking()
        one.avigate_fusion.set_current_sample_id(["a", "b", "c"])
        torch.testing.assert_close(outputs_of(one), before, atol=1e-5, rtol=0)
        clips = one.avigate_fusion.gate_history["b"]["valid_lengths"].tolist()
        assert clips == ([7] if fusion_class is NoMask else [4])


def test_what_a_tracked_fusion_cannot_do_is_refused_when_it_is_asked():
    model = adapt_legacy_model(filled(KeywordModel(Keywords())))
    v, a, mask = batch()
    with pytest.raises(TypeError, match="return_gates"):
        model.audio_visual_mixer(v, a, mask, return_gates=True)
    with pytest.raises(TypeError, match="at most 5"):
        model.audio_visual_mixer(v, a, mask, mask, False, 1)


def test_data_parallel_reaches_the_fusion_through_either_model():
    inner = filled(ForeignModel(ForeignFusion("global")))
    model = nn.DataParallel(inner)
    before, state = outputs_of(model), state_of(model)
    adapt_legacy_model(model)
    assert_same_state(state, state_of(model))
    assert model.avigate_fusion is inner.avigate_fusion is model.module.avigate_fusion
    torch.testing.assert_close(outputs_of(model), before, atol=1e-5, rtol=0)


@GATING
def test_gates_that_end_in_their_own_tanh_are_not_squashed_twice(gating_type):
    model = filled(ForeignModel(ForeignFusion(gating_type, tanh_inside=True)))
    before = outputs_of(model)
    adapt_legacy_model(model)
    torch.testing.assert_close(outputs_of(model), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_training_mode_and_frozen_parameters_stay(dtype):
    model = filled(ForeignModel(ForeignFusion("elementwise"))).to(dtype)
    for parameter in model.audio_visual_mixer.fusion_layers[0].ffn1.parameters():
        parameter.requires_grad_(False)
    model.train()
    model.audio_visual_mixer.fusion_layers[1].eval()
    model.audio_visual_mixer.fusion_layers[0].norm2.eval()
    model.audio_visual_mixer.fusion_layers[0].gating_function.eval()
    before, state = outputs_of(model, dtype), state_of(model)
    adapt_legacy_model(model)
    assert_same_state(state, state_of(model))
    tolerance = 1e-12 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(outputs_of(model, dtype), before, atol=tolerance, rtol=tolerance)
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_an_optimizer_made_before_goes_on_training_the_adapted_model():
    model = filled(ForeignModel(ForeignFusion("clipwise"))).double()
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9) for m in (model, twin)]
    for step in range(3):
        if step == 1:
            adapt_legacy_model(model)
            model.avigate_fusion.enable_gate_tracking()
            model.avigate_fusion.set_current_sample_id("x")
        for one, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            one(*batch(torch.float64)).square().mean().backward()
            optimizer.step()
    start = filled(ForeignModel(ForeignFusion("clipwise"))).state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[key], atol=1e-9, rtol=0)
        assert not torch.equal(value, start[key].double())


def test_what_is_saved_afterwards_loads_in_the_old_code():
    model = filled(ForeignModel(ForeignFusion("global")))
    adapt_legacy_model(model)
    assert not any("avigate" in key for key in model.state_dict())
    old = ForeignModel(ForeignFusion("global"))
    old.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(outputs_of(old.eval()), outputs_of(model), atol=1e-5, rtol=0)
    other = filled(ForeignModel(ForeignFusion("global")), seed=9)
    model.load_state_dict(other.state_dict(), strict=True)
    torch.testing.assert_close(outputs_of(other), outputs_of(model), atol=1e-5, rtol=0)


def test_dropout_that_is_lost_is_told(caplog):
    class WithDropout(ForeignFusion):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.2)

        def run(self, v, a, mask):
            return self.drop(super().run(v, a, mask))

    with caplog.at_level(logging.WARNING):
        adapt_legacy_model(filled(ForeignModel(ForeignFusion())))
        assert not caplog.text
        adapt_legacy_model(filled(ForeignModel(WithDropout())))
    assert "dropout of its own (drop)" in caplog.text


def test_the_fusion_stays_reachable_in_a_copy_and_after_a_pickle():
    model = adapt_legacy_model(filled(Nested(ForeignFusion("clipwise"))))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.avigate_fusion is other.core.audio_visual_mixer
        assert other.avigate_fusion is not model.avigate_fusion
        other.avigate_fusion.enable_gate_tracking()
        other.avigate_fusion.set_current_sample_id("x")
        torch.testing.assert_close(outputs_of(other), outputs_of(model), atol=0, rtol=0)
        assert "x" in other.avigate_fusion.gate_history


def test_adapting_twice_is_harmless(tiny_model, tiny_batch):
    model = adapt_legacy_model(filled(ForeignModel(ForeignFusion("clipwise"))))
    fusion, before, state = model.avigate_fusion, outputs_of(model), state_of(model)
    fusion.enable_gate_tracking()
    fusion.set_current_sample_id("x")
    adapt_legacy_model(model)
    assert model.avigate_fusion is fusion
    assert fusion.track_gates
    assert_same_state(state, state_of(model))
    assert torch.equal(outputs_of(model), before)
    own = tiny_model()
    assert adapt_legacy_model(own).avigate_fusion is own.fusion
    assert torch.equal(own(tiny_batch())["pred_spans"], tiny_model()(tiny_batch())["pred_spans"])


def test_adapter_keeps_each_layer_distinct():
    model = filled(ForeignModel(ForeignFusion("clipwise", layers=4)))
    theirs = [
        {name: (id(p), p.detach().clone()) for name, p in layer.named_parameters()}
        for layer in model.audio_visual_mixer.fusion_layers
    ]
    adapt_legacy_model(model)
    layers = model.avigate_fusion.fusion_layers
    assert len(layers) == model.avigate_fusion.num_layers == 4
    for layer, before in zip(layers, theirs, strict=True):
        for name, parameter in layer.named_parameters():
            assert id(parameter) == before[name][0]
            assert torch.equal(parameter, before[name][1])
    model.avigate_fusion.enable_gate_tracking()
    model.avigate_fusion.set_current_sample_id("x")
    outputs_of(model)
    gates = model.avigate_fusion.gate_history["x"]["attention_gates"]
    assert all(not np.allclose(gates[i], gates[j]) for i in range(4) for j in range(i))


# -- hooks -----------------------------------------------------------------------------------------------------------


def test_hooks_go_on_firing_and_their_handles_still_remove_them():
    model = filled(ForeignModel(ForeignFusion("clipwise")))
    fusion = model.audio_visual_mixer
    layer = fusion.fusion_layers[1]
    targets = {
        "fusion": fusion,
        "layer": layer,
        "gate": layer.gating_function,
        "mlp": layer.gating_function.mlp_ffn,
        "leaf": layer.a_proj,
        "attention": layer.self_attention,
        "norm": layer.norm4,
    }
    fired, handles = [], []
    for name, module in targets.items():
        handles += [
            module.register_forward_pre_hook(lambda m, args, name=name: fired.append((name, "pre"))),
            module.register_forward_hook(lambda m, args, out, name=name: fired.append((name, "forward"))),
            module.register_full_backward_hook(lambda m, i, o, name=name: fired.append((name, "backward"))),
            module.register_full_backward_pre_hook(lambda m, o, name=name: fired.append((name, "backward_pre"))),
            module.register_state_dict_pre_hook(lambda m, prefix, keep, name=name: fired.append((name, "saving"))),
        ]
    v, a, mask = batch()

    def use() -> list[tuple[str, str]]:
        fired.clear()
        v.requires_grad_(True)
        a.requires_grad_(True)
        model(v, a, mask).sum().backward()
        model.state_dict()
        return sorted(fired)

    before = use()
    fired.clear()
    adapt_legacy_model(model)
    assert not fired  # the trial forward is none of the user's business
    assert use() == before
    assert len(set(before)) == len(targets) * 5
    for handle in handles:
        handle.remove()
    assert not use()


def test_a_hook_that_replaces_an_output_still_does():
    def model_with_hooks():
        model = filled(ForeignModel(ForeignFusion("clipwise")))
        layer = model.audio_visual_mixer.fusion_layers[0]
        layer.register_forward_hook(lambda m, args, out: out * 2)
        layer.gating_function.register_forward_hook(lambda m, args, gates: (gates[0] * 0, gates[1]))
        layer.self_attention.register_forward_hook(lambda m, args, out: (out[0] * 3, out[1]))
        model.audio_visual_mixer.register_forward_pre_hook(lambda m, args: (args[0] + 1, *args[1:]))
        model.audio_visual_mixer.register_forward_hook(lambda m, args, out: out - 1)
        return model

    model = model_with_hooks()
    adapt_legacy_model(model)
    model.avigate_fusion.enable_gate_tracking()
    model.avigate_fusion.set_current_sample_id("x")
    torch.testing.assert_close(outputs_of(model), outputs_of(model_with_hooks()), atol=1e-5, rtol=0)
    assert not model.avigate_fusion.gate_history["x"]["attention_gates"][0].any()  # the gate that was used


def test_attributes_of_the_users_fusion_stay_readable():
    model = filled(ForeignModel(ForeignFusion("clipwise")))
    note = model.audio_visual_mixer.note
    adapt_legacy_model(model)
    assert model.audio_visual_mixer.note is note
    assert model.audio_visual_mixer.fusion_layers[0].gating_function.kind == "clipwise"


def test_random_states_are_left_as_they_were():
    class Draws(ForeignFusion):
        def run(self, v, a, mask):
            torch.rand(1)
            return super().run(v, a, mask)

    model = filled(ForeignModel(Draws("global")))
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    adapt_legacy_model(model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


# -- gating types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trained", "asked"), [("global", "clipwise"), ("clipwise", "global")])
def test_global_and_clipwise_can_be_exchanged_with_a_warning(trained, asked, caplog):
    model = filled(ForeignModel(ForeignFusion(trained)))
    with caplog.at_level(logging.WARNING):
        adapt_legacy_model(model, gating_type=asked)
    assert f"trained with {trained} gating, run with {asked}" in caplog.text
    assert (model.avigate_fusion.trained_gating_type, model.avigate_fusion.gating_type) == (trained, asked)
    other = filled(ForeignModel(ForeignFusion(asked)))
    torch.testing.assert_close(outputs_of(model), outputs_of(other), atol=1e-5, rtol=0)
    caplog.clear()
    adapt_legacy_model(model)  # a second time, without asking: nothing changes back
    assert model.avigate_fusion.gating_type == asked


@pytest.mark.parametrize(
    ("trained", "asked"),
    [("elementwise", "global"), ("clipwise", "elementwise"), ("global", "sigmoid"), ("elementwise", "clipwise")],
)
def test_impossible_gating_types_are_refused_and_the_model_untouched(trained, asked):
    model = filled(ForeignModel(ForeignFusion(trained)))
    own, state = model.audio_visual_mixer, state_of(model)
    with pytest.raises(RequestError, match=asked):
        adapt_legacy_model(model, gating_type=asked)
    assert model.audio_visual_mixer is own
    assert_same_state(state, state_of(model))


# -- refusals --------------------------------------------------------------------------------------------------------


class ScaledSigmoid(ForeignFusion):
    def __init__(self):
        super().__init__("clipwise", squash=lambda x: 2 * torch.sigmoid(x))


class ExtraParameter(ForeignFusion):
    def __init__(self):
        super().__init__("clipwise")
        self.scale = nn.Parameter(torch.ones(1))


class ExtraBuffer(ForeignFusion):
    def __init__(self):
        super().__init__("clipwise")
        self.fusion_layers[1].register_buffer("running_gate", torch.zeros(1))


class MissingNorm(ForeignFusion):
    def __init__(self):
        super().__init__("clipwise")
        for layer in self.fusion_layers:
            layer.norm4 = nn.Identity()


class ReturnsATuple(ForeignFusion):
    def forward(self, video_feat, audio_feat, video_mask=None, audio_mask=None):
        return self.run(video_feat, audio_feat, video_mask), None


class AddsADetail(ForeignFusion):
    def run(self, v, a, mask):
        return super().run(v, a, mask) + 1e-3


class IgnoresTheMask(ForeignFusion):
    def run(self, v, a, mask):
        return super().run(v, a, None)


class Fails(ForeignFusion):
    def run(self, v, a, mask):
        raise RuntimeError("out of order")


class Mixed(ForeignFusion):
    """Layers of two gating types."""

    def __init__(self):
        super().__init__("clipwise")
        self.fusion_layers[1].gating_function.kind = "global"


class ThreeInputs(ForeignFusion):
    def forward(self, video, audio, text, mask=None):
        return self.run(video, audio, mask)


class ShadowsTheName(ForeignModel):
    def __init__(self):
        super().__init__(ForeignFusion())
        self.avigate_fusion = nn.Linear(D, D)


class PropertyOfTheName(ForeignModel):
    def __init__(self):
        super().__init__(ForeignFusion())

    @property
    def avigate_fusion(self):
        return self.after


class TwoFusions(ForeignModel):
    def __init__(self):
        super().__init__(ForeignFusion())
        self.second = ForeignFusion()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ScaledSigmoid, "another function than tanh"),
        (ExtraParameter, "scale unexpected"),
        (ExtraBuffer, "running_gate unexpected"),
        (MissingNorm, "norm4.weight missing"),
        (ReturnsATuple, "returns tuple"),
        (AddsADetail, "computes something else"),
        (IgnoresTheMask, "computes something else"),
        (Fails, "out of order"),
        (Mixed, "computes something else"),
        (ThreeInputs, "takes video, audio, text"),
        (ShadowsTheName, "avigate_fusion of its own"),
        (PropertyOfTheName, "avigate_fusion of its own"),
        (TwoFusions, r"2 AVIGATE fusions .*audio_visual_mixer, second"),
        (lambda: nn.Linear(2, 2), "no AVIGATE fusion in this Linear"),
    ],
)
def test_what_cannot_be_tracked_truly_is_refused_and_left_untouched(make, message):
    model = make()
    if isinstance(model, ForeignFusion):
        model = ForeignModel(model)
    filled(model)
    model.train()
    state = state_of(model)
    modules, attributes = list(model.modules()), dict(model.__dict__)
    with pytest.raises(CheckpointError, match=message):
        adapt_legacy_model(model)
    assert_same_state(state, state_of(model))
    assert list(model.modules()) == modules
    assert model.__dict__ == attributes


def test_a_bare_fusion_and_things_that_are_no_model_are_refused():
    with pytest.raises(CheckpointError, match="the fusion itself"):
        adapt_legacy_model(filled(ForeignFusion()))
    with pytest.raises(TypeError, match="got dict"):
        adapt_legacy_model({})


# -- load_legacy_model_with_gate_tracking ----------------------------------------------------------------------------


@GATING
def test_a_loaded_model_is_complete_and_in_eval_mode(legacy_checkpoint, tiny_model, tiny_batch, gating_type):
    model = load_legacy_model_with_gate_tracking(str(legacy_checkpoint(gating_type)), device="cpu")
    original = tiny_model(gating_type)
    assert not model.training
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), original.state_dict().values(), strict=True)
    )
    with torch.no_grad():
        assert torch.equal(model(tiny_batch())["pred_logits"], original(tiny_batch())["pred_logits"])
    assert model.avigate_fusion.gating_type == gating_type
    assert all(p.requires_grad for p in model.parameters())


def test_another_gating_type_is_run_only_when_asked_and_with_a_warning(legacy_checkpoint, caplog):
    path = legacy_checkpoint("global")
    with caplog.at_level(logging.WARNING):
        model = load_legacy_model_with_gate_tracking(path, gating_type="clipwise", device="cpu")
    assert "trained with global gating, run with clipwise" in caplog.text
    assert model.avigate_fusion.trained_gating_type == "global"
    for asked in ("elementwise", "softmax"):
        with pytest.raises(RequestError, match=asked):
            load_legacy_model_with_gate_tracking(path, gating_type=asked, device="cpu")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta", ""])
def test_a_device_that_cannot_be_used_is_a_wrong_request(legacy_checkpoint, device):
    with pytest.raises(RequestError, match="device"):
        load_legacy_model_with_gate_tracking(legacy_checkpoint(), device=device)


@GATING
def test_a_real_model_in_foreign_classes_gives_its_recorded_gates(shared, gating_type):
    """The users' own situation: their class, their loader, a real checkpoint's fusion."""
    global D
    loaded = load_legacy_model_with_gate_tracking(shared / "legacy" / gating_type / "model_best.ckpt", device="cpu")
    small, D = D, 256
    heads = loaded.fusion.n_heads
    try:
        fusion = ForeignFusion(gating_type, layers=loaded.fusion.num_layers)
        for layer in fusion.fusion_layers:
            layer.self_attention.num_heads, layer.self_attention.head_dim = heads, 256 // heads
        model = ForeignModel(fusion).eval()
    finally:
        D = small
    fusion.load_state_dict(loaded.fusion.state_dict(), strict=True)
    adapt_legacy_model(model)
    video, audio = torch.randn(2, 2, 9, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.avigate_fusion(video, audio), loaded.fusion(video, audio), atol=1e-6, rtol=0)


def test_a_compiled_fusion_is_refused_by_name():
    model = torch.nn.Module()
    model.mixer = torch.compile(AVIGATEFusionCustom(16, 16, 16, 2, 1, "clipwise"), backend="eager")
    with pytest.raises(CheckpointError, match=r"fusion mixer is compiled \(torch\.compile\)"):
        adapt_legacy_model(model)
