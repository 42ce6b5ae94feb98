"""Checkpoints of families with equal keys, their evidence taken away piece by piece, before the certificate."""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import run_gate_analysis
import test_legacy_model
from qd_detr.gates.commands.selfcheck import tiny
from qd_detr.gates.errors import CheckpointError
from qd_detr.gates.model.families import FAMILIES, build
from qd_detr.gates.weights.checkpoint import read_checkpoint, recognised
from tests.conftest import scramble
from tests.test_recognition import trained

EQUAL = ("base", "sigmoid_global", "encoder_ffn", "t2v_ffn", "t2v_saliency")
ALL_CODE = ("transformer.py", "model.py", "code.zip")
BASE_OR_SIGMOID, EITHER_T2V = ("base", "sigmoid_global"), ("t2v_ffn", "t2v_saliency")


def code(digest: str) -> bytes:
    """Return what stands here for the training code that a digest of the table is of."""
    return f"# the code of {digest}\n".encode()


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the families' table of copies hold the digests of the code written here, shared as the true ones are."""
    for name in EQUAL:
        copies = {
            file: tuple(hashlib.sha256(code(one)).hexdigest()[:16] for one in digests)
            for file, digests in FAMILIES[name].copies.items()
        }
        monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], copies=copies))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("evidence") / "data", queries=6)


def write(folder: Path, data: Path, family: str, gating_type: str, kept: frozenset[str]) -> Path:
    """Write a run of a family with what is kept of its evidence; return the checkpoint."""
    model = build(replace(tiny.tiny_model(gating_type).architecture, family=family))
    start = {key: value.clone() for key, value in model.state_dict().items()}
    scramble(model)
    weights = model.state_dict()
    learned = trained(weights, family)
    weights = {key: value if key in learned else start[key] for key, value in weights.items()}
    options = {**tiny.tiny_options(gating_type), "v_feat_dim": 2 * tiny.planted.D + 2}
    if "options" in kept:
        options |= dict.fromkeys(FAMILIES[family].option_names, 1)
    content: dict[str, Any] = {"model": weights, "opt": argparse.Namespace(**options)}
    if "state" in kept:
        places = [place for place, key in enumerate(weights) if key in learned]
        state = {place: {"step": torch.tensor(1.0)} for place in places}
        content["optimizer"] = {"state": state, "param_groups": [{"params": list(range(len(weights)))}]}
    folder.mkdir()
    torch.save(content, folder / "model_best.ckpt")
    if "predictions" in kept:
        tiny.write_predictions(folder / "model_best.ckpt", data, family)
    for file in kept & set(ALL_CODE):
        name = "code/avigate_custom.py" if file == "code.zip" else file
        text = code(TRUE_COPIES[family][name][0])
        if file == "code.zip":
            with zipfile.ZipFile(folder / file, "w") as archive:
                archive.writestr(name, text)
        else:
            (folder / file).write_bytes(text)
    return folder / "model_best.ckpt"


TRUE_COPIES = {name: dict(FAMILIES[name].copies) for name in EQUAL}

# Family and gating, what is left of its evidence -> the families that the certificate names; one: it may say exact.
LEFT = [
    ("base", "global", {*ALL_CODE, "predictions", "state"}, ("base",)),
    ("base", "global", {"code.zip"}, ("base",)),
    ("base", "global", {"predictions"}, ("base",)),
    ("base", "global", {"transformer.py", "model.py", "state"}, BASE_OR_SIGMOID),
    ("base", "global", {"state"}, BASE_OR_SIGMOID),
    ("base", "global", set(), BASE_OR_SIGMOID),
    ("sigmoid_global", "global", {*ALL_CODE, "predictions", "state", "options"}, ("sigmoid_global",)),
    ("sigmoid_global", "global", {"options"}, ("sigmoid_global",)),
    ("sigmoid_global", "global", {"model.py"}, ("sigmoid_global",)),
    ("sigmoid_global", "global", {"code.zip"}, ("sigmoid_global",)),
    ("sigmoid_global", "global", {"predictions"}, ("sigmoid_global",)),
    ("sigmoid_global", "global", {"transformer.py", "state"}, BASE_OR_SIGMOID),
    ("sigmoid_global", "global", set(), BASE_OR_SIGMOID),
    ("base", "clipwise", {"state"}, ("base",)),
    ("base", "clipwise", set(), ("base",)),
    ("encoder_ffn", "clipwise", {*ALL_CODE, "predictions", "state"}, ("encoder_ffn",)),
    ("encoder_ffn", "clipwise", set(), ("encoder_ffn",)),
    ("encoder_ffn", "global", set(), ("encoder_ffn",)),
    ("t2v_ffn", "clipwise", {*ALL_CODE, "predictions", "state"}, ("t2v_ffn",)),
    ("t2v_ffn", "clipwise", {"transformer.py"}, ("t2v_ffn",)),
    ("t2v_ffn", "clipwise", {"model.py"}, ("t2v_ffn",)),
    ("t2v_ffn", "clipwise", {"predictions"}, ("t2v_ffn",)),
    ("t2v_ffn", "clipwise", {"code.zip", "state"}, EITHER_T2V),
    ("t2v_ffn", "clipwise", set(), EITHER_T2V),
    ("t2v_saliency", "clipwise", {*ALL_CODE, "predictions", "state"}, ("t2v_saliency",)),
    ("t2v_saliency", "clipwise", {"transformer.py"}, ("t2v_saliency",)),
    ("t2v_saliency", "clipwise", {"model.py"}, ("t2v_saliency",)),
    ("t2v_saliency", "clipwise", {"predictions"}, ("t2v_saliency",)),
    ("t2v_saliency", "clipwise", {"code.zip", "state"}, EITHER_T2V),
    ("t2v_saliency", "clipwise", set(), EITHER_T2V),
]


@pytest.mark.parametrize(("family", "gating_type", "kept", "said"), LEFT)
@pytest.mark.usefixtures("stand_ins")
def test_the_certificate_names_what_is_left_and_never_calls_a_guess_exact(
    family, gating_type, kept, said, data, tmp_path, capsys
):
    checkpoint = write(tmp_path / "run", data, family, gating_type, frozenset(kept))
    argv = ["--model_path", str(checkpoint), "--output_dir", str(tmp_path / "certificate"), "--device", "cpu"]
    if "predictions" in kept:
        argv += ["--data_path", str(data), "--feature_root", str(data.parent)]
    status = test_legacy_model.main(argv)
    report = json.loads((tmp_path / "certificate" / "compatibility_report.json").read_text())
    assert tuple(report["family"]["candidates"]) == said
    assert (status, report["verdict"]) == ((0, "exact") if len(said) == 1 else (1, "ambiguous"))
    assert family in said
    out = capsys.readouterr().out
    assert ("Usable and exact." in out) == (len(said) == 1)


def test_a_scaled_gate_whose_temperature_no_option_states_is_not_called_exact(data, tmp_path, capsys):
    model = build(replace(tiny.tiny_model("clipwise").architecture, family="scaled", settings={"temperature": 2.0}))
    scramble(model)
    options = {**tiny.tiny_options("clipwise"), "v_feat_dim": 2 * tiny.planted.D + 2}
    for told in ({"mha_gate_temp": 2.0}, {}):
        content = {"model": model.state_dict(), "opt": argparse.Namespace(**options, **told)}
        torch.save(content, tmp_path / "model_best.ckpt")
        argv = [
            "--model_path",
            str(tmp_path / "model_best.ckpt"),
            "--output_dir",
            str(tmp_path / "o"),
            "--device",
            "cpu",
        ]
        assert test_legacy_model.main(argv) == (0 if told else 1)
        assert ("Usable and exact." in (out := capsys.readouterr().out)) == bool(told)
    assert "no options state mha_gate_temp" in " ".join(out.split())


CALLS = """
class Transformer:
    def forward(self, src):
        memory = self.encoder(src)  # self.encoder(
        return memory
"""
SKIPS = CALLS.replace("memory = self.encoder(src)", "memory = src")
INSIDE = SKIPS.replace("return memory", "return self._apply_fusion_with_saliency(memory)")


@pytest.mark.parametrize(
    ("family", "gating_type", "edited", "said"),
    [
        ("t2v_ffn", "clipwise", SKIPS, ("t2v_ffn",)),
        ("t2v_ffn", "clipwise", CALLS, EITHER_T2V),
        ("t2v_ffn", "clipwise", SKIPS.replace("self.encoder", "self.other"), EITHER_T2V),
        ("t2v_saliency", "clipwise", INSIDE, ("t2v_saliency",)),
        ("base", "global", CALLS, BASE_OR_SIGMOID),
        ("base", "clipwise", SKIPS, None),
        ("base", "clipwise", INSIDE, None),
    ],
)
def test_an_edited_copy_tells_by_the_encoder_that_it_skips_or_the_fusion_that_it_holds(
    family, gating_type, edited, said, data, tmp_path
):
    checkpoint = write(tmp_path / "run", data, family, gating_type, frozenset())
    (checkpoint.parent / "transformer.py").write_text(edited)
    if said is None:
        with pytest.raises(CheckpointError, match=r"contradicts itself: .*transformer\.py, an edited copy"):
            recognised(read_checkpoint(checkpoint), None)
    else:
        assert recognised(read_checkpoint(checkpoint), None).candidates == said


def test_a_run_of_what_is_undecided_says_so_first_and_what_the_saved_predictions_would_tell(
    data, tmp_path, capsys, caplog
):
    checkpoint = write(tmp_path / "run", data, "sigmoid_global", "global", frozenset({"predictions"}))
    argv = ["--model_path", str(checkpoint), "--output_dir", str(tmp_path / "out")]
    assert test_legacy_model.main([*argv, "--device", "cpu"]) == 1
    assert "best_hl_val_preds.jsonl beside the checkpoint tells them apart" in " ".join(capsys.readouterr().out.split())
    (checkpoint.parent / "best_hl_val_preds.jsonl").unlink()
    flags = [
        "--legacy_model",
        "--data_path",
        str(data),
        "--feature_root",
        str(data.parent),
        "--no_figures",
        "--no_effects",
    ]
    assert run_gate_analysis.main([*argv, *flags, "--quiet"]) == 0
    assert "may be of 2 families that have the same weights: base, sigmoid_global" in caplog.text
    report = (tmp_path / "out" / "ANALYSIS_REPORT.md").read_text(encoding="utf-8")
    _, warning = report.split("# Gate analysis\n\n", 1)
    assert warning.startswith("- **What this checkpoint is, is undecided: base, sigmoid_global have the same weights")
