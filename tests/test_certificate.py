"""test_legacy_model.py as a user runs it, on tiny checkpoints and on the shared ones; and what its proof must catch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import test_legacy_model
from qd_detr.gates.commands.certify import subject as subject_module
from qd_detr.gates.commands.certify.forwards import REFERENCE_TOLERANCE
from qd_detr.gates.commands.certify.reference import Reference
from qd_detr.gates.commands.selfcheck import tiny
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.weights.checkpoint import build_model, read_checkpoint, resolve

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(
    not (SHARED / "legacy").is_dir(), reason="needs ../shared/legacy, not part of a clone"
)
QUERIES = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a checkpoint of each type, their predictions beside them."""
    home = tmp_path_factory.mktemp("home")
    data_path = tiny.make_data(home / "data", QUERIES)
    for gating_type in ("global", "clipwise", "elementwise"):
        tiny.write_predictions(tiny.write_checkpoint(home / gating_type, gating_type), data_path)
    return home


def certify(
    home: Path, output_dir: Path, checkpoint: Path | str, *flags: object, data: bool = True
) -> tuple[int, dict[str, Any]]:
    """Run the command; return its exit status and the report file's content."""
    path = home / checkpoint / "model_best.ckpt" if isinstance(checkpoint, str) else checkpoint
    argv = ["--model_path", path, "--output_dir", output_dir, "--device", "cpu", *flags]
    if data:
        argv += ["--data_path", next((home / "data").glob("*_val_*.jsonl"))]
    status = test_legacy_model.main([str(part) for part in argv])
    report = output_dir / "compatibility_report.json"
    return status, json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in report["checks"]}


def failed(report: dict[str, Any]) -> set[str]:
    return {name for name, outcome in outcomes(report).items() if outcome == "failed"}


@needs_shared
@pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
def test_the_shared_checkpoints_agree_with_their_predictions_in_96_of_96_queries(
    gating_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = SHARED / "qvhighlights_sample" / "highlight_val_sample.jsonl"
    path = SHARED / "legacy" / gating_type / "model_best.ckpt"
    status, report = certify(tmp_path, tmp_path, path, "--data_path", data, data=False)
    assert status == 0
    assert "96 of 96 queries agree" in " ".join(capsys.readouterr().out.split())
    assert report["predictions"]["agree"] == report["predictions"]["queries"] == 96
    assert report["verdict"] == "exact"
    assert failed(report) == set()


@pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
def test_a_sound_checkpoint_is_certified_in_every_respect(home: Path, tmp_path: Path, gating_type: str) -> None:
    status, report = certify(home, tmp_path, gating_type)
    assert status == 0
    assert set(outcomes(report).values()) == {"passed"}
    assert report["predictions"]["agree"] == QUERIES
    assert report["tensors"]["file_sha256"] == report["tensors"]["model_sha256"]
    state = torch.load(home / gating_type / "model_best.ckpt", weights_only=False)["model"]
    assert {tensor["key"] for tensor in report["tensors"]["each"]} == set(state)
    assert report["keys"]["in_file"] == len(state)
    assert sum(group["numbers"] for group in report["keys"]["groups"].values()) == sum(
        v.numel() for v in state.values()
    )
    assert report["settings"]["options"]["gating_type"]["value"] == gating_type


def test_without_data_random_inputs_are_used_and_said_to_be(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = certify(home, tmp_path, "clipwise", data=False)
    assert status == 0
    assert "seeded random inputs" in " ".join(capsys.readouterr().out.split())
    assert report["tracking"]["inputs"] == "random"
    assert outcomes(report)["predictions"] == "not checked"


# -- what the proof must catch, injected between load and proof ------------------------------------------------------


def one_ulp(model: QDDETR) -> None:
    weight = model.transformer.encoder.layers[0].linear1.weight
    with torch.no_grad():
        weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(10.0))


def swapped_layers(model: QDDETR) -> None:
    layers = model.fusion.fusion_layers
    layers[0], layers[1] = layers[1], layers[0]


def swapped_execution(model: QDDETR) -> None:
    """Layers run in another order under the same keys: no hash can see it."""
    first, second = model.fusion.fusion_layers
    first.__dict__["forward"], second.__dict__["forward"] = second.forward, first.forward


def wrong_fusion_heads(model: QDDETR) -> None:
    attention = model.fusion.fusion_layers[0].self_attention
    assert isinstance(attention, nn.MultiheadAttention)
    attention.num_heads, attention.head_dim = 4, tiny.HIDDEN_DIM // 4


def wrong_decoder_heads(model: QDDETR) -> None:
    for layer in model.transformer.decoder.layers:
        layer.n_heads = 2


def read_as_clipwise(model: QDDETR) -> None:
    model.fusion.switch_gating_type("clipwise")


def noisy_when_tracked(model: QDDETR) -> None:
    fuse = model.fusion.fuse

    def fuse_and_more(*args: Any, **kwargs: Any) -> torch.Tensor:
        fused = fuse(*args, **kwargs)
        return fused + 1e-6 if model.fusion.is_recorded else fused

    model.fusion.__dict__["fuse"] = fuse_and_more


@pytest.mark.parametrize(
    ("inject", "caught_by"),
    [
        (one_ulp, {"tensors"}),
        (swapped_layers, {"tensors", "reference", "predictions"}),
        (swapped_execution, {"reference", "predictions"}),
        (wrong_fusion_heads, {"structure", "reference", "predictions"}),
        (wrong_decoder_heads, {"structure", "reference", "predictions"}),
        (read_as_clipwise, {"structure", "reference", "predictions"}),
        (noisy_when_tracked, {"tracking"}),
    ],
)
def test_damage_between_load_and_proof_is_caught(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inject: Callable[[QDDETR], None], caught_by: set[str]
) -> None:
    def damaged(*args: Any, **kwargs: Any) -> QDDETR:
        model = build_model(*args, **kwargs)
        inject(model)
        return model

    monkeypatch.setattr(subject_module, "build_model", damaged)
    status, report = certify(home, tmp_path, "global")
    assert status == 1
    # Saved predictions that no reading repeats leave it open whether these gates are tanh or sigmoid.
    assert failed(report) == caught_by | ({"family"} if "predictions" in caught_by else set())
    # Without data and saved predictions the damage shows as well.
    status, report = certify(home, tmp_path, "global", data=False)
    assert status == 1
    assert failed(report) == caught_by - {"predictions"} | {"family"}


@pytest.mark.parametrize(
    "wrong", [{"nheads": 2}, {"fusion_n_heads": 4}, {"gating_type": "clipwise"}, {"use_txt_pos": True}]
)
def test_options_that_claim_another_model_are_caught_by_the_saved_predictions(
    home: Path, tmp_path: Path, wrong: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "opt.json").write_text(json.dumps({**tiny.tiny_options("global"), **wrong}), encoding="utf-8")
    status, report = certify(home, tmp_path / "out", "global", "--config_path", tmp_path / "opt.json")
    assert status == 1
    assert failed(report) == {"predictions"} | ({"family"} if "gating_type" not in wrong else set())
    assert report["predictions"]["agree"] < QUERIES
    assert len(report["predictions"]["disagreeing"]) == QUERIES - report["predictions"]["agree"]
    best = report["readings"][0]
    right = {name: tiny.tiny_options("global")[name] for name in wrong}
    assert (best["reading"], best["agree"]) == (right, tiny.EVAL_BSZ)
    assert "qid " in capsys.readouterr().out


def test_a_gating_type_other_than_trained_is_examined_and_not_certified(home: Path, tmp_path: Path) -> None:
    status, report = certify(home, tmp_path, "global", "--gating_type", "clipwise")
    assert status == 1
    assert {"settings", "predictions"} <= failed(report)
    assert outcomes(report)["tensors"] == "passed"


# -- several readings ------------------------------------------------------------------------------------------------


def bare(home: Path, folder: Path, gating_type: str, **wrapped: Any) -> Path:
    """Write a checkpoint's weights without options, its predictions beside it."""
    folder.mkdir()
    state = read_checkpoint(home / gating_type / "model_best.ckpt").weights
    torch.save({"state_dict": state, **wrapped} if wrapped else dict(state), folder / "model_best.ckpt")
    saved = (home / gating_type / "best_hl_val_preds.jsonl").read_text(encoding="utf-8")
    (folder / "best_hl_val_preds.jsonl").write_text(saved, encoding="utf-8")
    return folder / "model_best.ckpt"


def test_weights_that_fit_two_readings_are_not_guessed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {k: v for k, v in tiny.tiny_options("global").items() if k not in ("gating_type", "nheads")}
    path = bare(home, tmp_path / "bare", "global", opt=argparse.Namespace(**options))
    status, report = certify(home, tmp_path / "out", path)
    out = " ".join(capsys.readouterr().out.split())
    assert status == 1
    assert report["verdict"] == "ambiguous"
    assert report["settings"]["open"] == ["gating_type", "nheads"]
    first, second = report["readings"][:2]
    assert first["reading"] == {"gating_type": "global", "nheads": tiny.HEADS}
    assert first["agree"] == first["queries"] == tiny.EVAL_BSZ
    assert second["agree"] < second["queries"]
    assert "--config_path" in out
    assert "gating_type: global or clipwise" in out
    assert json.dumps(first["reading"]) in out  # the example to write down is the reading that came out
    assert outcomes(report)["tensors"] == "passed"


def test_without_any_options_every_open_setting_is_named(home: Path, tmp_path: Path) -> None:
    path = bare(home, tmp_path / "bare", "clipwise")
    status, report = certify(home, tmp_path / "out", path, data=False)
    assert status == 1
    assert report["settings"]["open"] == ["gating_type", "nheads", "fusion_n_heads"]
    assert "no options name the feature folders" in certify(home, tmp_path / "out", path)[1]["checks"][-2]["sentence"]
    elementwise = bare(home, tmp_path / "bare2", "elementwise")
    assert certify(home, tmp_path / "out", elementwise, data=False)[1]["settings"]["open"] == [
        "nheads",
        "fusion_n_heads",
    ]


def test_the_named_flag_or_file_decides(home: Path, tmp_path: Path) -> None:
    options = {k: v for k, v in tiny.tiny_options("clipwise").items() if k != "gating_type"}
    path = bare(home, tmp_path / "bare", "clipwise", opt=argparse.Namespace(**options))
    assert certify(home, tmp_path / "out", path)[0] == 1
    status, report = certify(home, tmp_path / "out", path, "--gating_type", "clipwise")
    assert (status, report["predictions"]["agree"]) == (0, QUERIES)
    (tmp_path / "o.json").write_text('{"gating_type": "clipwise"}', encoding="utf-8")
    assert certify(home, tmp_path / "out", path, "--config_path", tmp_path / "o.json")[0] == 0


def test_sources_that_disagree_on_the_function_need_a_decision_or_the_predictions(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    path = tiny.write_checkpoint(folder, "global")
    (folder / "opt.json").write_text(json.dumps(tiny.tiny_options("clipwise")), encoding="utf-8")
    status, report = certify(home, tmp_path, path)
    assert (status, failed(report)) == (1, {"settings", "family"})
    saved = home / "global" / "best_hl_val_preds.jsonl"
    (folder / saved.name).write_text(saved.read_text(encoding="utf-8"), encoding="utf-8")
    status, report = certify(home, tmp_path, path)
    assert status == 0
    assert "confirm" in report["checks"][1]["sentence"]


# -- checkpoints that cannot be used, and requests that are wrong ----------------------------------------------------


def rewritten(
    home: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None], name: str = "global"
) -> Path:
    folder.mkdir()
    content = torch.load(home / name / "model_best.ckpt", weights_only=False)
    change(content["model"])
    torch.save(content, folder / "model_best.ckpt")
    return folder / "model_best.ckpt"


def test_every_missing_unexpected_and_misshapen_key_is_named(home: Path, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["span_embed.layers.0.extra"] = state.pop("span_embed.layers.0.bias")
        state["class_embed.bias"] = torch.zeros(3)
        state["saliency_proj1.bias"][0] = float("nan")

    status, report = certify(home, tmp_path, rewritten(home, tmp_path / "m", change), data=False)
    assert status == 1
    keys = report["keys"]
    assert keys["missing"] == ["span_embed.layers.0.bias"]
    assert keys["unexpected"] == ["span_embed.layers.0.extra"]
    assert keys["misshapen"] == ["class_embed.bias (3,) instead of (2,)"]
    assert keys["not_finite"] == ["saliency_proj1.bias"]
    assert "tensors" not in outcomes(report)


def test_a_model_without_gates_is_told_so(home: Path, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        for key in [key for key in state if key.startswith("fusion.")]:
            del state[key]

    status, report = certify(home, tmp_path, rewritten(home, tmp_path / "m", change), data=False)
    assert status == 1
    assert "no gates" in report["checks"][0]["sentence"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_exactly_and_said(
    home: Path, tmp_path: Path, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state.update({key: value.to(dtype) for key, value in state.items()})

    status, report = certify(home, tmp_path, rewritten(home, tmp_path / "m", change, "clipwise"), data=False)
    assert status == 0
    name = str(dtype).removeprefix("torch.")
    assert report["tensors"]["widened"] == {name: report["tensors"]["compared"]}
    assert f"{name} in the file, widened to float32" in " ".join(capsys.readouterr().out.split())


def test_predictions_of_another_checkpoint_are_not_held_against_this_one(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tiny.write_checkpoint(folder, "clipwise")
    content = torch.load(folder / "model_best.ckpt", weights_only=False)
    torch.save({**content, "model": tiny.tiny_model("clipwise", seed=9).state_dict()}, folder / "model_latest.ckpt")
    saved = home / "clipwise" / "best_hl_val_preds.jsonl"
    (folder / saved.name).write_text(saved.read_text(encoding="utf-8"), encoding="utf-8")
    status, report = certify(home, tmp_path, folder / "model_latest.ckpt")
    assert (status, outcomes(report)["predictions"]) == (0, "not checked")


def test_a_disagreeing_saved_query_is_listed_with_what_differs(home: Path, tmp_path: Path) -> None:
    path = tiny.write_checkpoint(tmp_path / "run", "global")
    lines = [json.loads(line) for line in (home / "global" / "best_hl_val_preds.jsonl").read_text().splitlines()]
    lines[3]["pred_relevant_windows"][1][0] += 4.0
    lines[5]["pred_saliency_scores"][0] += 0.5
    (tmp_path / "run" / "best_hl_val_preds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, report = certify(home, tmp_path, path)
    assert status == 1
    assert report["predictions"]["agree"] == QUERIES - 2
    first, second = report["predictions"]["disagreeing"]
    assert (first["qid"], second["qid"]) == (lines[3]["qid"], lines[5]["qid"])
    assert first["differences"][0].startswith("window 2: ")
    assert second["differences"] == ["saliency differs by up to 0.5"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model_path", "nowhere.ckpt"], "no checkpoint nowhere.ckpt"),
        (["--model_path", "{home}/global/opt.json"], "cannot be read as a checkpoint"),
        (["--model_path", "{home}/global/model_best.ckpt", "--data_path", "nowhere.jsonl"], "no annotation file"),
        (["--model_path", "{home}/global/model_best.ckpt", "--config_path", "nowhere.json"], "no options file"),
        (["--model_path", "{home}/global/model_best.ckpt", "--gating_type", "elementwise"], "no conversion exists"),
        (["--model_path", "{home}/global/model_best.ckpt", "--device", "cuda:99"], "device"),
        (["--model_path", "{home}/global/model_best.ckpt", "--output_dir", "{home}/global/opt.json"], "not a folder"),
    ],
)
def test_a_wrong_request_is_one_line_exit_2_and_leaves_nothing(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert test_legacy_model.main([flag.format(home=home) for flag in flags]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_second_implementation_gives_the_models_outputs_for_every_switch() -> None:
    for gating_type in ("global", "clipwise", "elementwise"):
        model = tiny.tiny_model(gating_type, seed=3)
        claims = model.architecture
        generator = torch.Generator().manual_seed(1)
        video, audio, text = (
            torch.randn(rows, columns, generator=generator)
            for rows, columns in ((7, claims.video_dim), (7, claims.audio_dim), (3, claims.text_dim))
        )
        reference = Reference({k: v.numpy() for k, v in model.state_dict().items()}, claims)
        wanted = reference.forward(*(x.double().numpy() for x in (video, audio, text)))
        with torch.inference_mode():
            outputs = model(src_vid=video[None], src_aud=audio[None], src_txt=text[None])
        for name in ("pred_logits", "pred_spans", "saliency_scores"):
            gap = np.abs(outputs[name][0].numpy() - getattr(wanted, name)).max()
            assert gap < REFERENCE_TOLERANCE / 10


@needs_shared
@pytest.mark.parametrize("wrong", [{"gating_type": "clipwise"}, {"nheads": 4}])
def test_a_shared_checkpoint_read_wrongly_does_not_agree_with_its_predictions(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    options = json.loads((SHARED / "legacy" / "global" / "opt.json").read_text(encoding="utf-8"))
    (tmp_path / "opt.json").write_text(json.dumps({**options, **wrong}), encoding="utf-8")
    data = SHARED / "qvhighlights_sample" / "highlight_val_sample.jsonl"
    path = SHARED / "legacy" / "global" / "model_best.ckpt"
    status, report = certify(
        tmp_path, tmp_path, path, "--data_path", data, "--config_path", tmp_path / "opt.json", data=False
    )
    assert status == 1
    assert report["predictions"]["agree"] < 96
    assert report["readings"][0] == {
        "reading": {name: options[name] for name in wrong},
        "queries": 96,
        "agree": 96,
        "mean_saliency_distance": pytest.approx(0, abs=1e-3),
    }


@needs_shared
def test_the_second_implementation_gives_the_recorded_outputs_of_the_legacy_code() -> None:
    folder = SHARED / "legacy" / "global"
    checkpoint = read_checkpoint(folder / "model_best.ckpt")
    recorded = np.load(folder / "gates_batch1.npz")
    stats = {str(qid): row for qid, row in zip(recorded["qids"], recorded["gate_stats"], strict=True)}
    assert len(stats) == 96
    settings = resolve(checkpoint)
    from qd_detr.gates.commands.certify.inputs import requested_samples
    from qd_detr.gates.commands.certify.request import CertificateRequest

    data = SHARED / "qvhighlights_sample" / "highlight_val_sample.jsonl"
    samples = requested_samples(CertificateRequest(folder / "model_best.ckpt", data_path=data), settings)
    assert samples is not None
    reference = Reference({k: v.numpy() for k, v in checkpoint.weights.items()}, settings.architecture)
    for query in samples.index.queries[:4]:
        features = samples.reader.read(query)
        outputs = reference.forward(*(x.astype(float) for x in (features.video, features.audio, features.text)))
        for layer in range(2):
            wanted = recorded[f"q{query.qid}_attention_gate_{layer}"]
            assert (
                np.abs(
                    outputs.gates["attention"][layer] - wanted.reshape(outputs.gates["attention"][layer].shape)
                ).max()
                < 1e-5
            )
        assert np.abs(outputs.pred_logits - recorded[f"q{query.qid}_pred_logits"].reshape(-1, 2)).max() < 1e-4
