"""GateAnalyzer: the whole analysis of gates that a user's own loop has recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qd_detr.gates import __version__
from qd_detr.gates.analysis.collect import GateCollector
from qd_detr.gates.analysis.samples import chosen_ids
from qd_detr.gates.errors import RequestError, first_few
from qd_detr.gates.figures.style import save_figure
from qd_detr.gates.gating import FusionFacts
from qd_detr.gates.results.context import OutputOptions, RunFindings, SampleContext
from qd_detr.gates.results.names import file_names
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.whole import write_run
from qd_detr.gates.results.writing import SampleWriter
from qd_detr.gates.tracking.api import GateTracking
from qd_detr.gates.tracking.entries import SampleId
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.wording import Reason


def collected(
    tree: ResultsTree,
    facts: FusionFacts,
    contexts: Sequence[SampleContext],
    history: GateHistory,
    names: dict[SampleId, str],
    *,
    save_raw_data: bool,
) -> RunFindings:
    """Write each sample's own files into the tree; return the findings of gates that were recorded beforehand.

    Raises:
        ValueError: a gate that is not finite or outside its stated range, by sample and layer.
    """
    collector = GateCollector(facts)
    writer = SampleWriter(tree, names, facts, save_raw_data=save_raw_data)
    for context in contexts:
        entry = history[context.sample_id]
        collector.add(context.sample_id, entry)
        writer.write(context, entry)
    return RunFindings(collector.result(), contexts, history, names)


def config_of(facts: FusionFacts, made_by: str, samples: int) -> dict[str, Any]:
    """Return run_config.json of gates that were recorded beforehand."""
    return {
        "format": "qd_detr-gates results/1",
        "toolkit_version": __version__,
        "made_by": made_by,
        "gating": {
            "trained_as": facts.trained_gating_type,
            "run_as": facts.gating_type,
            "changed": facts.gating_type != facts.trained_gating_type,
        },
        "samples": samples,
    }


class GateAnalyzer:
    """Analyses what a fusion has recorded, and writes the results tree.

    Attributes:
        model: the fusion (`model.avigate_fusion`).
        results_dir: where the last analysis was, or the next will be, written.

    A subclass's own figures join tree and report once they are registered:

        class CustomGateAnalyzer(GateAnalyzer):
            def custom_visualization(self): ...        # returns a matplotlib Figure

        analyzer = CustomGateAnalyzer(model.avigate_fusion)
        analyzer.register_visualization(analyzer.custom_visualization, "What it shows.")
        analyzer.analyze_all_samples("./my_analysis")
    """

    def __init__(self, model: GateTracking, clip_length_s: float = 2.0) -> None:
        fusion = model if isinstance(model, GateTracking) else getattr(model, "avigate_fusion", None)
        if not isinstance(fusion, GateTracking):
            raise TypeError(
                f"GateAnalyzer takes a fusion that can be tracked (model.avigate_fusion); got {type(model).__name__}. "
                "A model loaded by your own code gets one from legacy_model_adapter.adapt_legacy_model(model)"
            )
        self.model = fusion
        self.results_dir = Path("./gate_analysis_results")
        self.clip_length_s = clip_length_s
        self._visualizations: list[tuple[str, Callable[[], Any], str]] = []

    def register_visualization(self, function: Callable[[], Any], caption: str = "", name: str | None = None) -> None:
        """Add a figure of your own: `function()` returns a matplotlib Figure, saved as `custom/{name}.{format}`.

        Raises:
            TypeError: not callable. ValueError: a name that is taken.
        """
        if not callable(function):
            raise TypeError(f"a visualization must be callable; got {type(function).__name__}")
        name = name or str(getattr(function, "__name__", "custom"))
        if name in [taken for taken, _, _ in self._visualizations]:
            raise ValueError(f"a visualization named {name!r} is registered already; give another name")
        self._visualizations.append((name, function, caption or name.replace("_", " ").capitalize()))

    def analyze_all_samples(
        self,
        directory: str | Path = "./gate_analysis_results",
        *,
        figures: bool = True,
        figure_format: str = "png",
        save_raw_data: bool = False,
    ) -> Path:
        """Write the results tree of everything recorded; return the report's path.

        The tree replaces the one before it as a whole, or not at all.

        Raises:
            KeyError: nothing has been recorded. ValueError (`RequestError`): the folder cannot be written to, or two
            samples go by one name.
        """
        history = self.model.gate_history
        ids = chosen_ids(history, None)
        facts = self.model.facts
        expanded = [f"{i}[{b}]" for i in ids if (size := len(history[i].valid_clips)) > 1 for b in range(size)]
        taken = [name for name in expanded if name in history]
        if taken:
            raise RequestError(
                f"{first_few(taken)}: an id of its own and also a sample of a batch stored under one id; "
                "their figures would be the same file. Give the samples of a batch a list of ids"
            )
        names = file_names([*ids, *expanded])
        contexts = [SampleContext(sample_id, clip_length_s=self.clip_length_s) for sample_id in ids]
        self.results_dir = Path(directory)
        with ResultsTree(directory) as tree:
            findings = collected(tree, facts, contexts, history, names, save_raw_data=save_raw_data)
            if figures:
                findings.extra_figures = self._draw_registered(tree, figure_format)
            write_run(tree, findings, OutputOptions(figures=figures, figure_format=figure_format, compare=()))
            tree.publish(config_of(facts, "GateAnalyzer.analyze_all_samples", len(ids)))
        return self.results_dir / "ANALYSIS_REPORT.md"

    def _draw_registered(self, tree: ResultsTree, figure_format: str) -> list[tuple[str, Reason | str]]:
        drawn: list[tuple[str, Reason | str]] = []
        names = file_names([name for name, _, _ in self._visualizations])
        for name, function, caption in self._visualizations:
            figure = function()
            if not hasattr(figure, "savefig"):
                raise TypeError(
                    f"the registered visualization {name!r} returned {type(figure).__name__}; expected a matplotlib Figure"
                )
            relative = f"custom/{names[name]}.{figure_format}"
            save_figure(figure, tree.path(relative))
            drawn.append((relative, caption))
        return drawn
