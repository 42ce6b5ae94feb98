"""The two splits of a training run, and the batches of an epoch as a function of seed and epoch alone.

Letters: B batch, L clips, n clips of one video.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qd_detr.gates.data.annotations import Query, read_annotations
from qd_detr.gates.data.feature_headers import Header, read_header
from qd_detr.gates.data.feature_layout import ENDPOINTS_DIM, FeatureFolders, FeatureSpec, Role, files_of
from qd_detr.gates.data.feature_search import FeatureSources, locate_features
from qd_detr.gates.data.features import FeatureIndex, FeatureReader, Features
from qd_detr.gates.data.samples import Samples, check_samples
from qd_detr.gates.errors import DataError, RequestError, first_few
from qd_detr.gates.train.targets import QueryTargets, Targets, collate_targets, query_targets

logger = logging.getLogger(__name__)

# Features that fit are kept in memory after the first epoch; reading thousands of small files costs more than using them.
CACHE_BYTES = 2 * 1024**3


class CachingReader(FeatureReader):
    """A reader that keeps what it read, up to `CACHE_BYTES` in all."""

    def __init__(self, folders: FeatureFolders, spec: FeatureSpec, index: FeatureIndex) -> None:
        super().__init__(folders, spec, index)
        self._kept: dict[str, Features] = {}
        self._free_bytes = CACHE_BYTES

    def read(self, query: Query) -> Features:
        """Return the query's features; see `FeatureReader.read`."""
        kept = self._kept.get(str(query.qid))
        if kept is not None:
            return kept
        features = super().read(query)
        size = features.video.nbytes + features.audio.nbytes + features.text.nbytes
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._kept[str(query.qid)] = features
        return features


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of a split, and what is needed to make their targets."""

    samples: Samples
    clip_length_s: float
    max_windows: int

    @property
    def queries(self) -> list[Query]:
        """The usable queries, in file order."""
        return self.samples.queries

    def targets(self, position: int, rng: np.random.Generator) -> QueryTargets:
        """Return the targets of the query at `position`."""
        return query_targets(
            self.queries[position], self.samples.clip_counts[position], self.clip_length_s, self.max_windows, rng
        )

    def batches(
        self, plan: Sequence[Sequence[int]], seed: int, epoch: int
    ) -> Iterator[tuple[list[int], dict[str, Any], Targets]]:
        """Yield (positions, model input, targets) for each batch of `plan`.

        A query's chance (its windows if there are too many, its random pair of clips) depends on seed, epoch and its
        position in the file alone: neither on batch mates nor on the process that asks.
        """
        for positions, batch in self.samples.in_batches(plan).read_batches():
            items = [self.targets(position, np.random.default_rng([seed, epoch, position])) for position in positions]
            yield positions, batch, collate_targets(items, batch["src_vid"].shape[1])


def epoch_plan(
    n_queries: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Return the positions in each batch of an epoch, shuffled by seed and epoch.

    Of several processes each takes its share of every batch; a last batch that has no query for one of them is left
    out in that epoch. A batch or a share of one query is trained on as it is, as the legacy code did: its own text
    then stands for the other text of the saliency.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_queries).tolist()
    whole = [order[start : start + batch_size] for start in range(0, n_queries, batch_size)]
    return [batch[rank::world_size] for batch in whole if len(batch) >= world_size]


def load_splits(options: Mapping[str, Any], outright: frozenset[str] = frozenset()) -> tuple[Split, Split, FeatureSpec]:
    """Return the training and the validation split, checked, and what the model takes.

    Args:
        outright: the names of feature options whose folders are to be taken as they are written. The others are also
            looked for beside the annotations, by their last component.

    Raises:
        RequestError: annotations or features that are missing or cannot be used.
    """
    train_queries, eval_queries = (_labelled_queries(options, name) for name in ("train_path", "eval_path"))
    kept = max(1, int(len(train_queries) * options["data_ratio"]))
    train_queries = train_queries[:kept]

    spec = FeatureSpec.from_options(options, _Sizes(1, 1, 1))
    named = {name: options[name] for name in ("t_feat_dir", "a_feat_dir") if name in outright and options[name]}
    sources = FeatureSources(
        Path(options["train_path"]),
        v_feat_dirs=[Path(folder) for folder in options["v_feat_dirs"]] if "v_feat_dirs" in outright else None,
        **{name: Path(folder) for name, folder in named.items()},
    )
    splits = []
    with _flags_of_the_trainer():
        folders = locate_features(spec, sources)
        spec = _with_sizes(spec, options, train_queries, folders)
        for role, queries in (("training", train_queries), ("validation", eval_queries)):
            samples = check_samples(
                queries,
                folders,
                spec,
                skip_missing=options["skip_missing"],
                progress=True,
                reader=CachingReader,
                what=f"{role} queries",
            )
            splits.append(Split(samples, spec.clip_length_s, options["max_windows"]))
    return splits[0], splits[1], spec


@contextmanager
def _flags_of_the_trainer(annotations: str = "train_path") -> Iterator[None]:
    """Let an error from below, which speaks of the analysis' flags, name those that this command has."""
    instead = {
        "--data_path": f"--{annotations}",
        "give the folder that holds the feature folders with --feature_root, or name": "name",
        " (--missing_list FILE writes all)": "",
    }
    try:
        yield
    except RequestError as error:
        message = str(error)
        for theirs, ours in instead.items():
            message = message.replace(theirs, ours)
        error.args = (message, *error.args[1:])
        raise


def _labelled_queries(options: Mapping[str, Any], name: str) -> list[Query]:
    """Return the queries of the annotations that the option `name` gives; all of them have to have labels."""
    path: str | Path = options[name]
    with _flags_of_the_trainer(name):
        queries = read_annotations(path, options["dset_name"], options["dset_domain"])
    bare = [query.qid for query in queries if not (query.labelled and query.has_saliency)]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(queries)} annotations in {path} have no labels, or windows only (qid {first_few(bare)}); "
            "training and validation need splits labelled with windows and saliency"
        )
    return queries


class _Sizes(NamedTuple):
    video_dim: int
    audio_dim: int
    text_dim: int


def _with_sizes(
    spec: FeatureSpec, options: Mapping[str, Any], queries: Sequence[Query], folders: FeatureFolders
) -> FeatureSpec:
    """Return the spec with the sizes that the options name, or else those of the first files there are."""
    endpoints = ENDPOINTS_DIM if spec.temporal_endpoints else 0
    # By legacy habit v_feat_dim leaves the endpoints out and a_feat_dim counts them.
    video = options["v_feat_dim"] or _stored_columns("video", spec, queries, folders)
    audio = options["a_feat_dim"] or _stored_columns("audio", spec, queries, folders) + endpoints
    text = options["t_feat_dim"] or _stored_columns("text", spec, queries, folders)
    return replace(spec, video_dim=video + endpoints, audio_dim=audio, text_dim=text)


def _stored_columns(role: Role, spec: FeatureSpec, queries: Sequence[Query], folders: FeatureFolders) -> int:
    """Return the columns of a role's files, all video folders together, of the first query that has them.

    1 where no query has: the check of the features then says what is missing.
    """
    for query in queries:
        headers = [read_header(file) for file in files_of(query, folders, spec).all if file.role == role]
        columns = [header.columns for header in headers if isinstance(header, Header)]
        if len(columns) == len(headers):
            return sum(columns)
    return 1
