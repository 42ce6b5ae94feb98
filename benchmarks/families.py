"""Is every recorded checkpoint repeated through the commands? Both, as a user runs them, a row per checkpoint.

    python -m benchmarks.families SHARED [NAME ...] [--work FOLDER] [--everything]

SHARED holds `relatives/` (a folder per family, `val12.jsonl`), `legacy/` and `qvhighlights_sample/`. Wanted in every
row: the family found, alone and certified exact; raw gates within 1e-5 of the recorded ones and outputs within 1e-4,
alone (`_a`) and in the legacy batch (`_b`); every prediction repeated in both senses of "Batches"; nothing on stderr.
`--everything` runs instead the flags that a family could break, and a run that is killed and resumed.

Measured on the ten relatives (12 queries each) and the base three (96): certificate 0, "exact", in all 13; gates within
1.4e-6, outputs within 2.6e-5 (2.4e-6 without elementwise gates and 96 queries), every prediction repeated alone and in
the batch. With everything, on the ten relatives and the base of global gating: exit 0, every timeline complete (12
queries of two families, 2 of the others; largest residual 3e-3), resumed trees equal to the byte.
"""

from __future__ import annotations

import argparse
import bz2
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from legacy_model_adapter import load_legacy_model_with_gate_tracking
from qd_detr.gates.data.batches import collate
from qd_detr.gates.data.feature_layout import FeatureSpec
from qd_detr.gates.data.feature_search import FeatureSources
from qd_detr.gates.data.samples import open_samples
from qd_detr.gates.weights.checkpoint import read_checkpoint, recognised, settings_of
from qd_detr.gates.weights.recognition import Recognition

ROOT = Path(__file__).resolve().parents[1]
SHORT = {"attention_gate": "att", "ffn_gate": "ffn", "ffn_shift": "shift"}
OUTPUTS = ("pred_logits", "pred_spans", "saliency_scores")
EVERYTHING = ("--ablate", "--audio", "none", "mean", "shuffle", "shift", "--timeline", "--save_raw_data")
EVERYTHING += ("--compare_samples",)


@dataclass(frozen=True)
class Instance:
    """A recorded checkpoint. recorded, legacy_batch: archive and the prefix of its values in the batch of all."""

    name: str
    checkpoint: Path
    data: Path
    features: Path
    recorded: Path

    def argv(self, script: str, *flags: object) -> list[str]:
        given = ["--model_path", self.checkpoint, "--data_path", self.data, "--feature_root", self.features]
        return [sys.executable, str(ROOT / script), *map(str, [*given, *flags, "--quiet"])]


def instances(shared: Path, work: Path) -> list[Instance]:
    """Return the recorded checkpoints, those of relatives unpacked in the working folder."""
    features = shared / "qvhighlights_sample"
    found = []
    for folder in sorted((shared / "relatives").iterdir()):
        if folder.is_dir():
            place = work / folder.name
            shutil.copytree(folder, place, dirs_exist_ok=True)
            packed = place / "model_best.ckpt.bz2"
            (place / "model_best.ckpt").write_bytes(bz2.decompress(packed.read_bytes()))
            data = shared / "relatives" / "val12.jsonl"
            found.append(Instance(folder.name, place / "model_best.ckpt", data, features, folder / "io.npz"))
    for folder in sorted((shared / "legacy").iterdir()):
        data = features / "highlight_val_sample.jsonl"
        one = Instance(folder.name, folder / "model_best.ckpt", data, features, folder / "gates_batch1.npz")
        found.append(replace(one, name=f"base {folder.name}"))
    return found


def run(argv: Sequence[str]) -> tuple[int, str]:
    """Run a command; return its exit status and what it said on stderr."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def widest(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """Return the largest difference of any pair of arrays with equally many values; "-" without a pair."""
    apart = [float(np.abs(a.reshape(b.shape) - b).max()) for a, b in pairs]
    return f"{max(apart):.1e}" if apart else "-"


def gates_apart(tree: Path, recorded: Any, prefix: str, qids: Sequence[Any]) -> str:
    """Return the largest difference between raw gate files and recorded gates; prefix "" for those of samples alone."""
    pairs = []
    for position, qid in enumerate(qids):
        head = f"{prefix}_" if prefix else f"q{qid}_"
        for key in recorded.files:
            kind, _, layer = key.removeprefix(head).rpartition("_")
            if key.startswith(head) and kind in SHORT:
                ours = np.load(tree / "raw_data" / f"{qid}_layer{layer}_{SHORT[kind]}.npy")
                want = recorded[key][position : position + 1] if prefix else recorded[key]
                want = want[:, : ours.shape[1]] if want.ndim == 3 else want  # padded clips have no gate of their own
                pairs.append((ours, want))
    return widest(pairs)


def repeated(tree: Path, saved: Path) -> str:
    """Return how many of the saved predictions a run repeats: windows in order, scores 2e-4, saliency 2e-2."""
    ours, theirs = (
        {line["qid"]: line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
        for path in (tree / "predictions.jsonl", saved)
    )
    agree = sum(_alike(ours[qid], line) for qid, line in theirs.items())
    return f"{agree}/{len(theirs)}"


def _alike(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    windows, wanted = (np.array(line["pred_relevant_windows"], float) for line in (ours, theirs))
    saliency, saved = (np.array(line["pred_saliency_scores"], float) for line in (ours, theirs))
    if windows.shape != wanted.shape or saliency.shape != saved.shape:
        return False
    same = np.array_equal(windows[:, :2], wanted[:, :2])
    return bool(same and np.abs(windows - wanted).max() <= 2e-4 and np.abs(saliency - saved).max() <= 2e-2)


def outputs_apart(one: Instance, family: str) -> tuple[str, str]:
    """Return the largest differences of outputs, through the Python API: alone, and in the batch of all if recorded."""
    model = load_legacy_model_with_gate_tracking(one.checkpoint, family=family)
    checkpoint = read_checkpoint(one.checkpoint)
    settings = settings_of(checkpoint, replace(recognised(checkpoint, None), asked=family))
    spec = FeatureSpec.from_options(settings.options, settings.architecture)
    samples = open_samples(spec, FeatureSources(one.data, one.checkpoint, one.features, None, None, None))
    recorded = np.load(one.recorded)
    items = [(query, samples.reader.read(query)) for query in samples.queries]
    apart = []
    for legacy in (False, True):
        pairs = []
        for some in [items] if legacy else [[item] for item in items]:
            prefix = "batch12_" if legacy else f"q{some[0][0].qid}_"
            if prefix + OUTPUTS[0] in recorded.files:
                with torch.inference_mode():
                    outputs = model(collate(some), legacy_batch_mask=legacy)
                pairs += [(outputs[key].numpy(), recorded[prefix + key]) for key in OUTPUTS]
        apart.append(widest(pairs))
    return apart[0], apart[1]


def measured(one: Instance, work: Path) -> dict[str, Any]:
    """Return one row: what both commands say of a checkpoint, and how far it is from what was recorded."""
    out = work / "out" / one.name.replace(" ", "_")
    shutil.rmtree(out, ignore_errors=True)
    recorded = np.load(one.recorded)
    status, said = run(one.argv("test_legacy_model.py", "--output_dir", out / "certificate"))
    report = json.loads((out / "certificate" / "compatibility_report.json").read_text(encoding="utf-8"))
    family = Recognition(tuple(report["family"]["candidates"]))
    predictions = report.get("predictions") or {"agree": 0, "queries": 0}
    row = {
        "checkpoint": one.name,
        "family": " or ".join(family.candidates),
        "certificate": f"{status} {report['verdict']}",
        "saved": f"{predictions['agree']}/{predictions['queries']}",
    }
    stderr = [said]
    for suffix, flags, saved in (
        ("a", (), "preds_batch1.jsonl"),
        ("b", ("--legacy_batches",), "best_hl_val_preds.jsonl"),
    ):
        tree = out / f"run_{suffix}"
        argv = one.argv(
            "run_gate_analysis.py", "--legacy_model", *flags, "--save_raw_data", "--no_figures", "--output_dir", tree
        )
        status, said = run(argv)
        stderr.append(said)
        row[f"exit_{suffix}"] = str(status)
        if status == 0:
            qids = [json.loads(line)["qid"] for line in (tree / "predictions.jsonl").read_text("utf-8").splitlines()]
            kept = [qid for qid in qids if any(key.startswith(f"q{qid}_") for key in recorded.files)]
            row[f"gates_{suffix}"] = gates_apart(tree, recorded, "batch12" if suffix == "b" else "", kept)
            row[f"predictions_{suffix}"] = repeated(tree, one.checkpoint.parent / saved)
    alone, together = outputs_apart(one, family.candidates[0])
    row |= {"outputs_a": alone, "outputs_b": together}
    row["stderr"] = " | ".join(filter(None, stderr)) or "-"
    return row


def with_everything(one: Instance, work: Path, samples: int) -> dict[str, Any]:
    """Return one row: a run with every flag that a family could break, and one that is killed and resumed."""
    out = work / "out" / one.name.replace(" ", "_")
    for name in ("whole", "short", "resumed"):
        shutil.rmtree(out / name, ignore_errors=True)
    common = ("--legacy_model", "--max_samples", samples)
    status, said = run(one.argv("run_gate_analysis.py", *common, *EVERYTHING, "--output_dir", out / "whole"))
    row = {"checkpoint": one.name, "exit": str(status), "stderr": said or "-"}
    if status == 0:
        row["figures"] = str(len(list((out / "whole").rglob("*.png"))))
        row["conditions"] = str(len(json.loads((out / "whole" / "audio_help.json").read_text("utf-8"))["conditions"]))
        row["timeline"] = _completeness(out / "whole")
    short = (*common[:-1], 4, "--batch_size", 1, "--no_figures")
    run(one.argv("run_gate_analysis.py", *short, "--output_dir", out / "short"))
    argv = one.argv("run_gate_analysis.py", *short, "--output_dir", out / "resumed")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        journal = out / "resumed" / ".partial"
        while process.poll() is None and not list(journal.rglob("*_details.json")):
            time.sleep(0.02)
        process.kill()
    status, _ = run([*argv, "--resume"])
    differ = _trees_differ(out / "short", out / "resumed")
    row["killed, resumed"] = f"{process.returncode}, {status}, {differ or 'same'}"
    return row


def _completeness(tree: Path) -> str:
    """Return how many timelines of a run are complete, with the largest residual, for every target."""
    targets = json.loads((tree / "timeline.json").read_text(encoding="utf-8"))["targets"]
    told = (f"{one['n_complete']}/{one['n']} {name} {one['largest_residual']:.1e}" for name, one in targets.items())
    return ", ".join(told)


def _trees_differ(one: Path, other: Path) -> str:
    """Return the files that differ, run_config.json aside: its times and command are each run's own."""
    names = [{str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} for tree in (one, other)]
    apart = sorted(names[0] ^ names[1])
    apart += [
        name
        for name in sorted(names[0] & names[1])
        if name != "run_config.json" and (one / name).read_bytes() != (other / name).read_bytes()
    ]
    return ", ".join(apart)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([str(row.get(name, "")) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("names", nargs="*", help="checkpoints by the beginning of their names (default: all)")
    parser.add_argument("--work", type=Path, help="an existing folder, to keep the runs in a new one inside it")
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--samples", type=int, default=12, help="of the runs of --everything (default: 12)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        # A new folder inside --work: what is written anew is cleared first, and only what this program made.
        work = Path(tempfile.mkdtemp(prefix="families_", dir=args.work)) if args.work else Path(temporary)
        rows = []
        for one in instances(args.shared, work):
            if not args.names or one.name.startswith(tuple(args.names)):
                rows.append(with_everything(one, work, args.samples) if args.everything else measured(one, work))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        print(table(rows), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
