"""The claim sheet: LaTeX that compiles, numbers that the JSON files hold, a command that gives the same bytes."""

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

import run_gate_analysis
from qd_detr.gates.commands.analyse import AnalysisRequest
from qd_detr.gates.commands.analyse.replay import command_text, replay_command
from qd_detr.gates.results.report.claims import latex
from run_gate_analysis import main
from tests.tiny_run import make_tiny_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a run in `out`, asked for in Korean by paths from there."""
    folder = tmp_path_factory.mktemp("claims")
    tiny = make_tiny_run(folder / "a", n_queries=20)
    (folder / "mine.txt").write_text("101\n103\n", encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        argv = ["--legacy_model", "--model_path", str(tiny.checkpoint.relative_to(folder))]
        argv += ["--data_path", str(tiny.data.relative_to(folder)), "--audio", "none", "--no_figures", "--no_explorer"]
        argv += ["--slice", "mine=mine.txt", "--top", "2", "--lang", "ko", "--quiet", "--output_dir", "out"]
        assert main(argv) == 0
        yield folder
    finally:
        os.chdir(before)


def command_of(sheet):
    return sheet.split("\\begin{verbatim}\n")[1].split("\n\\end{verbatim}")[0]


def words_of(command):
    # As a shell does, which shlex does not: a backslash at the end of a line joins it with the next.
    return shlex.split(command.replace("\\\n", ""))


def numbers_of(data):
    if isinstance(data, dict):
        return [n for value in data.values() for n in numbers_of(value)]
    if isinstance(data, list):
        return [n for value in data for n in numbers_of(value)]
    return [float(data)] if isinstance(data, (int, float)) and not isinstance(data, bool) else []


@pytest.mark.parametrize("name", ["claims.tex", "claims_ko.tex"])
def test_every_number_of_the_sheet_is_a_number_of_the_json_files(folder, name):
    out = folder / "out"
    sheet = (out / name).read_text(encoding="utf-8")
    config = json.loads((out / "run_config.json").read_text())
    body = sheet.split("\\begin{document}")[1].split("\\begin{verbatim}")[0]
    for text in (*config["versions"].values(), config["toolkit_version"]):
        body = body.replace(latex(text), "")
    for key in ("checkpoint", "annotations"):
        assert config[key]["sha256"][:16] in body
        body = body.replace(config[key]["sha256"][:16], "")
    body = body.replace("SHA-256", "")
    for metric in json.loads((out / "audio_help.json").read_text())["metrics"]["names"]:
        body = body.replace(latex(metric), "")
    body = re.sub(r"R1@0\.\d", "", body)
    files = [out / f"{name}.json" for name in ("audio_help", "metrics", "overall_statistics", "run_config")]
    known = [abs(number) for path in files for number in numbers_of(json.loads(path.read_text()))]
    known += [95.0, 5.0]  # the level 0.95 of the intervals, and what is left of it, in percent
    told = re.findall(r"\d[\d,]*(?:\.\d+)?", body)
    assert len(told) > 30
    for text in told:
        value, digits = float(text.replace(",", "")), len(text.partition(".")[2])
        assert any(abs(round(number, digits) - value) < 1e-9 for number in known), text


def test_the_command_of_the_sheet_gives_the_same_bytes(folder):
    command = command_of((folder / "out" / "claims.tex").read_text(encoding="utf-8"))
    argv = words_of(command)
    assert argv[:2] == ["python", "run_gate_analysis.py"]
    assert main([*argv[2:], "--quiet"]) == 0
    first, again = folder / "out", folder / "repeated_results"
    names = {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()}
    assert {"claims.tex", "claims_ko.tex", "samples.csv", "ANALYSIS_REPORT.md"} <= names
    for name in names - {"run_config.json"}:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


def test_the_command_asks_for_everything_that_was_asked_for():
    other = {
        "model_path": Path("a b/m.ckpt"),
        "data_path": Path("d.jsonl"),
        "gating_type": "global",
        "family": "base",
        "max_samples": 3,
        "analyze_samples": ("1", "x y"),
        "batch_size": 4,
        "compare_samples": ("1",),
        "figure_format": "pdf",
        "config_path": Path("o.json"),
        "feature_root": Path("r"),
        "v_feat_dirs": (Path("v"), Path("w")),
        "t_feat_dir": Path("t"),
        "a_feat_dir": Path("s"),
        "interventions": Path("i.json"),
        "audio": ("none", "mean"),
        "margin": 0.5,
        "history_memory_mb": 2.5,
        "device": "cpu",
        "seed": 7,
        "lang": "ko",
        "slice": ("a=b c.txt", "d=e"),
        "top": 4,
        "rank_by": "ap",
    }
    not_repeated = {"output_dir", "resume", "quiet", "shard", "missing_list"}
    asked = {
        field.name: other.get(field.name, True) for field in fields(AnalysisRequest) if field.name not in not_repeated
    }
    request = AnalysisRequest(**asked)
    argv = words_of(command_text(replay_command(request)))[2:]
    again = run_gate_analysis.request_from(run_gate_analysis.build_parser().parse_args(argv))
    for name, value in asked.items():
        assert getattr(again, name) == value, name


def assert_is_well_formed(sheet):
    """Braces and environments close in the order in which they open; nothing special stands bare."""
    assert sheet.count("\\begin{document}") == sheet.count("\\end{document}") == 1
    plain = re.sub(r"\\begin\{verbatim\}.*?\\end\{verbatim\}", "", sheet, flags=re.S)
    plain = re.sub(r"^%.*$", "", plain, flags=re.M)
    stack = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", plain):
        if what == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    bare = re.sub(r"\\[&%$#_{}\\]", "", plain)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[_^#%]", bare)
    rows = re.search(r"\\midrule\n(.*)\\bottomrule", plain, re.S).group(1).strip().splitlines()
    (columns,) = {row.count(" & ") for row in rows}
    assert f"{{l{'r' * columns}}}" in plain


@pytest.mark.parametrize("name", ["claims.tex", "claims_ko.tex"])
def test_the_sheet_is_latex_that_compiles(folder, tmp_path, name):
    sheet = (folder / "out" / name).read_text(encoding="utf-8")
    assert_is_well_formed(sheet)
    if shutil.which("xelatex") is None or (name == "claims_ko.tex" and not has_korean_tex()):
        pytest.skip("no LaTeX for it is installed: the form alone was tested")
    done = subprocess.run(
        ["xelatex", "-interaction=nonstopmode", "-halt-on-error", "-output-directory", tmp_path, folder / "out" / name],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / name).with_suffix(".pdf").stat().st_size > 5000


def has_korean_tex():
    found = shutil.which("kpsewhich")
    return bool(found and subprocess.run([found, "kotex.sty"], capture_output=True, check=False).stdout.strip())


def test_without_effects_the_sheet_holds_the_metrics_and_says_that_effects_were_not_measured(folder, tmp_path):
    config = json.loads((folder / "out" / "run_config.json").read_text())["request"]
    argv = ["--legacy_model", "--model_path", config["model_path"], "--data_path", config["data_path"], "--quiet"]
    argv += ["--no_effects", "--no_figures", "--no_explorer", "--max_samples", "3", "--output_dir", str(tmp_path / "o")]
    assert main(argv) == 0
    sheet = (tmp_path / "o" / "claims.tex").read_text(encoding="utf-8")
    assert_is_well_formed(sheet)
    assert "no effects were measured" in sheet
    assert "3 of 20 were analysed" in sheet
    assert "rescues" not in sheet


def test_text_that_latex_would_read_as_markup_is_shown_as_it_is():
    assert latex("a_b & 5 % {x} \\ ~ ^ #$ --audio") == (
        r"a\_b \& 5 \% \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \#\$ -{}-audio"
    )
