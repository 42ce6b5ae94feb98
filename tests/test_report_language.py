"""The report in Korean: the same texts, the same numbers, no sentence left in English."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import run_gate_analysis
from qd_detr.gates.commands.analyse import prepare
from qd_detr.gates.commands.analyse.provenance import fingerprint_of
from qd_detr.gates.results.report.audio import relation_sentence, verdict_sentence
from qd_detr.gates.results.report.wording import CATALOGUES, in_english, report_texts
from qd_detr.gates.wording import LANGUAGES, Reason, placeholders
from tests.documents import ROOT
from tests.tiny_run import TinyRun, make_tiny_run

NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]\d+)?(?!\w*@)")
HANGUL = re.compile(r"[가-힣]")
ENGLISH = re.compile(r"(?:\b[A-Za-z]{2,}[ ,]+){3}[A-Za-z]{2,}")  # four words in a row
FLAGS = ("--ablate", "--audio", "none", "--compare_samples")


@dataclass
class Runs:
    tiny: TinyRun
    folders: dict[str, Path]
    shown: dict[str, str]

    def report(self, language: str) -> str:
        return (self.folders[language] / "ANALYSIS_REPORT.md").read_text(encoding="utf-8")


def run_in_both(tiny: TinyRun, *flags: str) -> Runs:
    folders, shown = {}, {}
    for language in LANGUAGES:
        folders[language] = tiny.folder / language
        argv = [one for one in tiny.argv(*flags, "--lang", language, output=folders[language]) if one != "--quiet"]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert run_gate_analysis.main(argv) == 0
        shown[language] = out.getvalue()
    return Runs(tiny, folders, shown)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return run_in_both(make_tiny_run(tmp_path_factory.mktemp("language")), *FLAGS)


def numbers_by_line(text: str) -> list[list[str]]:
    """The numbers of every line, in any order: Korean puts them elsewhere in the sentence, and writes "zero" as 0."""
    text = re.sub("(?i)near zero", "near 0", text)
    return [sorted(NUMBER.findall(HANGUL.sub(" ", line))) for line in text.splitlines()]


def assert_korean(text: str) -> None:
    prose = re.sub(r"`+[^`]*`+|\]\([^)]*\)", "", text)
    for line in prose.splitlines():
        if line.startswith(("#", "- ", "**")):
            assert HANGUL.search(line), line
        if not line.startswith("|"):  # cells may hold a query, or a condition by the name it has in the JSON
            assert not ENGLISH.search(line), line


def test_both_languages_have_the_same_keys_and_placeholders() -> None:
    english, korean = CATALOGUES["en"], CATALOGUES["ko"]
    assert english.keys() == korean.keys()
    for key in english:
        assert placeholders(english[key]) == placeholders(korean[key]), key
    untranslated = {key for key in english if not key.startswith("count.") and english[key] == korean[key]}
    # What is left is a symbol or a bare placeholder.
    assert untranslated == {
        "slices.head.n",
        "alignment.cell",
        "timeline.order.gates",
        "comparison.head.n",
        "audio.reason",
        "audio.verdict",
        "clustering.entry",
        "effects.numbers",
        "evolution.metric",
    }


def test_every_korean_heading_and_sentence_is_korean(runs: Runs) -> None:
    report = runs.report("ko")
    assert "## 오디오와 게이트의 효과" in report
    assert_korean(report)
    with pytest.raises(AssertionError):
        assert_korean(runs.report("en"))


def test_the_korean_report_has_the_numbers_of_the_english_one_line_by_line(runs: Runs) -> None:
    english, korean = (runs.report(language) for language in LANGUAGES)
    assert numbers_by_line(korean) == numbers_by_line(english)
    assert sum(map(len, numbers_by_line(korean))) > 250


def test_json_and_tables_do_not_depend_on_the_language(runs: Runs) -> None:
    for name in ("audio_help.json", "overall_statistics.json", "samples.csv", "predictions.jsonl", "alignment.json"):
        texts = [(runs.folders[language] / name).read_bytes() for language in LANGUAGES]
        assert texts[0] == texts[1], name
    configs = [json.loads((runs.folders[language] / "run_config.json").read_text()) for language in LANGUAGES]
    assert [config["request"]["lang"] for config in configs] == list(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_terminal_shows_the_opening_of_the_report_in_its_language(runs: Runs, language: str) -> None:
    report = runs.folders[language] / "ANALYSIS_REPORT.md"
    summary = runs.shown[language].rstrip("\n")
    *sentences, gap, place = summary.splitlines()
    assert len(sentences) == 4  # no first window moves: nothing is said of when
    assert gap == ""
    assert place == {"en": "Report: ", "ko": "보고서: "}[language] + str(report)
    assert all(f"- {sentence}" in runs.report(language).replace("**", "").splitlines() for sentence in sentences)
    assert bool(HANGUL.search(sentences[0])) == (language == "ko")


def test_english_verdicts_and_relations_are_those_of_audio_help_json(runs: Runs) -> None:
    data = json.loads((runs.folders["en"] / "audio_help.json").read_text())
    texts = report_texts("en")
    assert [verdict_sentence(one, texts) for one in data["verdict"]] == [one["sentence"] for one in data["verdict"]]
    relations = data["explanation"]["relations"]
    assert len(relations) > 4
    # Every wording: the tiny run's own, and what it did not come to.
    turned = [
        {
            **relations[0],
            "correlation": {**relations[0]["correlation"], "low": 0.1, "high": 0.3, "estimate": sign * 0.2},
            "significant": stands,
        }
        for sign in (1, -1)
        for stands in (True, False)
    ]
    assert [relation_sentence(one, texts) for one in relations] == [one["sentence"] for one in relations]
    ends = ["larger effect.", "after false-discovery control.", "smaller effect.", "after false-discovery control."]
    assert all(relation_sentence(one, texts).endswith(end) for one, end in zip(turned, ends, strict=True))
    assert all(HANGUL.search(relation_sentence(one, report_texts("ko"))) for one in turned)


def reasons_in_the_code() -> dict[str, set[str]]:
    """Return the names of the values of every `Reason` that the package spells out, by key."""
    found = {}
    for path in sorted((ROOT / "qd_detr").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", None) != "Reason":
                continue
            values = node.args[1] if len(node.args) > 1 else ast.Dict([], [])
            if isinstance(node.args[0], ast.Constant) and isinstance(values, ast.Dict):
                found[node.args[0].value] = {key.value for key in values.keys}
    return found


def test_every_reason_has_a_text_with_a_place_for_each_of_its_values() -> None:
    reasons = reasons_in_the_code()
    assert len(reasons) > 25
    for key, names in reasons.items():
        assert placeholders(CATALOGUES["en"][key]) == names, key


def test_a_reason_is_a_sentence_in_each_language_and_english_in_the_files() -> None:
    rough = Reason("interval.rough", {"n": 3})
    assert report_texts("ko").say(rough) == "원본 비디오가 3개뿐이라 신뢰구간이 거칩니다"
    assert in_english({"effects": [{"low": 1.5, "reason": rough}, None]}) == {
        "effects": [{"low": 1.5, "reason": "only 3 source videos: the interval is rough"}, None]
    }


def test_a_users_own_caption_stays_as_it_is() -> None:
    assert report_texts("ko").say("My own figure {of} 3 things.") == "My own figure {of} 3 things."


@pytest.mark.parametrize("gating_type", ["global", "elementwise"])
def test_data_without_labels_and_other_gates_are_told_in_korean_too(tmp_path: Path, gating_type: str) -> None:
    tiny = make_tiny_run(tmp_path, gating_type=gating_type)
    for query in tiny.queries:
        for key in ("relevant_windows", "relevant_clip_ids", "saliency_scores"):
            del query[key]
    tiny.rewrite()
    both = run_in_both(tiny, "--audio", "none", "--no_figures")
    assert_korean(both.report("ko"))
    assert numbers_by_line(both.report("ko")) == numbers_by_line(both.report("en"))


def test_a_comparison_of_two_runs_is_korean_when_asked(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    reports = {}
    for language in LANGUAGES:
        pair = [str(folder) for folder in runs.folders.values()]
        out = tmp_path / language
        assert run_gate_analysis.main(["--compare_runs", *pair, "--output_dir", str(out), "--lang", language]) == 0
        reports[language] = (out / "COMPARISON_REPORT.md").read_text(encoding="utf-8")
        told = capsys.readouterr().out.splitlines()
        assert told[-1] == {"en": "Report: ", "ko": "보고서: "}[language] + str(out / "COMPARISON_REPORT.md")
        assert f"**{told[0]}**" == reports[language].splitlines()[2]  # the answer opens the report
    assert reports["en"].startswith("# Runs compared\n")
    assert reports["ko"].startswith("# 실행 비교\n")
    assert_korean(reports["ko"])
    assert numbers_by_line(reports["ko"]) == numbers_by_line(reports["en"])


def test_a_run_can_be_resumed_in_the_other_language(runs: Runs) -> None:
    args = run_gate_analysis.build_parser().parse_args(runs.tiny.argv(output=runs.tiny.folder / "again"))
    english = run_gate_analysis.request_from(args)
    marks = [fingerprint_of(prepare(replace(english, lang=language))) for language in LANGUAGES]
    assert marks[0] == marks[1]
