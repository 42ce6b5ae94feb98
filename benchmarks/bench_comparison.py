"""How long does it take to compare five runs of 1,550 queries? Results trees made here, of no model.

    python -m benchmarks.bench_comparison [--runs 5] [--queries 1550]

Printed: seconds of wall clock and CPU for `--compare_runs` on all of them, report and figure included, and the peak of the
process's memory. Wanted: below 60 s.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import run_gate_analysis

COLUMNS = [
    *(
        f"layer{n}_{kind}_{name}"
        for n in range(2)
        for kind in ("attention", "ffn")
        for name in ("abs_mean", "injection_mean")
    ),
    *("audio_share", "audio_effect_AP_gates_off", "audio_flip_R1_50_gates_off", "first_window_iou_gates_off"),
]


def make_annotations(path: Path, n: int, rng: np.random.Generator) -> list[dict]:
    """Write annotations of `n` queries of 150 s videos, three queries a video."""
    queries = []
    for i in range(n):
        start = 2 * int(rng.integers(0, 60))
        end = start + 2 * int(rng.integers(2, 14))
        clips = list(range(start // 2, end // 2))
        queries.append(
            {
                "qid": i,
                "query": "somebody talks",
                "vid": f"v{i // 3}",
                "duration": 150,
                "relevant_windows": [[start, end]],
            }
            | {"relevant_clip_ids": clips, "saliency_scores": rng.integers(0, 5, (len(clips), 3)).tolist()}
        )
    path.write_text("".join(json.dumps(query) + "\n" for query in queries), encoding="utf-8")
    return queries


def make_tree(folder: Path, annotations: Path, queries: list[dict], run: int, rng: np.random.Generator) -> None:
    """Write what a comparison reads of a finished tree: predictions near the truth, samples.csv of chance."""
    folder.mkdir()
    lines = []
    for query in queries:
        centre = query["relevant_windows"][0] + rng.normal(0, 12, 2)
        windows = np.clip(np.sort(centre + rng.normal(0, 8, (10, 2)), axis=1), 0, 150)
        scores = np.sort(rng.random(10))[::-1]
        found = [[float(a), float(max(b, a + 2)), float(s)] for (a, b), s in zip(windows, scores, strict=True)]
        saliency = rng.normal(size=75).round(4).tolist()
        kept = {key: query[key] for key in ("qid", "query", "vid")}
        lines.append({**kept, "pred_relevant_windows": found, "pred_saliency_scores": saliency})
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rows = [
        f"{query['qid']},{query['vid']}," + ",".join(f"{x:.5f}" for x in rng.random(len(COLUMNS))) for query in queries
    ]
    (folder / "samples.csv").write_text("\n".join([f"id,vid,{','.join(COLUMNS)}", *rows]) + "\n", encoding="utf-8")
    (folder / "overall_statistics.json").write_text(json.dumps({"num_layers": 2}), encoding="utf-8")
    gating = ("global", "clipwise")[run % 2]
    mark = hashlib.sha256(annotations.read_bytes()).hexdigest()
    config = {
        "annotations": {"sha256": mark, "path": str(annotations)},
        "checkpoint": {"path": str(folder / "m.ckpt"), "sha256": f"{run:064x}", "epoch": 1},
        "gating": {"run_as": gating, "trained_as": gating},
        "options": {"dset_name": "hl", "clip_length": 2, "seed": run},
    }
    (folder / "run_config.json").write_text(json.dumps(config), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--queries", type=int, default=1550)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        queries = make_annotations(folder / "val.jsonl", args.queries, rng)
        trees = [folder / f"run{i}" for i in range(args.runs)]
        for i, tree in enumerate(trees):
            make_tree(tree, folder / "val.jsonl", queries, i, rng)
        wall, cpu = time.perf_counter(), time.process_time()
        given = ["--compare_runs", *map(str, trees), "--output_dir", str(folder / "out")]
        assert run_gate_analysis.main(given) == 0
        spent = f"{time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of CPU"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{args.runs} runs of {args.queries} queries: {spent}, at most {peak:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
