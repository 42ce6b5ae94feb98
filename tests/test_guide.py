"""The guide: as a user answers it, and without a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import legacy_model_guide
import run_gate_analysis
import test_legacy_model
from qd_detr.gates.commands.certify import texts as certificate_texts
from qd_detr.gates.commands.guide import finding, texts
from qd_detr.gates.commands.guide.terminal import Terminal, completions
from qd_detr.gates.commands.guide.walk import Script, Walk
from qd_detr.gates.commands.selfcheck import tiny
from qd_detr.gates.wording import Texts, display_width, language_of_locale, padded, placeholders, wrapped

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("집") / "내 실험"
    data_path = tiny.make_data(home / "data", 6)
    tiny.write_predictions(tiny.write_checkpoint(home / "모델 하나", "clipwise"), data_path)
    return home


def script(module: ModuleType, main: Callable[..., int] | None = None) -> Script:
    flags = frozenset(module.build_parser()._option_string_actions)
    return Script(main or module.main, Path(module.__file__ or ""), flags)


class Answers:
    """Answers prompts from a list; an exception in it is raised. Remembers what was asked."""

    def __init__(self, answers: Iterable[str | type[BaseException]]) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer


def walk(
    folder: Path, answers: Iterable[str | type[BaseException]], language: str = "en", **mains: Callable[..., int]
) -> tuple[int, str, Answers]:
    """Walk through the guide with these answers; return its exit status, what it showed, and the prompts."""
    shown: list[str] = []
    given = Answers(answers)
    terminal = Terminal(Texts(texts.CATALOGUES, language), read=given, write=shown.append)
    test = script(test_legacy_model, mains.get("test"))
    analysis = script(run_gate_analysis, mains.get("analysis"))
    status = Walk(terminal, test, analysis, folder).run()
    return status, "\n".join(shown), given


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catalogues", [texts.CATALOGUES, certificate_texts.CATALOGUES])
def test_both_languages_have_the_same_keys_and_placeholders(catalogues: dict[str, dict[str, str]]) -> None:
    english, korean = catalogues["en"], catalogues["ko"]
    assert list(english) == list(korean)
    for key, text in english.items():
        assert placeholders(text) == placeholders(korean[key]), key


@pytest.mark.parametrize("catalogues", [texts.CATALOGUES, certificate_texts.CATALOGUES])
def test_korean_texts_are_korean(catalogues: dict[str, dict[str, str]]) -> None:
    same = {
        key for key, text in catalogues["en"].items() if catalogues["ko"][key] == text and text.strip("{}-").isalpha()
    }
    assert same <= {"settings.unusable", "family.unusable", "output.unusable"}


def test_a_wide_character_takes_two_columns_and_a_combining_one_none() -> None:
    assert display_width("gate") == 4
    assert display_width("가중치") == 6
    assert display_width("e\u0301") == 1
    assert display_width("\u1112\u1161\u11ab") in (2, 4)  # conjoining letters: terminals differ
    assert padded("가", 4) == "가  "


def test_wrapped_lines_fit_and_paths_stay_whole() -> None:
    text = "  모델이 언제 어디서 얼마나 오디오를 듣고 있을까요 /a/very/long/path/that/does/not/fit/anywhere.ckpt 끝"
    lines = wrapped(text, 24, "  ").split("\n")
    assert all(display_width(line) <= 24 for line in lines if "/" not in line)
    assert "  /a/very/long/path/that/does/not/fit/anywhere.ckpt" in lines
    assert all(line.startswith("  ") for line in lines)


def test_the_language_comes_from_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "ko_KR.UTF-8")
    assert language_of_locale() == "ko"
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    assert language_of_locale() == "en"


# -- finding ---------------------------------------------------------------------------------------------------------


def test_checkpoints_and_annotations_are_found_and_nothing_else(home: Path) -> None:
    found = finding.look_around(home)
    assert [path.name for path in found.checkpoints] == ["model_best.ckpt"]
    assert sorted(path.name for path in found.data) == ["highlight_train_planted.jsonl", "highlight_val_planted.jsonl"]
    assert not found.cut_short


def test_the_search_is_bounded_in_depth_and_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*"abcdef")
    deep.mkdir(parents=True)
    (deep / "deep.ckpt").touch()
    (tmp_path / "a" / "near.pth").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.ckpt").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "itself.jsonl").symlink_to("itself.jsonl")
    assert [path.name for path in finding.look_around(tmp_path).checkpoints] == ["near.pth"]
    monkeypatch.setattr(finding, "MAX_FOLDERS", 2)
    found = finding.look_around(tmp_path)
    assert (found.folders, found.cut_short) == (2, True)


def test_a_link_to_a_folder_is_followed_and_no_link_behind_it(tmp_path: Path) -> None:
    here, disk, other = (tmp_path / name for name in ("here", "disk", "other"))
    for folder in (here, disk / "run", other):
        folder.mkdir(parents=True)
    (disk / "run" / "best.ckpt").touch()
    (other / "far.ckpt").touch()
    (here / "data").symlink_to(disk)
    (disk / "run" / "more").symlink_to(other)
    (disk / "back").symlink_to(here)
    (here / "linked.pth").symlink_to(disk / "run" / "best.ckpt")
    found = [str(path.relative_to(here)) for path in finding.look_around(here).checkpoints]
    assert found == ["linked.pth", "data/run/best.ckpt"]


# -- walking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_walk_tests_and_analyses_and_shows_commands_that_do_the_same(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.chdir(tmp_path)
    argvs: dict[str, list[str]] = {}

    def recording(name: str, main: Callable[..., int]) -> Callable[..., int]:
        def run(argv: list[str]) -> int:
            argvs[name] = list(argv)
            return main([*argv, "--quiet"] if name == "test" else [*argv, "--quiet", "--no_figures"])

        return run

    answers = ["1", "2", "y", "3", "2, 2", "결과 폴더", ""]
    status, shown, given = walk(
        home,
        answers,
        language,
        test=recording("test", test_legacy_model.main),
        analysis=recording("analysis", run_gate_analysis.main),
    )
    assert status == 0
    assert given.answers == []
    report = json.loads((tmp_path / "compatibility_report.json").read_text(encoding="utf-8"))
    assert report["predictions"]["agree"] == 6
    assert (tmp_path / "결과 폴더" / "ANALYSIS_REPORT.md").is_file()
    commands = [shlex.split(line) for line in shown.split("\n") if line.startswith("  python ")]
    assert [command[2:] for command in commands] == [argvs["test"], argvs["analysis"]]
    assert "--legacy_model" in argvs["analysis"]
    assert "--audio none mean shuffle shift" in " ".join(argvs["analysis"])
    assert ("--lang" in argvs["test"]) == (language == "ko")
    assert ("--lang" in argvs["analysis"]) == (language == "ko")
    analysis = (tmp_path / "결과 폴더" / "ANALYSIS_REPORT.md").read_text(encoding="utf-8")
    assert ("게이트" in analysis) == (language == "ko")
    assert "clipwise gating" in shown


@pytest.mark.parametrize("leave", ["q", EOFError, KeyboardInterrupt])
def test_every_question_can_be_left(home: Path, leave: str | type[BaseException]) -> None:
    answers = ["1", "2", "n", "3", "", "out"]
    for asked in range(len(answers) + 1):
        status, shown, given = walk(home, [*answers[:asked], leave])
        assert status == (130 if leave is KeyboardInterrupt else 0)
        assert len(given.prompts) == asked + 1
        assert "Goodbye" in shown


def test_every_question_can_be_gone_back_to(home: Path) -> None:
    _, shown, given = walk(
        home, ["b", "1", "b", "1", "2", "b", "2", "n", "b", "n", "3", "b", "3", "1", "b", "1", "out", "b", "out", "q"]
    )
    assert "first question" in shown
    questions = {key: text for key, text in texts.CATALOGUES["en"].items() if key.endswith(".ask")}
    kinds = [next(key for key, text in questions.items() if begins_as(prompt, text)) for prompt in given.prompts]
    assert kinds == [
        "models.ask",
        "models.ask",
        "data.ask",
        "models.ask",
        "data.ask",
        "test.ask",
        "data.ask",
        "test.ask",
        "samples.ask",
        "test.ask",
        "samples.ask",
        "extras.ask",
        "samples.ask",
        "extras.ask",
        "output.ask",
        "extras.ask",
        "output.ask",
        "analysis.ask",
        "output.ask",
        "analysis.ask",
    ]


def begins_as(prompt: str, text: str) -> bool:
    return prompt.startswith(text.split("{")[0].rstrip("["))


def test_wrong_answers_are_told_and_asked_again(home: Path) -> None:
    opt_json = str(home / "모델 하나" / "opt.json")
    _, shown, given = walk(
        home,
        [
            "7",
            opt_json,
            "1",
            "nowhere",
            opt_json,
            "2",
            "vielleicht",
            "n",
            "0",
            "99",
            "2",
            "six",
            "1 5",
            "1",
            opt_json,
            "q",
        ],
    )
    assert given.answers == []
    for told in (
        "from 1 to",
        "cannot be analysed",
        "cannot be used",
        "y or n",
        "from 1 to 6",
        "goes with no other",
        "not a folder",
    ):
        assert told in " ".join(shown.split())


def test_weights_without_options_are_explained_and_an_options_file_asked_for(home: Path, tmp_path: Path) -> None:
    content = torch.load(home / "모델 하나" / "model_best.ckpt", weights_only=False)
    torch.save(content["model"], tmp_path / "weights.pth")
    (tmp_path / "options.json").write_text(json.dumps(tiny.tiny_options("clipwise")), encoding="utf-8")
    data = str(next((home / "data").glob("*_val_*")))
    _, shown, given = walk(tmp_path, ["1", str(tmp_path / "options.json"), data, "q"])
    shown = " ".join(shown.split())
    assert "no options say which: gating_type, nheads, fusion_n_heads" in shown
    assert "the options file you gave" in shown
    assert "Run the test now" in given.prompts[-1]


def test_a_command_that_fails_or_is_interrupted_leaves_the_guide_running(home: Path) -> None:
    def interrupted(argv: object) -> int:
        raise KeyboardInterrupt

    status, shown, _ = walk(home, ["1", "2", "y", "3", "", "out", "y"], test=lambda argv: 1, analysis=interrupted)
    assert status == 0
    assert "did not pass" in shown
    assert "Interrupted" in shown


def test_paths_are_completed_with_spaces_and_hangul(home: Path) -> None:
    assert completions(str(home / "모")) == [f"{home}/모델 하나/"]
    assert completions(str(home / "모델 하나" / "m")) == [f"{home}/모델 하나/model_best.ckpt"]
    assert completions(str(home / "[")) == []


# -- the script ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "ko"])
def test_without_a_terminal_the_guide_is_printed_and_exit_is_0(
    language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert legacy_model_guide.main(["--lang", language]) == 0
    assert capsys.readouterr().out == texts.CATALOGUES[language]["plain"]


def test_on_a_real_terminal_the_guide_asks_and_ends_on_ctrl_d(home: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "legacy_model_guide.py"), "--lang", "ko"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=home,
        close_fds=True,
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm"},
    )
    os.close(slave)
    try:
        shown = read_until(master, "체크포인트의 번호나 경로: ")
        assert "1) 모델 하나/model_best.ckpt" in shown
        os.write(master, b"\x04")
        shown = read_until(master, "안녕히 가세요")
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in shown
    finally:
        process.kill()
        process.wait()
        os.close(master)


def read_until(master: int, wanted: str, patience_s: float = 60.0) -> str:
    raw = b""
    deadline = time.monotonic() + patience_s
    while wanted not in raw.decode("utf-8", "replace") and time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            try:
                raw += os.read(master, 4096)
            except OSError:  # the other end is closed
                break
    shown = raw.decode("utf-8", "replace")
    assert wanted in shown
    return shown
