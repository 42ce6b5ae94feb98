"""Checkpoints of this project's own trainer: certified and reported as what they are, not as a legacy run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import run_gate_analysis
import test_legacy_model
from qd_detr.gates import planted
from qd_detr.gates.gating import GATING_TYPES
from qd_detr.gates.train import __main__ as train

N_TRAIN, N_VAL = 24, 12
HEADS = planted.TRAINING_OPTIONS["nheads"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with planted data and a finished training run for each gating type."""
    folder = tmp_path_factory.mktemp("trained")
    planted.generate(folder / "data", seed=0, n_train=N_TRAIN, n_val=N_VAL)
    for gating_type in GATING_TYPES:
        # Small as it is, batch mates move its predictions by more than machines may differ.
        argv = [*planted.training_flags(folder / "data"), "--n_epoch", "1", "--gating_type", gating_type]
        assert train.main([*argv, "--results_dir", str(folder / gating_type), "--device", "cpu", "--quiet"]) == 0
    return folder


def without_mark(trained: Path, gating_type: str, folder: Path, *, options: bool = True) -> Path:
    """Copy a run as a legacy code that loaded it would have saved it, predictions beside it; return the checkpoint."""
    folder.mkdir()
    content = torch.load(trained / gating_type / "model_best.ckpt", weights_only=False)
    kept = ("model", "epoch", "opt") if options else ("model",)
    torch.save({name: content[name] for name in kept}, folder / "model_best.ckpt")
    saved = (trained / gating_type / "best_hl_val_preds.jsonl").read_text(encoding="utf-8")
    (folder / "best_hl_val_preds.jsonl").write_text(saved, encoding="utf-8")
    return folder / "model_best.ckpt"


def argv_of(trained: Path, output: Path, checkpoint: Path, *flags: object) -> list[str]:
    data = trained / "data" / planted.VAL_FILE
    given = ["--model_path", checkpoint, "--data_path", data, "--output_dir", output, *flags, "--device", "cpu"]
    return [str(part) for part in given]


def certify(trained: Path, output: Path, checkpoint: Path, *flags: object) -> tuple[int, dict[str, Any]]:
    status = test_legacy_model.main(argv_of(trained, output, checkpoint, *flags))
    return status, json.loads((output / "compatibility_report.json").read_text(encoding="utf-8"))


def analyse(trained: Path, output: Path, checkpoint: Path, *flags: object) -> tuple[str, dict[str, Any]]:
    """Run the main job; return the report and audit.json."""
    assert run_gate_analysis.main(argv_of(trained, output, checkpoint, "--no_figures", *flags)) == 0
    audit = json.loads((output / "audit.json").read_text(encoding="utf-8"))
    return (output / "ANALYSIS_REPORT.md").read_text(encoding="utf-8"), audit


def predicted(path: Path) -> dict[int, tuple[Any, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["qid"]: (line["pred_relevant_windows"], line["pred_saliency_scores"]) for line in lines}


@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_a_trainers_folder_is_certified_and_no_legacy_run_is_spoken_of(
    trained: Path, tmp_path: Path, gating_type: str, lang: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = certify(trained, tmp_path, trained / gating_type / "model_best.ckpt", "--lang", lang)
    assert status == 0
    assert {check["outcome"] for check in report["checks"]} == {"passed"}
    assert report["predictions"]["agree"] == N_VAL
    assert report["predictions"]["eval_bsz"] is None
    assert set(report["batches"]) == {"alone", "alone_agree", "alone_disagreeing"}
    told = capsys.readouterr().out + json.dumps([check["sentence"] for check in report["checks"]])
    assert "legacy" not in told.lower()
    assert "레거시" not in told


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_a_copy_without_the_trainers_mark_is_certified_too(trained: Path, tmp_path: Path, gating_type: str) -> None:
    copied = without_mark(trained, gating_type, tmp_path / "copy")
    status, report = certify(trained, tmp_path, copied)
    assert (status, report["predictions"]["agree"], report["predictions"]["eval_bsz"]) == (0, N_VAL, None)
    assert "changed_by_legacy_batches" not in report["batches"]


def test_readings_of_an_own_checkpoint_are_tried_at_batch_size_1(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "opt.json").write_text(json.dumps({"nheads": 8}), encoding="utf-8")
    own = trained / "clipwise" / "model_best.ckpt"
    bare = without_mark(trained, "clipwise", tmp_path / "bare", options=False)
    claimed = json.loads((trained / "clipwise" / "opt.json").read_text(encoding="utf-8"))
    (bare.parent / "opt.json").write_text(
        json.dumps({k: v for k, v in claimed.items() if k != "nheads"}), encoding="utf-8"
    )
    for checkpoint, *flags in ((own, "--config_path", tmp_path / "opt.json"), (bare,)):
        status, report = certify(trained, tmp_path, checkpoint, *flags)
        assert status == 1
        first, second = report["readings"][:2]
        assert (first["reading"], first["agree"], first["queries"]) == ({"nheads": HEADS}, N_VAL, N_VAL)
        assert second["agree"] < N_VAL
        told = next(check["sentence"] for check in report["checks"] if check["name"] == "predictions")
        assert checkpoint != own or ("batch size 1" in told and "legacy" not in told)


@pytest.mark.parametrize("flag", [[], ["--legacy_model"]])
def test_the_report_on_an_own_checkpoint_speaks_of_no_legacy_run(
    trained: Path, tmp_path: Path, flag: list[str]
) -> None:
    checkpoint = trained / "global" / "model_best.ckpt"
    for lang in ("en", "ko"):
        text, audit = analyse(trained, tmp_path / lang, checkpoint, *flag, "--lang", lang)
        assert "legacy" not in text.lower()
        assert "레거시" not in text
        assert "batch_effects" not in audit
        assert audit["noise_floor"]["samples"] > 0
    assert predicted(tmp_path / "en" / "predictions.jsonl") == predicted(trained / "global" / "best_hl_val_preds.jsonl")


def test_without_the_mark_a_checkpoint_is_taken_for_a_legacy_runs(trained: Path, tmp_path: Path) -> None:
    copied = without_mark(trained, "global", tmp_path / "copy")
    text, audit = analyse(trained, tmp_path / "out", copied, "--legacy_model")
    assert "In the legacy run's batches" in text
    assert audit["batch_effects"]["any_score_changes"] > 0


def test_legacy_batches_of_an_own_checkpoint_run_with_a_warning_and_say_whose_they_are_not(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = trained / "global" / "model_best.ckpt"
    text, audit = analyse(trained, tmp_path, checkpoint, "--legacy_batches")
    assert "not what was saved beside it" in caplog.text
    assert "No legacy run made this checkpoint" in text
    assert not {"batch_effects", "noise_floor"} & set(audit)
    assert predicted(tmp_path / "predictions.jsonl") != predicted(trained / "global" / "best_hl_val_preds.jsonl")
