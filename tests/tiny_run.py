"""A tiny legacy checkpoint with data to run it on, made anew in a folder of the test's."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.families import build

VIDEO_DIM, AUDIO_DIM, TEXT_DIM = 6, 5, 4  # as stored; the model counts two temporal endpoints more


def tiny_options(**changes: Any) -> dict[str, Any]:
    """Return the options of a tiny model, as legacy training wrote them; `changes` are made to them by name."""
    sizes = {"hidden_dim": 16, "nheads": 2, "fusion_n_heads": 2, "enc_layers": 1, "dec_layers": 2}
    sizes |= {"dim_feedforward": 24, "num_queries": 5, "max_q_l": 8}
    data = {"dset_name": "hl", "max_v_l": 12, "clip_length": 2, "ctx_mode": "video_tef"}
    return {**sizes, **data, "gating_type": "clipwise", "use_avigate_custom": True, **changes}


@dataclass
class TinyRun:
    folder: Path
    checkpoint: Path
    data: Path
    queries: list[dict]

    def argv(self, *more: str, output: Path | None = None) -> list[str]:
        return [
            "--legacy_model",
            "--model_path",
            str(self.checkpoint),
            "--data_path",
            str(self.data),
            "--output_dir",
            str(output or self.folder / "out"),
            "--quiet",
            *more,
        ]

    def rewrite(self) -> None:
        self.data.write_text("".join(json.dumps(q) + "\n" for q in self.queries))


def make_tiny_run(
    folder: Path,
    gating_type: str = "clipwise",
    n_queries: int = 9,
    layers: int = 2,
    qids: list | None = None,
    seed: int = 0,
    family: str = "base",
    settings: dict | None = None,
) -> TinyRun:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    options = tiny_options(gating_type=gating_type, v_feat_dirs=["old/slowfast"], t_feat_dir="old/text", eval_bsz=4)
    widths = VIDEO_DIM + 2, AUDIO_DIM + 2, TEXT_DIM
    architecture = Architecture.from_options(options, *widths, fusion_layers=layers)
    model = build(replace(architecture, family=family, settings=settings or {}))
    options |= {"a_feat_dir": "old/pann", "v_feat_dim": VIDEO_DIM, "t_feat_dim": TEXT_DIM, "a_feat_dim": AUDIO_DIM + 2}
    options = argparse.Namespace(**options, device=torch.device("cpu"))
    checkpoint = folder / "run" / "model_best.ckpt"
    checkpoint.parent.mkdir(exist_ok=True)
    torch.save({"model": model.state_dict(), "epoch": 3, "opt": options}, checkpoint)
    rng = np.random.default_rng(seed)
    data = folder / "data"
    for name in ("slowfast", "text", "pann"):
        (data / name).mkdir(parents=True, exist_ok=True)
    queries = []
    for i, qid in enumerate(qids if qids is not None else range(100, 100 + n_queries)):
        vid, n = f"v{i}_0.0_150.0", 12 - 3 * (i % 3)
        np.savez(data / "slowfast" / f"{vid}.npz", features=rng.normal(size=(n, VIDEO_DIM)).astype(np.float32))
        np.save(data / "pann" / f"{vid}.npy", rng.normal(size=(n, AUDIO_DIM)).astype(np.float32))
        tokens = rng.normal(size=(2 + i % 4, TEXT_DIM)).astype(np.float32)
        np.savez(data / "text" / f"qid{qid}.npz", last_hidden_state=tokens)
        queries.append(
            {
                "qid": qid,
                "query": f"sentence {i}",
                "vid": vid,
                "duration": 2 * n,
                "relevant_windows": [[2, 6]],
                "relevant_clip_ids": [1, 2],
                "saliency_scores": [[3, 4, 2], [4, 4, 4]],
            }
        )
    run = TinyRun(folder, checkpoint, data / "val.jsonl", queries)
    run.rewrite()
    return run
