"""Faults that were once met by users: each is refused, said or mended, and none gives other numbers in silence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from qd_detr.gates import command_line
from qd_detr.gates.command_line import progress
from qd_detr.gates.commands.analyse.replay import command_text
from qd_detr.gates.runs.journal import _sound
from qd_detr.gates.runs.parts import Parts
from qd_detr.gates.wording import for_terminal
from run_gate_analysis import main
from tests.test_run_resume import interrupted
from tests.tiny_run import VIDEO_DIM, TinyRun, make_tiny_run

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ("--no_figures", "--no_effects", "--no_explorer")


@pytest.fixture
def tiny(tmp_path) -> TinyRun:
    return make_tiny_run(tmp_path / "t", n_queries=3)


def refusal(tiny: TinyRun, capsys, *flags: object) -> str:
    """Return the one line with which a request is refused."""
    capsys.readouterr()
    assert main(tiny.argv(*QUICK, *map(str, flags))) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("WARNING")]
    return line


def test_one_flipped_bit_of_a_tensor_is_told_by_the_sum_written_with_it(tiny, capsys):
    with zipfile.ZipFile(tiny.checkpoint) as archive:
        largest = max((one for one in archive.infolist() if "/data/" in one.filename), key=lambda one: one.file_size)
    content = bytearray(tiny.checkpoint.read_bytes())
    tensor = torch.load(tiny.checkpoint, weights_only=False)["model"]
    stored = next(t.numpy().tobytes() for t in tensor.values() if t.numel() * 4 == largest.file_size)
    content[content.index(stored) + 1] ^= 0x40
    tiny.checkpoint.write_bytes(content)
    said = refusal(tiny, capsys)
    assert "is damaged" in said
    assert largest.filename in said


def test_a_nested_tensor_among_the_weights_is_refused_by_name(tiny, capsys):
    content = torch.load(tiny.checkpoint, weights_only=False)
    key = "transformer.encoder.layers.0.linear1.weight"
    rows = content["model"][key]
    content["model"][key] = torch.nested.nested_tensor([rows[0], rows[0][:1]])
    torch.save(content, tiny.checkpoint)
    said = refusal(tiny, capsys)
    assert key in said
    assert "not dense floating point but nested" in said


def test_resume_with_the_feature_folders_in_another_order_is_refused(tiny, monkeypatch, capsys):
    data = tiny.data.parent
    for name, columns in (("one", slice(0, VIDEO_DIM // 2)), ("two", slice(VIDEO_DIM // 2, None))):
        (data / name).mkdir()
        for path in (data / "slowfast").iterdir():
            np.savez(data / name / path.name, features=np.load(path)["features"][:, columns])
    content = torch.load(tiny.checkpoint, weights_only=False)
    content["opt"].v_feat_dirs = ["old/rgb", "old/flow"]
    torch.save(content, tiny.checkpoint)
    one, two = str(data / "one"), str(data / "two")
    interrupted(tiny, monkeypatch, 1, "--v_feat_dirs", one, two)
    said = refusal(tiny, capsys, "--batch_size", 2, "--resume", "--v_feat_dirs", two, one)
    assert "--resume refused" in said
    assert "different: feature" in said


@pytest.mark.parametrize("name", ["samples.csv", "predictions.jsonl", "ANALYSIS_REPORT.md", "explorer.html"])
def test_a_folder_in_the_place_of_a_result_is_found_before_anything_runs(tiny, capsys, name):
    place = tiny.folder / "out" / name
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("mine")
    assert f"{name} is in the way" in refusal(tiny, capsys)
    assert [path.name for path in place.parent.iterdir()] == [name]
    assert (place / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("audio_enters", [True, False])
def test_layers_through_which_no_audio_enters_are_not_ranked(tiny, audio_enters):
    content = torch.load(tiny.checkpoint, weights_only=False)
    for key, value in content["model"].items():
        if key.startswith("fusion.fusion_layers.") and (".out_proj." in key or ".ffn1.2." in key) and not audio_enters:
            value.zero_()
    torch.save(content, tiny.checkpoint)
    assert (
        main(tiny.argv("--no_figures", "--no_effects")) == 0
    )  # with effects, the predictions answer, and nothing is ranked
    report = (tiny.folder / "out/ANALYSIS_REPORT.md").read_text(encoding="utf-8")
    assert ("Audio enters most" in report) == audio_enters
    assert ("No audio enters any layer" in report) == (not audio_enters)


def at(monkeypatch, *seconds: float) -> None:
    """Let the clock show these times, one after another."""
    clock = iter(seconds)
    monkeypatch.setattr(command_line.time, "monotonic", lambda: next(clock))


def test_where_stderr_goes_to_a_file_lines_name_the_phase_and_how_long_it_will_take(monkeypatch, capsys):
    at(monkeypatch, 0.0, 2.0, 6.0, 30.0, 40.0)
    with progress(10, "samples", "sample") as advance:
        for _ in range(4):
            advance()
    assert capsys.readouterr().err.splitlines() == [
        "samples: 0 of 10 samples",
        "samples: 2 of 10 samples, about 24 s left",  # 6 s for 2
        "samples: 4 of 10 samples, about 60 s left",  # 40 s for 4; the one at 30 s came too soon after
    ]


def test_what_is_mostly_over_at_once_is_named_only_where_it_takes_long(monkeypatch, capsys):
    at(monkeypatch, 0.0, 2.0, 200.0)
    with progress(4, "checking features", "sample", brief=True) as advance:
        advance()
        assert capsys.readouterr().err == ""
        advance()
    assert capsys.readouterr().err == "checking features: 2 of 4 samples, about 3 min left\n"


def test_a_quiet_run_says_nothing_of_how_far_it_is(monkeypatch, capsys):
    with progress(2, "samples", "sample", quiet=True) as advance:
        advance()
    assert capsys.readouterr().err == ""


def test_a_run_whose_stderr_goes_to_a_file_names_its_phases(tiny, capfd):
    argv = [flag for flag in tiny.argv("--no_figures", "--no_explorer") if flag != "--quiet"]
    assert main(argv) == 0
    phases = [line.partition(":")[0] for line in capfd.readouterr().err.splitlines() if " of " in line]
    assert phases[:2] == ["samples", "conditions"]


def test_resume_with_another_number_of_threads_names_what_to_set(tiny, monkeypatch, capsys):
    interrupted(tiny, monkeypatch, 1, *QUICK)
    torch.set_num_threads(2)
    try:
        said = refusal(tiny, capsys, "--batch_size", 2, "--resume")
    finally:
        torch.set_num_threads(1)
    assert "threads (1 then, 2 now)" in said
    assert "for as many threads, set OMP_NUM_THREADS=1" in said


def test_a_gpu_by_its_everyday_name_is_told_torchs_name(tiny, capsys):
    said = refusal(tiny, capsys, "--device", "gpu")
    assert "cuda is what torch calls a GPU: try --device cuda or --device cpu" in said


@pytest.mark.parametrize("value", [[], {"a": 1}, None, 7])
def test_a_gating_type_that_is_no_text_is_refused_by_name(tiny, tmp_path, capsys, value):
    (tmp_path / "opt.json").write_text(json.dumps({"gating_type": value}))
    assert "gating_type" in refusal(tiny, capsys, "--config_path", tmp_path / "opt.json")


# -- what is read back of a journal and of shards --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "raw"),
    [
        ({"pred_saliency_scores": [1e20]}, {}),  # beyond float16
        ({"pred_saliency_scores": [float("nan")]}, {}),
        ({"pred_saliency_scores": [[0.5]]}, {}),
        ({"pred_saliency_scores": None}, {}),
        ({"pred_relevant_windows": [[0.0, 2.0]]}, {}),
        ({"qid": 2}, {}),
        ({}, {"score": [1e300]}),
        ({}, {"span_cxw": [[0.5, 0.5], [0.5]]}),
        ({}, {"score": [10**400]}),
    ],
)
def test_a_batch_of_a_journal_that_no_model_can_have_given_is_computed_again(line, raw):
    whole_line = {"qid": 1, "pred_relevant_windows": [[0.0, 2.0, 0.5]], "pred_saliency_scores": [0.5]}
    whole_raw = {"score": [0.5], "span_cxw": [[0.5, 0.5]]}
    assert _sound({"batch": 0, "lines": [whole_line], "raw": [whole_raw], "marks": [["a", "b"]]}, [1])
    assert not _sound({"batch": 0, "lines": [whole_line | line], "raw": [whole_raw | raw], "marks": [["a", "b"]]}, [1])


@pytest.fixture
def part(tmp_path) -> Path:
    """The file of one finished part."""
    arrays = {"positions": np.arange(3), "scores": np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2)}
    Parts([tmp_path], "conditions", "key").put("a", arrays)
    (found,) = Parts([tmp_path], "conditions", "key").found("a")
    assert list(found) == list(arrays)
    assert all((found[name] == arrays[name]).all() for name in arrays)
    return next(tmp_path.glob("conditions-*/a.npz"))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(0.2).tobytes())] ^= 1
    path.write_bytes(content)


def packed(path: Path) -> None:
    with np.load(path) as held:
        arrays = dict(held)
    np.savez_compressed(path, **arrays)


def other_numbers(path: Path) -> None:
    with np.load(path) as held:
        arrays = dict(held)
    np.savez(path, **{**arrays, "scores": arrays["scores"] + 1})  # sound as an archive, but not what was written


@pytest.mark.parametrize("damage", [flipped, packed, other_numbers, lambda path: path.write_bytes(b"PK")])
def test_a_part_that_is_not_as_it_was_written_is_not_taken(part, tmp_path, damage):
    damage(part)
    assert Parts([tmp_path], "conditions", "key").found("a") == []


def test_a_part_in_the_place_of_another_is_not_taken(part, tmp_path):
    shutil.copy(part, part.with_name("b.npz"))
    assert Parts([tmp_path], "conditions", "key").found("b") == []
    assert len(Parts([tmp_path], "conditions", "key").found("a")) == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("figure_format", "png/../../../outside/x.png", "figure_format in 'asked'"),
        ("seed", "1", "seed in 'asked'"),
        ("audio", [["none"]], "audio in 'asked'"),
        ("missing_list", "victim", None),  # let through, and not done
    ],
)
def test_a_shards_manifest_from_elsewhere_names_no_file_to_write(
    tiny, tmp_path, monkeypatch, capsys, name, value, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").write_text("mine")
    out = tiny.folder / "out"
    for number in ("0", "1"):
        assert main(tiny.argv(*QUICK, "--num_shards", "2", "--shard_id", number)) == 0
    for manifest in (out / "shards").glob("*/manifest.json"):
        content = json.loads(manifest.read_text())
        content["asked"][name] = value
        manifest.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["--merge_shards", str(out), "--quiet"]) == (0 if said is None else 2)
    assert said is None or said in capsys.readouterr().err
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "outside").exists()


# -- text that is copied to a shell, and objects that say two things ---------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        "a b",
        "--$(touch x)",
        "it's",
        "m\\end{verbatim}\\input{y}'z",
        "\x1b[2J\u202egnp.\\ckpt",
        "tab\tand\nline",
    ],
)
def test_the_command_that_repeats_a_run_is_read_by_a_shell_as_it_was_given_and_stays_in_its_box(word):
    text = command_text(["python", "-c", "import sys; print(ascii(sys.argv[1:]))", word])
    said = subprocess.run(["bash", "-c", text.replace("python", sys.executable, 1)], capture_output=True, text=True)
    assert said.stdout == f"[{word!a}]\n"
    assert r"\end{verbatim}" not in text
    assert for_terminal(text) == text


@pytest.mark.parametrize("flag", ["--config_path", "--interventions", "--data_path"])
def test_an_object_that_has_a_key_twice_is_refused_by_name(tiny, tmp_path, capsys, flag):
    query = json.dumps(tiny.queries[0])
    texts = {
        "--config_path": '{"nheads": 2, "nheads": 4}',
        "--interventions": '[{"name": "a", "op": "scale", "value": 0, "value": 1}]',
        "--data_path": '{"vid": "other", ' + query[1:],
    }
    (tmp_path / "twice.json").write_text(texts[flag])
    assert "is there twice" in refusal(tiny, capsys, flag, tmp_path / "twice.json")
