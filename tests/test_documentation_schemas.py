"""docs/schemas.md against the files of real, tiny runs: no key undocumented, none documented that is not there."""

import csv
import json
import re
import warnings
from pathlib import Path

import pytest
import torch

import run_gate_analysis
import test_legacy_model
from legacy_model_adapter import load_legacy_model_with_gate_tracking
from qd_detr.gates import planted
from qd_detr.gates.commands.selfcheck import tiny
from qd_detr.gates.monitor import GateMonitor
from tests.documents import sections_of, table_rows
from tests.tiny_run import make_tiny_run

PAGE = "docs/schemas.md"


def documented() -> list[tuple[str, str, set[str], set[str]]]:
    """Return (file, place, keys that are always there, keys that are sometimes there) of every section with a table."""
    found = []
    for heading, text in sections_of(PAGE, 2):
        file, *place = re.findall(r"`([^`]+)`", heading)
        always: set[str] = set()
        sometimes: set[str] = set()
        for first, *_ in table_rows(text):
            (sometimes if "(sometimes)" in first else always).update(re.findall(r"`([^`]+)`", first))
        if always:
            found.append((file, place[0] if place else "", always, sometimes))
    return found


SECTIONS = documented()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder in which every command has written its files."""
    folder = tmp_path_factory.mktemp("schemas")
    run = make_tiny_run(folder / "tiny", n_queries=4)
    out = folder / "results"
    everything = [
        "--ablate",
        "--audio",
        *run_gate_analysis.AUDIO_MODES,
        "--timeline",
        "--save_raw_data",
        "--no_figures",
    ]
    assert run_gate_analysis.main(run.argv(*everything, output=out)) == 0
    changed = ["--gating_type", "global", "--no_figures"]
    assert run_gate_analysis.main(run.argv(*changed, output=folder / "changed")) == 0
    shard = ["--num_shards", "2", "--shard_id", "0", "--no_effects"]
    assert run_gate_analysis.main(run.argv(*shard, output=folder / "sharded")) == 0
    compare = [
        "--compare_runs",
        str(out),
        str(folder / "changed"),
        "--output_dir",
        str(folder / "comparison"),
        "--quiet",
    ]
    assert run_gate_analysis.main(compare) == 0
    certificate = ["--model_path", str(run.checkpoint), "--data_path", str(run.data), "--quiet"]
    assert test_legacy_model.main([*certificate, "--output_dir", str(folder / "certificate")]) == 0
    planted.generate(folder / "planted", seed=0, n_train=3, n_val=3)
    tiny.write_checkpoint(folder / "model", "clipwise")
    of_planted = [
        "--data_path",
        str(folder / "planted" / planted.VAL_FILE),
        "--output_dir",
        str(folder / "found"),
        "--quiet",
    ]
    of_planted += ["--legacy_model", "--model_path", str(folder / "model" / "model_best.ckpt"), "--no_figures"]
    assert run_gate_analysis.main(of_planted) == 0
    model = load_legacy_model_with_gate_tracking(run.checkpoint, device="cpu")
    monitor = GateMonitor(model, folder / "training", tensorboard=False)
    fusion = model.avigate_fusion
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with monitor.epoch(0):
            fusion(torch.randn(2, 5, 16), torch.randn(2, 5, 16))
        fusion.enable_gate_tracking()
        fusion.set_current_sample_id(["a", "b"])
        fusion(torch.randn(2, 5, 16), torch.randn(2, 5, 16))
    fusion.save_gate_analysis(folder / "api")
    return folder


def objects_at(data, place: str) -> list[dict]:
    found = [data]
    for step in place.split(".") if place else []:
        if step == "[]":
            found = [item for value in found for item in value]
        elif step == "*":
            found = [item for value in found for item in value.values()]
        else:
            found = [value[step] for value in found if value.get(step) is not None]
    return found


def files(written: Path, name: str) -> list[Path]:
    """Return the files of that name; of run_config.json the analysis's own only, which it says by its format."""
    return [
        path
        for path in sorted(written.rglob(name))
        if name != "run_config.json" or "request" in json.loads(path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(
    ("file", "place", "always", "sometimes"), SECTIONS, ids=[f"{s[0]} {s[1]}".strip() for s in SECTIONS]
)
def test_documented_keys_are_those_of_real_files(written, file, place, always, sometimes):
    paths = files(written, file)
    assert paths, f"no run wrote {file}"
    checked = 0
    for path in paths:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as text:
                found = [dict.fromkeys(next(csv.reader(text)))]
        elif path.suffix == ".jsonl":
            found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        else:
            data = json.loads(path.read_text(encoding="utf-8"))
            if (place and data == {}) or (
                place.split(".")[0] not in ("", "*", "[]") and place.split(".")[0] not in data
            ):
                continue  # as alignment.json of global gates, which says only that it does not apply
            found = objects_at(data, place)
        for one in found:
            checked += 1
            keys = {plain_name(key, always | sometimes) for key in one}
            assert always <= keys, f"{path.name} {place} lacks {sorted(always - keys)}"
            extra = keys - always - sometimes
            assert not extra, f"{path.name} {place} holds {sorted(extra)}, which {PAGE} does not document"
    assert checked


def plain_name(key: str, names: set[str]) -> str:
    """Return the documented name with placeholders that a key is a case of, or the key itself."""
    for name in names:
        if "{" in name and re.fullmatch(re.sub(r"\\\{\w+\\\}", r"\\w+?", re.escape(name)), key):
            return name
    return key


def test_every_file_of_a_run_is_documented(written):
    named = {Path(file).name for file, *_ in SECTIONS}
    known_by_heading = [re.compile(re.escape(name).replace(r"\*", ".+")) for name in named]
    reports = {"ANALYSIS_REPORT.md", "COMPARISON_REPORT.md", "explorer.html", "overall_statistics.png", "claims.tex"}
    for folder in ("results", "changed", "comparison", "certificate", "found"):
        for path in (written / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".npy", ".npz", ".png"):
                assert path.name in reports or any(p.fullmatch(path.name) for p in known_by_heading), path


def test_both_gates_have_the_same_keys(written):
    data = json.loads((written / "results" / "overall_statistics.json").read_text(encoding="utf-8"))
    attention, ffn = (data[f"{kind}_gates"] for kind in ("attention", "ffn"))
    assert attention.keys() == ffn.keys()
