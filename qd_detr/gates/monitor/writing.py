"""What a watched epoch leaves behind: its tree, the evolution so far, TensorBoard's files."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qd_detr.gates import __version__
from qd_detr.gates.analysis.collect import FusionFacts, GateAnalysis
from qd_detr.gates.analysis.evolution import epoch_record, evolution, kinds_of
from qd_detr.gates.errors import RequestError
from qd_detr.gates.figures.style import FigureScale, save_figure
from qd_detr.gates.figures.trends import plot_evolution
from qd_detr.gates.figures.wording import warn_of_missing_font
from qd_detr.gates.files import in_the_way, is_plain_folder, obstacle_to_writing, read_json, to_json, write_whole
from qd_detr.gates.monitor.picture import evolution_data
from qd_detr.gates.results.context import OutputOptions, RunFindings, SampleContext
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.whole import write_run
from qd_detr.gates.tracking.history import GateHistory

logger = logging.getLogger(__name__)

EVOLUTION_FILE = "gate_evolution.json"
EVOLUTION_FIGURE = "gate_evolution.png"
# Of a run's time, what drawing the evolution may take while it goes on.
DRAWING_SHARE = 0.01

Metrics = Mapping[str, float | None]


class EvolutionFiles:
    """`gate_evolution.json`, which is always up to date, and its figure, which is drawn when it costs little.

    Drawing takes about half a second, and an epoch may take less. While a run goes on, all drawing together takes at
    most `DRAWING_SHARE` of the time; what is then outstanding is drawn by `finish`.

    Args:
        lang: the figure's language.
        continued: whose earlier epochs may be in the folder already; None begins a new evolution in any case.

    Raises:
        RequestError: with `continued`, the folder holds an evolution of another model, or something else.
    """

    def __init__(self, directory: Path, lang: str, continued: FusionFacts | None) -> None:
        self.directory = directory
        self._lang = lang
        warn_of_missing_font(lang)
        self._began = time.perf_counter()
        self._spent_s = 0.0
        self._last_s = 1.0  # of one drawing; before the first, a careful guess
        self._process = os.getpid()
        self._outstanding: dict[str, Any] | None = None
        self._earlier: list[dict[str, Any]] = []
        self._own: dict[int, dict[str, Any]] = {}
        if continued is not None and (directory / EVOLUTION_FILE).is_file():
            data = _read_evolution(directory / EVOLUTION_FILE)
            _check_same_model(data, continued, directory)
            self._earlier = data["epochs"]
            if _older(directory / EVOLUTION_FIGURE, directory / EVOLUTION_FILE):
                self._outstanding = data  # a run that was killed had no time to draw it

    def add(self, record: dict[str, Any], gating_type: str) -> None:
        """Add an epoch, or put it in the place of the same epoch. The first one ends what was there before."""
        if not self._own:
            self._earlier = [earlier for earlier in self._earlier if earlier["epoch"] < record["epoch"]]
            if self._earlier:
                numbers = f"{self._earlier[0]['epoch']} to {self._earlier[-1]['epoch']}"
                logger.info("%s goes on from the epochs there, %s", self.directory / EVOLUTION_FILE, numbers)
        self._own[record["epoch"]] = record
        earlier = [before for before in self._earlier if before["epoch"] not in self._own]
        data = evolution([*earlier, *self._own.values()], gating_type)
        self.directory.mkdir(parents=True, exist_ok=True)
        write_whole(self.directory / EVOLUTION_FILE, to_json(data))
        self._outstanding = data
        if self._spent_s + self._last_s <= DRAWING_SHARE * (time.perf_counter() - self._began):
            self.finish()

    def finish(self) -> None:
        """Draw the figure if it is behind; a process that was forked off draws nothing."""
        forked = os.getpid() != self._process
        if self._outstanding is None or forked or not self.directory.is_dir():
            return
        start = time.perf_counter()
        _draw_evolution(self.directory, self._outstanding, self._lang)
        self._outstanding = None
        self._last_s = time.perf_counter() - start
        self._spent_s += self._last_s

    def finish_unattended(self) -> None:
        """As `finish`, where nobody is left to hear of an error: it is a warning then."""
        try:
            self.finish()
        except OSError as error:
            logger.warning("%s could not be drawn: %s", self.directory / EVOLUTION_FIGURE, error)


class EpochWriter:
    """Writes what was seen in each epoch: `epoch_N/`, the evolution, and TensorBoard's files where it is installed.

    What of the evolution's figure is outstanding at the end of the program is drawn then, if nobody called `close`.

    Args:
        lang: of the epochs' reports and of the figures.
        continued: see `EvolutionFiles`.

    Raises:
        RequestError: the directory cannot be written to; see also `EvolutionFiles`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        figures: bool,
        tensorboard: bool,
        lang: str,
        continued: FusionFacts | None,
        log: Callable[[dict[str, float]], object] | None = None,
    ) -> None:
        _check_writable(directory)
        self.directory = directory
        self._figures = figures
        self._tensorboard = tensorboard
        self._log = log
        self._lang = lang
        self._board: Any = None
        self._evolution = EvolutionFiles(directory, lang, continued)
        self._at_the_end = weakref.finalize(self, self._evolution.finish_unattended)

    def write(self, epoch: int, analysis: GateAnalysis, metrics: Metrics) -> None:
        """Write one epoch's numbers and bring the evolution up to date."""
        self._write_tree(epoch, analysis, metrics)
        record = epoch_record(epoch, analysis.statistics, analysis.facts.gates, metrics)
        self._evolution.add(record, analysis.facts.gating_type)
        scalars = scalars_of(record)
        if self._log is not None:
            self._log({"epoch": epoch, **scalars})
        if self._tensorboard:
            self._board = self._board or _board(self.directory / "tensorboard")
            if self._board is None:
                self._tensorboard = False
            else:
                _to_board(self._board, epoch, analysis, scalars)

    def close(self) -> None:
        """Draw what is outstanding. The writer can still be used afterwards."""
        self._evolution.finish()
        if self._board is not None:
            self._board.close()

    def _write_tree(self, epoch: int, analysis: GateAnalysis, metrics: Metrics) -> None:
        contexts = [SampleContext(row.sample_id) for row in analysis.rows]
        findings = RunFindings(analysis, contexts, GateHistory(), {})
        if metrics:
            findings.sections["metrics"] = {"brief": dict(metrics)}
        facts = analysis.facts
        with ResultsTree(self.directory / f"epoch_{epoch}") as tree:
            options = OutputOptions(figures=self._figures, sample_figures=False, explorer=False, lang=self._lang)
            write_run(tree, findings, options)
            tree.publish(
                {
                    "format": "qd_detr-gates results/1",
                    "toolkit_version": __version__,
                    "made_by": "GateMonitor",
                    "epoch": epoch,
                    "gating": {
                        "trained_as": facts.trained_gating_type,
                        "run_as": facts.gating_type,
                        "changed": facts.gating_type != facts.trained_gating_type,
                    },
                    "samples": len(analysis.rows),
                }
            )


def _check_writable(directory: Path) -> None:
    problem = obstacle_to_writing(directory)
    for folder in (directory / "tensorboard", *sorted(directory.glob("epoch_*"))):
        if os.path.lexists(folder) and not is_plain_folder(folder):
            problem = problem or f"{folder} is a link or no folder, and epochs would be written elsewhere"
    if (found := in_the_way(directory, (EVOLUTION_FILE, EVOLUTION_FIGURE))) is not None:
        problem = problem or f"{found[0]} is in the way: {found[1]}"
    if problem:
        raise RequestError(f"{directory} cannot hold a training's gates: {problem}; give another folder")


def _read_evolution(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path, {"epochs": [dict], "gating_type": str})
        epochs = sorted(data["epochs"], key=lambda record: record["epoch"])
        evolution(epochs, data["gating_type"])  # reads all that the records must have
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"{path} is not a gate evolution this tool wrote; move it, or give another folder") from None
    return {**data, "epochs": epochs}


def _check_same_model(data: Mapping[str, Any], facts: FusionFacts, directory: Path) -> None:
    layers = len(data["epochs"][0]["layers"]) if data["epochs"] else facts.num_layers
    if (data["gating_type"], layers) != (facts.gating_type, facts.num_layers):
        raise RequestError(
            f"{directory / EVOLUTION_FILE} is of another model, with {data['gating_type']} gates in {layers} layers; this "
            f"one has {facts.gating_type} gates in {facts.num_layers}. Move it, or give another folder"
        )


def _older(figure: Path, data: Path) -> bool:
    return not figure.is_file() or figure.stat().st_mtime_ns < data.stat().st_mtime_ns


def _draw_evolution(directory: Path, data: Mapping[str, Any], lang: str) -> None:
    figure = plot_evolution(evolution_data(data, lang), FigureScale(language=lang))
    write_whole(directory / EVOLUTION_FIGURE, lambda path: save_figure(figure, path))


def _board(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("TensorBoard is not installed; its files are not written")
        return None
    return SummaryWriter(str(directory))


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return an epoch's record as flat names and numbers, as trackers of experiments take them; what is none is left out."""
    scalars = {
        f"gates/layer_{layer['layer']}_{kind}/{name}": value
        for layer in record["layers"]
        for kind in kinds_of(layer)
        for name, value in layer[kind].items()
        if isinstance(value, float)
    }
    return scalars | {f"validation/{name}": value for name, value in record["metrics"].items() if value is not None}


def _to_board(board: Any, epoch: int, analysis: GateAnalysis, scalars: Mapping[str, float]) -> None:
    for name, value in scalars.items():
        board.add_scalar(name, value, epoch)
    for layer in range(analysis.facts.num_layers):
        for kind in (gate.kind for gate in analysis.facts.gates):
            entry = analysis.statistics["layer_statistics"][str(layer)][kind]
            histogram = entry["histogram"]
            board.add_histogram_raw(
                f"gates/layer_{layer}_{kind}",
                min=entry["min"],
                max=entry["max"],
                num=entry["count"],
                sum=entry["mean"] * entry["count"],
                sum_squares=(entry["std"] ** 2 + entry["mean"] ** 2) * entry["count"],
                bucket_limits=histogram["edges"][1:],
                bucket_counts=histogram["counts"],
                global_step=epoch,
            )
    board.flush()
