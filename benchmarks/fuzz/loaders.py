"""Damaged files through the functions that read them: the quick half of the fuzz."""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fuzz.damage import damaged_bytes, damaged_json, damaged_text, odd_value
from qd_detr.gates.analysis.finished_run import read_run
from qd_detr.gates.data.annotations import read_annotations
from qd_detr.gates.data.feature_check import check_features
from qd_detr.gates.data.feature_layout import FeatureFolders, FeatureSpec
from qd_detr.gates.data.features import FeatureReader
from qd_detr.gates.errors import RequestError
from qd_detr.gates.evaluation import read_submission
from qd_detr.gates.planted import read_truth
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.runs.interventions.edits import read_interventions
from qd_detr.gates.runs.journal import RunJournal
from qd_detr.gates.tracking.entries import SampleGates
from qd_detr.gates.weights.checkpoint import build_model, read_checkpoint, resolve
from tests.fusion_facts import facts
from tests.tiny_run import TinyRun, make_tiny_run


@dataclass
class Bench:
    """The valid files that damage starts from, and where the damaged ones go."""

    folder: Path
    tiny: TinyRun
    small: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> Bench:
        tiny = make_tiny_run(folder / "tiny", n_queries=3)
        bench = cls(folder, tiny)
        content = torch.load(tiny.checkpoint, weights_only=False)
        torch.save(content, folder / "legacy", _use_new_zipfile_serialization=False)
        bench.small = {"zip": tiny.checkpoint.read_bytes(), "pickle": (folder / "legacy").read_bytes()}
        bench.content = content
        bench.checkpoint = read_checkpoint(tiny.checkpoint)
        bench.settings = resolve(bench.checkpoint)
        bench.spec = FeatureSpec.from_options(bench.settings.options, bench.settings.architecture)
        bench.queries = read_annotations(tiny.data)
        data = tiny.data.parent
        bench.folders = FeatureFolders((data / "slowfast",), data / "text", data / "pann")
        return bench

    content: Any = None
    checkpoint: Any = None
    settings: Any = None
    spec: Any = None
    queries: Any = None
    folders: Any = None

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


def _load(path: Path, config: Path | None = None) -> None:
    checkpoint = read_checkpoint(path)
    build_model(checkpoint, resolve(checkpoint, config_path=config))


def fuzz_checkpoint_zip(bench: Bench, rng: random.Random) -> None:
    _load(bench.file("damaged.ckpt", damaged_bytes(rng, bench.small["zip"], bench.small["pickle"])))


def fuzz_checkpoint_pickle(bench: Bench, rng: random.Random) -> None:
    _load(bench.file("damaged.ckpt", damaged_bytes(rng, bench.small["pickle"], bench.small["zip"])))


def fuzz_checkpoint_content(bench: Bench, rng: random.Random) -> None:
    weights = dict(bench.content["model"])
    options = dict(vars(bench.content["opt"]))
    for _ in range(rng.choice((0, 1, 1, 3))):
        key = rng.choice(list(weights))
        weights[_odd_key(rng, key)] = _odd_tensor(rng, weights.pop(key))
    for _ in range(rng.choice((0, 1, 2))):
        options[rng.choice([*options, *bench.settings.options])] = odd_value(rng)
    saved: Any = {"model": weights, "epoch": 3, "opt": rng.choice((options, argparse.Namespace(**options)))}
    if rng.random() < 0.3:
        saved[rng.choice(("model", "epoch", "opt", "format", "state_dict"))] = odd_value(rng)
    torch.save(saved, bench.folder / "damaged.ckpt", _use_new_zipfile_serialization=rng.random() < 0.7)
    _load(bench.folder / "damaged.ckpt")


def _odd_key(rng: random.Random, key: Any) -> Any:
    if not isinstance(key, str):
        return key  # made odd by the round before
    number = rng.choice(("7", "999999999999", "9" * 5000, "-1", "\u0663"))
    changed = (
        key.replace(".0.", f".{number}.")
        if rng.random() < 0.7
        else rng.choice((key + "x", "", 3, None, ("a",), "\ud800"))
    )
    return key if rng.random() < 0.6 else changed


def _odd_tensor(rng: random.Random, value: torch.Tensor) -> Any:
    plain = isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.layout == torch.strided
    if not plain or value.numel() > 10**6 or value.is_complex():
        return value  # made odd by the round before; some of what follows cannot be done to it
    return rng.choice(
        (
            lambda: value,
            lambda: torch.zeros(()),
            lambda: torch.zeros(0),
            lambda: torch.zeros(0, 3),
            lambda: value[:0],
            lambda: value.half(),
            lambda: value.double(),
            lambda: value * float("nan"),
            lambda: value.to(torch.int64),
            lambda: value.to(torch.complex64),
            lambda: value.to_sparse(),
            lambda: torch.zeros(1).expand(10**9),
            lambda: torch.zeros(1, 1).expand(10**9, 10**6),
            lambda: torch.zeros(1, 2).expand(10**12, 2),
            lambda: torch.zeros(3, 3, device="meta"),
            lambda: torch.nn.Parameter(value),
            lambda: odd_value(rng),
        )
    )()


def fuzz_options(bench: Bench, rng: random.Random) -> None:
    options = dict(bench.settings.options)
    keys = tuple(options)
    if rng.random() < 0.6:
        content = json.dumps(damaged_json(rng, options, keys)).encode()
    else:
        content = damaged_text(rng, json.dumps(options))
    path = bench.file("config.json", content)
    settings = resolve(bench.checkpoint, config_path=path)
    json.dumps(settings.options, allow_nan=False).encode("utf-8")  # goes into run_config.json as it is
    build_model(bench.checkpoint, settings)


_TVSUM = {
    "qid": "a",
    "query": "q",
    "vid": "v",
    "duration": 6,
    "domain": "BK",
    "label": [[1] * 20, [2] * 20, [3] * 20],
}


def fuzz_annotations(bench: Bench, rng: random.Random) -> None:
    tvsum = rng.random() < 0.25
    lines = [_TVSUM] if tvsum else bench.tiny.queries
    if rng.random() < 0.6:
        lines = damaged_json(rng, lines)
        lines = lines if isinstance(lines, list) else [lines]
    as_list = rng.random() < 0.3
    text = json.dumps(lines, ensure_ascii=True) if as_list else "".join(json.dumps(line) + "\n" for line in lines)
    content = damaged_text(rng, text) if rng.random() < 0.5 else text.encode()
    queries = read_annotations(bench.file("a.jsonl", content), "tvsum" if tvsum else "hl")
    if not tvsum:  # what is let through names files, and is written down
        json.dumps([query.qid for query in queries]).encode("utf-8")
        check_features(queries, bench.folders, bench.spec)


def fuzz_features(bench: Bench, rng: random.Random) -> None:
    query = bench.queries[0]
    names = {
        "slowfast": f"{query.vid}.npz",
        "text": f"qid{query.qid}.npz",
        "pann": f"{query.vid}.npy",
    }
    where = rng.choice(list(names))
    path = bench.tiny.data.parent / where / names[where]
    whole = path.read_bytes()
    try:
        content = whole
        if rng.random() < 0.3:
            key = "features" if where == "slowfast" else "last_hidden_state"
            array = _odd_array(rng)
            save = np.savez_compressed if rng.random() < 0.5 else np.savez
            if where == "pann":
                np.save(path, array)
            else:
                save(path, **{key: array})
            content = path.read_bytes()
        if rng.random() < 0.85:
            content = damaged_bytes(rng, content, whole) if rng.random() < 0.6 else _damaged_header(rng, content)
        path.write_bytes(content)
        index = check_features(bench.queries, bench.folders, bench.spec)
        reader = FeatureReader(bench.folders, bench.spec, index)
        for one in index.queries:
            reader.read(one)
    finally:
        path.write_bytes(whole)


def _odd_array(rng: random.Random) -> np.ndarray:
    shape = rng.choice(((0,), (), (3,), (0, 6), (3, 6), (12, 4), (1, 2, 4), (2, 2, 2), (1, 1, 1, 1)))
    dtype = rng.choice(("f2", "f4", "f8", ">f4", "i1", "u8", "c8", "?", "U3", "S2", "M8[s]", "g"))
    return np.zeros(shape, dtype)


def _damaged_header(rng: random.Random, content: bytes) -> bytes:
    pieces = [
        b"(12, 6)",
        b"(12, 5)",
        b"'<f4'",
        b"False",
        b"shape",
        b"descr",
        b"(2, 4)",
        b"\x93NUMPY",
        b"PK",
        b"\x01\x00v\x00",
    ]
    there = [piece for piece in pieces if piece in content]
    piece = rng.choice(there or [b"\n"])
    other = rng.choice(
        (
            b"(9999999999, 6)",
            b"(-1, 6)",
            b"(12, 10**12)",
            b"(True, 6)",
            b"(1.5, 6)",
            b"([], 6)",
            b"'O'",
            b"'<f400'",
            b"'V9'",
            b"{}",
            b"__import__('os')",
            b"((((((",
            b"(" * 3000,
            b"'\\ud800'",
            b"'<U999999999'",
            b"9" * 5000,
            b"\xff\xff\xff\xff",
        )
    )
    return content.replace(piece, other, 1)


def fuzz_interventions(bench: Bench, rng: random.Random) -> None:
    items = [
        {"name": "a", "op": "scale", "value": 0, "layers": [0], "kinds": ["attention"]},
        {"name": "b", "edits": [{"op": "clamp", "value": [-0.5, 0.5]}, {"op": "shuffle", "seed": 3}]},
        {"name": "c", "op": "mean", "value": "dataset"},
    ]
    keys = ("op", "value", "layers", "kinds", "seed", "edits", "name")
    text = json.dumps(damaged_json(rng, items, keys) if rng.random() < 0.7 else items)
    content = text.encode() if rng.random() < 0.5 else damaged_text(rng, text)
    read_interventions(bench.file("i.json", content), facts(value_range=rng.choice((None, (-1.0, 1.0)))))


def fuzz_truth_and_submission(bench: Bench, rng: random.Random) -> None:
    if rng.random() < 0.5:
        line = {
            "qid": 1,
            "query": "q",
            "vid": "v",
            "pred_relevant_windows": [[0, 2, 0.5]],
            "pred_saliency_scores": [0.1],
        }
        text = json.dumps(damaged_json(rng, line)) + "\n"
        content = text.encode() if rng.random() < 0.5 else damaged_text(rng, text)
        read_submission(bench.file("p.jsonl", content))
    else:
        truth = {"1": {"vid": "v", "audio": "helps", "window": [0, 1]}}
        text = json.dumps(damaged_json(rng, truth))
        folder = bench.folder / "truth"
        folder.mkdir(exist_ok=True)
        (folder / "truth.json").write_bytes(text.encode() if rng.random() < 0.5 else damaged_text(rng, text))
        try:
            read_truth(folder)
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:  # its own callers take these for "not ours"
            raise RequestError(type(error).__name__) from None


def fuzz_earlier_results(bench: Bench, rng: random.Random) -> None:
    """A damaged run_config.json, of the finished run or of one that died while publishing."""
    out = bench.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    (out / ".partial" / "tree").mkdir(parents=True)
    mine = out / "mine.txt"
    mine.write_text("mine")
    outside = bench.folder / "outside.txt"
    outside.write_text("outside")
    config = {"files": ["samples.csv", "individual_samples/1_details.json"], "format": "x", "seed": 0}
    text = json.dumps(damaged_json(rng, config))
    content = text.encode() if rng.random() < 0.5 else damaged_text(rng, text)
    for place in rng.sample(("run_config.json", ".partial/run_config.json", ".partial/previous_run_config.json"), 2):
        (out / place).write_bytes(content)
    with ResultsTree(out, resume=rng.random() < 0.5) as tree:
        tree.write_text("samples.csv", "id\n")
        tree.publish({"seed": 1})
    assert mine.read_text() == "mine"
    assert outside.read_text() == "outside"
    written = json.loads((out / "run_config.json").read_text())
    assert (written["seed"], written["files"], list(written["sha256"])) == (1, ["samples.csv"], ["samples.csv"])


def fuzz_journal(bench: Bench, rng: random.Random) -> None:
    """A damaged journal of an unfinished run, continued."""
    folder = bench.folder / "journal"
    shutil.rmtree(folder, ignore_errors=True)
    fingerprint = {"toolkit": "1", "batch_size": 2}
    journal = RunJournal(folder, fingerprint, resume=False)
    history = journal.history(0)
    for number in range(3):
        gates = dict.fromkeys(("attention", "ffn"), np.full((2, 1, 4, 1), number, np.float32))
        history[number] = SampleGates(gates, np.ones((1, 4), bool), "clipwise", 16)
        history.commit(
            [number],
            {"batch": number, "lines": [{"qid": number}], "raw": [{"score": [], "span_cxw": []}], "marks": [[]]},
        )
    del history, journal
    target = folder / rng.choice(
        ("fingerprint.json", "gates/index.jsonl", "gates/index.jsonl", "gates/shard_00000.f32")
    )
    content = target.read_bytes()
    how = rng.random()
    if how < 0.5 or target.suffix == ".f32":
        content = damaged_bytes(rng, content)
    elif how < 0.75:
        content = damaged_text(rng, content.decode("latin-1"))
    else:
        content = json.dumps(damaged_json(rng, {"shard": 0, "end": 64, "entries": [], "note": {}})).encode() + b"\n"
    target.write_bytes(content)
    again = RunJournal(folder, fingerprint, resume=True)
    history = again.history(0)
    for expected, (note, places) in enumerate(again.finished([[0], [1], [2]])):
        history.adopt(places)
        assert note["batch"] == expected, "a commit that nobody made"
        assert note["lines"] == [{"qid": expected}]
        for sample_id in places:
            assert (history[sample_id]["attention_gates"][0] == expected).all(), "other gates than were recorded"


def fuzz_finished_run(bench: Bench, rng: random.Random) -> None:
    """A damaged results tree, read by --compare_runs."""
    folder = bench.folder / "finished"
    folder.mkdir(exist_ok=True)
    line = {"qid": 1, "query": "q", "vid": "v", "pred_relevant_windows": [[0, 2, 0.5]], "pred_saliency_scores": [0.1]}
    config = {
        "annotations": {"sha256": "a", "path": "val.jsonl"},
        "checkpoint": {"sha256": "b", "path": "m.ckpt", "epoch": 1},
        "gating": {"run_as": "global", "trained_as": "global"},
        "options": {"dset_name": "hl", "clip_length": 2},
    }
    files = {
        "run_config.json": json.dumps(config),
        "overall_statistics.json": json.dumps({"num_layers": 2, "gating_type": "global"}),
        "samples.csv": "id,vid,layer0_attention_abs_mean\n1,v,0.5\n",
        "predictions.jsonl": json.dumps(line) + "\n",
    }
    target = rng.choice(list(files))
    for name, text in files.items():
        content = text.encode()
        if name == target:
            if name.endswith(".json") and rng.random() < 0.5:
                content = json.dumps(damaged_json(rng, json.loads(text))).encode()
            else:
                content = damaged_text(rng, text)
        (folder / name).write_bytes(content)
    read_run(folder)


FAMILIES: dict[str, tuple[Callable[[Bench, random.Random], None], float]] = {
    "checkpoint, zip": (fuzz_checkpoint_zip, 0.14),
    "checkpoint, old pickle": (fuzz_checkpoint_pickle, 0.12),
    "checkpoint, content": (fuzz_checkpoint_content, 0.12),
    "options": (fuzz_options, 0.12),
    "annotations": (fuzz_annotations, 0.14),
    "features": (fuzz_features, 0.14),
    "interventions": (fuzz_interventions, 0.08),
    "submission, truth": (fuzz_truth_and_submission, 0.04),
    "earlier results": (fuzz_earlier_results, 0.04),
    "journal": (fuzz_journal, 0.04),
    "finished run": (fuzz_finished_run, 0.02),
}
