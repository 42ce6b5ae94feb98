"""Report and comparison of families with one gate, three gates, and a gate that 0 does not switch off."""

from __future__ import annotations

import json

import pytest

import run_gate_analysis
from tests.tiny_run import make_tiny_run


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """The results of FiLM gating (three gates), of a temporal gate (one) and of the base on the same data, by family."""
    place = tmp_path_factory.mktemp("families")
    found = {}
    for family, layers, settings in (
        ("base", 2, {}),
        ("scaled_film", 2, {"temperature": 1.5}),
        ("temporal_gate", 1, {}),
    ):
        run = make_tiny_run(place / "run", "clipwise", 4, layers, family=family, settings=settings)
        found[family] = place / family
        argv = run.argv("--no_figures", "--no_explorer", "--ablate", output=found[family])
        assert run_gate_analysis.main(argv) == 0
    return found


def report_of(tree):
    return (tree / "ANALYSIS_REPORT.md").read_text(encoding="utf-8")


def test_three_gates_are_reported_by_name_and_0_is_not_called_off_where_it_is_not(trees):
    report = report_of(trees["scaled_film"])
    assert "Family of gated models: scaled_film." in report
    assert "The FFN gate is off at -1, not at 0." in report
    assert "| layer 1 FFN shift gate (a shift of every feature) | 0 |" in report
    assert "all ffn shift gates off" in report
    near_zero = next((line for line in report.splitlines() if line.startswith("- Near 0 in at least half")), "")
    assert "FFN gate" not in near_zero


def test_one_gate_in_0_to_1_is_reported_without_a_second(trees):
    report = report_of(trees["temporal_gate"])
    assert "gates in [0, 1]." in report
    assert "FFN" not in report
    assert "ffn" not in (trees["temporal_gate"] / "samples.csv").read_text().splitlines()[0]
    statistics = json.loads((trees["temporal_gate"] / "overall_statistics.json").read_text())
    assert "ffn_gates" not in statistics


def test_families_with_one_two_and_three_gates_are_compared_by_the_gates_that_each_has(trees, tmp_path):
    for other, kinds in (("base", {"attention", "ffn"}), ("temporal_gate", {"attention"})):
        out = tmp_path / other
        argv = ["--compare_runs", str(trees["scaled_film"]), str(trees[other]), "--output_dir", str(out), "--quiet"]
        assert run_gate_analysis.main(argv) == 0
        rows = json.loads((out / "comparison.json").read_text())["gates"]
        assert {row["kind"] for row in rows} == {"attention", "ffn", "ffn_shift"}
        both = {row["kind"] for row in rows if row["layer"] == 0 and len(row["values"]) == 2}
        assert both == kinds
        assert "layer 0 ffn shift magnitude" in (out / "comparison.csv").read_text()
