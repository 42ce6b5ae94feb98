"""Shards of a run, put together, are the run: to the byte, however many there are and whatever became of them before."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from qd_detr.gates.commands.analyse.shards import share_of
from qd_detr.gates.commands.launchers import Shard, shard_of
from qd_detr.gates.data.video_names import source_video
from qd_detr.gates.errors import RequestError
from run_gate_analysis import main
from tests.tiny_run import TinyRun, make_tiny_run

WORK = ("--batch_size", "2", "--audio", "shuffle", "mean", "--timeline", "--save_raw_data")
PLAIN = ("--batch_size", "2", "--no_figures", "--no_explorer", "--no_effects")


def tree(out: Path) -> dict[str, bytes]:
    files = (p for p in out.rglob("*") if p.is_file() and p.name != "run_config.json" and "shards" not in p.parts)
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def run_shards(tiny: TinyRun, out: Path, count: int, *flags: str, numbers=None) -> Path:
    for number in range(count) if numbers is None else numbers:
        assert main(tiny.argv(*flags, "--num_shards", str(count), "--shard_id", str(number), output=out)) == 0
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyRun:
    swap = [{"name": "swapped", "op": "swap"}, {"name": "mean", "op": "mean", "value": "dataset"}]
    run = make_tiny_run(tmp_path_factory.mktemp("shards") / "t", n_queries=7)
    for query, vid in zip(run.queries, (0, 1, 2, 1, 3, 0, 4), strict=True):  # queries that share a video, apart
        query["vid"] = f"v{vid}_0.0_150.0"
        query["duration"] = 2 * (12 - 3 * (vid % 3))
    run.rewrite()
    (run.folder / "swap.json").write_text(json.dumps(swap))
    return run


@pytest.fixture(scope="module")
def whole(tiny) -> dict[str, bytes]:
    out = tiny.folder / "whole"
    assert main(tiny.argv(*WORK, "--interventions", str(tiny.folder / "swap.json"), output=out)) == 0
    found = tree(out)
    assert {"timeline.npz", "explorer.html", "audio_help.json", "overall_statistics.png"} < set(found)
    return found


@pytest.mark.parametrize("count", [2, 8])  # 8 shards of 5 videos: some have none
def test_shards_give_the_bytes_of_one_run_figures_and_explorer_included(tiny, whole, tmp_path, count):
    flags = (*WORK, "--interventions", str(tiny.folder / "swap.json"))
    out = run_shards(tiny, tmp_path, count, *flags, numbers=[*range(1, count), 0])
    found = tree(out)
    assert sorted(found) == sorted(whole)
    assert [name for name in whole if found[name] != whole[name]] == []


@pytest.fixture(scope="module")
def plain(tiny) -> dict[str, bytes]:
    assert main(tiny.argv(*PLAIN, output=tiny.folder / "plain")) == 0
    return tree(tiny.folder / "plain")


def test_a_shard_interrupted_and_resumed_or_done_again_changes_nothing(tiny, plain, tmp_path, monkeypatch):
    from qd_detr.gates.runs.journal import RunJournal

    commit = RunJournal.commit

    def interrupting(history, batch, results):
        if batch:
            raise KeyboardInterrupt
        commit(history, batch, results)

    argv = tiny.argv(*PLAIN, "--num_shards", "2", "--shard_id", "1", output=tmp_path)
    monkeypatch.setattr(RunJournal, "commit", staticmethod(interrupting))
    assert main(argv) == 130
    monkeypatch.undo()
    assert (tmp_path / "shards/1-of-2/.partial/journal/gates/index.jsonl").read_bytes().count(b"\n") == 1
    assert main([*argv, "--resume"]) == 0
    run_shards(tiny, tmp_path, 2, *PLAIN, numbers=[0])
    assert tree(tmp_path) == plain
    manifest = tmp_path / "shards/1-of-2/manifest.json"
    done = manifest.stat().st_mtime_ns
    assert main([*argv, "--resume"]) == 0  # it is there already
    assert manifest.stat().st_mtime_ns == done
    assert main(argv) == 0
    assert manifest.stat().st_mtime_ns > done
    assert tree(tmp_path) == plain


def test_torchrun_and_a_slurm_array_tell_each_process_its_share(tiny, plain, tmp_path, monkeypatch):
    for place, variables in (
        ("torchrun", {"RANK": "{i}", "LOCAL_RANK": "{i}", "WORLD_SIZE": "2"}),
        ("slurm", {"SLURM_ARRAY_TASK_ID": "1{i}", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "2"}),
    ):
        for i in (0, 1):
            with monkeypatch.context() as environment:
                for name, value in variables.items():
                    environment.setenv(name, value.format(i=i))
                assert main(tiny.argv(*PLAIN, output=tmp_path / place)) == 0
        assert tree(tmp_path / place) == plain


@pytest.fixture(scope="module")
def halves(tiny) -> Path:
    """Two shards, not merged: the second was done elsewhere."""
    out, elsewhere = tiny.folder / "halves", tiny.folder / "elsewhere"
    run_shards(tiny, out, 2, *PLAIN, numbers=[0])
    run_shards(tiny, elsewhere, 2, *PLAIN, numbers=[1])
    shutil.copytree(elsewhere / "shards/1-of-2", out / "shards/1-of-2")
    return out


def test_shards_are_merged_by_hand_without_the_request(halves, plain, tmp_path):
    out = shutil.copytree(halves, tmp_path / "out")
    assert main(["--merge_shards", str(out), "--quiet"]) == 0
    assert tree(out) == plain


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_another_request(tiny: TinyRun, out: Path) -> None:
    run_shards(tiny, out, 2, *PLAIN, "--seed", "5", numbers=[1])


def of_another_count(tiny: TinyRun, out: Path) -> None:
    run_shards(tiny, out, 4, *PLAIN, numbers=[0])


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (lambda tiny, out: shutil.rmtree(out / "shards/1-of-2"), "1-of-2 is not there"),
        (lambda tiny, out: (out / "shards/0-of-2/manifest.json").unlink(), "0-of-2 is not there or not finished"),
        (of_another_count, "0-of-4 overlap"),
        (of_another_request, "different: --seed (0, 5)"),
        (lambda tiny, out: flip_byte(out / "shards/1-of-2/gates/shard_00000.f32"), "shard_00000.f32 is damaged"),
        (lambda tiny, out: flip_byte(out / "shards/0-of-2/gates/index.jsonl"), "index.jsonl is damaged"),
        (lambda tiny, out: (out / "shards/0-of-2/gates/shard_00000.f32").unlink(), "shard_00000.f32 is missing"),
        (lambda tiny, out: (out / "shards/1-of-2/manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda tiny, out: (out / "shards/1-of-2/more.npz").write_text("x"), "more.npz is not in the shard's"),
    ],
)
def test_what_does_not_make_one_run_is_refused_by_name(tiny, halves, tmp_path, capsys, fault, named):
    out = shutil.copytree(halves, tmp_path / "out")
    fault(tiny, out)
    capsys.readouterr()
    assert main(["--merge_shards", str(out), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert named in said
    assert str(out) in said
    assert not (out / "ANALYSIS_REPORT.md").exists()


def test_every_sample_is_in_one_shard_and_a_source_video_is_not_cut():
    class FakeSamples:
        def __init__(self, vids, clips):
            self.queries = [type("Q", (), {"vid": vid}) for vid in vids]
            self.clip_counts = clips
            self.batches = [list(range(len(vids)))]

    vids = [f"source{i * 7 % 12}_{10 * i}.0_{10 * i + 10}.0" for i in range(40)]
    clips = [5 + i % 3 for i in range(40)]
    for count in (1, 2, 3, 5, 40):
        shares = [share_of(FakeSamples(vids, clips), Shard(i, count)) for i in range(count)]
        assert sorted(p for share in shares for p in share.positions) == list(range(40))
        assert [share.first for share in shares] == [0, *(share.end for share in shares[:-1])]
        assert shares[-1].end == shares[0].of == 12
        sources = [{source_video(vids[p]) for p in share.positions} for share in shares]
        assert sum(map(len, sources)) == 12
        if count <= 3:  # at most a source video, four samples of 7 clips, off an even share
            sizes = [sum(clips[p] for p in share.positions) for share in shares]
            assert max(abs(size - sum(clips) / count) for size in sizes) <= 28


SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ((None, None), {}, None),
        ((3, 1), {}, (1, 3)),
        ((3, 1), SLURM, (1, 3)),
        ((1, None), SLURM, (0, 1)),
        ((None, None), {"RANK": "1", "WORLD_SIZE": "2"} | SLURM, (1, 2)),
        ((None, None), SLURM, (3, 4)),
        ((None, None), SLURM | {"SLURM_ARRAY_TASK_ID": "10", "SLURM_ARRAY_TASK_STEP": "2"}, (3, 4)),
    ],
)
def test_a_share_comes_from_the_flags_then_torchrun_then_the_array(flags, environment, expected):
    shard = shard_of(*flags, environment)
    assert (None if shard is None else (shard.number, shard.count)) == expected


@pytest.mark.parametrize(
    ("flags", "environment", "named"),
    [
        ((2, None), {}, "--num_shards needs --shard_id"),
        ((None, 0), {}, "--shard_id needs --num_shards"),
        ((2, 2), {}, "--shard_id is 2; with --num_shards 2, expected 0 to 1"),
        ((0, 0), {}, "--num_shards is 0"),
        ((2, 0), {"RANK": "1", "WORLD_SIZE": "2"}, "contradict torchrun's"),
        ((None, None), {"RANK": "1"}, "WORLD_SIZE is not set"),
        ((None, None), {"WORLD_SIZE": "2"}, "RANK is not set"),
        ((None, None), {"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2"),
        ((None, None), {"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'"),
        ((None, None), {"SLURM_ARRAY_TASK_ID": "0"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        ((None, None), SLURM | {"SLURM_ARRAY_TASK_ID": "9"}, "is 5; with SLURM_ARRAY_TASK_COUNT 4"),
        ((None, None), SLURM | {"SLURM_ARRAY_TASK_STEP": "2"}, "is not SLURM_ARRAY_TASK_MIN 4"),
    ],
)
def test_a_share_that_is_half_told_or_contradicted_is_an_error(flags, environment, named):
    with pytest.raises(RequestError, match=re.escape(named)):
        shard_of(*flags, environment)
