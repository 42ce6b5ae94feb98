"""The evolution of a finished training, from its saved checkpoints."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from qd_detr.gates.analysis.collect import GateCollector
from qd_detr.gates.commands.analyse import AnalysisRequest, prepare
from qd_detr.gates.commands.analyse.findings import add_metrics
from qd_detr.gates.errors import RequestError, first_few
from qd_detr.gates.monitor.metrics import plain_metrics
from qd_detr.gates.monitor.writing import EVOLUTION_FIGURE, EpochWriter
from qd_detr.gates.results.context import RunFindings, SampleContext
from qd_detr.gates.runs.inference import run_pass
from qd_detr.gates.tracking.history import GateHistory


def checkpoints_by_epoch(folder: str | Path) -> dict[int, Path]:
    """Return the `model_e0049.ckpt`-like files of a folder by the epoch in their name.

    Raises:
        RequestError: no such folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RequestError(f"no folder {folder}; give the folder that holds model_e0049.ckpt, ... with --checkpoints")
    found = {
        int(match.group(1)): path
        for path in sorted(folder.iterdir())
        if (match := re.fullmatch(r"model_e(\d+)\.(?:ckpt|pth)", path.name))
    }
    if not found:
        names = sorted(path.name for path in folder.iterdir())
        raise RequestError(f"{folder} holds no model_e<epoch>.ckpt; there are {first_few(names) or 'no files'}")
    return dict(sorted(found.items()))


def watch_checkpoints(folder: str | Path, request: AnalysisRequest, *, figures: bool = False) -> Path:
    """Analyse every checkpoint of a folder on the same data and write their evolution; return its figure's path.

    An evolution that is in the output folder already is replaced.

    Args:
        request: how to run each (its model_path is replaced, its output_dir gets the evolution), and in which language
            reports and figures are.

    Raises:
        RequestError: as `prepare`, for any of the checkpoints, before anything is written.
    """
    requests = {
        epoch: replace(request, model_path=path, output_dir=request.output_dir / f"epoch_{epoch}")
        for epoch, path in checkpoints_by_epoch(folder).items()
    }
    shapes = {}
    for epoch, one in requests.items():
        fusion = prepare(one).model.avigate_fusion
        shapes[epoch] = (fusion.gating_type, fusion.num_layers)
    if len(set(shapes.values())) > 1:
        told = ", ".join(
            f"epoch {epoch}: {gating} gates, {layers} layers" for epoch, (gating, layers) in shapes.items()
        )
        raise RequestError(
            f"{folder} holds checkpoints of several models ({told:.300}); keep those of one training in it"
        )
    writer = EpochWriter(request.output_dir, figures=figures, tensorboard=True, lang=request.lang, continued=None)
    for epoch, one in requests.items():
        prepared = prepare(one)
        collector = GateCollector(prepared.model.avigate_fusion.facts)
        lines: dict[int, dict[str, Any]] = {}
        running = run_pass(prepared.model, prepared.samples, prepared.pass_settings)
        wanted = set(prepared.wanted)
        for results in running:
            for result in results:
                if result.position in wanted and result.gates is not None:
                    collector.add(result.query.qid, result.gates)
                    lines[result.position] = result.line
        analysis = collector.result()
        contexts = [SampleContext(query.qid, query) for query in prepared.queries]
        findings = RunFindings(analysis, contexts, GateHistory(), {}, [lines[p] for p in prepared.wanted])
        add_metrics(findings, prepared.settings.options)
        writer.write(epoch, analysis, plain_metrics(findings.sections.get("metrics", {})))
    writer.close()
    return request.output_dir / EVOLUTION_FIGURE
