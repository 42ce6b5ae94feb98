"""Damages what users may feed the toolkit and counts what comes of it: success or an error of ours, never a traceback.

Every input is a small valid file (checkpoint, options, annotations, features, interventions, earlier results) with
seeded damage: flipped and foreign bytes, cuts, splices, absurd numbers, deep nesting, NaN, half surrogate pairs. It
goes through the same functions that a command calls. An input that takes over ten seconds, or more memory than the
limit, counts as a failure too.

    python -m benchmarks.fuzz --inputs 6000 --seed 0 [--family NAME ...] [--keep DIR]
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qd_detr.gates.analysis.run_comparison import read_run
from qd_detr.gates.data.annotations import read_annotations
from qd_detr.gates.data.feature_check import check_features
from qd_detr.gates.data.feature_layout import FeatureFolders, FeatureSpec
from qd_detr.gates.data.features import FeatureReader
from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.evaluation import read_submission
from qd_detr.gates.planted import read_truth
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.runs.interventions.edits import read_interventions
from qd_detr.gates.runs.journal import RunJournal
from qd_detr.gates.tracking.entries import SampleGates
from qd_detr.gates.weights.checkpoint import build_model, read_checkpoint, resolve
from tests.fusion_facts import facts
from tests.tiny_run import TinyRun, make_tiny_run

LIMIT_S = 10
MEMORY_LIMIT = 8 << 30
DEEP = 20_000  # far beyond what a JSON parser nests


# -- damage ----------------------------------------------------------------------------------------------------------


def damaged_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Return `data` with one to four pieces of damage."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_BYTE_DAMAGE)(rng, data, other)
    return data


def _place(rng: random.Random, data: bytes) -> int:
    # Half of the time near an end, where headers and directories are.
    if not data:
        return 0
    near = min(len(data), 3000)
    return rng.choice((rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)))


def _flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if out:
            out[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _overwrite(rng: random.Random, data: bytes, other: bytes) -> bytes:
    piece = rng.choice(
        (
            *(rng.randbytes(length) for length in (1, 4, 60)),
            *(byte * length for byte, length in ((b"\xff", 4), (b"\xff", 8), (b"\0", 8), (b"\x7f", 4))),
            *((1 << bits).to_bytes(8, "little") for bits in (31, 40, 62)),
        )
    )
    at = _place(rng, data)
    return data[:at] + piece + data[at + len(piece) :]


def _cut(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)]


def _delete(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 16, 300)) :]


def _insert(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.randbytes(rng.choice((1, 3, 40))) + data[at:]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    source = other or data
    start = _place(rng, source)
    return data[: _place(rng, data)] + source[start : start + rng.choice((20, 500, len(source)))]


_BYTE_DAMAGE = (_flip, _flip, _overwrite, _overwrite, _cut, _delete, _insert, _splice)


def odd_value(rng: random.Random) -> Any:
    """Return a value that somebody's JSON might hold in the place of a sensible one."""
    return rng.choice(_ODD)(rng)


def _nested(depth: int, inner: Any = 0, kind: type = list) -> Any:
    value = inner
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


_ODD: tuple[Callable[[random.Random], Any], ...] = (
    lambda r: None,
    lambda r: r.choice((True, False)),
    lambda r: r.choice((0, -1, 1, 2, 3, 7, 10**6, 10**9, 10**12, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400)),
    lambda r: r.choice((0.0, -0.0, 0.5, 1e-300, 5e-324, 1e300, -1e300, 3.5e38)),
    lambda r: r.choice((float("nan"), float("inf"), float("-inf"))),
    lambda r: r.choice(("", " ", "a", "..", "../x", "/etc/passwd", "a/../../b", "\0", "a\0b", "a\nb", "x" * 5000)),
    lambda r: r.choice(("\ud800", "a\udfffb", "\u2028", "\ufeff", "한글", "\U0001f600", "global", "nan", "1")),
    lambda r: [],
    lambda r: {},
    lambda r: [odd_value(r) for _ in range(r.randrange(4))],
    lambda r: {str(r.random()): odd_value(r)},
    lambda r: _nested(r.choice((5, 50, 300)), kind=r.choice((list, dict))),
)


def damaged_json(rng: random.Random, data: Any, keys: tuple[str, ...] = ()) -> Any:
    """Return a copy of JSON data with one to three values, keys or items changed."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = _damaged_node(rng, data, keys)
    return data


def _damaged_node(rng: random.Random, node: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(node, dict) and node and rng.random() < 0.93:
        key = rng.choice(list(node))
        how = rng.random()
        if how < 0.1:
            del node[key]
        elif how < 0.2 and keys:
            node[rng.choice(keys)] = odd_value(rng)
        else:
            node[key] = _damaged_node(rng, node[key], keys)
        return node
    if isinstance(node, list) and node and rng.random() < 0.85:
        at = rng.randrange(len(node))
        how = rng.random()
        if how < 0.1:
            node.pop(at)
        elif how < 0.2:
            node.append(copy.deepcopy(node[at]))
        else:
            node[at] = _damaged_node(rng, node[at], keys)
        return node
    return odd_value(rng)


def damaged_text(rng: random.Random, text: str) -> bytes:
    """Return JSON text with damage that no JSON writer would make."""
    how = rng.random()
    at = rng.randrange(len(text) + 1)
    if how < 0.25:
        piece = rng.choice(
            ("9" * 5000, "-" + "9" * 5000, "1e999", "NaN", "-Infinity", '"\\ud800"', "1" * 400, "\\u0000")
        )
        digits = [i for i, char in enumerate(text) if char.isdigit()]
        at = rng.choice(digits) if digits else at
        return (text[:at] + piece + text[at + 1 :]).encode()
    if how < 0.45:
        # Near the interpreter's own limit what parses may still be too deep to show.
        depth = rng.choice((DEEP, 3000, *(rng.randrange(850, 1001) for _ in range(6))))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        digits = [i for i, char in enumerate(text) if char.isdigit()]
        at = rng.choice(digits) if digits else at
        return (text[:at] + opening * depth + "0" + closing * depth + text[at + 1 :]).encode()
    return damaged_bytes(rng, text.encode())


# -- families --------------------------------------------------------------------------------------------------------


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
        history.commit([number], {"batch": number, "lines": [{"qid": number}], "marks": [[]]})
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


# -- running ---------------------------------------------------------------------------------------------------------


@dataclass
class Count:
    """What came of a family's inputs."""

    tried: int = 0
    fine: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class _TookTooLong(BaseException):
    pass


def _too_long(signum: int, frame: object) -> None:
    raise _TookTooLong


def fuzz(inputs: int, seed: int, families: list[str] | None = None, keep: Path | None = None) -> dict[str, Count]:
    """Try `inputs` inputs spread over the families; the same seed gives the same inputs."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    before = signal.signal(signal.SIGALRM, _too_long)
    counts: dict[str, Count] = {}
    shares = {name: share for name, (_, share) in FAMILIES.items() if families is None or name in families}
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz ") as folder:
            bench = Bench.make(Path(folder))
            for name, share in shares.items():
                counts[name] = Count()
                for number in range(max(1, round(inputs * share / sum(shares.values())))):
                    _one(bench, name, f"{seed} {name} {number}", counts[name], keep)
    finally:
        signal.signal(signal.SIGALRM, before)
        logging.disable(logging.NOTSET)
    return counts


def _one(bench: Bench, name: str, key: str, count: Count, keep: Path | None) -> None:
    count.tried += 1
    signal.alarm(LIMIT_S)
    try:
        FAMILIES[name][0](bench, random.Random(key))
    except (RequestError, RunError) as error:
        count.errors[type(error).__name__] += 1
        if len(str(error)) > 4000:
            count.failures.append(f"{key}: a message of {len(str(error))} characters: {str(error)[:200]}")
    except (Exception, _TookTooLong):
        count.failures.append(f"{key}\n{traceback.format_exc(limit=-4)}")
        if keep is not None:
            shutil.copytree(bench.folder, keep / key.replace(" ", "_").replace(",", ""), dirs_exist_ok=True)
    else:
        count.fine += 1
    finally:
        signal.alarm(0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES))
    parser.add_argument("--keep", type=Path, help="keep the folder of every failing input below this one")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    started = time.monotonic()
    counts = fuzz(args.inputs, args.seed, args.family, args.keep)
    print(f"{'family':<24}{'tried':>7}{'fine':>7}  errors of ours")
    for name, count in counts.items():
        errors = ", ".join(f"{kind} {n}" for kind, n in count.errors.most_common())
        print(f"{name:<24}{count.tried:>7}{count.fine:>7}  {errors}")
    failures = [failure for count in counts.values() for failure in count.failures]
    tracebacks = sum("Traceback" in failure for failure in failures)
    tried, fine = sum(c.tried for c in counts.values()), sum(c.fine for c in counts.values())
    print(
        f"{tried} inputs in {time.monotonic() - started:.0f} s: {fine} fine, {tried - fine - len(failures)} refused in a "
        f"sentence, {tracebacks} tracebacks, "
        f"{len(failures) - tracebacks} other failures; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )
    for failure in failures[:40]:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
