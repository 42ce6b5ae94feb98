"""What was asked for, and what it comes to once every part of it has been found usable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qd_detr.gates.commands.launchers import Shard
from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.feature_search import FeatureSources
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.data.slice_files import OwnSlices
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.results.context import OutputOptions
from qd_detr.gates.runs.inference import PassSettings
from qd_detr.gates.runs.interventions.conditions import Condition
from qd_detr.gates.weights.checkpoint import Checkpoint
from qd_detr.gates.weights.options import Settings


@dataclass(frozen=True)
class AnalysisRequest:
    """What the user asked for; field for field the flags of `run_gate_analysis.py`."""

    model_path: Path
    data_path: Path
    output_dir: Path = Path("gate_analysis_results")
    legacy_model: bool = False
    gating_type: str | None = None
    family: str | None = None
    max_samples: int | None = None
    analyze_samples: tuple[str, ...] | None = None
    batch_size: int | None = None
    legacy_batches: bool = False
    compare_samples: tuple[str, ...] | None = None
    save_raw_data: bool = False
    no_figures: bool = False
    figure_format: str = "png"
    no_explorer: bool = False
    config_path: Path | None = None
    feature_root: Path | None = None
    v_feat_dirs: tuple[Path, ...] | None = None
    t_feat_dir: Path | None = None
    a_feat_dir: Path | None = None
    skip_missing: bool = False
    missing_list: Path | None = None
    interventions: Path | None = None
    ablate: bool = False
    audio: tuple[str, ...] = ()
    margin: float = 1.0
    no_effects: bool = False
    timeline: bool = False
    slice: tuple[str, ...] = ()
    top: int = 0
    rank_by: str | None = None
    resume: bool = False
    history_memory_mb: float = 64.0
    device: str = "auto"
    seed: int = 0
    quiet: bool = False
    lang: str = "en"
    shard: Shard | None = None

    def __post_init__(self) -> None:
        for name in ("analyze_samples", "compare_samples", "v_feat_dirs", "audio", "slice"):
            if isinstance(getattr(self, name), (str, int, Path)):  # one name is no list of its letters
                object.__setattr__(self, name, (getattr(self, name),))

    @property
    def sources(self) -> FeatureSources:
        """Where to look for the data."""
        return FeatureSources(
            self.data_path, self.model_path, self.feature_root, self.v_feat_dirs, self.t_feat_dir, self.a_feat_dir
        )

    @property
    def output_options(self) -> OutputOptions:
        """Which files to write."""
        return OutputOptions(
            figures=not self.no_figures,
            figure_format=self.figure_format,
            compare=self.compare_samples,
            seed=self.seed,
            quiet=self.quiet,
            lang=self.lang,
            explorer=not self.no_explorer,
            top=self.top,
            rank_by=self.rank_by,
        )


@dataclass
class PreparedRun:
    """A request whose every part has been found usable.

    Attributes:
        samples: in the batches that are run, each of which holds a wanted one.
        wanted: positions in `samples.queries` of those asked for; with legacy batches the samples also hold their
            batch mates, which run but are not analysed.
    """

    request: AnalysisRequest
    checkpoint: Checkpoint
    settings: Settings
    model: QDDETR
    samples: Samples
    wanted: list[int]
    batch_size: int
    pass_settings: PassSettings
    total_annotated: int
    conditions: list[Condition]
    own_slices: OwnSlices = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def queries(self) -> list[Query]:
        """The queries asked for, in annotation order."""
        return [self.samples.queries[p] for p in self.wanted]
