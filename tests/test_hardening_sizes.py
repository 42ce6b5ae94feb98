"""Files that claim more than they hold are refused before memory is taken; names and links never lead outside."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from run_gate_analysis import main
from tests.tiny_run import TinyRun, make_tiny_run

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(tmp_path) -> TinyRun:
    return make_tiny_run(tmp_path / "공간 과 한글", n_queries=3)


def npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def bomb(path: Path, key: str, shape: tuple[int, ...], nbytes: int) -> None:
    """Write an .npz whose member is zeros, deflated to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{key}.npy", "w") as member:
        member.write(npy_header(shape))
        block = bytes(1 << 20)
        for _ in range(nbytes >> 20):
            member.write(block)


def false_size(path: Path, key: str, shape: tuple[int, ...]) -> None:
    """Write an .npz whose directory claims as many bytes as the array's header does."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{key}.npy", npy_header(shape) + bytes(100))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)


def beside(path: Path, key: str, nbytes: int) -> None:
    """Put another member, of zeros deflated to a thousandth, beside an archive's own."""
    with np.load(path) as held, zipfile.ZipFile(path.with_suffix(".new"), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in held.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
        with archive.open(f"{key}.npy", "w") as member:
            for _ in range(nbytes >> 20):
                member.write(bytes(1 << 20))
    path.with_suffix(".new").replace(path)


def lzma_member(path: Path, key: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(f"{key}.npy", npy_header((12, 6)) + bytes(12 * 6 * 4))


def peak_of(argv: list[str]) -> int:
    """Return the most memory that NumPy and Python took while a request was refused, in bytes."""
    tracemalloc.start()
    assert main(argv) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: bomb(path, "features", (11_184_810, 6), 256 << 20), "packed"),
        (lambda path: false_size(path, "features", (170_000_000, 6)), "claims"),
        (lambda path: false_size(path, "features", (10**12, 6)), "cut short"),
        (lambda path: lzma_member(path, "features"), "NumPy does not write"),
        (lambda path: bomb(path, "features", (12, 6), 256 << 20), "packed"),  # a small array, and much behind it
        (lambda path: beside(path, "other", 256 << 20), "packed"),
    ],
)
def test_an_archive_that_claims_gigabytes_is_refused_by_its_header(tiny, capsys, write, said):
    path = tiny.data.parent / "slowfast" / f"{tiny.queries[1]['vid']}.npz"
    write(path)
    assert path.stat().st_size < 1 << 20
    assert peak_of(tiny.argv()) < 24 << 20
    error = capsys.readouterr().err
    assert said in error
    assert path.name in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("shape", [(10**12, 5), (10**6, 5), (2**62, 2**62)])
def test_an_npy_that_claims_more_than_the_file_holds_is_refused_by_its_header(tiny, capsys, shape):
    path = tiny.data.parent / "pann" / f"{tiny.queries[1]['vid']}.npy"
    path.write_bytes(npy_header(shape) + bytes(60))
    assert peak_of(tiny.argv()) < 24 << 20
    assert "cut short" in capsys.readouterr().err


def test_compressed_features_of_common_size_are_read_even_if_they_are_all_zeros(tiny):
    path = tiny.data.parent / "slowfast" / f"{tiny.queries[0]['vid']}.npz"
    np.savez_compressed(path, features=np.zeros((12, 6), np.float32))
    assert main(tiny.argv("--no_figures")) == 0


# Address space above what a bare `import torch` and the tiny checkpoint take.
_LIMITED = """
import resource, sys, torch
sys.path.insert(0, {root!r})
from run_gate_analysis import main
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (512 << 20),) * 2)
codes = [main(argv) for argv in {argvs!r}]
print(codes)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_checkpoints_with_absurd_sizes_are_refused_within_half_a_gigabyte(tiny, tmp_path):
    content = torch.load(tiny.checkpoint, weights_only=False)
    absurd = {
        "hidden_dim": ("global_rep_token", torch.zeros(1).expand(10**9)),
        "num_queries": ("query_embed.weight", torch.zeros(1, 1).expand(10**12, 2)),
        "product": ("class_embed.weight", torch.zeros(1, 1).expand(10**9, 10**9)),
    }
    argvs = []
    for name, (key, value) in absurd.items():
        for zipped in (True, False):
            path = tmp_path / f"{name} {zipped}.ckpt"
            torch.save(
                {**content, "model": {**content["model"], key: value}}, path, _use_new_zipfile_serialization=zipped
            )
            argvs.append(tiny.argv())
            argvs[-1][argvs[-1].index("--model_path") + 1] = str(path)
    # A storage record of the old format that claims 2**40 numbers: its count stands before the bytes.
    torch.save({"model": {"a": torch.zeros(4096)}}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.ckpt").read_bytes()
    at = whole.rindex((4096).to_bytes(8, "little"))
    (tmp_path / "old.ckpt").write_bytes(whole[:at] + (1 << 40).to_bytes(8, "little") + whole[at + 8 :])
    argvs.append(tiny.argv())
    argvs[-1][argvs[-1].index("--model_path") + 1] = str(tmp_path / "old.ckpt")
    config = tmp_path / "config.json"
    config.write_text("[" * 10**6)
    argvs.append(tiny.argv("--config_path", str(config)))
    script = _LIMITED.format(root=str(ROOT), argvs=argvs)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [2] * len(argvs), done.stderr
    assert len(done.stderr.strip().splitlines()) == len(argvs), done.stderr
    assert "claim" in done.stderr


def test_absurd_counts_in_options_change_nothing_but_what_they_bound(tiny, tmp_path):
    config = tmp_path / "config.json"
    known = {"clip_length": 2, "nheads": 2, "fusion_n_heads": 2, "gating_type": "clipwise"}
    folders = {"v_feat_dirs": ["old/slowfast"], "t_feat_dir": "old/text", "a_feat_dir": "old/pann"}
    absurd = {
        "max_v_l": 10**12,
        "eval_bsz": 10**12,
        "max_before_nms": 10**12,
        "max_after_nms": 10**12,
        "num_queries": 10**12,
    }
    config.write_text(json.dumps({**known, **folders, **absurd, "hidden_dim": 10**9, "nms_thd": 0.5}))
    flags = ("--config_path", str(config), "--batch_size", str(10**12), "--no_figures")
    for more in ((), ("--legacy_batches",)):
        assert main(tiny.argv(*flags, *more)) == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_file_of_100_000_annotations_is_read_in_bounded_memory(tmp_path):
    line = {
        "qid": 0,
        "query": "a man in a red shirt talks to the camera about something",
        "vid": "xY1zW2vU3t4_360.0_510.0",
        "duration": 150,
        "relevant_windows": [[82, 150]],
        "relevant_clip_ids": list(range(41, 75)),
        "saliency_scores": [[3, 2, 4]] * 34,
    }
    data = tmp_path / "many.jsonl"
    rest = json.dumps(line).removeprefix('{"qid": 0')
    with open(data, "w") as file:
        file.writelines(f'{{"qid": {qid}{rest}\n' for qid in range(100_000))
    script = (
        "import re, sys; sys.path.insert(0, sys.argv[2]); from qd_detr.gates.data.annotations import read_annotations\n"
        # Not getrusage: its peak begins with that of the process that started this one.
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) >> 10\n"
        "before = peak(); n = len(read_annotations(sys.argv[1])); print(n, before, peak())"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, str(data), str(ROOT)], capture_output=True, text=True, check=True
    )
    n, before, peak = map(int, done.stdout.split())
    took = time.monotonic() - began
    print(f"{data.stat().st_size >> 20} MiB of annotations: {peak - before} MiB of memory, {took:.1f} s")
    assert n == 100_000
    assert peak - before < 600
    assert took < 60


# -- links and names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/etc/passwd", "..", "a\\..\\b"])
@pytest.mark.parametrize("field", ["vid", "qid"])
def test_ids_that_would_leave_their_folder_are_refused(tiny, capsys, name, field):
    tiny.queries[0][field] = name
    tiny.rewrite()
    assert main(tiny.argv()) == 2
    assert f"'{field}'" in capsys.readouterr().err


def test_features_may_be_links_because_the_user_made_them(tiny, tmp_path):
    path = tiny.data.parent / "pann" / f"{tiny.queries[0]['vid']}.npy"
    path.rename(tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    (tiny.data.parent / "text").rename(tmp_path / "text elsewhere")
    (tiny.data.parent / "text").symlink_to(tmp_path / "text elsewhere", target_is_directory=True)
    assert main(tiny.argv("--no_figures")) == 0


@pytest.mark.parametrize("name", ["individual_samples", "raw_data"])
def test_a_linked_folder_in_the_output_is_never_written_through(tiny, tmp_path, capsys, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "100_details.json").write_text("mine")
    out = tiny.folder / "out"
    out.mkdir()
    (out / name).symlink_to(outside, target_is_directory=True)
    assert main(tiny.argv("--no_figures", "--save_raw_data")) == 2
    assert "is in the way" in capsys.readouterr().err
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"100_details.json": "mine"}


@pytest.mark.parametrize("place", [".partial", ".partial/journal"])
@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_linked_work_in_progress_is_refused_and_what_it_leads_to_is_left_alone(tiny, tmp_path, capsys, place, more):
    outside = tmp_path / "outside"
    for name in ("tree/a.txt", "journal/gates/shard_00000.f32", "gates/shard_00000.f32", "lock"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text("mine")
    link = tiny.folder / "out" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside, target_is_directory=True)
    assert main(tiny.argv("--no_figures", *more)) == 2
    assert "is a link" in capsys.readouterr().err
    assert sorted(p.read_text() for p in outside.rglob("*") if p.is_file()) == ["mine"] * 4


def test_a_linked_result_is_replaced_and_not_written_through(tiny, tmp_path):
    (tmp_path / "mine.csv").write_text("mine")
    out = tiny.folder / "out"
    out.mkdir()
    (out / "samples.csv").symlink_to(tmp_path / "mine.csv")
    assert main(tiny.argv("--no_figures")) == 0
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert not (out / "samples.csv").is_symlink()


def test_a_pipe_is_no_annotation_file(tiny, capsys):
    pipe = tiny.folder / "pipe"
    os.mkfifo(pipe)
    argv = tiny.argv()
    argv[argv.index("--data_path") + 1] = str(pipe)
    assert main(argv) == 2
    assert "no plain file" in capsys.readouterr().err
