"""Families of damage to inputs of whole commands; each function damages one input, runs a command and judges it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fuzz.commands import (
    Outcome,
    Workplace,
    Wrong,
    close_numbers,
    json_of,
    obstacle,
    same_numbers,
    same_tree,
    tree,
    unfinished,
)
from benchmarks.fuzz.damage import damaged_bytes, damaged_json, damaged_text, odd_value
from legacy_model_guide import main as guide
from qd_detr.gates.commands.guide.finding import look_around
from qd_detr.gates.evaluation.__main__ import main as evaluate
from qd_detr.gates.monitor.__main__ import main as watch
from run_gate_analysis import main as analyse
from test_legacy_model import main as certify

WITH_EFFECTS = ("--audio", "mean")  # beside what runs by default
HOSTILE = (
    *("\x1b[2J\x1b[31m", "\x9b2J", "\x1b]0;title\x07", "a\rb", "a\nb", "a\tb", "\x00", "\x7f", "\x85"),
    *("\u202egnp.exe", "\u2066a\u2069", "\u200fa", "\u2028", "\u2029", "\ufeff", "\ud800", "\U000e0041"),
    *(
        "=1+1",
        "+1",
        "-1+cmd|' /C calc'!A0",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "'=1",
        '"=1"',
        '=HYPERLINK("http://evil.example")',
    ),
    *("[x](http://evil.example)", "![x](http://evil.example/p.png)", "<http://evil.example>", "http://evil.example"),
    *(
        "<img src=x onerror=alert(1)>",
        "</script><script>alert(1)</script>",
        "<!--",
        "&lt;",
        "a|b",
        "`a`",
        "``` a",
        "\\",
    ),
    *("$\\input{/etc/passwd}$", "$x", "_a_ *b*", "# a", "- a", "1. a", "{x}", "{0}", "%s", "%(a)s", "~a~"),
    *(
        "../outside/precious.txt",
        "/etc/passwd",
        "CON",
        "a" * 300,
        "한글" * 90,
        "e\u0301",
        "\u00e9",
        "A",
        " ",
        ".",
        "..",
    ),
    *("$(touch x)", "; rm -rf x", "--help", "\u200b", "\u200d", "nan", "null", "1e999", "\U0001f600"),
)


def name(rng: random.Random) -> str:
    """Return a name that somebody may have chosen to do harm, or a mixture of two."""
    return rng.choice(HOSTILE) if rng.random() < 0.8 else rng.choice(HOSTILE) + rng.choice(HOSTILE)


# -- what a model is ---------------------------------------------------------------------------------------------------


def run_checkpoint(place: Workplace, rng: random.Random) -> Outcome:
    """Bytes of a checkpoint, which its own sums cover; files around it."""
    path = place.tiny.checkpoint
    whole = path.read_bytes()
    how = rng.random()
    if how < 0.75:
        content = damaged_bytes(rng, whole)
    elif how < 0.85:
        content = rng.choice((rng.randbytes(50), b"PK\x05\x06" + bytes(18), b"\x93NUMPY")) + whole
    elif how < 0.95:
        content = whole + rng.choice((rng.randbytes(50), whole, b"PK\x05\x06" + bytes(18)))
    else:
        content = _inside_a_zip(rng, whole)
    place.put(path, content)
    expected = place.baseline()
    outcome = place.call(analyse, place.argv())
    if outcome.status == 0:
        same_numbers(tree(place.out), expected)
    return outcome


def _inside_a_zip(rng: random.Random, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        archive.writestr(rng.choice(("model.ckpt", "archive/data.pkl", "../x.ckpt", "/x")), content)
    return out.getvalue()


def run_tensors(place: Workplace, rng: random.Random) -> Outcome:
    """Tensors of other types, layouts and values, and options in the checkpoint; what loads means what it says."""
    content = torch.load(place.tiny.checkpoint, weights_only=False)
    weights, options = content["model"], vars(content["opt"])
    same = True
    for _ in range(rng.choice((1, 1, 2))):
        key = rng.choice(list(weights))
        value = weights[key]
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_nested:
            continue
        kind, changed = rng.choice(_TENSORS)
        weights[key] = changed(value)
        same = same and kind == "same"
    if rng.random() < 0.3:
        options[rng.choice(list(options))], same = odd_value(rng), False
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    except (RuntimeError, ValueError, AttributeError, UnicodeEncodeError, RecursionError, NotImplementedError):
        buffer = io.BytesIO(place.tiny.checkpoint.read_bytes())  # torch itself does not write this
    place.put(place.tiny.checkpoint, buffer.getvalue())
    expected = place.baseline()
    outcome = place.call(analyse, place.argv())
    if outcome.status == 0 and same:
        close_numbers(tree(place.out), expected)
    return outcome


_TENSORS = (
    ("same", lambda t: t.double()),
    ("same", lambda t: torch.nn.Parameter(t)),
    ("same", lambda t: t.clone().t().contiguous().t() if t.ndim == 2 else t),
    ("same", lambda t: torch.cat([t, t])[: len(t)] if t.ndim else t),  # a view of a larger storage
    ("other", lambda t: t.half()),
    ("other", lambda t: t.bfloat16()),
    ("other", lambda t: t * 1e-40),
    ("other", lambda t: t * -0.0),
    ("other", lambda t: t * 1e30),
    ("other", lambda t: t * float("inf")),
    ("other", lambda t: t.to(torch.int64)),
    ("other", lambda t: t.bool()),
    ("other", lambda t: t.to(torch.complex64)),
    ("other", lambda t: t.to_sparse()),
    ("other", lambda t: torch.nested.nested_tensor([t.flatten(), t.flatten()[:1]])),
    ("other", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    ("other", lambda t: torch.zeros(1).expand(t.shape)),
    ("other", lambda t: torch.zeros(t.shape, device="meta")),
    ("other", lambda t: t[:0]),
    ("other", lambda t: t.unsqueeze(0)),
    ("other", lambda t: t.tolist()),
    ("other", lambda t: t.numpy().tolist()),
    ("other", lambda t: torch.zeros(0)),
)


def run_options(place: Workplace, rng: random.Random) -> Outcome:
    """opt.json beside the checkpoint or named by a flag: bytes, values, encodings, keys twice, obstacles."""
    options = json.loads(json.dumps(vars(torch.load(place.tiny.checkpoint, weights_only=False)["opt"]), default=str))
    del options["device"]
    path = place.folder / "inputs" / rng.choice(("run/opt.json", "other.json"))
    flags = [] if path.name == "opt.json" else ["--config_path", path]
    content = _damaged_json_file(rng, options, list(options))
    place.put(path, content)
    if rng.random() < 0.05:
        obstacle(rng, place, path)
        content = b""
    expected = place.baseline()
    outcome = place.call(analyse, place.argv(*flags))
    if outcome.status == 0 and (
        not flags or json_of(content) == options
    ):  # the checkpoint's own options win over a file beside it
        same_numbers(tree(place.out), expected)
    return outcome


def _damaged_json_file(rng: random.Random, data: Any, keys: list[str] | None = None) -> bytes:
    """Return JSON with something about it: bytes, values, encoding, line ends, a key twice, very long numbers."""
    how = rng.random()
    if how < 0.35:
        return json.dumps(damaged_json(rng, data, tuple(keys or ()))).encode()
    text = json.dumps(data)
    if how < 0.6:
        return damaged_text(rng, text)
    if how < 0.75:
        return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037", "utf-7")))
    if how < 0.85:
        return text.replace(", ", rng.choice((",\r\n", ",\r", ",\n", ",\x0c", ",\x00", ", /* x */"))).encode()
    key = rng.choice(re.findall(r'"(\w+)": ', text) or ["x"])
    return text.replace("{", f'{{"{key}": {json.dumps(odd_value(rng))}, ', 1).encode()


# -- data --------------------------------------------------------------------------------------------------------------


def run_annotations(place: Workplace, rng: random.Random) -> Outcome:
    """Annotations: bytes, values, encodings, line ends, keys twice."""
    lines = place.tiny.queries
    text = "".join(json.dumps(line) + "\n" for line in lines)
    how = rng.random()
    if how < 0.3:
        content = "".join(json.dumps(line) + "\n" for line in _as_list(damaged_json(rng, lines))).encode()
    elif how < 0.5:
        content = damaged_text(rng, text)
    elif how < 0.6:
        content = b"".join(
            json.dumps(line).encode() + rng.choice((b"\r\n", b"\r", b"\n\n", b"\n \n")) for line in lines
        )
    elif how < 0.7:
        content = text.encode(rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "utf-7")))
    elif how < 0.8:
        content = json.dumps(lines).encode()
    else:
        content = b"".join(_damaged_json_file(rng, line) + b"\n" for line in lines)
    place.put(place.tiny.data, content)
    if rng.random() < 0.03:
        obstacle(rng, place, place.tiny.data)
        content = b""
    expected = place.baseline()
    outcome = place.call(analyse, place.argv())
    if outcome.status == 0:
        read = json_of(content)
        if read is Wrong:
            raise Wrong("accepted what is no JSON")
        if read == lines:
            same_numbers(tree(place.out), expected)
    return outcome


def _as_list(data: Any) -> list[Any]:
    return data if isinstance(data, list) else [data]


def run_features(place: Workplace, rng: random.Random) -> Outcome:
    """Feature files: bytes, headers, types and orders of numbers, archives of several kinds."""
    query = place.tiny.queries[0]
    folder, file, key = rng.choice(
        (
            ("slowfast", f"{query['vid']}.npz", "features"),
            ("text", f"qid{query['qid']}.npz", "last_hidden_state"),
            ("pann", f"{query['vid']}.npy", ""),
        )
    )
    path = place.tiny.data.parent / folder / file
    whole = path.read_bytes()
    array = np.load(path)[key] if key else np.load(path)
    how = rng.random()
    if how < 0.45:
        content = damaged_bytes(rng, whole)
    elif how < 0.75:
        content = _saved(rng, _other_array(rng, array), key)
    elif how < 0.9:
        content = _saved(rng, array, key)
        content = damaged_bytes(rng, content)
    else:
        content = (
            rng.choice((b"PK\x03\x04", b"junk", bytes(64))) + whole if rng.random() < 0.5 else whole + rng.randbytes(40)
        )
    place.put(path, content)
    if rng.random() < 0.03:
        obstacle(rng, place, path)
    expected = place.baseline()
    outcome = place.call(analyse, place.argv())
    if outcome.status == 0:
        read = _array_of(path, key)
        if read is None and key:
            raise Wrong("accepted an archive that NumPy cannot read, or whose sums do not hold")
        if read is None or (read.shape == array.shape and (read == array).all()):
            same_numbers(tree(place.out), expected)
    return outcome


def _array_of(path: Path, key: str) -> np.ndarray | None:
    try:
        if key:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None or archive.namelist().count(f"{key}.npy") != 1:
                    return None
                with archive.open(f"{key}.npy") as inner:
                    return np.asarray(np.lib.format.read_array(inner, allow_pickle=False))
        return np.asarray(np.load(path, allow_pickle=False))
    except Exception:  # whatever NumPy says of a damaged file
        return None


def _saved(rng: random.Random, array: np.ndarray, key: str) -> bytes:
    out = io.BytesIO()
    if not key:
        np.save(out, array)
    else:
        extra = {"zzz": np.zeros(3)} if rng.random() < 0.2 else {}
        (np.savez_compressed if rng.random() < 0.5 else np.savez)(out, **{key: array, **extra})
        if rng.random() < 0.1:  # one name twice
            with zipfile.ZipFile(out, "a") as archive:
                inner = io.BytesIO()
                np.save(inner, -array if array.dtype.kind == "f" else array)
                archive.writestr(zipfile.ZipInfo(f"{key}.npy"), inner.getvalue())  # no time of day in it: replays
    return out.getvalue()


def _other_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    at = (rng.randrange(array.shape[0]), rng.randrange(array.shape[1]))
    value = rng.choice((-0.0, 1e-40, 5e-324, 1e20, 3e38, -1e38, float("nan"), float("inf"), 1e300))
    with np.errstate(over="ignore"):
        changed = array.astype(rng.choice((np.float32, np.float64)))
        changed[at] = value
        return rng.choice(
            (
                lambda: np.asfortranarray(array),
                lambda: array.astype(">f4"),
                lambda: array.astype("f2"),
                lambda: array.astype("f8"),
                lambda: array.astype("g"),
                lambda: array.astype("i4"),
                lambda: array.astype(object),
                lambda: array.astype("c8"),
                lambda: array.astype("U9"),
                lambda: array > 0,
                lambda: array[::-1],
                lambda: array[:, ::2],
                lambda: array[:0],
                lambda: array[None],
                lambda: array.ravel(),
                lambda: np.zeros((2_000_000, array.shape[1]), np.float32),  # a small file, where it is compressed
                lambda: np.zeros((0, 0)),
                lambda: np.zeros(array.shape),
                lambda: np.rec.array([(1.0, 2)], dtype=[("a", "f4"), ("b", "i4")]),
                lambda: changed,
                lambda: changed,
            )
        )()


def run_names(place: Workplace, rng: random.Random) -> Outcome:
    """Hostile ids, sentences, video names, names of interventions, of files and of options, in every medium."""
    base = place.tiny.data.parent
    queries = [dict(query) for query in place.tiny.queries]
    text, video = base / "text", base / "slowfast"
    for query in queries[: rng.choice((1, 2))]:
        query["query"] = name(rng)
        if rng.random() < 0.4:
            old, query["qid"] = query["qid"], name(rng)
            _copied(place, text / f"qid{old}.npz", text / f"qid{query['qid']}.npz")
        if rng.random() < 0.4:
            old, query["vid"] = query["vid"], name(rng)
            _copied(place, video / f"{old}.npz", video / f"{query['vid']}.npz")
            _copied(place, base / "pann" / f"{old}.npy", base / "pann" / f"{query['vid']}.npy")
    place.put(place.tiny.data, "".join(json.dumps(query) + "\n" for query in queries).encode())
    edits = [{"name": name(rng), "op": "scale", "value": 0}, {"name": name(rng), "op": "scale", "value": 0.5}]
    flags: list[object] = ["--interventions", place.put(place.folder / "inputs" / "i.json", json.dumps(edits).encode())]
    argv = place.argv(*flags)
    argv.remove("--quiet")
    argv += rng.choice(([], ["--lang", "ko"]))
    argv.remove("--no_explorer")
    if rng.random() < 0.2:
        argv += ["--analyze_samples", name(rng).replace("\0", "")]
    if rng.random() < 0.2:
        argv[argv.index("--model_path") + 1] = f"{place.folder}/inputs/{name(rng)}.ckpt".replace("\0", "")
    outcome = place.call(analyse, argv)
    if outcome.status == 0:
        _look_at_media(place.out)
    return outcome


def _copied(place: Workplace, old: Path, new: Path) -> None:
    try:
        if not new.exists() and os.path.abspath(new).startswith(str(old.parent)):
            place.put(new, old.read_bytes())
    except (OSError, ValueError):
        return  # a name that no file can have: the command is to say so


_CODE_SPAN = re.compile(r"(?<![`\\])(`+)(?!`).*?(?<!`)\1(?!`)")


def _look_at_media(out: Path) -> None:
    """Raise Wrong if a file of the tree holds what its readers' programs would act on."""
    for path in out.rglob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")):
            for cell in row:
                if cell[:1] in "=+-@\t\r" and cell and not _is_number(cell):
                    raise Wrong(f"{path.name} has a cell {cell[:60]!r}")
    for path in out.rglob("*.md"):
        shown = path.read_text(encoding="utf-8")
        for line in shown.splitlines():
            live = re.sub(r"\\[!-/:-@\[-`{-~]", "", _CODE_SPAN.sub("", line))
            if re.search(r"evil\.example|<img|<script|onerror", live) and (
                re.search(r"\]\(http://evil|<http://evil|<img|<script", live) or "http://evil" in live
            ):
                raise Wrong(f"{path.name} has live Markdown: {line[:200]!r}")
        _no_steering(path, shown)
    for path in out.rglob("*.tex"):
        text = path.read_text(encoding="utf-8")
        if text.count(r"\end{verbatim}") > 1 or re.search(
            r"(?<!\\)\\input|\\write18", text.split(r"\begin{verbatim}")[0]
        ):
            raise Wrong(f"{path.name} has live LaTeX")
        _no_steering(path, text)
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if "<img src=x" in text or "<script>alert(1)" in text:
            raise Wrong(f"{path.name} has live HTML")
    for path in out.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)


def _no_constant(text: str) -> None:
    raise Wrong(f"JSON with {text}")


def _no_steering(path: Path, text: str) -> None:
    found = re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)
    if found:
        raise Wrong(f"{path.name} holds {found[0]!r}: {text[max(0, found.start() - 60) : found.end() + 20]!r}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# -- results folders ---------------------------------------------------------------------------------------------------


def run_resume(place: Workplace, rng: random.Random) -> Outcome:
    """The journal of an unfinished run: bytes, forged lines, obstacles in the place of its files."""
    flags = ("--batch_size", 1, "--save_raw_data")
    expected = place.baseline(*flags)
    shutil.copytree(unfinished(place, flags, last=False), place.out / ".partial")
    journal = place.out / ".partial" / "journal"
    names = (
        "fingerprint.json",
        "gates/index.jsonl",
        "gates/index.jsonl",
        "gates/shard_00000.f32",
        "gates/shard_00000.f32",
    )
    target = journal / rng.choice(names)
    how = rng.random()
    forged = False
    if how < 0.6:
        target.write_bytes(damaged_bytes(rng, target.read_bytes()))
    elif how < 0.75:
        forged = True
        _forge(rng, journal / "gates" / "index.jsonl")
    else:
        places = (target, journal, journal / "gates", journal / "gates/shard_00001.f32", journal.parent / "lock")
        pending = (
            journal.parent / "tree",
            journal.parent / "run_config.json",
            journal.parent / "previous_run_config.json",
        )
        obstacle(rng, place, rng.choice((*places, *pending)))
    outcome = place.call(analyse, place.argv(*flags, "--resume"))
    if outcome.status == 0 and not forged:
        same_tree(tree(place.out), expected)
    return outcome


def run_resume_effects(place: Workplace, rng: random.Random) -> Outcome:
    """The journal of a run that did all of its work, effects and timeline too, and was stopped before it wrote its tree."""
    flags = ("--batch_size", 2, *WITH_EFFECTS)
    expected = place.baseline(*flags)
    shutil.copytree(unfinished(place, flags, last=True), place.out / ".partial")
    journal = place.out / ".partial" / "journal"
    files = sorted(path for path in journal.rglob("*") if path.is_file())
    target = rng.choice(files)
    how = rng.random()
    if how < 0.7:
        target.write_bytes(damaged_bytes(rng, target.read_bytes(), rng.choice(files).read_bytes()))
    elif how < 0.85:
        other = rng.choice([path for path in files if path.suffix == target.suffix])
        target.write_bytes(other.read_bytes())
    else:
        obstacle(rng, place, rng.choice((target, target.parent)))
    outcome = place.call(analyse, place.argv(*flags, "--resume"))
    if outcome.status == 0:
        same_tree(tree(place.out), expected)
    return outcome


def merged_shards(place: Workplace, rng: random.Random) -> Outcome:
    """Two finished shards, of which something was damaged, forged or exchanged, made into one tree."""
    flags = ("--batch_size", 2)
    expected = place.baseline(*flags)

    def make() -> Path:
        place.tidy()
        for number in (0, 1):
            argv = place.argv(*flags, "--num_shards", 2, "--shard_id", number)
            assert place.call(analyse, argv).status == 0
        shutil.move(place.out / "shards", place.folder / "shards")
        place.tidy()
        return place.folder / "shards"

    shutil.copytree(place.once("shards", make), place.out / "shards")
    files = sorted(path for path in (place.out / "shards").rglob("*") if path.is_file())
    target = rng.choice(files)
    how = rng.random()
    manifest = target.parents[len(target.relative_to(place.out / "shards").parts) - 2] / "manifest.json"
    forged = False
    if how < 0.4:
        target.write_bytes(damaged_bytes(rng, target.read_bytes()))
    elif how < 0.7 and manifest.exists():
        forged = True
        _forge_manifest(rng, manifest, target, place)
    elif how < 0.8:
        other = rng.choice([path for path in files if path.suffix == target.suffix])
        target.write_bytes(other.read_bytes())
    else:
        obstacle(rng, place, rng.choice((target, target.parent)))
    outcome = place.call(analyse, ["--merge_shards", place.out, "--quiet"])
    if outcome.status == 0 and not forged:
        same_tree(tree_without_shards(place), expected)
    return outcome


def tree_without_shards(place: Workplace) -> dict[str, bytes]:
    """Return the files of a results tree but for its shards."""
    return {one: content for one, content in tree(place.out).items() if not one.startswith("shards/")}


def _forge_manifest(rng: random.Random, manifest: Path, target: Path, place: Workplace) -> None:
    """Change a shard's manifest, or a file of it with its sum, as somebody could who knows how they are made."""
    content = json.loads(manifest.read_text())
    how = rng.random()
    if how < 0.3 and target != manifest:
        if target.name == "index.jsonl" and rng.random() < 0.7:
            _forge(rng, target)
        else:
            target.write_bytes(damaged_bytes(rng, target.read_bytes()))
        sums = content.get("sha256", {})
        sums[target.relative_to(manifest.parent).as_posix()] = hashlib.sha256(target.read_bytes()).hexdigest()
    elif how < 0.7:
        key = rng.choice([*content["asked"], "missing_list", "figure_format", "output_dir"])
        hostile = (str(place.precious), "png/../../../outside/x.png", "../outside", name(rng), odd_value(rng))
        content["asked"][key] = rng.choice(hostile)
    else:
        content = damaged_json(rng, content, tuple(content))
    manifest.write_text(json.dumps(content))


def gate_log(place: Workplace, rng: random.Random) -> Outcome:
    """A log of gates: bytes, values, shapes, encodings, obstacles."""
    gates = [[0.5, -0.25, 0.125, 0.0], [0.1, 0.2, -0.3, 0.4]]
    lines = [{"qid": 100 + i, "attention_gates": gates, "ffn_gates": gates} for i in range(3)]
    path = place.folder / "inputs" / "gates.jsonl"
    argv = ["--gate_log", path, "--output_dir", place.out, "--no_figures", "--no_explorer", "--quiet"]

    def undamaged() -> dict[str, bytes]:
        place.put(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        outcome = place.call(analyse, argv)
        assert outcome.status == 0, outcome.err
        found = tree(place.out)
        place.tidy()
        return found

    expected = place.once("gate log", undamaged)
    how = rng.random()
    if how < 0.5:
        content = "".join(json.dumps(line) + "\n" for line in _as_list(damaged_json(rng, lines, ("layer",)))).encode()
    elif how < 0.7:
        content = damaged_text(rng, "".join(json.dumps(line) + "\n" for line in lines))
    else:
        content = b"".join(_damaged_json_file(rng, line) + b"\n" for line in lines)
    place.put(path, content)
    if rng.random() < 0.06:
        obstacle(rng, place, path)
        content = b""
    outcome = place.call(analyse, argv)
    if outcome.status == 0:
        if json_of(content) is Wrong:
            raise Wrong("accepted what is no JSON")
        if json_of(content) == lines:
            same_tree(tree(place.out), expected)
        _look_at_media(place.out)
    return outcome


def _forge(rng: random.Random, index: Path) -> None:
    """Rewrite lines of the index as somebody could who knows how their sums are made."""
    lines = [json.loads(line.partition(b" ")[2]) for line in index.read_bytes().splitlines()]
    keys = ("shard", "end", "entries", "note", "offset", "nbytes", "crc32", "layout", "shapes", "clips", "valid")
    at = rng.randrange(len(lines))
    lines[at] = damaged_json(rng, lines[at], keys if rng.random() < 0.3 else ())
    texts = [json.dumps(line).encode() for line in lines]
    index.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts))


def run_into_obstacles(place: Workplace, rng: random.Random) -> Outcome:
    """A results folder in which links, second names, pipes and folders stand where files go."""
    expected = place.baseline()
    if rng.random() < 0.5:
        place.call(analyse, place.argv())
    place.out.mkdir(exist_ok=True)
    names = [*expected, "run_config.json", ".partial", ".partial/lock", ".partial/tree", ".partial/journal"]
    names += [".partial/run_config.json", ".partial/.run_config.json.partial", ".partial/previous_run_config.json"]
    names += [
        "individual_samples",
        "figures",
        "raw_data",
        "comparisons",
        "custom",
        ".partial/journal/gates/index.jsonl",
    ]
    for _ in range(rng.choice((1, 1, 2, 3))):
        target = place.out / rng.choice(names)
        if not any(os.path.lexists(parent) and not parent.is_dir() for parent in target.parents):
            obstacle(rng, place, target)
    outcome = place.call(analyse, place.argv(*rng.choice(((), (), ("--resume",)))))
    if outcome.status == 0:
        same_tree({name: tree(place.out).get(name, b"") for name in expected}, expected)
    return outcome


def run_pending(place: Workplace, rng: random.Random) -> Outcome:
    """A publication that somebody else's folder says is pending: what it lists, moves and removes is inside it."""
    expected = place.baseline()
    partial = place.out / ".partial"
    (partial / "tree").mkdir(parents=True)
    lists = ["samples.csv", "individual_samples/1_details.json", "../outside/precious.txt", "/etc/passwd", "a/../../x"]
    lists += [str(place.precious), ".partial/lock", "run_config.json", "", ".", "..", "a\0b", "x" * 300, "custom/a.png"]
    config = {"files": rng.sample(lists, rng.randrange(5)), "format": "qd_detr-gates results/1", "seed": 0}
    for config_name in ("run_config.json", ".partial/run_config.json", ".partial/previous_run_config.json"):
        if rng.random() < 0.6:
            (place.out / config_name).write_bytes(
                json.dumps(config).encode() if rng.random() < 0.6 else _damaged_json_file(rng, config)
            )
    (partial / "tree" / "samples.csv").write_text("id\n")
    for one in rng.sample(("individual_samples", "custom", ".partial/tree/custom", ".partial/tree/samples.csv"), 2):
        if rng.random() < 0.5:
            obstacle(rng, place, place.out / one)
    outcome = place.call(analyse, place.argv(*rng.choice(((), ("--resume",)))))
    if outcome.status == 0:
        same_tree({name: tree(place.out).get(name, b"") for name in expected}, expected)
    return outcome


def compare(place: Workplace, rng: random.Random) -> Outcome:
    """--compare_runs of a whole tree with one that is damaged, hostile or edited."""
    trees = place.folder / "trees"
    expected = place.once("comparison", lambda: _two_trees(place, trees))
    bad = trees / "b"
    files = ("run_config.json", "run_config.json", "samples.csv", "predictions.jsonl", "overall_statistics.json")
    target = bad / rng.choice(files)
    whole = target.read_bytes()
    how = rng.random()
    if how < 0.12:
        content = None
    elif target.name == "samples.csv":
        content = damaged_bytes(rng, whole) if rng.random() < 0.6 else _damaged_csv(rng, whole)
    elif target.name == "predictions.jsonl":
        lines = [json.loads(line) for line in whole.splitlines()]
        content = "".join(json.dumps(line) + "\n" for line in _as_list(damaged_json(rng, lines))).encode()
        content = damaged_bytes(rng, whole) if rng.random() < 0.4 else content
    else:
        content = _damaged_json_file(rng, json.loads(whole))
    place.put(target, whole if content is None else content)
    if content is None:
        obstacle(rng, place, target)
    sealed = target.name != "run_config.json"
    if sealed and rng.random() < 0.5:  # a tree of version 0.1, or one whose sums were taken out
        sealed = False
        config = json.loads((bad / "run_config.json").read_bytes())
        del config["sha256"]
        place.put(bad / "run_config.json", json.dumps(config).encode())
    outcome = place.call(analyse, ["--compare_runs", trees / "a", bad, "--output_dir", place.out])
    if outcome.status == 0:
        found = json.loads((place.out / "comparison.json").read_text())
        if sealed and found != expected:
            raise Wrong("a comparison with other numbers")
        if target.name == "run_config.json" and found["gates"] != expected["gates"]:
            raise Wrong("other gates by another run_config.json")
        _look_at_media(place.out)
    return outcome


def _two_trees(place: Workplace, trees: Path) -> Any:
    place.tidy()
    for one, more in (("a", ()), ("b", ("--gating_type", "global"))):
        assert place.call(analyse, place.argv(*more)).status == 0
        shutil.move(place.out, trees / one)
    assert place.call(analyse, ["--compare_runs", trees / "a", trees / "b", "--output_dir", place.out]).status == 0
    found = json.loads((place.out / "comparison.json").read_text())
    place.tidy()
    return found


_CELLS = ("", "nan", "inf", "1e999", "x", "=1+1", "\x1b[2J", "1,2", '"', "-0.0", "0x1")


def _damaged_csv(rng: random.Random, content: bytes) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode())))
    for _ in range(rng.choice((1, 1, 3))):
        row = rng.choice(rows)
        how = rng.random()
        if how < 0.6 and row:
            row[rng.randrange(len(row))] = rng.choice(
                ("", "nan", "inf", "1e999", "x", "=1+1", "\x1b[2J", "1,2", '"', "-0.0", "0x1")
            )
        elif how < 0.8:
            rows.append(list(row))
        elif row:
            row.pop()
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


# -- other commands ----------------------------------------------------------------------------------------------------


def evaluation(place: Workplace, rng: random.Random) -> Outcome:
    """The evaluation of a submission, alone or against another, with slices."""
    folder = place.folder / "inputs"
    good = [
        {
            "qid": query["qid"],
            "query": query["query"],
            "vid": query["vid"],
            "pred_relevant_windows": [[0, 4, 0.9], [2, 6, 0.5 + i / 10]],
            "pred_saliency_scores": [0.1 * k for k in range(query["duration"] // 2)],
        }
        for i, query in enumerate(place.tiny.queries)
    ]
    against = [{**line, "pred_relevant_windows": [[2, 6, 0.9]]} for line in good]
    texts = {"s.jsonl": good, "w.jsonl": against}
    contents = {file: "".join(json.dumps(line) + "\n" for line in lines).encode() for file, lines in texts.items()}
    contents |= {"slice.txt": b"100\n101\n", "val.jsonl": place.tiny.data.read_bytes()}
    argv: list[object] = ["--submission", folder / "s.jsonl", "--annotations", folder / "val.jsonl"]
    argv += [
        "--output",
        place.out / "metrics.json",
        "--against",
        folder / "w.jsonl",
        "--effects",
        place.out / "effects.json",
    ]
    argv += ["--slice", f"own={folder / 'slice.txt'}"]

    def run() -> tuple[Outcome, Any]:
        place.out.mkdir(exist_ok=True)
        outcome = place.call(evaluate, argv)
        read = (
            [json.loads((place.out / one).read_text()) for one in ("metrics.json", "effects.json")]
            if outcome.status == 0
            else None
        )
        return outcome, read

    def undamaged() -> Any:
        for file, content in contents.items():
            place.put(folder / file, content)
        found = run()[1]
        place.tidy()
        return found

    expected = place.once("evaluation", undamaged)
    assert expected is not None
    target = rng.choice(("s.jsonl", "s.jsonl", "w.jsonl", "slice.txt", "val.jsonl"))
    before = contents[target]
    if target == "slice.txt":
        contents[target] = damaged_bytes(rng, before)
    else:
        lines = [json.loads(line) for line in before.splitlines()]
        how = rng.random()
        if how < 0.5:
            contents[target] = "".join(json.dumps(line) + "\n" for line in _as_list(damaged_json(rng, lines))).encode()
        elif how < 0.7:
            contents[target] = damaged_text(rng, before.decode())
        else:
            contents[target] = b"".join(_damaged_json_file(rng, line) + b"\n" for line in lines)
    for file, content in contents.items():
        place.put(folder / file, content)
    if rng.random() < 0.06:
        obstacle(rng, place, folder / target)
        contents[target] = b""
    if rng.random() < 0.06:
        place.out.mkdir(exist_ok=True)
        obstacle(rng, place, place.out / rng.choice(("metrics.json", "effects.json", ".metrics.json.partial")))
    outcome, found = run()
    if outcome.status == 0 and target != "slice.txt":
        if json_of(contents[target]) is Wrong:
            raise Wrong("accepted what is no JSON")
        if json_of(contents[target]) == json_of(before) and found != expected:
            raise Wrong("an evaluation with other numbers")
    return outcome


def run_interventions(place: Workplace, rng: random.Random) -> Outcome:
    """An interventions file; whatever it asks for, the model as it is keeps its numbers."""
    items = [
        {"name": "a", "op": "scale", "value": 0, "layers": [0], "kinds": ["attention"]},
        {"name": "b", "edits": [{"op": "clamp", "value": [-0.5, 0.5]}, {"op": "shuffle", "seed": 3}]},
        {"name": "c", "op": "mean", "value": "dataset"},
    ]
    content = _damaged_json_file(rng, items, ["op", "value", "layers", "kinds", "seed", "edits", "name"])
    path = place.put(place.folder / "inputs" / "i.json", content)
    if rng.random() < 0.05:
        obstacle(rng, place, path)
    expected = place.baseline()
    outcome = place.call(analyse, place.argv("--interventions", path))
    if outcome.status == 0:
        found = tree(place.out)
        if any(found[one] != expected[one] for one in ("predictions.jsonl", "overall_statistics.json")):
            raise Wrong("interventions changed the model as it is")
    return outcome


def certificate(place: Workplace, rng: random.Random) -> Outcome:
    """The examination of a checkpoint that is damaged, or beside which lie damaged predictions."""
    place.out.mkdir()
    predictions = place.baseline()["predictions.jsonl"]
    beside = place.tiny.checkpoint.parent / "best_hl_val_preds.jsonl"
    damaged_model = rng.random() < 0.5
    if damaged_model:
        place.put(place.tiny.checkpoint, damaged_bytes(rng, place.tiny.checkpoint.read_bytes()))
    else:
        lines = [json.loads(line) for line in predictions.splitlines()]
        how = rng.random()
        content = "".join(json.dumps(line) + "\n" for line in _as_list(damaged_json(rng, lines))).encode()
        place.put(beside, content if how < 0.5 else damaged_bytes(rng, predictions))
        if how > 0.9:
            obstacle(rng, place, beside)
    argv = ["--model_path", place.tiny.checkpoint, "--output_dir", place.out, "--data_path", place.tiny.data]
    outcome = place.call(certify, [*argv, *rng.choice(((), ("--lang", "ko")))], ends=(0, 1))
    if outcome.status == 0 and damaged_model:
        with zipfile.ZipFile(place.tiny.checkpoint) as archive:
            if archive.testzip() is not None:
                raise Wrong("a checkpoint whose sums do not hold was called exact")
    return Outcome(0 if outcome.status == 1 else outcome.status, outcome.out, outcome.err)


def evolution(place: Workplace, rng: random.Random) -> Outcome:
    """A folder of checkpoints and of the evolution so far, either of them damaged."""
    folder = place.folder / "inputs" / "epochs"
    whole = place.tiny.checkpoint.read_bytes()
    for epoch in (1, 2):
        place.put(folder / f"model_e{epoch:04d}.ckpt", whole)
    place.made.append(folder)
    argv = ["--checkpoints", folder, "--data_path", place.tiny.data, "--output_dir", place.out, "--legacy_model"]

    def undamaged() -> Any:
        assert place.call(watch, argv).status == 0
        found = {p.relative_to(place.out).as_posix(): p.read_bytes() for p in place.out.rglob("*.json")}
        shutil.rmtree(place.out)
        return found

    expected = place.once("evolution", undamaged)
    how = rng.random()
    sealed = False
    if how < 0.4:
        sealed = True
        place.put(folder / "model_e0002.ckpt", damaged_bytes(rng, whole))
    elif how < 0.5:
        obstacle(rng, place, folder / rng.choice(("model_e0002.ckpt", "model_e0003.ckpt", "opt.json")))
    elif how < 0.8:
        place.out.mkdir()
        content = json.loads(expected["gate_evolution.json"])
        (place.out / "gate_evolution.json").write_bytes(
            _damaged_json_file(rng, content, ["epoch", "layers", "metrics"])
        )
    else:
        place.out.mkdir()
        names = (
            "gate_evolution.json",
            "gate_evolution.png",
            ".gate_evolution.json.partial",
            "epoch_1",
            "epoch_1/.partial",
        )
        obstacle(rng, place, place.out / rng.choice(names))
    outcome = place.call(watch, argv)
    if outcome.status == 0 and sealed:
        found = json.loads((place.out / "gate_evolution.json").read_text())
        if found != json.loads(expected["gate_evolution.json"]):
            raise Wrong("an evolution with other numbers")
    return outcome


def around(place: Workplace, rng: random.Random) -> Outcome:
    """What the guide finds in a folder of hostile names, links in circles and pipes."""
    folder = place.folder / "inputs" / "around"
    folder.mkdir()
    place.made.append(folder)
    for _ in range(8):
        inner = folder if rng.random() < 0.5 else folder / "inner"
        suffix = rng.choice((".ckpt", ".jsonl", ".json", "", ".pth"))
        try:
            obstacle(rng, place, inner / (name(rng).replace("/", "_").replace("\0", "") + suffix))
        except (OSError, ValueError):
            continue  # no file can have this name
    found = look_around(folder)
    texts = [str(path) for path in (*found.checkpoints, *found.data)]
    argv = place.argv()
    if texts:
        argv[argv.index("--model_path") + 1] = rng.choice(texts)
        argv[argv.index("--data_path") + 1] = rng.choice(texts)
    return place.call(analyse, argv) if rng.random() < 0.7 else place.call(guide, ["--lang", rng.choice(("en", "ko"))])


FAMILIES = {
    "run: checkpoint bytes": (run_checkpoint, 0.12),
    "run: tensors": (run_tensors, 0.06),
    "run: options file": (run_options, 0.08),
    "run: annotations": (run_annotations, 0.10),
    "run: features": (run_features, 0.14),
    "run: hostile names": (run_names, 0.08),
    "run: interventions": (run_interventions, 0.05),
    "resume: journal": (run_resume, 0.09),
    "resume: effects, timeline": (run_resume_effects, 0.04),
    "shards: merged": (merged_shards, 0.04),
    "gate log": (gate_log, 0.03),
    "output: obstacles": (run_into_obstacles, 0.08),
    "output: pending publication": (run_pending, 0.05),
    "compare_runs: trees": (compare, 0.05),
    "evaluation: submissions": (evaluation, 0.05),
    "certificate": (certificate, 0.02),
    "evolution": (evolution, 0.02),
    "guide: what lies around": (around, 0.01),
}
