"""A tiny model and tiny data for the self-check, seeded. The weights are random: they show that the tools work, no more."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from qd_detr.gates import planted
from qd_detr.gates.data.feature_layout import FeatureSpec
from qd_detr.gates.data.feature_search import FeatureSources
from qd_detr.gates.data.samples import open_samples
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.inference import PassSettings, run_pass
from qd_detr.gates.runs.postprocess import PostprocessingOptions
from qd_detr.gates.weights.checkpoint import build_model, read_checkpoint, resolve

HIDDEN_DIM, LAYERS, HEADS, FUSION_HEADS, EVAL_BSZ = 16, 2, 4, 2, 5
# Gates that a checkpoint can be given, per layer: what the analysis must then find.
KNOWN_GATES = {"attention": (0.6, -0.3), "ffn": (0.1, 0.8)}
_GATE_MLPS = {"attention": "mlp_mha", "ffn": "mlp_ffn"}


def make_data(directory: Path, queries: int = 12, seed: int = 0) -> Path:
    """Write planted features and annotations into a new folder; return the annotation file."""
    planted.generate(directory, seed=seed, n_train=3, n_val=queries)
    return directory / planted.VAL_FILE


def tiny_options(gating_type: str) -> dict[str, Any]:
    """Return the options of the tiny model, as legacy training would have written them."""
    return {
        "dset_name": "hl",
        "ctx_mode": "video_tef",
        "v_feat_dirs": [f"../data/{name}" for name in planted.V_FEAT_DIRS],
        "t_feat_dir": f"../data/{planted.T_FEAT_DIR}/",
        "a_feat_dir": f"../data/{planted.A_FEAT_DIR}/",
        "v_feat_dim": 2 * planted.D,
        "t_feat_dim": planted.D,
        "a_feat_dim": planted.D + 2,
        "max_v_l": 36,
        "max_q_l": 16,
        "clip_length": planted.CLIP_LENGTH_S,
        "hidden_dim": HIDDEN_DIM,
        "nheads": HEADS,
        "num_queries": 4,
        "enc_layers": 1,
        "dec_layers": 2,
        "dim_feedforward": 32,
        "n_input_proj": 2,
        "use_avigate_custom": True,
        "gating_type": gating_type,
        "fusion_layers": LAYERS,
        "fusion_n_heads": FUSION_HEADS,
        "use_txt_pos": False,
        "eval_bsz": EVAL_BSZ,
        "no_norm_vfeat": False,
        "no_norm_tfeat": False,
        "seed": 0,
    }


def tiny_model(gating_type: str, seed: int = 0, *, known_gates: bool = False) -> QDDETR:
    """Return a model with seeded random weights; with `known_gates` every gate has its value of `KNOWN_GATES`."""
    widths = 2 * planted.D + 2, planted.D + 2, planted.D
    architecture = Architecture.from_options(tiny_options(gating_type), *widths)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = QDDETR(architecture)
    with torch.no_grad():
        for layer_idx, layer in enumerate(model.fusion.fusion_layers):
            for kind, name in _GATE_MLPS.items():
                last = getattr(layer.gating_function, name)[2]
                if known_gates:
                    last.weight.zero_()
                    last.bias.fill_(math.atanh(KNOWN_GATES[kind][layer_idx]))
                else:
                    last.weight.mul_(6)  # fresh gates hardly move; these do, so that there is something to see
    return model.eval()


def write_checkpoint(
    folder: Path, gating_type: str, seed: int = 0, *, known_gates: bool = False, opt_json: bool = True
) -> Path:
    """Write a checkpoint into a new folder as legacy training did, options inside and beside; return its path."""
    folder.mkdir(parents=True)
    options = tiny_options(gating_type)
    path = folder / "model_best.ckpt"
    # Training counted the endpoints into v_feat_dim after it had written opt.json.
    embedded = argparse.Namespace(**{**options, "v_feat_dim": options["v_feat_dim"] + 2, "device": torch.device("cpu")})
    model = tiny_model(gating_type, seed, known_gates=known_gates)
    torch.save({"model": model.state_dict(), "epoch": 0, "opt": embedded}, path)
    if opt_json:
        (folder / "opt.json").write_text(json.dumps(options, indent=1), encoding="utf-8")
    return path


def write_predictions(checkpoint_path: Path, data_path: Path, family: str | None = None) -> Path:
    """Write what the model gives in legacy batches beside its checkpoint, as the legacy run did; return the file.

    family: that of the model, where the checkpoint does not tell.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    settings = resolve(checkpoint, family=family)
    spec = FeatureSpec.from_options(settings.options, settings.architecture)
    samples = open_samples(spec, FeatureSources(data_path, checkpoint_path)).planned(EVAL_BSZ, mixed_lengths=True)
    how = PassSettings(
        legacy_batches=True, postprocessing=PostprocessingOptions.from_options(settings.options), track=False
    )
    passed = run_pass(build_model(checkpoint, settings), samples, how)
    lines = [result.line for results in passed for result in results]
    path = checkpoint_path.parent / "best_hl_val_preds.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
