"""Watch gates while training: three lines around a validation pass, or a folder of checkpoints after the fact.

monitor = GateMonitor(model, "training_analysis")
...
with monitor.epoch(epoch) as seen:              # around a validation pass
    seen.metrics = validate(model)              # optional: {"MR-full-mAP": 33.0}

python -m qd_detr.monitor --checkpoints results/run --data_path val.jsonl --output_dir training_analysis
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import qd_detr
from qd_detr.analysis.collect import FusionFacts, GateAnalysis, GateCollector
from qd_detr.analysis.evolution import GATE_KINDS, epoch_record, evolution
from qd_detr.analyzer import facts_of
from qd_detr.avigate_custom import AVIGATEFusionCustom
from qd_detr.command_line import exit_status
from qd_detr.errors import RequestError, RunError, first_few
from qd_detr.figures.style import save_figure
from qd_detr.figures.trends import EvolutionData, Panel, Series, plot_evolution
from qd_detr.findings import add_metrics
from qd_detr.job import AnalysisRequest, prepare
from qd_detr.results.context import OutputOptions, RunFindings, SampleContext
from qd_detr.results.tree import ResultsTree, to_json
from qd_detr.results.whole import write_run
from qd_detr.running.inference import run_pass
from qd_detr.tracking.entries import GateEntry, SampleId
from qd_detr.tracking.history import GateHistory
from qd_detr.tracking.recorder import GateRecorder

logger = logging.getLogger(__name__)

EVOLUTION_FILE = "gate_evolution.json"
EVOLUTION_FIGURE = "gate_evolution.png"
# Of a run's time, what drawing the evolution may take while it goes on.
DRAWING_SHARE = 0.01


class _Passing(GateHistory):
    """A history that adds entries up as they come and keeps none: memory does not grow with the data."""

    def __init__(self, collector: GateCollector) -> None:
        super().__init__(0)
        self._collector = collector

    def __setitem__(self, sample_id: SampleId, entry: GateEntry) -> None:
        self._collector.add(sample_id, entry)


class EvolutionFiles:
    """`gate_evolution.json`, which is always up to date, and its figure, which is drawn when it costs little.

    Drawing takes about half a second, and an epoch may take less. While a run goes on, all drawing together takes at
    most `DRAWING_SHARE` of the time; what is then outstanding is drawn by `finish`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._began = time.perf_counter()
        self._spent_s = 0.0
        self._last_s = 1.0  # of one drawing; before the first, a careful guess
        self._outstanding: dict[str, Any] | None = None
        self._process = os.getpid()

    def add(self, record: Mapping[str, Any], gating_type: str) -> None:
        """Add an epoch, or put it in the place of the same epoch."""
        records = [r for r in read_evolution(self.directory) if r["epoch"] != record["epoch"]]
        data = evolution([*records, dict(record)], gating_type)
        _replace(self.directory / EVOLUTION_FILE, to_json(data))
        self._outstanding = data
        if self._spent_s + self._last_s <= DRAWING_SHARE * (time.perf_counter() - self._began):
            self.finish()

    def finish(self) -> None:
        """Draw the figure if it is behind; a process that was forked off draws nothing."""
        forked = os.getpid() != self._process
        if self._outstanding is None or forked or not self.directory.is_dir():
            return
        start = time.perf_counter()
        _draw_evolution(self.directory, self._outstanding)
        self._outstanding = None
        self._last_s = time.perf_counter() - start
        self._spent_s += self._last_s


class EpochWriter:
    """Writes what was seen in each epoch: `epoch_N/`, the evolution, and TensorBoard's files where it is installed.

    What of the evolution's figure is outstanding at the end of the program is drawn then, if nobody called `close`.
    """

    def __init__(self, directory: Path, *, figures: bool, tensorboard: bool) -> None:
        self.directory = directory
        self._figures = figures
        self._evolution = EvolutionFiles(directory)
        self._at_the_end = weakref.finalize(self, self._evolution.finish)
        self._board = _board(directory / "tensorboard") if tensorboard else None

    def write(self, epoch: int, analysis: GateAnalysis, metrics: Mapping[str, float]) -> None:
        """Write one epoch's numbers and bring the evolution up to date."""
        self._write_tree(epoch, analysis, metrics)
        record = epoch_record(epoch, analysis.statistics, {k: float(v) for k, v in metrics.items()})
        self._evolution.add(record, analysis.facts.gating_type)
        if self._board is not None:
            _to_board(self._board, epoch, analysis, record)

    def close(self) -> None:
        """Draw what is outstanding. The writer can still be used afterwards."""
        self._evolution.finish()

    def _write_tree(self, epoch: int, analysis: GateAnalysis, metrics: Mapping[str, float]) -> None:
        contexts = [SampleContext(row.sample_id) for row in analysis.rows]
        findings = RunFindings(analysis, contexts, GateHistory(), {})
        if metrics:
            findings.sections["metrics"] = {"brief": {k: float(v) for k, v in metrics.items()}}
        with ResultsTree(self.directory / f"epoch_{epoch}") as tree:
            write_run(tree, findings, OutputOptions(figures=self._figures, sample_figures=False))
            tree.publish(
                {
                    "format": "qd_detr-gates results/1",
                    "toolkit_version": qd_detr.__version__,
                    "made_by": "GateMonitor",
                    "epoch": epoch,
                    "samples": len(analysis.rows),
                }
            )


@dataclass
class EpochSeen:
    """What a monitored validation pass gave; `metrics` is for the caller to fill."""

    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)


class GateMonitor:
    """Records the gates of validation passes and writes how they evolve.

    Args:
        model: any model with `avigate_fusion`, or the fusion itself.
        directory: gets `epoch_N/` (the usual tree without per-sample files) and `gate_evolution.json` and `.png`.
        figures: also draw each epoch's figures.
        tensorboard: also write TensorBoard scalars and histograms into `directory/tensorboard` where it is installed.

    It changes nothing about training: what the fusion recorded before, and whether it was recording, is put back, no
    random number is drawn, and outputs are the same to the bit. Entries are added up and not kept; a sample seen twice in
    one pass counts twice.

    `gate_evolution.json` is up to date after every epoch. Its figure is drawn while the run goes on if drawing takes at
    most 1 % of the run's time, and in any case by `close`, which the end of the program calls if nobody did.
    """

    def __init__(
        self,
        model: nn.Module,
        directory: str | Path = "training_analysis",
        *,
        figures: bool = False,
        tensorboard: bool = True,
    ) -> None:
        fusion = model if isinstance(model, AVIGATEFusionCustom) else getattr(model, "avigate_fusion", None)
        if not isinstance(fusion, AVIGATEFusionCustom):
            raise TypeError(
                f"GateMonitor needs a model with avigate_fusion that can be tracked; got {type(model).__name__}"
            )
        self.fusion = fusion
        self._writer = EpochWriter(Path(directory), figures=figures, tensorboard=tensorboard)

    @contextmanager
    def epoch(self, epoch: int) -> Iterator[EpochSeen]:
        """Record the gates of the forwards inside; on leaving, write this epoch and the evolution so far.

        A pass that raises is not recorded; one without a forward is an error.
        """
        facts = facts_of(self.fusion)
        collector = GateCollector(facts)
        seen = EpochSeen(epoch)
        recorder = GateRecorder(facts.gating_type, facts.hidden_dim)
        recorder.start(_Passing(collector), measure=True, warn=False)
        before = self.fusion.swap_recorder(recorder)
        try:
            yield seen
            recorder.read()  # the last batch may still be on its way from the device
        finally:
            self.fusion.swap_recorder(before)
        analysis = collector.result()
        if not analysis.rows:
            raise RunError(
                f"no forward of the fusion was seen in epoch {epoch}; put the validation pass inside the context"
            )
        self._writer.write(epoch, analysis, seen.metrics)

    def close(self) -> None:
        """Draw what of the evolution's figure is outstanding. The monitor can still be used afterwards."""
        self._writer.close()


def read_evolution(directory: Path) -> list[dict[str, Any]]:
    """Return the epochs recorded in a folder so far."""
    path = directory / EVOLUTION_FILE
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["epochs"])
    except (ValueError, KeyError, TypeError):
        raise RequestError(f"{path} is not a gate evolution this tool wrote; move it, or give another folder") from None


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beginning = path.with_name(f".{path.name}")
    beginning.write_text(text, encoding="utf-8", newline="\n")
    beginning.replace(path)


def _draw_evolution(directory: Path, data: Mapping[str, Any]) -> None:
    drawn = directory / f".{EVOLUTION_FIGURE}"
    save_figure(plot_evolution(evolution_data(data)), drawn)
    drawn.replace(directory / EVOLUTION_FIGURE)


def evolution_data(data: Mapping[str, Any]) -> EvolutionData:
    """Return what `gate_evolution.png` shows of `gate_evolution.json`."""
    epochs = data["epochs"]
    x = np.array([record["epoch"] for record in epochs], dtype=float)
    n_layers = len(epochs[0]["layers"])

    def panel(title: str, y_label: str, kind: str, name: str) -> Panel | None:
        columns = [[record["layers"][layer][kind][name] for record in epochs] for layer in range(n_layers)]
        values = np.array([[np.nan if v is None else v for v in column] for column in columns], dtype=float)
        if np.isnan(values).all():
            return None
        series = [Series(f"layer {layer}", x, values[layer], layer_idx=layer) for layer in range(n_layers)]
        return Panel(title, y_label, series)

    panels = [
        panel(
            "Injection of the attention gate: how much audio enters",
            "|g · branch| / |residual|",
            "attention",
            "injection",
        ),
        panel("Magnitude of the attention gate", "mean |gate|", "attention", "magnitude"),
        panel("Magnitude of the FFN gate", "mean |gate|", "ffn", "magnitude"),
        panel("Saturated values of the attention gate", "share", "attention", "share_saturated"),
        panel("Dead attention gates (no variance over samples)", "share", "attention", "dead_share"),
    ]
    names = list(dict.fromkeys(name for record in epochs for name in record["metrics"]))
    shown = [name for name in names if name.endswith("mAP") and "full" in name] or names[:3]
    if shown:
        series = [Series(n, x, np.array([r["metrics"].get(n, np.nan) for r in epochs], float)) for n in shown]
        panels.append(Panel("Validation", "percent", series))
    n = epochs[-1]["total_samples"]
    return EvolutionData(
        [p for p in panels if p is not None], f"n = {n} samples an epoch; {data['gating_type']} gates."
    )


def _board(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("TensorBoard is not installed; its files are not written")
        return None
    return SummaryWriter(str(directory))


def _to_board(board: Any, epoch: int, analysis: GateAnalysis, record: Mapping[str, Any]) -> None:
    for layer in record["layers"]:
        for kind in GATE_KINDS:
            where = f"layer_{layer['layer']}_{kind}"
            for name, value in layer[kind].items():
                if isinstance(value, float):
                    board.add_scalar(f"gates/{where}/{name}", value, epoch)
            entry = analysis.statistics["layer_statistics"][str(layer["layer"])][kind]
            histogram = entry["histogram"]
            board.add_histogram_raw(
                f"gates/{where}",
                min=entry["min"],
                max=entry["max"],
                num=entry["count"],
                sum=entry["mean"] * entry["count"],
                sum_squares=(entry["std"] ** 2 + entry["mean"] ** 2) * entry["count"],
                bucket_limits=histogram["edges"][1:],
                bucket_counts=histogram["counts"],
                global_step=epoch,
            )
    for name, value in record["metrics"].items():
        board.add_scalar(f"validation/{name}", value, epoch)
    board.flush()


# -- after the fact: a folder of checkpoints ---------------------------------------------------------------------------


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

    request: how to run each (its model_path is replaced, its output_dir gets the evolution).

    Raises:
        RequestError: as `prepare`, before anything is written for the first checkpoint.
    """
    paths = checkpoints_by_epoch(folder)
    writer = EpochWriter(request.output_dir, figures=figures, tensorboard=True)
    for epoch, path in paths.items():
        prepared = prepare(replace(request, model_path=path, output_dir=request.output_dir / f"epoch_{epoch}"))
        facts: FusionFacts = facts_of(prepared.model.avigate_fusion)
        collector = GateCollector(facts)
        lines: dict[int, dict[str, Any]] = {}
        running = run_pass(
            prepared.model, prepared.index, prepared.reader, prepared.batches(), prepared.postprocessing,
            prepared.pass_settings, GateHistory(),
        )  # fmt: skip
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
        metrics = findings.sections.get("metrics", {}).get("brief", {})
        writer.write(epoch, analysis, {name: value for name, value in metrics.items() if value is not None})
    writer.close()
    return request.output_dir / EVOLUTION_FIGURE


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m qd_detr.monitor",
        description="Gates over the epochs of a finished training, from its saved checkpoints.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {qd_detr.__version__}")
    add("--checkpoints", type=Path, required=True, help="folder with model_e0049.ckpt, ...")
    add("--data_path", type=Path, required=True, help="annotations, .jsonl or .json")
    add("--output_dir", type=Path, default=Path("training_analysis"), help="default: ./training_analysis")
    add("--legacy_model", action="store_true", help="the checkpoints were not written by this project's trainer")
    add("--config_path", type=Path, help="options file, if not in the checkpoints or beside them")
    add("--feature_root", type=Path, help="features are in R/<last component of the options' folders>")
    add("--max_samples", type=int, help="the first N samples (default: all)")
    add("--figures", action="store_true", help="also draw each epoch's figures")
    add("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 1 the run failed, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    return exit_status(lambda: _watch(args))


def _watch(args: argparse.Namespace) -> None:
    request = AnalysisRequest(
        model_path=args.checkpoints,
        data_path=args.data_path,
        output_dir=args.output_dir,
        legacy_model=args.legacy_model,
        config_path=args.config_path,
        feature_root=args.feature_root,
        max_samples=args.max_samples,
        device=args.device,
    )
    print(f"Evolution: {watch_checkpoints(args.checkpoints, request, figures=args.figures)}")


if __name__ == "__main__":
    sys.exit(main())
