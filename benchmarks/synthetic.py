"""Seeded synthetic annotations, features and checkpoints of any size, for benchmarks of whole runs.

    python -m benchmarks.synthetic --output /tmp/synthetic --samples 155 --gating_type elementwise

Values are random: nothing can be learned from them. What they have is the sizes of real ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR


@dataclass(frozen=True)
class FeatureSizes:
    """Columns of the stored features; the model counts two temporal endpoints more for video and audio."""

    slowfast: int
    clip: int
    audio: int
    text: int


FULL = FeatureSizes(2304, 512, 2048, 512)  # model inputs 2818, 2050 and 512
SMALL = FeatureSizes(40, 24, 32, 32)


def make_data(
    folder: Path,
    samples: int,
    sizes: FeatureSizes,
    clips: int = 75,
    tokens: int = 25,
    seed: int = 0,
    queries_per_video: int = 1,
) -> Path:
    """Write annotations and features (float16); return the annotations' path."""
    rng = np.random.default_rng(seed)
    for name in ("slowfast", "clip", "pann", "text"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(samples):
        vid = f"video{i // queries_per_video:05d}_0.0_{2.0 * clips}"
        if i % queries_per_video == 0:
            np.savez(folder / "slowfast" / f"{vid}.npz", features=_values(rng, clips, sizes.slowfast))
            np.savez(folder / "clip" / f"{vid}.npz", features=_values(rng, clips, sizes.clip))
            np.save(folder / "pann" / f"{vid}.npy", _values(rng, clips, sizes.audio))
        np.savez(folder / "text" / f"qid{i}.npz", last_hidden_state=_values(rng, tokens, sizes.text))
        first = int(rng.integers(0, max(1, clips - 20)))
        length = min(int(rng.integers(3, 20)), clips - first)
        lines.append(
            {
                "qid": i,
                "query": f"Synthetic sentence number {i} about nothing at all",
                "vid": vid,
                "duration": 2 * clips,
                "relevant_windows": [[2 * first, 2 * (first + length)]],
                "relevant_clip_ids": list(range(first, first + length)),
                "saliency_scores": rng.integers(0, 5, (length, 3)).tolist(),
            }
        )
    path = folder / "annotations.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_checkpoint(folder: Path, sizes: FeatureSizes, gating_type: str, layers: int = 4, seed: int = 0) -> Path:
    """Write a legacy-format checkpoint of an untrained model; return its path."""
    torch.manual_seed(seed)
    model = QDDETR(
        Architecture(
            sizes.slowfast + sizes.clip + 2, sizes.audio + 2, sizes.text, fusion_layers=layers, gating_type=gating_type
        )
    )
    options = argparse.Namespace(
        v_feat_dirs=["slowfast", "clip"],
        t_feat_dir="text",
        a_feat_dir="pann",
        gating_type=gating_type,
        nheads=8,
        fusion_n_heads=4,
        use_avigate_custom=True,
        ctx_mode="video_tef",
        device=torch.device("cpu"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{gating_type}.ckpt"
    torch.save({"model": model.state_dict(), "epoch": 0, "opt": options}, path)
    return path


def _values(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return rng.standard_normal((rows, columns), dtype=np.float32).astype(np.float16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=155)
    parser.add_argument("--gating_type", default="elementwise")
    parser.add_argument("--full_size", action="store_true", help="2818/2050/512 input columns (default: small ones)")
    args = parser.parse_args()
    sizes = FULL if args.full_size else SMALL
    print(make_data(args.output, args.samples, sizes))
    print(make_checkpoint(args.output, sizes, args.gating_type))
    return 0


if __name__ == "__main__":
    sys.exit(main())
