"""What a checkpoint is said to be, with its evidence taken away piece by piece."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import run_gate_analysis
from qd_detr.gates.errors import CheckpointError, RequestError
from qd_detr.gates.fusion import GatingFunction
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.families import FAMILIES, build
from qd_detr.gates.model.families.family import Family
from qd_detr.gates.weights.recognition import recognise
from tests.conftest import TINY, scramble
from tests.tiny_run import make_tiny_run

SSM = {"ssm_band_width": 8}


def weights_of(family: str, gating_type: str = "global") -> dict[str, torch.Tensor]:
    """Return scrambled weights with the base's keys; what the family's training leaves is as it starts."""
    model = build(Architecture(**{**TINY, "gating_type": gating_type}))
    start = {key: value.clone() for key, value in model.state_dict().items()}
    scramble(model)
    weights = dict(model.state_dict())
    for key in weights:
        skipped = family in ("t2v_ffn", "t2v_saliency") or (
            family == "encoder_ffn" and any(part in key for part in (".self_attn.", ".norm1."))
        )
        if key.startswith("transformer.encoder.") and skipped:
            weights[key] = start[key]
    return weights


def trained(weights: dict[str, torch.Tensor], family: str) -> set[str]:
    return {
        key
        for key in weights
        if not (
            key.startswith("transformer.encoder.")
            and (
                family.startswith("t2v_")
                or (family == "encoder_ffn" and any(part in key for part in (".self_attn.", ".norm1.")))
            )
        )
    }


# family, gating type, options, whether the weights and the optimizer still show the encoder -> what is left.
LEFT = [
    ("base", "clipwise", {}, True, True, {"base"}),
    ("base", "clipwise", {}, False, True, {"base"}),
    ("base", "global", {}, True, True, {"base", "sigmoid_global"}),
    ("sigmoid_global", "global", SSM, True, True, {"sigmoid_global"}),
    ("sigmoid_global", "global", SSM, False, False, {"sigmoid_global"}),
    ("sigmoid_global", "global", {}, True, True, {"base", "sigmoid_global"}),
    ("encoder_ffn", "clipwise", {}, True, True, {"encoder_ffn"}),
    ("encoder_ffn", "clipwise", {}, True, False, {"encoder_ffn"}),
    ("t2v_ffn", "clipwise", {}, True, True, {"t2v_ffn", "t2v_saliency"}),
    ("t2v_saliency", "clipwise", {}, True, False, {"t2v_ffn", "t2v_saliency"}),
]


@pytest.mark.parametrize(("family", "gating_type", "options", "shown", "state", "left"), LEFT)
def test_what_is_left_of_the_evidence_decides_what_is_said(family, gating_type, options, shown, state, left):
    weights = weights_of(family, gating_type)
    if not shown:
        weights = {k: v for k, v in weights.items() if "norm" not in k or not k.startswith("transformer.encoder")}
    found = recognise(
        weights, [{"gating_type": gating_type, **options}], with_state=trained(weights, family) if state else None
    )
    assert set(found.candidates) == left
    assert found.certain == (len(left) == 1)
    assert bool(found.undecided) == (len(left) > 1)


def test_weights_and_optimizer_that_contradict_each_other_are_refused():
    weights = weights_of("base", "clipwise")
    with pytest.raises(CheckpointError, match="contradicts itself"):
        recognise(weights, [{"gating_type": "clipwise"}], with_state=trained(weights, "t2v_ffn"))


def test_a_family_that_the_evidence_rules_out_cannot_be_asked_for():
    with pytest.raises(CheckpointError, match="--family t2v_ffn contradicts"):
        recognise(weights_of("base", "clipwise"), [{"gating_type": "clipwise"}], asked="t2v_ffn")
    with pytest.raises(RequestError, match="--family nothing is not known"):
        recognise(weights_of("base"), [], asked="nothing")


def test_the_user_decides_what_is_undecided_and_it_stays_uncertain():
    found = recognise(weights_of("t2v_ffn"), [{"gating_type": "clipwise"}], asked="t2v_saliency")
    assert found.family == "t2v_saliency"
    assert not found.certain
    assert "as you asked" in found.undecided


def test_fusion_of_an_unknown_design_is_not_called_plain():
    weights = weights_of("base")
    plain = {key: value for key, value in weights.items() if not key.startswith("fusion.")}
    with pytest.raises(CheckpointError, match="plain QD-DETR"):
        recognise(plain, [])
    with pytest.raises(CheckpointError, match=r"gates of its own \(my_gate\.weight\)"):
        recognise({**plain, "my_gate.weight": torch.zeros(2, 2)}, [])


# A family of one's own, declared in a few lines.
class SoftplusGating(GatingFunction):
    value_range = None

    def squash(self, raw: torch.Tensor) -> torch.Tensor:
        return F.softplus(raw)


SOFTPLUS = Family("softplus", "gates that are softplus", gating=SoftplusGating)


def test_a_family_of_ones_own_gets_gates_statistics_effects_and_report(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setitem(FAMILIES, "softplus", SOFTPLUS)
    run = make_tiny_run(tmp_path)
    out = tmp_path / "softplus"
    assert run_gate_analysis.main(run.argv("--family", "softplus", "--no_figures", output=out)) == 0
    statistics = json.loads((out / "overall_statistics.json").read_text())
    assert statistics["attention_gates"]["min"] > 0  # softplus is; a tanh of the same numbers is not
    assert (out / "audio_share.json").is_file()
    assert "softplus" in (out / "run_config.json").read_text()
    assert "Family of gated models: softplus" in (out / "ANALYSIS_REPORT.md").read_text()
