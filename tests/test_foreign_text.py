"""Text from elsewhere cannot steer a terminal, run in a spreadsheet, or come alive in a report."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qd_detr.gates.command_line import Parser, check_not_swapped, exit_status, say
from qd_detr.gates.errors import RequestError
from qd_detr.gates.results.report.markdown import foreign
from qd_detr.gates.results.writing import csv_text
from qd_detr.gates.wording import for_csv, for_terminal, from_csv

ROOT = Path(__file__).resolve().parents[1]


def test_a_terminal_gets_escapes_and_bidi_marks_as_text():
    assert for_terminal("a\x1b[31m\x9b2K\u202eb\n한글\t") == "a\\x1b[31m\\x9b2K\\u202eb\n한글\t"


def test_an_error_and_what_is_said_go_through_it(capsys):
    def work():
        raise RequestError("no layer evil\x1b]0;pwned\x07")

    assert exit_status(work) == 2
    say("id\x1b[2K")
    said = capsys.readouterr()
    assert said.err == "error: no layer evil\\x1b]0;pwned\\x07\n"
    assert said.out == "id\\x1b[2K\n"


@pytest.mark.parametrize("name", ["x" * 20_000, "\u202e" * 20_000])
def test_a_message_that_a_foreign_name_made_endless_keeps_both_ends(capsys, name):
    def work():
        raise RequestError(f"no folder found for the text features {name}; name it with --t_feat_dir")

    assert exit_status(work) == 2
    said = capsys.readouterr().err
    assert len(said) < 3100
    assert said.startswith("error: no folder found for the text features ")
    assert said.endswith("; name it with --t_feat_dir\n")


@given(st.text(st.sampled_from("=+-@'\t\rab,\""), max_size=6))
def test_no_text_cell_begins_like_a_formula_and_each_can_be_read_back(text):
    assert not for_csv(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert from_csv(for_csv(text)) == text


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\x0b", "\x85", "\u2028"])
def test_a_cell_with_a_line_end_begins_no_row_of_its_own(end):
    rows = [[f"a{end}=1+1", "b"], ["c", f"{end}d,e"]]
    read = list(csv.reader(io.StringIO(csv_text(["what", "value"], rows), newline="")))
    assert [[from_csv(cell) for cell in row] for row in read] == [["what", "value"], *rows]


def test_numbers_in_a_table_keep_their_sign():
    table = csv_text(["what", "value"], [["=1+1", -0.5], ["-1", None]])
    assert list(csv.reader(io.StringIO(table))) == [["what", "value"], ["'=1+1", "-0.5"], ["'-1", ""]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A man opens the door, slowly (twice).", "A man opens the door, slowly (twice)."),
        ("[watch](http://example.org)", "`[watch](http://example.org)`"),
        ("see http://example.org", "`see http://example.org`"),
        ("www.example.org", "`www.example.org`"),
        ("![t](x.png)", "`![t](x.png)`"),
        ("a `b` c", "``a `b` c``"),
    ],
)
def test_markdown_shows_foreign_text_as_it_is(text, shown):
    assert foreign(text) == shown


@pytest.mark.parametrize(
    ("flag", "meant"), [("--model", "--model_path"), ("--model-path", "--model_path"), ("--figure", "--figures")]
)
def test_an_unknown_flag_is_one_line_that_names_the_near_one(capsys, flag, meant):
    parser = Parser(prog="tool", allow_abbrev=False)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--figures")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([flag, "x"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: unknown flag {flag}; did you mean {meant}? (see tool --help)\n"


def test_a_checkpoint_in_the_place_of_the_annotations_is_told():
    check_not_swapped(Path("a.ckpt"), Path("b.jsonl"))
    with pytest.raises(RequestError, match="are swapped"):
        check_not_swapped(Path("b.jsonl"), Path("a.ckpt"))
    with pytest.raises(RequestError, match=r"--data_path a.ckpt is a checkpoint by its name"):
        check_not_swapped(Path("a.ckpt"), Path("a.ckpt"))


def test_a_value_without_its_flag_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        Parser(prog="tool").parse_args(["best.ckpt"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: unrecognized arguments: best.ckpt; every value goes with a flag (see tool --help)\n"
    )


@pytest.mark.parametrize(("shell", "encoding"), [("", "ascii"), ("exec 2>&-; ", "utf-8"), ("exec 1>&-; ", "utf-8")])
def test_no_stream_stops_a_command(shell, encoding):
    line = f"{shell}exec {sys.executable} {ROOT / 'legacy_model_guide.py'} --lang ko"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, env=environment, stdin=subprocess.DEVNULL, check=False
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


def test_a_reader_that_went_away_is_no_failure():
    command = [sys.executable, str(ROOT / "run_gate_analysis.py"), "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
