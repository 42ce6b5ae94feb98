"""test_gate_analysis.py as a user runs it, and that it can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import test_gate_analysis
from qd_detr.gates.commands.selfcheck import checks
from qd_detr.gates.commands.selfcheck.ledger import CheckFailed, Ledger, expect

REPOSITORY = Path(__file__).parents[1]


def test_quick_passes_and_leaves_a_tree_to_look_at(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(REPOSITORY / "test_gate_analysis.py"), "--quick", "--output_dir", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "6 of 6 checks passed, 0 failed" in ran.stdout
    assert "random weights" in ran.stdout
    report = tmp_path / "out" / "results" / "clipwise" / "ANALYSIS_REPORT.md"
    assert f"To look at: {report}" in ran.stdout
    assert "clipwise gating" in report.read_text(encoding="utf-8")
    assert (report.parent / "overall_statistics.png").stat().st_size > 1000


def test_a_failing_check_is_reported_and_the_others_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object) -> str:
        raise CheckFailed("tensors differ: ['span_embed']")

    monkeypatch.setattr(checks, "weights_survive", broken)
    monkeypatch.setattr(checks, "analysis_makes_a_tree", lambda *args: "")
    assert test_gate_analysis.main(["--quick", "--output_dir", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "[FAIL] adapter keeps every tensor" in out
    assert "tensors differ: ['span_embed']" in out
    assert "[pass] tracking changes no output" in out
    assert "[FAIL] statistics are those of the raw gates" in out  # nothing was analysed, and this says so
    assert "of 6 checks passed" in out


def test_the_self_check_catches_gates_that_are_reported_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qd_detr.gates.commands.selfcheck.bench import Bench
    from qd_detr.gates.fusion import GatingFunction

    bench = Bench(tmp_path, test_gate_analysis.commands())
    bench.make_data()
    assert "attention" in checks.known_gates_are_found(bench, "clipwise")
    monkeypatch.setattr(GatingFunction, "squash", lambda self, raw: torch.sigmoid(raw))
    with pytest.raises(CheckFailed, match="attention gate of layer 0"):
        checks.known_gates_are_found(bench, "clipwise")


def test_a_foreign_model_is_really_foreign() -> None:
    from qd_detr.gates.commands.selfcheck.foreign import ForeignModel
    from qd_detr.gates.fusion import AVIGATEFusionCustom

    assert not any(isinstance(module, AVIGATEFusionCustom) for module in ForeignModel(16, 2, 2).modules())


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert test_gate_analysis.main(["--quick", "--output_dir", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_ledger_counts_what_passed_and_keeps_each_reason() -> None:
    ledger = Ledger()

    def fails() -> str:
        expect(False, "one is not two")
        return "unreached"

    assert ledger.check("fine", lambda: "as it should be")
    assert not ledger.check("wrong", fails)
    assert not ledger.check("broken", lambda: str(1 / 0))
    assert [result.detail for result in ledger.failed] == ["one is not two", "ZeroDivisionError: division by zero"]
