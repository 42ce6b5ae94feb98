"""Make the demo that the package ships: planted data, and a small model trained on it. A few minutes on two cores.

    python -m examples.make_demo

The same versions give the same files: it trains on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]

from qd_detr.gates.data.demo import FOLDER
from qd_detr.gates.planted import (
    A_FEAT_DIR,
    T_FEAT_DIR,
    TRUTH_FILE,
    V_FEAT_DIRS,
    VAL_FILE,
    generate,
    training_flags,
)
from qd_detr.gates.train.checkpoints import read_training_checkpoint
from qd_detr.gates.weights.checkpoint import FORMAT


def train(folder: Path, seed: int) -> dict:
    """Train on a generated dataset; return the best checkpoint's content."""
    flags = [*training_flags("."), "--results_dir", "run", "--seed", str(seed), "--device", "cpu"]
    command = [sys.executable, "-m", "qd_detr.gates.train", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return read_training_checkpoint(folder / "run" / "model_best.ckpt")


def ship_data(generated: Path, target: Path) -> None:
    """Copy the validation split."""
    lines = (generated / VAL_FILE).read_text(encoding="utf-8").splitlines()
    queries = [json.loads(line) for line in lines]
    target.mkdir(parents=True)
    shutil.copy(generated / VAL_FILE, target / VAL_FILE)
    truth = json.loads((generated / TRUTH_FILE).read_text(encoding="utf-8"))
    truth["videos"] = [video for video in truth["videos"] if video["split"] == "val"]
    (target / TRUTH_FILE).write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    for folder in (*V_FEAT_DIRS, A_FEAT_DIR, T_FEAT_DIR):
        (target / folder).mkdir()
    for query in queries:
        for folder in V_FEAT_DIRS:
            shutil.copy(generated / folder / f"{query['vid']}.npz", target / folder)
        shutil.copy(generated / A_FEAT_DIR / f"{query['vid']}.npy", target / A_FEAT_DIR)
        shutil.copy(generated / T_FEAT_DIR / f"qid{query['qid']}.npz", target / T_FEAT_DIR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if there := [name for name in ("planted", "native", "legacy") if (FOLDER / name).exists()]:
        parser.error(f"{', '.join(there)} in {FOLDER} would be replaced; remove them first")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "demo"
        generate(work, seed=args.seed)
        content = train(work, args.seed)
        ship_data(work, FOLDER / "planted")
    kept = {"model": content["model"], "epoch": content["epoch"], "opt": content["opt"]}
    for name, checkpoint in (("native", {"format": FORMAT, **kept}), ("legacy", kept)):
        (FOLDER / name).mkdir()
        torch.save(checkpoint, FOLDER / name / "model_best.ckpt")
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{FOLDER}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
