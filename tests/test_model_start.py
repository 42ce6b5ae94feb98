"""Where training starts: a seed gives the weights that it gave the legacy code."""

from __future__ import annotations

import argparse

import pytest
import torch

from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR
from tests.conftest import TINY


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


@pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
def test_a_seed_starts_where_the_legacy_run_of_that_seed_started(shared, gating_type):
    """600 steps moved its weights little: each tensor still resembles its own start, and no other one's."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(shared / "legacy" / gating_type / "model_best.ckpt", weights_only=True)
    trained, options = content["model"], content["opt"]
    widths = options.v_feat_dim, options.a_feat_dim, options.t_feat_dim
    torch.manual_seed(options.seed)
    start = QDDETR(Architecture.from_options(vars(options), *widths)).state_dict()
    assert list(start) == list(trained)  # and so an optimizer's state, which goes by position, means the same
    drawn = {name: value for name, value in start.items() if value.numel() > 2 and value.std() > 0}
    assert len(drawn) > 120
    unlike = {name: r for name, value in drawn.items() if (r := correlation(value, trained[name])) < 0.75}
    assert not unlike


def test_projection_stages_that_are_left_out_are_drawn_all_the_same():
    """The legacy code built three and kept the first n."""
    starts = []
    for n_input_proj in (1, 2, 3):
        torch.manual_seed(5)
        starts.append(QDDETR(Architecture(**TINY, gating_type="clipwise", n_input_proj=n_input_proj)).state_dict())
    for name in ("query_embed.weight", "fusion.fusion_layers.1.ffn2.2.weight", "saliency_proj2.bias", "global_rep_pos"):
        assert torch.equal(starts[0][name], starts[1][name])
        assert torch.equal(starts[0][name], starts[2][name])


def test_on_the_device_meta_nothing_is_drawn(monkeypatch):
    """A draw there makes torch import its compiler and SymPy, for every command that reads a checkpoint."""

    def refuse(*size, **settings):
        raise AssertionError("a number was drawn")

    monkeypatch.setattr(torch.nn.init, "normal_", refuse)
    monkeypatch.setattr(torch, "randn", refuse)
    with torch.device("meta"):
        model = QDDETR(Architecture(**{**TINY, "gating_type": "clipwise"}))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert isinstance(model.query_embed, torch.nn.Embedding)
