"""The queries of a data file that can be run, with everything a run needs of them; made in one place."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qd_detr.gates.data.annotations import Query, read_annotations
from qd_detr.gates.data.batches import iter_batches, plan_batches
from qd_detr.gates.data.coverage import Coverage, coverage_of, refuse_other_clip_length
from qd_detr.gates.data.feature_check import FeatureIndex, MissingFeaturesError, check_features, write_missing_list
from qd_detr.gates.data.feature_layout import FeatureFolders, FeatureSpec
from qd_detr.gates.data.feature_search import FeatureSources, found_elsewhere, locate_features
from qd_detr.gates.data.features import FeatureReader
from qd_detr.gates.errors import first_few

logger = logging.getLogger(__name__)

# Large enough for matrix products at full speed on two cores, small enough that a batch of elementwise gates is 20 MB.
DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class Samples:
    """Checked queries, a reader of their features, and the batches in which they are to be run.

    Attributes:
        index: what the check found out about them. batches: positions in `queries`.
    """

    index: FeatureIndex
    reader: FeatureReader
    batches: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def queries(self) -> list[Query]:
        """The queries, in the data file's order."""
        return self.index.queries

    @property
    def clip_counts(self) -> list[int]:
        """Each query's clips, as the model takes them."""
        return self.index.clip_counts

    @property
    def left_out(self) -> list[int | str]:
        """The ids of the queries that were asked for and lack a feature file, each once."""
        return list(dict.fromkeys(qid for qid, _ in self.index.missing))

    @cached_property
    def coverage(self) -> Coverage:
        """How much of the videos the model sees."""
        return coverage_of(self.index.videos, self.queries, self.spec)

    @property
    def folders(self) -> FeatureFolders:
        """Where the features are."""
        return self.reader.folders

    @property
    def spec(self) -> FeatureSpec:
        """What the model wants of them."""
        return self.reader.spec

    def in_batches(self, batches: Sequence[Sequence[int]]) -> Samples:
        """Return the same samples, to be run in these batches; positions that none holds are not run."""
        return replace(self, batches=batches)

    def planned(self, batch_size: int, *, mixed_lengths: bool = False) -> Samples:
        """Return the same samples in batches of this size; see `plan_batches`."""
        return self.in_batches(plan_batches(self.clip_counts, batch_size, mixed_lengths=mixed_lengths))

    def chosen(self, positions: Sequence[int], batch_size: int = DEFAULT_BATCH_SIZE) -> Samples:
        """Return the same samples in batches of equal clip count that hold `positions` alone."""
        planned = plan_batches([self.clip_counts[position] for position in positions], batch_size)
        return self.in_batches([[positions[place] for place in batch] for batch in planned])

    def read_batches(self) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Yield (positions, the model's batch) of one batch after another; see `iter_batches`."""
        return iter_batches(self.queries, self.reader, self.batches)


def open_samples(
    spec: FeatureSpec,
    sources: FeatureSources,
    queries: Sequence[Query] | None = None,
    *,
    skip_missing: bool = False,
    missing_list: Path | None = None,
    progress: bool = False,
) -> Samples:
    """Return the samples of a data file as a model takes them, every feature file checked by its header.

    Args:
        queries: those of the file that are wanted; all by default.

    The others as for `check_samples`.

    Raises:
        RequestError: annotations or features that are missing or cannot be used.
    """
    if queries is None:
        queries = read_annotations(sources.data_path, spec.dset_name, spec.dset_domain)
    folders = locate_features(spec, sources)
    try:
        return check_samples(
            queries, folders, spec, skip_missing=skip_missing, missing_list=missing_list, progress=progress
        )
    except MissingFeaturesError as error:
        lacking = {str(qid) for qid, _ in error.missing}
        first = next(query for query in queries if str(query.qid) in lacking)
        elsewhere = found_elsewhere(first, folders, spec, sources)
        if elsewhere:
            error.args = (f"{error}; those of qid {first.qid} are in {first_few(elsewhere)}",)
        raise


def check_samples(
    queries: Sequence[Query],
    folders: FeatureFolders,
    spec: FeatureSpec,
    *,
    skip_missing: bool = False,
    missing_list: Path | None = None,
    progress: bool = False,
    reader: type[FeatureReader] = FeatureReader,
    what: str = "queries",
) -> Samples:
    """Return queries whose features were checked, in batches of equal clip count: every sample has its batch-1 value.

    Args:
        skip_missing: leave queries that lack a file out; a warning says how many.
        missing_list: file to write the missing files' paths to, also if they end the run.
        progress: show a bar on a terminal if it takes long.
        reader: the class that reads them. what: the queries, in the warning.

    Raises:
        RequestError: features that are missing or cannot be used.
    """
    try:
        index = check_features(queries, folders, spec, skip_missing=skip_missing, progress=progress)
    except MissingFeaturesError as error:
        if missing_list is not None:
            write_missing_list(error.missing, missing_list)
        raise
    if missing_list is not None:
        write_missing_list(index.missing, missing_list)
    if spec.dataset.moments:
        refuse_other_clip_length(index.videos, spec)
    samples = Samples(index, reader(folders, spec, index), ()).planned(DEFAULT_BATCH_SIZE)
    if samples.left_out:
        logger.warning(
            "%d of %d %s lack features and are left out (--skip_missing): qid %s",
            len(samples.left_out),
            len(queries),
            what,
            first_few(samples.left_out),
        )
    _warn_of_cuts(samples)
    return samples


def _warn_of_cuts(samples: Samples) -> None:
    coverage, videos = samples.coverage, len(samples.index.videos)
    for cut, sentence in (
        (coverage.short_audio, "audio features shorter than their video features, and are cut to these"),
        (coverage.short_video, "video features that end before the video does"),
        (coverage.long_video, "more features than their annotated duration holds"),
        (coverage.cut, f"more than max_v_l = {samples.spec.max_v_l} clips, which are all that the model sees"),
    ):
        if cut:
            logger.warning("%d of %d videos have %s: %s", len(cut), videos, sentence, first_few(cut))
