"""A killed run loses at most the batch in flight, and what continues it ends where the uninterrupted one does."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from run_gate_analysis import main
from tests.tiny_run import TinyRun, make_tiny_run

ROOT = Path(__file__).resolve().parents[1]


def committed(out: Path) -> int:
    index = out / ".partial" / "journal" / "gates" / "index.jsonl"
    return index.read_bytes().count(b"\n") if index.exists() else 0


def start(argv: list[str]) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run_gate_analysis.py"), *argv]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def results_of(out: Path) -> dict[str, bytes]:
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and p.name != "run_config.json"
    }


def test_a_run_killed_at_five_random_moments_and_resumed_ends_byte_equal(tmp_path):
    tiny = make_tiny_run(tmp_path / "t", "elementwise", n_queries=48)
    flags = ["--no_figures", "--save_raw_data", "--batch_size", "1", "--history_memory", "0.01"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(tiny.argv(*flags, output=whole)) == 0
    rng = random.Random(7)
    for _ in range(5):
        process = start(tiny.argv(*flags, "--resume", output=killed))
        target = committed(killed) + rng.randint(1, 5)
        while process.poll() is None and committed(killed) < target:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, process.stderr.read()
        assert not (killed / "run_config.json").exists()
    before = committed(killed)
    assert 5 <= before < 48
    assert main(tiny.argv(*flags, "--resume", output=killed)) == 0
    expected, found = results_of(whole), results_of(killed)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def interrupted(tiny: TinyRun, monkeypatch, after: int, *flags: str) -> Path:
    """Leave the journal of a run that was interrupted after some batches."""
    from qd_detr.gates.runs.journal import RunJournal

    commit, done = RunJournal.commit, 0

    def interrupting(history, batch, results):
        nonlocal done
        if done == after:
            raise KeyboardInterrupt
        done += 1
        commit(history, batch, results)

    monkeypatch.setattr(RunJournal, "commit", staticmethod(interrupting))
    assert main(tiny.argv("--no_figures", "--batch_size", "2", *flags)) == 130
    monkeypatch.setattr(RunJournal, "commit", staticmethod(commit))
    return tiny.folder / "out" / ".partial"


def test_a_continued_run_runs_only_the_batches_that_were_not_finished(tmp_path, monkeypatch):
    from qd_detr.gates.runs import inference

    tiny = make_tiny_run(tmp_path / "t")
    flags = ("--no_effects", "--no_explorer")
    interrupted(tiny, monkeypatch, 3, *flags)
    ran: list[int] = []

    def running(model, samples, settings):
        for results in inference.run_pass(model, samples, settings):
            ran.extend(result.query.qid for result in results)
            yield results

    monkeypatch.setattr("qd_detr.gates.commands.analyse.work.run_pass", running)
    assert main(tiny.argv("--no_figures", "--batch_size", "2", "--resume", *flags)) == 0
    lines = (tiny.folder / "out/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 9
    assert len(ran) == 9 - (2 + 1 + 2)  # 3 queries of each of 3 lengths, which batches of 2 do not mix
    assert len(set(ran)) == len(ran)


def test_resume_refuses_another_checkpoint_and_leaves_the_unfinished_run_as_it_was(tmp_path, monkeypatch, capsys):
    tiny = make_tiny_run(tmp_path / "t")
    partial = interrupted(tiny, monkeypatch, 2)
    other = make_tiny_run(tmp_path / "other", seed=1)
    argv = tiny.argv("--no_figures", "--batch_size", "2", "--resume")
    argv[argv.index("--model_path") + 1] = str(other.checkpoint)
    journal = {p: p.read_bytes() for p in partial.rglob("*") if p.is_file() and "journal" in p.parts}
    capsys.readouterr()
    assert main(argv) == 2
    assert "checkpoint sha256" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in partial.rglob("*") if p.is_file() and "journal" in p.parts} == journal
    assert main(tiny.argv("--no_figures", "--batch_size", "2", "--resume")) == 0


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--batch_size", "3"), "batch_size"),
        (("--max_samples", "5"), "samples"),
        (("--legacy_batches",), "legacy"),
        (("--family", "sigmoid_global"), "family"),
    ],
)
def test_resume_refuses_other_settings(tmp_path, monkeypatch, capsys, more, named):
    tiny = make_tiny_run(tmp_path / "t", "global")
    interrupted(tiny, monkeypatch, 1)
    capsys.readouterr()
    assert main([*tiny.argv("--no_figures", "--batch_size", "2", "--resume"), *more]) == 2
    assert named in capsys.readouterr().err


def test_resume_refuses_changed_annotations(tmp_path, monkeypatch, capsys):
    tiny = make_tiny_run(tmp_path / "t")
    interrupted(tiny, monkeypatch, 1)
    tiny.queries[0]["query"] = "another sentence"
    tiny.rewrite()
    capsys.readouterr()
    assert main(tiny.argv("--no_figures", "--batch_size", "2", "--resume")) == 2
    assert "annotations sha256" in capsys.readouterr().err


def test_resume_refuses_features_that_were_written_again(tmp_path, monkeypatch, capsys):
    tiny = make_tiny_run(tmp_path / "t")
    interrupted(tiny, monkeypatch, 1)
    feature = next((tiny.data.parent / "pann").glob("*.npy"))
    content = bytearray(feature.read_bytes())
    content[-1] ^= 1
    feature.write_bytes(content)
    capsys.readouterr()
    assert main(tiny.argv("--no_figures", "--batch_size", "2", "--resume")) == 2
    assert "feature files" in capsys.readouterr().err


def test_resume_without_anything_to_resume_is_a_whole_run(tmp_path):
    tiny = make_tiny_run(tmp_path / "t")
    assert main(tiny.argv("--no_figures", "--resume")) == 0
    assert len(json.loads((tiny.folder / "out/run_config.json").read_text())["files"]) > 9


def test_without_resume_an_unfinished_run_is_started_over(tmp_path, monkeypatch):
    tiny = make_tiny_run(tmp_path / "t")
    partial = interrupted(tiny, monkeypatch, 2)
    assert committed(partial.parent) == 2
    assert main(tiny.argv("--no_figures", "--batch_size", "3")) == 0
    assert not partial.exists()


def test_an_interrupted_run_leaves_the_earlier_results_as_they_were(tmp_path, monkeypatch):
    tiny = make_tiny_run(tmp_path / "t")
    assert main(tiny.argv("--no_figures")) == 0
    out = tiny.folder / "out"
    earlier = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    interrupted(tiny, monkeypatch, 1)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and ".partial" not in p.parts} == earlier
