"""Damaged files of every kind: a small share of `benchmarks/fuzz`, and each input that once ended in a traceback."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import FAMILIES, fuzz
from qd_detr.gates.data.annotations import read_annotations
from qd_detr.gates.errors import CheckpointError, DataError, RequestError
from qd_detr.gates.files import JSON_DEPTH_MAX, parse_json
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.runs.interventions.edits import read_interventions
from qd_detr.gates.runs.journal import RunJournal
from qd_detr.gates.tracking.entries import SampleGates
from qd_detr.gates.weights.checkpoint import build_model, read_checkpoint, resolve
from qd_detr.gates.weights.options import read_options_file
from run_gate_analysis import main
from tests.fusion_facts import facts
from tests.tiny_run import TinyRun, make_tiny_run

pytestmark = pytest.mark.usefixtures("one_thread")
QUERY = {"qid": 1, "query": "q", "vid": "v", "duration": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyRun:
    return make_tiny_run(tmp_path_factory.mktemp("fuzzed"), n_queries=2)


RAW = [{"score": [0.5], "span_cxw": [[0.5, 1.0]]}]


def resaved(tiny: TinyRun, folder: Path, change) -> Path:
    content = torch.load(tiny.checkpoint, weights_only=False)
    change(content)
    torch.save(content, folder / "changed.ckpt")
    return folder / "changed.ckpt"


def load(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    build_model(checkpoint, resolve(checkpoint))


def test_no_damage_to_any_kind_of_file_shows_a_traceback():
    counts = fuzz(260, seed=int.from_bytes(b"tests"), limit_s=60)
    assert list(counts) == list(FAMILIES)
    assert [failure for count in counts.values() for failure in count.failures] == []
    accepted = sum(count.fine for count in counts.values())
    refused = sum(count.errors.total() for count in counts.values())
    assert accepted > 50  # the damage is neither always fatal nor always harmless
    assert refused > 100


def refusal(read, path: Path) -> str | None:
    try:
        read(path)
    except RequestError as error:
        return str(error)
    return None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*QUERY, "relevant_windows", "op"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(JSON | st.fixed_dictionaries(dict.fromkeys(QUERY, JSON)), max_size=3))
def test_any_json_is_annotations_and_interventions_and_options_or_a_clear_error(tmp_path, data):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    for read in (read_annotations, lambda p: read_interventions(p, facts()), read_options_file):
        message = refusal(read, path)
        assert message is None or 0 < len(message) < 2000


# -- found by the fuzz, each once a traceback or gigabytes of memory ---------------------------------------------------


def test_an_options_file_with_a_number_of_thousands_of_digits_is_refused(tmp_path):
    path = tmp_path / "opt.json"
    path.write_text('{"seed": ' + "9" * 5000 + "}")
    with pytest.raises(RequestError, match="is not JSON"):
        read_options_file(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", float("nan")),
        ("wd", float("inf")),
        ("t_feat_dir", "\ud800"),
        ("v_feat_dirs", ["\ud800"]),
        ("seed", 10**400),
    ],
)
def test_an_option_that_no_run_config_could_hold_is_refused_before_the_run(tiny, tmp_path, name, value):
    config = tmp_path / "opt.json"
    config.write_text(json.dumps({name: value}))
    with pytest.raises(RequestError, match=name):
        resolve(read_checkpoint(tiny.checkpoint), config_path=config)


@pytest.mark.parametrize("clip_length", [1e-300, 5e-324, 1e-46])
def test_a_clip_length_that_float32_takes_for_zero_is_refused(tiny, tmp_path, clip_length):
    config = tmp_path / "opt.json"
    config.write_text(json.dumps({"clip_length": clip_length}))
    with pytest.raises(RequestError, match="clip_length"):
        resolve(read_checkpoint(tiny.checkpoint), config_path=config)


@pytest.mark.parametrize("number", ["9" * 5000, "999999999999"])
def test_a_key_that_names_an_absurd_layer_is_refused(tiny, tmp_path, number):
    def change(content):
        key = next(key for key in content["model"] if key.startswith("fusion.fusion_layers.0."))
        content["model"][key.replace(".0.", f".{number}.", 1)] = content["model"][key]

    with pytest.raises(CheckpointError):
        load(resaved(tiny, tmp_path, change))


def test_a_key_of_thousands_of_characters_is_cut_in_the_message(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="1 unexpected") as error:
        load(
            resaved(
                tiny, tmp_path, lambda content: content["model"].update({"class_embed." + "9" * 5000: torch.zeros(1)})
            )
        )
    assert len(str(error.value)) < 1500


def test_a_truth_file_of_somebody_elses_is_no_truth_and_stops_nothing(tiny):
    for text in ("[" * 50_000, '{"videos": [3]}', '{"videos": [{"qid": []}]}', "9" * 5000, '{"videos": {"a": null}}'):
        (tiny.data.parent / "truth.json").write_text(text)
        assert main(tiny.argv("--no_figures")) == 0
    (tiny.data.parent / "truth.json").unlink()


@pytest.mark.parametrize("value", [torch.tensor(1.0), torch.zeros(0)])
def test_a_gate_without_numbers_is_refused(tiny, tmp_path, value):
    key = "fusion.fusion_layers.0.gating_function.mlp_mha.2.weight"
    with pytest.raises(CheckpointError):
        load(resaved(tiny, tmp_path, lambda content: content["model"].update({key: value})))


def test_keys_that_are_no_text_are_not_shown_whole(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="a key of type tuple"):
        load(resaved(tiny, tmp_path, lambda content: content["model"].update({("a",): torch.zeros(1)})))
    path = resaved(tiny, tmp_path, lambda content: content.update(opt={**vars(content["opt"]), ("b",): 1}))
    load(path)  # an option of no name is nobody's


def test_a_checkpoint_packed_again_with_compression_is_refused_and_not_misread(tiny, tmp_path):
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(tiny.checkpoint) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    with pytest.raises(CheckpointError, match="packed again with compression"):
        read_checkpoint(packed)


@pytest.mark.parametrize("depth", [JSON_DEPTH_MAX + 1, 900, 990, 3000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", ("{", "}")])
def test_json_nested_too_deeply_to_be_shown_is_refused_in_a_sentence(tmp_path, depth, brackets):
    opening, closing = ('{"a":', "}") if brackets[0] == "{" else brackets
    deep = opening * depth + "0" + closing * depth
    with pytest.raises(ValueError, match="nested"):
        parse_json(deep)
    path = tmp_path / "deep.json"
    path.write_text(json.dumps([QUERY]).replace("4", deep))
    with pytest.raises(DataError, match="nested"):
        read_annotations(path)
    with pytest.raises(RequestError, match="nested"):
        read_interventions(path, facts())


def test_json_at_the_allowed_depth_is_read():
    deep = "[" * JSON_DEPTH_MAX + "]" * JSON_DEPTH_MAX
    assert parse_json(deep + " ") is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"duration": 1e308},
        {"duration": 1e7},
        {"relevant_windows": [[0, 1e308]]},
        {"relevant_clip_ids": [10**18]},
        {"vid": "x" * 300},
        {"qid": "y" * 300},
        {"qid": 10**400},
        {"vid": "a/" * 600 + "b"},
    ],
)
def test_annotations_with_absurd_numbers_and_names_are_refused_in_a_short_sentence(tmp_path, changes):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**QUERY, **changes}) + "\n")
    with pytest.raises(DataError, match=next(iter(changes))) as error:
        read_annotations(path)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        '{"files": ["a\\u0000b"]}',
        '{"files": ["\\ud800"]}',
        '{"files": ["' + "9" * 5000 + '"]}',
        "9" * 5000,
        '{"files": [".partial/lock", ".", "", "../outside.txt", "/etc/passwd", ["x"], null]}',
    ],
)
@pytest.mark.parametrize("place", ["run_config.json", ".partial/run_config.json"])
def test_a_damaged_run_config_of_earlier_results_stops_no_new_run(tmp_path, text, place):
    out = tmp_path / "out"
    (out / ".partial").mkdir(parents=True)
    (out / place).write_text(text)
    (tmp_path / "outside.txt").write_text("mine")
    with ResultsTree(out) as tree:
        tree.write_text("samples.csv", "id\n")
        tree.publish({})
    assert sorted(p.name for p in out.iterdir()) == ["run_config.json", "samples.csv"]
    assert (tmp_path / "outside.txt").read_text() == "mine"


def journal_of_two_batches(folder: Path) -> Path:
    history = RunJournal(folder, {"toolkit": "1"}, resume=False).history(0)
    for number in range(2):
        gates = dict.fromkeys(("attention", "ffn"), np.full((2, 1, 3, 1), number, np.float32))
        history[number] = SampleGates(gates, np.ones((1, 3), bool), "clipwise", 16)
        history.commit(
            [number],
            {
                "batch": number,
                "lines": [{"qid": number, "pred_relevant_windows": [], "pred_saliency_scores": []}],
                "raw": RAW,
                "marks": [["a", "b"]],
            },
        )
    return folder / "gates"


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda line: b"null", 0),
        (lambda line: b'{"shard": 0}', 0),
        (lambda line: b"[" * 50_000, 0),
        (lambda line: line.replace(b'"batch":0', b'"batch":7'), 0),
        (lambda line: line.replace(b"[1,3,1]", b"[9,9,9]", 1), 0),
        (lambda line: line, 2),
    ],
)
def test_a_damaged_line_of_the_journal_ends_what_is_continued(tmp_path, damage, left):
    gates = journal_of_two_batches(tmp_path / "journal")
    first, second = (gates / "index.jsonl").read_bytes().splitlines()
    (gates / "index.jsonl").write_bytes(damage(first) + b"\n" + second + b"\n")
    assert len(list(RunJournal(tmp_path / "journal", {"toolkit": "1"}, resume=True).finished([[0], [1]]))) == left


def forged(line: bytes, **changes) -> bytes:
    data = json.loads(line.partition(b" ")[2])
    text = json.dumps({**data, **changes}).encode()
    return b"%08x %s" % (zlib.crc32(text), text)


@pytest.mark.parametrize(
    "changes",
    [
        {"shard": -1},
        {"shard": "0"},
        {"end": 1 << 70},
        {"entries": [{"id": 0}]},
        {"entries": []},
        {
            "note": {
                "batch": 0,
                "lines": [{"qid": 0, "pred_relevant_windows": [], "pred_saliency_scores": []}],
                "marks": -1,
            }
        },
        {
            "note": {
                "batch": 1,
                "lines": [{"qid": 0, "pred_relevant_windows": [], "pred_saliency_scores": []}],
                "raw": RAW,
                "marks": [["a", "b"]],
            }
        },
        {
            "note": {
                "batch": 0,
                "lines": [{"qid": 5, "pred_relevant_windows": [], "pred_saliency_scores": []}],
                "raw": RAW,
                "marks": [["a", "b"]],
            }
        },
    ],
)
def test_a_forged_line_with_the_right_sum_is_not_continued(tmp_path, changes):
    gates = journal_of_two_batches(tmp_path / "journal")
    first, second = (gates / "index.jsonl").read_bytes().splitlines()
    (gates / "index.jsonl").write_bytes(forged(first, **changes) + b"\n" + second + b"\n")
    assert list(RunJournal(tmp_path / "journal", {"toolkit": "1"}, resume=True).finished([[0], [1]])) == []


def test_gates_that_were_damaged_on_disk_are_computed_again(tmp_path):
    gates = journal_of_two_batches(tmp_path / "journal")
    content = bytearray((gates / "shard_00000.f32").read_bytes())
    content[50] ^= 1  # of the second batch: a batch has 2 kinds x 2 layers x 3 values of 4 bytes
    (gates / "shard_00000.f32").write_bytes(content)
    assert len(list(RunJournal(tmp_path / "journal", {"toolkit": "1"}, resume=True).finished([[0], [1]]))) == 1


@pytest.mark.parametrize("name", ["shard_00000.f32", "shard_00007.f32", "index.jsonl"])
@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_second_name_of_a_file_elsewhere_is_not_written_through(tmp_path, name, make):
    gates = journal_of_two_batches(tmp_path / "journal")
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine " * 99)
    (gates / name).unlink(missing_ok=True)
    make(mine, gates / name)
    journal = RunJournal(tmp_path / "journal", {"toolkit": "1"}, resume=True)
    kept = len(list(journal.finished([[0], [1]])))
    assert kept == (2 if name == "shard_00007.f32" else 0)
    assert mine.read_bytes() == b"mine " * 99


def test_commits_whose_gates_are_gone_are_not_continued(tmp_path):
    gates = journal_of_two_batches(tmp_path / "journal")
    (gates / "shard_00000.f32").write_bytes(b"\0" * 20)
    assert list(RunJournal(tmp_path / "journal", {"toolkit": "1"}, resume=True).finished([[0], [1]])) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 50_000])
def test_a_journal_whose_fingerprint_was_cut_by_a_full_disk_is_started_over(tmp_path, text):
    journal_of_two_batches(tmp_path / "journal")
    (tmp_path / "journal" / "fingerprint.json").write_text(text)
    assert list(RunJournal(tmp_path / "journal", {"toolkit": "1"}, resume=True).finished([[0], [1]])) == []
    assert list(RunJournal(tmp_path / "journal", {"toolkit": "1"}, resume=True).finished([[0], [1]])) == []


def test_a_namespace_that_is_no_namespace_is_refused(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="expected options by name"):
        load(resaved(tiny, tmp_path, lambda content: content.update(opt=[argparse.Namespace()])))
