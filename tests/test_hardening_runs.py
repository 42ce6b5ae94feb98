"""Runs that are cut short - by a full disk, by Ctrl-C, by a second run - and runs that may not touch the network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from run_gate_analysis import main
from tests.tiny_run import TinyRun, make_tiny_run

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(tmp_path) -> TinyRun:
    return make_tiny_run(tmp_path / "공간 과 한글", n_queries=6)


def files_of(out: Path) -> dict[str, bytes]:
    """Return what a user sees of a results folder."""
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and ".partial" not in p.parts
    }


def results_of(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_of(out).items() if name != "run_config.json"}


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 2 MB, or a skip."""
    folder = tmp_path / "작은 disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.parametrize("free", [0, 4096, 12 << 10, 40 << 10, 90 << 10])
def test_a_full_disk_fails_the_run_keeps_the_earlier_results_and_resume_goes_on(tiny, small_disk, capsys, free):
    out = small_disk / "out"
    flags = ("--no_figures", "--batch_size", "1", "--save_raw_data")
    assert main(tiny.argv(*flags, output=out)) == 0
    earlier = files_of(out)
    ballast = small_disk / "ballast"
    room = os.statvfs(small_disk)
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free)))
    capsys.readouterr()
    code = main(tiny.argv(*flags, output=out))
    error = capsys.readouterr().err
    assert code == 1, error
    assert "No space left" in error
    assert len(error.strip().splitlines()) == 1
    assert files_of(out) == earlier
    ballast.unlink()
    assert main(tiny.argv(*flags, "--resume", output=out)) == 0
    assert results_of(out) == {name: content for name, content in earlier.items() if name != "run_config.json"}
    assert not (out / ".partial").exists()


def test_a_limit_on_file_sizes_is_a_failed_run_too(tiny):
    limited = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv.pop(1)); from run_gate_analysis import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, str(ROOT), *tiny.argv("--no_figures")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tiny.folder / "out" / "run_config.json").exists()


def test_an_output_folder_that_cannot_be_made_is_a_wrong_request(tiny, capsys):
    (tiny.folder / "file").write_text("mine")
    for output in (tiny.folder / "file" / "out", Path("/proc/nowhere/out"), tiny.folder / ("x" * 300)):
        assert main(tiny.argv(output=output)) == 2
        assert "--output_dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_running_out_of_memory_is_a_failed_run_that_can_be_continued(tiny, monkeypatch, capsys, error):
    from qd_detr.gates.runs import inference

    original, seen = inference.lines_of, 0

    def short(*args, **kwargs):
        nonlocal seen
        seen += 1
        if seen == 3:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(inference, "lines_of", short)
    argv = tiny.argv("--no_figures", "--batch_size", "1")
    assert main(argv) == 1
    told = capsys.readouterr().err
    assert "out of memory" in told
    assert "--batch_size" in told
    assert len(told.strip().splitlines()) == 1
    assert main([*argv, "--resume"]) == 0


# -- two runs at once ----------------------------------------------------------------------------------------------------


def test_of_two_runs_into_one_folder_one_wins_and_the_other_is_refused(tiny):
    # Both wait before they open the folder, until both are there.
    script = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv.pop(1)); import run_gate_analysis as r\n"
        "import qd_detr.gates.commands.analyse as analyse\n"
        "import qd_detr.gates.runs.journal as journal\n"
        "begin, flags = analyse.run, Path(sys.argv.pop(1))\n"
        "def run(prepared):\n"
        "    (flags / sys.argv[-1]).touch()\n"
        "    while len(list(flags.iterdir())) < 2: time.sleep(0.005)\n"
        "    return begin(prepared)\n"
        "commit = journal.RunJournal.commit\n"
        "def slow(*args): time.sleep(0.2); commit(*args)\n"
        "analyse.run, journal.RunJournal.commit = run, staticmethod(slow)\n"
        "sys.exit(r.main(sys.argv[1:-1]))"
    )
    flags = tiny.folder / "flags"
    flags.mkdir()
    runs = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                script,
                str(ROOT),
                str(flags),
                *tiny.argv("--no_figures", "--batch_size", "1"),
                name,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2], errors
    refused = errors[[run.returncode for run in runs].index(2)]
    assert "another run is writing" in refused
    assert len(refused.strip().splitlines()) == 1
    assert (tiny.folder / "out" / "run_config.json").exists()
    assert not (tiny.folder / "out" / ".partial").exists()


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def interrupt_at(monkeypatch, owner: object, name: str, call: int = 1) -> Callable[[], None]:
    """Press Ctrl-C in the middle of the given call of a function; return what undoes it."""
    original, seen = getattr(owner, name), 0

    def pressed(*args, **kwargs):
        nonlocal seen
        seen += 1
        if seen == call:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)  # where Python looks for signals
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, pressed)
    return lambda: monkeypatch.setattr(owner, name, original)


PHASES = {
    "reading the checkpoint": ("qd_detr.gates.commands.analyse.checks", "read_checkpoint", 1),
    "reading annotations": ("qd_detr.gates.commands.analyse.checks", "read_annotations", 1),
    "checking features": ("qd_detr.gates.data.feature_check", "read_header", 5),
    "hashing": ("qd_detr.gates.commands.analyse.checks", "file_sha256", 2),
    "inference": ("qd_detr.gates.runs.inference", "lines_of", 3),
    "audit": ("qd_detr.gates.commands.analyse.execution", "audit", 1),
    "metrics": ("qd_detr.gates.commands.analyse.execution", "add_metrics", 1),
    "conditions": ("qd_detr.gates.commands.analyse.work", "run_sweep", 1),
    "statistics": ("qd_detr.gates.results.whole", "write_statistics", 1),
    "table": ("qd_detr.gates.results.whole", "sample_table", 1),
    "figures": ("qd_detr.gates.results.whole", "draw_run", 1),
    "report": ("qd_detr.gates.results.whole", "report_text", 1),
    "run_config": ("qd_detr.gates.commands.analyse.execution", "run_config_of", 1),
}


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_ends_any_phase_with_130_and_one_line_and_leaves_the_earlier_results(tiny, monkeypatch, capsys, phase):
    module, name, call = PHASES[phase]
    argv = tiny.argv("--no_figures", "--batch_size", "2", "--audio", "none")
    assert main([*argv, "--seed", "1"]) == 0
    out = tiny.folder / "out"
    earlier = files_of(out)
    capsys.readouterr()
    undo = interrupt_at(monkeypatch, sys.modules[module], name, call)
    assert main(argv) == 130
    error = capsys.readouterr().err
    assert "interrupted" in error
    assert "Traceback" not in error
    assert files_of(out) == earlier
    undo()
    assert main([*argv, "--resume"]) == 0
    assert not (out / ".partial").exists()


@pytest.mark.parametrize("call", [1, 2, 3, 8, 14])
def test_ctrl_c_while_publishing_leaves_the_new_results_whole(tiny, monkeypatch, call):
    argv = tiny.argv("--no_figures")
    assert main([*argv, "--max_samples", "3"]) == 0
    out = tiny.folder / "out"
    before = 5  # the fingerprint, the conditions of three batches, the pending run_config.json
    undo = interrupt_at(monkeypatch, sys.modules["qd_detr.gates.results.tree"].os, "replace", call + before)
    assert main(argv) == 0
    undo()
    config = json.loads((out / "run_config.json").read_text())
    assert config["annotations"]["analysed"] == 6
    assert sorted(files_of(out)) == sorted([*config["files"], "run_config.json"])
    assert not (out / ".partial").exists()


def test_ctrl_c_at_random_moments_of_a_real_process_shows_no_traceback_and_spoils_nothing(tiny):
    argv = tiny.argv("--batch_size", "1")
    assert main([*argv, "--no_figures"]) == 0
    out = tiny.folder / "out"
    # Starts when the imports are done: until then the process is Python's and not yet ours.
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from run_gate_analysis import main\n"
        "print(flush=True); sys.exit(main(sys.argv[1:]))"
    )
    codes = []
    for delay in (0.01, 0.15, 0.5, 1.0):
        before = files_of(out)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(ROOT), *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=120)[1]
        codes.append(process.returncode)
        assert "Traceback" not in error, error
        assert process.returncode in (0, 130), error
        after = files_of(out)
        assert after == before or set(json.loads(after["run_config.json"])["files"]) == after.keys() - {
            "run_config.json"
        }
    assert 130 in codes


# -- the network ---------------------------------------------------------------------------------------------------------


def test_a_whole_analysis_opens_no_socket(tiny, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("a socket was asked for")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname", "create_server"):
        monkeypatch.setattr(socket, name, refused)
    assert main(tiny.argv("--compare_samples", "--save_raw_data", "--audio", "none")) == 0
    first, second = tiny.folder / "out", tiny.folder / "second"
    assert main(tiny.argv("--no_figures", output=second)) == 0
    assert (
        main(["--compare_runs", str(first), str(second), "--output_dir", str(tiny.folder / "compared"), "--quiet"]) == 0
    )
