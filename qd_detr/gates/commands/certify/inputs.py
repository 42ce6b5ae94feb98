"""The real samples that a certificate is tried on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qd_detr.gates.commands.analyse import feature_spec
from qd_detr.gates.commands.certify.request import CertificateRequest
from qd_detr.gates.data.annotations import read_annotations
from qd_detr.gates.data.batches import plan_batches
from qd_detr.gates.data.feature_check import FeatureIndex, check_features
from qd_detr.gates.data.feature_layout import FeatureFolders, locate_features
from qd_detr.gates.data.features import FeatureReader
from qd_detr.gates.runs.inference import DEFAULT_BATCH_SIZE
from qd_detr.gates.weights.options import Settings


@dataclass(frozen=True)
class Samples:
    """Checked queries and a reader of their features. annotated counts the data file's queries."""

    index: FeatureIndex
    reader: FeatureReader
    folders: FeatureFolders
    annotated: int

    def __len__(self) -> int:
        return len(self.index.queries)

    def equal_length_batches(self, chosen: Sequence[int] | None = None) -> list[list[int]]:
        """Return batches in which every chosen sample (all by default) has its batch-1 value."""
        positions = range(len(self)) if chosen is None else chosen
        planned = plan_batches([self.index.clip_counts[position] for position in positions], DEFAULT_BATCH_SIZE)
        return [[positions[place] for place in batch] for batch in planned]


def open_samples(request: CertificateRequest, settings: Settings) -> Samples | None:
    """Return the request's samples as a model with these settings takes them; None if it names no data.

    Raises:
        RequestError: annotations or features that cannot be used.
    """
    if request.data_path is None:
        return None
    spec = feature_spec(settings)
    queries = read_annotations(request.data_path, spec.dset_name, settings.options["dset_domain"])
    folders = locate_features(
        spec,
        data_path=request.data_path,
        checkpoint_path=request.model_path,
        feature_root=request.feature_root,
        v_feat_dirs=request.v_feat_dirs,
        t_feat_dir=request.t_feat_dir,
        a_feat_dir=request.a_feat_dir,
    )
    index = check_features(queries, folders, spec, skip_missing=request.skip_missing, progress=not request.quiet)
    return Samples(index, FeatureReader(folders, spec, index), folders, len(queries))
