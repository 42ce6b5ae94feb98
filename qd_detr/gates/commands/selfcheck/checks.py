"""The checks of the self-check. Each is a function of the bench that returns what it found or raises."""

from __future__ import annotations

import numpy as np
import torch

from qd_detr.gates.commands.selfcheck import tiny
from qd_detr.gates.commands.selfcheck.bench import QUERIES, Bench, read_json, read_lines, run
from qd_detr.gates.commands.selfcheck.foreign import ForeignModel
from qd_detr.gates.commands.selfcheck.ledger import expect
from qd_detr.gates.data.batches import collate
from qd_detr.gates.gating import gating_named

TREE = (
    "ANALYSIS_REPORT.md",
    "overall_statistics.json",
    "predictions.jsonl",
    "samples.csv",
    "metrics.json",
    "run_config.json",
)
FIGURES = ("overall_statistics.png", "layer_distributions.png", "activation_patterns.png")


def weights_survive(bench: Bench, gating_type: str) -> str:
    """The adapter's model holds the file's tensors, bit for bit."""
    path = bench.checkpoint(gating_type)
    stored = torch.load(path, weights_only=False)["model"]
    held = bench.commands.load(str(path), device="cpu").state_dict()
    expect(list(stored) == list(held), "the keys differ")
    differing = [key for key in stored if stored[key].numpy().tobytes() != held[key].numpy().tobytes()]
    expect(not differing, f"tensors differ: {differing[:3]}")
    return f"{len(stored)} tensors"


def tracking_changes_nothing(bench: Bench, gating_type: str) -> str:
    """Outputs are equal to the bit with tracking on and off, and each layer's gates have their type's shape."""
    model = bench.commands.load(str(bench.checkpoint(gating_type)), device="cpu")
    batch = collate(bench.items(4))
    with torch.inference_mode():
        before = model(batch)
        model.avigate_fusion.enable_gate_tracking()
        model.avigate_fusion.set_current_sample_id(batch["qid"])
        after = model(batch)
    changed = [name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()]
    expect(not changed, f"tracking changed {changed}")
    history = model.avigate_fusion.gate_history
    expect(list(history) == batch["qid"], f"recorded {list(history)} instead of {batch['qid']}")
    for b, (sample_id, entry) in enumerate(history.items()):
        clips = int(batch["src_vid_mask"][b].sum())
        shape = (1, *gating_named(gating_type).shape(clips, tiny.HIDDEN_DIM))
        found = [gate.shape for key in ("attention_gates", "ffn_gates") for gate in entry[key]]
        expect(found == [shape] * 2 * tiny.LAYERS, f"gates of {sample_id} are {found} instead of {shape}")
    return f"{len(before)} outputs of {len(history)} samples; gates {shape}"


def analysis_makes_a_tree(bench: Bench, gating_type: str, samples: int) -> str:
    """The main job exits 0 and publishes every file that it lists."""
    folder = bench.analyse(bench.checkpoint(gating_type), gating_type, "--max_samples", samples, "--save_raw_data")
    listed = read_json(folder / "run_config.json")["files"]
    absent = [name for name in [*listed, *TREE, *FIGURES] if not (folder / name).is_file()]
    expect(not absent, f"not there: {absent[:3]}")
    empty = [name for name in listed if (folder / name).stat().st_size == 0]
    expect(not empty, f"empty: {empty[:3]}")
    lines = read_lines(folder / "predictions.jsonl")
    expect(len(lines) == samples, f"{len(lines)} predictions for {samples} samples")
    expect(not (folder / ".partial").exists(), "unfinished work was left behind")
    return f"{len(listed)} files, {samples} samples"


def statistics_match_raw_gates(bench: Bench, gating_type: str) -> str:
    """The statistics are those of the raw gates in the same tree, computed here a second time."""
    folder = bench.root / "results" / gating_type
    statistics = read_json(folder / "overall_statistics.json")
    compared = 0
    for kind, short in (("attention", "att"), ("ffn", "ffn")):
        every = []
        for layer in range(tiny.LAYERS):
            values = [
                np.load(path).ravel() for path in sorted((folder / "raw_data").glob(f"*_layer{layer}_{short}.npy"))
            ]
            expect(values, f"no raw {kind} gates of layer {layer}")
            joined = np.concatenate(values).astype(float)
            every.append(joined)
            told = statistics["layer_statistics"][str(layer)]
            for name, wanted in (("mean", joined.mean()), ("std", joined.std())):
                got = told[f"{kind}_{name}"]
                expect(
                    abs(got - wanted) < 1e-6, f"{kind} {name} of layer {layer}: {got} told, {wanted} in the raw gates"
                )
                compared += 1
        joined = np.concatenate(every)
        overall = {"mean": joined.mean(), "std": joined.std(), "min": joined.min(), "max": joined.max()}
        for name, wanted in overall.items():
            got = statistics[f"{kind}_gates"][name]
            expect(abs(got - wanted) < 1e-6, f"{kind} {name}: {got} told, {wanted} in the raw gates")
            compared += 1
    return f"{compared} numbers"


def known_gates_are_found(bench: Bench, gating_type: str) -> str:
    """A checkpoint whose gates are set by hand is reported with just these, layer by layer."""
    path = bench.checkpoint(gating_type, known_gates=True)
    folder = bench.analyse(path, f"{gating_type}_known_gates", "--no_figures")
    layers = read_json(folder / "overall_statistics.json")["layer_statistics"]
    for kind, values in tiny.KNOWN_GATES.items():
        for layer, wanted in enumerate(values):
            got = layers[str(layer)][f"{kind}_mean"]
            expect(abs(got - wanted) < 1e-5, f"{kind} gate of layer {layer}: {got} told, set to {wanted}")
            expect(layers[str(layer)][f"{kind}_std"] < 1e-6, f"{kind} gate of layer {layer} varies")
    return ", ".join(f"{kind} {values}" for kind, values in tiny.KNOWN_GATES.items())


def certificate_is_given(bench: Bench, gating_type: str) -> str:
    """The certificate passes and finds every saved prediction repeated."""
    path = bench.checkpoint(gating_type)
    tiny.write_predictions(path, bench.data_path)
    folder = bench.root / "certificates" / gating_type
    argv = ["--model_path", path, "--data_path", bench.data_path, "--output_dir", folder, "--device", "cpu"]
    ran = run(bench.commands.certify, [str(part) for part in argv])
    report = read_json(folder / "compatibility_report.json")
    failed = [check["sentence"] for check in report["checks"] if check["outcome"] == "failed"]
    expect(ran.status == 0, f"test_legacy_model.py ended with {ran.status}: {failed or ran.err.strip()}")
    agree, queries = report["predictions"]["agree"], report["predictions"]["queries"]
    expect(agree == queries == QUERIES, f"{agree} of {queries} queries agree")
    return f"{agree} of {queries} queries agree"


def details_are_complete(bench: Bench) -> str:
    """A sample's details hold every layer with the keys that users' scripts read."""
    folder = bench.root / "results" / "clipwise" / "individual_samples"
    paths = sorted(folder.glob("*_details.json"))
    expect(paths, f"no details in {folder}")
    for path in paths:
        details = read_json(path)
        layers = details["layer_analysis"]
        expect([layer["layer_index"] for layer in layers] == list(range(tiny.LAYERS)), f"{path.name}: layers {layers}")
        for layer in layers:
            for kind in ("attention_gate", "ffn_gate"):
                absent = {"shape", "mean", "std", "min", "max", "median", "percentiles"} - set(layer[kind])
                expect(not absent, f"{path.name}: {kind} lacks {sorted(absent)}")
    return f"{len(paths)} samples"


def foreign_model_is_adapted(bench: Bench) -> str:
    """A model of a class of its own gets tracking in place; outputs, keys and Parameter objects stay."""
    fusion = tiny.tiny_model("clipwise", seed=4).fusion
    model = ForeignModel(tiny.HIDDEN_DIM, tiny.FUSION_HEADS, tiny.LAYERS)
    model.mixer.load_state_dict(fusion.state_dict())
    model.eval()
    generator = torch.Generator().manual_seed(0)
    video, audio = torch.randn(2, 3, 5, tiny.HIDDEN_DIM, generator=generator)
    with torch.inference_mode():
        before, keys, parameters = model(video, audio), list(model.state_dict()), {id(p) for p in model.parameters()}
        adapted = bench.commands.adapt(model)
        adapted.avigate_fusion.enable_gate_tracking()
        adapted.avigate_fusion.set_current_sample_id(["a", "b", "c"])
        after = adapted(video, audio)
    gap = (before - after).abs().max().item()
    expect(gap <= 1e-5, f"outputs moved by {gap}")
    expect(list(adapted.state_dict()) == keys, "the state-dict keys changed")
    expect({id(p) for p in adapted.parameters()} == parameters, "Parameter objects were replaced")
    expect(list(adapted.avigate_fusion.gate_history) == ["a", "b", "c"], "gates were not recorded")
    return f"outputs within {gap:.1g}"


def killed_run_continues(bench: Bench) -> str:
    """A run killed midway and continued with --resume gives the files of one that was not."""
    path = bench.checkpoint("clipwise")
    flags = ["--no_figures", "--batch_size", 1, "--save_raw_data", "--quiet"]
    whole = bench.analyse(path, "uninterrupted", *flags)
    folder = bench.root / "results" / "killed"
    had = bench.kill_midway(bench.analysis_flags(path, folder, *flags), folder)
    expect(not (folder / "run_config.json").exists(), "the killed run published a tree")
    bench.analyse(path, "killed", *flags, "--resume")
    names = read_json(whole / "run_config.json")["files"]
    expect(names == read_json(folder / "run_config.json")["files"], "the two trees have different files")
    differing = [name for name in names if (whole / name).read_bytes() != (folder / name).read_bytes()]
    expect(not differing, f"files differ: {differing[:3]}")
    return f"killed after {had} of {QUERIES} batches; {len(names)} files equal"
