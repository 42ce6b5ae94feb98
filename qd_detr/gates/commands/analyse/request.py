"""What was asked for, and what it comes to once every part of it has been found usable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.feature_check import FeatureIndex
from qd_detr.gates.data.feature_layout import FeatureFolders, FeatureSpec
from qd_detr.gates.data.features import FeatureReader
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.inference import PassSettings, planned_batches
from qd_detr.gates.runs.interventions.conditions import Condition
from qd_detr.gates.runs.postprocess import PostprocessingOptions
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
    max_samples: int | None = None
    analyze_samples: tuple[str, ...] | None = None
    batch_size: int | None = None
    legacy_batches: bool = False
    compare_samples: tuple[str, ...] | None = None
    save_raw_data: bool = False
    no_figures: bool = False
    figure_format: str = "png"
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
    resume: bool = False
    history_memory_mb: float = 64.0
    device: str = "auto"
    seed: int = 0
    quiet: bool = False
    lang: str = "en"


@dataclass
class PreparedRun:
    """A request whose every part has been found usable.

    Attributes:
        wanted: positions in `index.queries` of the samples asked for; with legacy batches the index also holds their
            batch mates, which run but are not analysed.
    """

    request: AnalysisRequest
    checkpoint: Checkpoint
    settings: Settings
    model: QDDETR
    folders: FeatureFolders
    index: FeatureIndex
    reader: FeatureReader
    wanted: list[int]
    pass_settings: PassSettings
    total_annotated: int
    conditions: list[Condition]
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def queries(self) -> list[Query]:
        """The queries asked for, in annotation order."""
        return [self.index.queries[p] for p in self.wanted]

    @property
    def postprocessing(self) -> PostprocessingOptions:
        """How this run's options make predictions."""
        return PostprocessingOptions.from_options(self.settings.options)

    def batches(self) -> list[list[int]]:
        """Positions in `index.queries` of every batch that holds a wanted sample."""
        wanted = set(self.wanted)
        return [batch for batch in planned_batches(self.index, self.pass_settings) if wanted.intersection(batch)]


def feature_spec(settings: Settings) -> FeatureSpec:
    """Return what a checkpoint's model wants of its features."""
    options, sizes = settings.options, settings.architecture
    return FeatureSpec(
        dset_name=options["dset_name"],
        v_feat_dirs=tuple(options["v_feat_dirs"]),
        t_feat_dir=options["t_feat_dir"],
        a_feat_dir=options["a_feat_dir"],
        max_v_l=options["max_v_l"],
        max_q_l=sizes.max_q_l,
        normalize_video=not options["no_norm_vfeat"],
        normalize_text=not options["no_norm_tfeat"],
        temporal_endpoints="tef" in options["ctx_mode"],
        video_dim=sizes.video_dim,
        audio_dim=sizes.audio_dim,
        text_dim=sizes.text_dim,
        clip_length_s=options["clip_length"],
    )
