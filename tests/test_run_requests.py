"""Bad requests: exit 2, one line that names the thing and the remedy, nothing left behind."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from run_gate_analysis import main
from tests.tiny_run import TinyRun, make_tiny_run


@pytest.fixture
def tiny(tmp_path) -> TinyRun:
    return make_tiny_run(tmp_path / "some folder")


def everything_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def refused(tiny: TinyRun, capsys, argv: list[str], *named: str) -> str:
    before = everything_below(tiny.folder)
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    for word in named:
        assert word in lines[0]
    assert captured.out == ""
    assert everything_below(tiny.folder) == before
    return lines[0]


def replaced(argv: list[str], flag: str, value: object) -> list[str]:
    argv = list(argv)
    argv[argv.index(flag) + 1] = str(value)
    return argv


def test_a_checkpoint_that_is_not_there(tiny, capsys):
    argv = replaced(tiny.argv(), "--model_path", tiny.folder / "nowhere.ckpt")
    refused(tiny, capsys, argv, "nowhere.ckpt", "--model_path")


def test_a_directory_as_checkpoint(tiny, capsys):
    refused(tiny, capsys, replaced(tiny.argv(), "--model_path", tiny.folder), "not a file", "--model_path")


def test_an_empty_checkpoint(tiny, capsys):
    tiny.checkpoint.write_bytes(b"")
    refused(tiny, capsys, tiny.argv(), "model_best.ckpt", "empty")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_checkpoint(tiny, capsys, kept):
    content = tiny.checkpoint.read_bytes()
    tiny.checkpoint.write_bytes(content[: int(kept * len(content))])
    refused(tiny, capsys, tiny.argv(), "model_best.ckpt", "copy it again")


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tiny, capsys):
    mark = tiny.folder.parent / "it ran"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch '{mark}'",)

    torch.save({"model": Evil()}, tiny.checkpoint)
    refused(tiny, capsys, tiny.argv(), "system", "refused")
    tiny.checkpoint.write_bytes(pickle.dumps(Evil()))
    refused(tiny, capsys, tiny.argv(), "model_best.ckpt")
    assert not mark.exists()


def test_a_plain_model_without_gates(tiny, capsys):
    content = torch.load(tiny.checkpoint, weights_only=False)
    content["model"] = {k: v for k, v in content["model"].items() if not k.startswith("fusion.")}
    torch.save(content, tiny.checkpoint)
    refused(tiny, capsys, tiny.argv(), "no gates", "use_avigate_custom")


def test_elementwise_gating_asked_of_a_global_model(tmp_path, capsys):
    tiny = make_tiny_run(tmp_path / "g", "global")
    refused(tiny, capsys, tiny.argv("--gating_type", "elementwise"), "elementwise", "global", "--gating_type")


def test_global_gating_asked_of_an_elementwise_model(tmp_path, capsys):
    tiny = make_tiny_run(tmp_path / "e", "elementwise")
    refused(tiny, capsys, tiny.argv("--gating_type", "global"), "elementwise", "--gating_type")


def test_missing_features_are_counted_and_named(tiny, capsys):
    for i in (1, 4):
        (tiny.data.parent / "pann" / f"{tiny.queries[i]['vid']}.npy").unlink()
    line = refused(tiny, capsys, tiny.argv(), "2 of 9", tiny.queries[1]["vid"], "--a_feat_dir", "--skip_missing")
    assert "pann" in line


def test_features_of_the_wrong_size(tiny, capsys):
    vid = tiny.queries[2]["vid"]
    np.savez(tiny.data.parent / "slowfast" / f"{vid}.npz", features=np.zeros((12, 7), np.float32))
    refused(tiny, capsys, tiny.argv(), vid, "7", "6")


def test_an_output_path_below_a_regular_file(tiny, capsys):
    file = tiny.folder / "a file"
    file.write_text("mine")
    refused(tiny, capsys, tiny.argv(output=file / "out"), "a file", "--output_dir")
    assert file.read_text() == "mine"


def test_a_checkpoint_of_no_format_without_the_legacy_flag(tiny, capsys):
    argv = [a for a in tiny.argv() if a != "--legacy_model"]
    refused(tiny, capsys, argv, "--legacy_model")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "no annotations"),
        ('{"qid": 1, "query": "a"', "line 1"),
        ('{"qid": 1, "query": "a", "vid": "v"}\n', "duration"),
        ('{"qid": 1, "query": "a", "vid": "v", "duration": 4}\n' * 2, "1"),
        ('{"qid": 1, "query": "a", "vid": "../v", "duration": 4}\n', "../v"),
    ],
)
def test_annotations_that_cannot_be_used(tiny, capsys, content, named):
    tiny.data.write_text(content)
    refused(tiny, capsys, tiny.argv(), "val.jsonl", named)


def test_samples_that_are_not_there(tiny, capsys):
    refused(tiny, capsys, tiny.argv("--analyze_samples", "7"), "7")
    refused(tiny, capsys, tiny.argv("--compare_samples", "100", "nobody"), "nobody", "--compare_samples")


@pytest.mark.parametrize("more", [("--batch_size", "0"), ("--max_samples", "0"), ("--device", "abacus")])
def test_flags_with_values_that_make_no_sense(tiny, capsys, more):
    refused(tiny, capsys, tiny.argv(*more), more[0].lstrip("-"))


def test_nan_found_while_reading_leaves_the_earlier_results_intact(tiny, capsys):
    assert main(tiny.argv("--no_figures")) == 0
    out = tiny.folder / "out"
    earlier = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    capsys.readouterr()
    bad = tiny.data.parent / "pann" / f"{tiny.queries[5]['vid']}.npy"
    values = np.load(bad)
    values[3, 2] = np.nan
    np.save(bad, values)
    refused(tiny, capsys, tiny.argv("--no_figures"), bad.name)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == earlier


def test_an_unknown_flag_is_a_wrong_request_of_argparse(tiny):
    with pytest.raises(SystemExit) as exit_info:
        main(tiny.argv("--nonsense"))
    assert exit_info.value.code == 2
