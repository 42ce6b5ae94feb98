"""Runs of any size for the explorer, made by a tiny fusion and no model: what the page shows is random, its sizes are real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from qd_detr.gates.analysis.collect import GateCollector
from qd_detr.gates.data.annotations import Query
from qd_detr.gates.fusion import AVIGATEFusionCustom
from qd_detr.gates.results.context import ConditionWindows, RunFindings, SampleContext
from qd_detr.gates.results.explorer import write_explorer
from qd_detr.gates.results.names import file_names
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.writing import SampleTable, csv_text, sample_table

CONDITIONS = ("baseline", "all attention gates off", "audio none")


def make_findings(
    samples: int,
    *,
    gating_type: str = "clipwise",
    layers: int = 4,
    clips: int = 75,
    ids: Sequence[int | str] | None = None,
    texts: Sequence[str] | None = None,
    vids: Sequence[str] | None = None,
    seed: int = 0,
) -> RunFindings:
    """Return what a run over data would have found."""
    rng = np.random.default_rng(seed)
    ids = list(range(1000, 1000 + samples)) if ids is None else list(ids)
    lengths = [clips - 7 * (i % 3) for i in range(samples)]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        fusion = AVIGATEFusionCustom(16, 16, 16, n_heads=2, num_layers=layers, gating_type=gating_type).eval()
        for parameter in fusion.parameters():
            parameter.mul_(3.0)  # gates of all sizes
        fusion.enable_gate_tracking()
        for first in range(0, samples, 50):
            batch = range(first, min(samples, first + 50))
            mask = torch.zeros(len(batch), clips)
            for row, i in enumerate(batch):
                mask[row, : lengths[i]] = 1
            fusion.set_current_sample_id([ids[i] for i in batch])
            features = torch.randn(2, len(batch), clips, 16)
            fusion(features[0], features[1], mask, mask)
        fusion.disable_gate_tracking()
    contexts = [
        _context(
            ids[i],
            f"Sentence {i}: somebody talks about nothing" if texts is None else texts[i],
            f"abcdefghi{i % 90:02d}_60.0_{60.0 + 2 * lengths[i]}" if vids is None else vids[i],
            lengths[i],
            rng,
        )
        for i in range(samples)
    ]
    collector = GateCollector(fusion.facts)
    for context in contexts:
        collector.add(context.sample_id, fusion.gate_history[context.sample_id])
    findings = RunFindings(collector.result(), contexts, fusion.gate_history, file_names(ids))
    findings.lines = [context.line or {} for context in contexts]
    findings.contributions = {context.sample_id: rng.normal(size=(layers, context.n_clips)) for context in contexts}
    findings.conditions = [
        ConditionWindows(name, None, {context.sample_id: _windows(rng, 1, 100)[0] for context in contexts})
        for name in CONDITIONS
    ]
    return findings


def _windows(rng: np.random.Generator, n: int, end_s: int) -> list[list[float]]:
    starts = 2 * rng.integers(0, end_s // 2 - 5, n)
    return [[float(s), float(s + 10), float(x)] for s, x in zip(starts, np.sort(rng.random(n))[::-1], strict=True)]


def _context(sample_id: int | str, text: str, vid: str, clips: int, rng: np.random.Generator) -> SampleContext:
    first = int(rng.integers(0, clips - 5))
    query = Query(
        sample_id,
        text,
        vid,
        2.0 * clips,
        1,
        relevant_windows=((2.0 * first, 2.0 * first + 10),),
        relevant_clip_ids=tuple(range(first, first + 5)),
        saliency_scores=tuple(tuple(map(float, rng.integers(0, 5, 3))) for _ in range(5)),
    )
    saliency = np.float16(rng.normal(size=clips)).astype(float).tolist()
    line = {"qid": sample_id, "pred_relevant_windows": _windows(rng, 10, 100), "pred_saliency_scores": saliency}
    return SampleContext(sample_id, query, clips, 2.0, line)


def effects(findings: RunFindings, seed: int = 0) -> dict[str, dict]:
    """Return columns of random metrics and audio effects."""
    rng = np.random.default_rng(seed)
    names = ("ap", "best_iou", "r1_iou", "audio_effect_AP_gates_off", "first_window_iou_gates_off")
    return {
        name: {c.sample_id: float(rng.uniform(-1 if "effect" in name else 0, 1)) for c in findings.contexts}
        for name in names
    }


def write(
    folder: Path, findings: RunFindings, columns: dict | None = None, lang: str = "en"
) -> tuple[Path, SampleTable]:
    """Write explorer.html and samples.csv into a folder of their own; return the page and its table."""
    table = sample_table(findings, effects(findings) if columns is None else columns)
    with ResultsTree(folder) as tree:
        write_explorer(tree, findings, table, lang)
        tree.write_text("samples.csv", csv_text(table.head, table.rows))
        tree.publish({})
    return folder / "explorer.html", table
