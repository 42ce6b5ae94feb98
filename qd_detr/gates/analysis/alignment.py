"""Do gates that vary over time follow the moments? Gate series against windows and saliency, with a shift null.

Letters: n clips of a sample, S series, K statistics, D draws, L lags (see shift_null.py).

What the null keeps is the series' own smoothness and level; what it breaks is its tie to the clock. So two things are
not told apart from following the moment: a preference of the gates for a part of the video (its middle, say) that the
moments share, and the jump where a turned series meets its own beginning, which makes slow trends a little too common
in the null. Queries of one video share its gates, or nearly, hence one draw turns them together: what repeats is the
video, and `n_videos` is the number to read beside a p value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.analysis.resampling import false_discovery
from qd_detr.gates.analysis.shift_null import COLUMNS, LAGS, N_HEADLINES, ShiftNull, ShiftTable, Target, shift_table
from qd_detr.gates.gating import gating_named
from qd_detr.gates.wording import Reason

AGAINST = ("annotation", "prediction")
DRAWS = 2000
LEVEL = 0.95


class SeriesKey(NamedTuple):
    """Names one series of a sample: which layer, which gate, and what of it ("magnitude", "injection")."""

    layer: int
    kind: str  # Gate.kind
    name: str


@dataclass(frozen=True)
class _Sample:
    vid: str
    values: NDArray[np.float32]  # (S, n)
    targets: dict[str, Target]


def clips_inside(windows_s: Sequence[Sequence[float]], n_clips: int, clip_length_s: float) -> NDArray[np.bool_]:
    """Return which of `n_clips` clips have their centre in one of `windows_s` [start, end) in seconds."""
    if len(windows_s) == 0:
        return np.zeros(n_clips, dtype=bool)
    windows = np.array([list(window[:2]) for window in windows_s], dtype=np.float64)  # a score may follow
    if windows.shape[1:] != (2,) or not np.isfinite(windows).all() or (windows[:, 0] > windows[:, 1]).any():
        raise ValueError(f"windows must be [start, end] in seconds with start <= end, got {windows.tolist()}")
    centres_s = (np.arange(n_clips) + 0.5) * clip_length_s
    within = (windows[:, :1] <= centres_s) & (centres_s < windows[:, 1:])  # (windows, n)
    return np.asarray(within.any(axis=0))


def clip_saliency(relevant_clip_ids: Sequence[int], scores: ArrayLike, n_clips: int) -> NDArray[np.float64]:
    """Return the annotators' summed scores per clip (n,), 0 for clips not relevant; ids beyond the video are dropped.

    Args:
        relevant_clip_ids: the clip index of each row of `scores`.
        scores: (len(relevant_clip_ids), annotators).
        n_clips: n, the valid clips of the sample.
    """
    ids, rows = np.asarray(relevant_clip_ids, dtype=np.intp), np.asarray(scores, dtype=np.float64)
    if len(rows) != len(ids) or not np.isfinite(rows).all():
        raise ValueError(f"saliency_scores has shape {rows.shape}; expected {len(ids)} rows of finite scores")
    if (ids < 0).any():
        raise ValueError(f"relevant_clip_ids holds {ids.min()}; clip indices count from 0")
    saliency = np.zeros(n_clips)
    summed = rows.sum(axis=1) if len(ids) else np.zeros(0)
    saliency[ids[ids < n_clips]] = summed[ids < n_clips]
    return saliency


class MomentAlignment:
    """Collects gate series sample by sample and reads out how they lie about the annotated and predicted moments.

    Kept are the series themselves as float32, a gate's own precision (16 series of 75 clips: 5 kB a sample): all else
    follows from them, so the readout does not depend on the order of `add` and `merge`, to the bit.

    Args:
        clip_length_s: seconds a clip.
        gating_type: where it has one gate for the whole sequence, nothing is kept, and the readout says that it does
            not apply.
    """

    def __init__(self, clip_length_s: float, gating_type: str) -> None:
        if not clip_length_s > 0:
            raise ValueError(f"clip_length_s is {clip_length_s}; expected seconds above 0")
        self.clip_length_s = clip_length_s
        self.gating = gating_named(gating_type)
        self._keys: tuple[SeriesKey, ...] = ()
        self._samples: dict[str, _Sample] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def add(
        self,
        sample_id: str,
        vid: str,
        series: Mapping[SeriesKey, ArrayLike],
        *,
        windows_s: Sequence[Sequence[float]] | None = None,
        relevant_clip_ids: Sequence[int] | None = None,
        saliency_scores: ArrayLike | None = None,
        predicted_windows_s: Sequence[Sequence[float]] | None = None,
        predicted_saliency: ArrayLike | None = None,
    ) -> None:
        """Add one sample; the same id again replaces the earlier one.

        Args:
            sample_id: unique name of the (video, query) pair.
            vid: the video; its queries are shifted together.
            series: (n,) values per valid clip, the same keys for every sample.
            windows_s: annotated [start, end]; None when the data has no labels.
            relevant_clip_ids: clip index of each row of `saliency_scores`; given together or not at all.
            saliency_scores: (relevant clips, annotators).
            predicted_windows_s: the predicted windows to hold the series against, often just the first.
            predicted_saliency: (n,) predicted score per clip.
        """
        if not self.gating.per_clip:
            return
        keys = tuple(sorted(SeriesKey(*key) for key in series))
        if not keys or (self._keys and keys != self._keys):
            raise ValueError(f"sample {sample_id} brings the series {keys}; expected {self._keys or 'at least one'}")
        rows = {len(np.atleast_1d(np.asarray(series[key]))) for key in keys}
        n = max(rows)
        if len(rows) > 1 or n == 0 or any(np.ndim(series[key]) != 1 for key in keys):
            shapes = {key: np.shape(series[key]) for key in keys}
            raise ValueError(f"the series of sample {sample_id} have shapes {shapes}; expected one (n,) with n >= 1")
        if (relevant_clip_ids is None) != (saliency_scores is None):
            raise ValueError(f"sample {sample_id}: give relevant_clip_ids and saliency_scores together, or neither")
        annotated = predicted = None
        if relevant_clip_ids is not None and saliency_scores is not None:
            annotated = clip_saliency(relevant_clip_ids, saliency_scores, n)
        if predicted_saliency is not None:
            predicted = np.asarray(predicted_saliency, dtype=np.float64)
            if predicted.shape != (n,) or not np.isfinite(predicted).all():
                raise ValueError(f"predicted_saliency of sample {sample_id} is {predicted}; expected {n} finite scores")
        targets = {
            "annotation": self._target(windows_s, annotated, n),
            "prediction": self._target(predicted_windows_s, predicted, n),
        }
        values = np.stack([np.asarray(series[key], dtype=np.float32) for key in keys])  # (S, n)
        self._keys = keys
        self._samples[sample_id] = _Sample(vid, values, targets)

    def _target(
        self, windows_s: Sequence[Sequence[float]] | None, saliency: NDArray[np.float64] | None, n: int
    ) -> Target:
        inside = None if windows_s is None else clips_inside(windows_s, n, self.clip_length_s)
        return Target(inside, saliency)

    def merge(self, other: MomentAlignment) -> None:
        """Take in the samples of `other`, which must have the same settings and none of the same ids."""
        if (self.clip_length_s, self.gating.name) != (other.clip_length_s, other.gating.name):
            raise ValueError(
                f"cannot merge {other.gating.name} gates over clips of {other.clip_length_s} s into "
                f"{self.gating.name} gates over clips of {self.clip_length_s} s"
            )
        if self._keys and other._keys and self._keys != other._keys:
            raise ValueError(f"cannot merge the series {other._keys} into {self._keys}")
        twice = sorted(self._samples.keys() & other._samples.keys())
        if twice:
            raise ValueError(f"{len(twice)} samples are in both parts, {twice[0]} among them; add each only once")
        self._keys = self._keys or other._keys
        self._samples |= other._samples

    def readout(
        self, seed: int, *, groups: Mapping[str, str] | None = None, draws: int = DRAWS, level: float = LEVEL
    ) -> dict[str, Any]:
        """Return effects, null bands and p values, ready for JSON.

        Args:
            seed: of the shifts drawn for the null; the same seed gives the same numbers.
            groups: per video its group ("open", "closed"), where videos fall into groups.
            draws: how many sets of shifts, one per video, are drawn.
            level: share of the null inside the band.

        Returns:
            {"applies": False, "reason"} for global gates or without samples; else {"applies": True, "draws", "seed",
            "level", "clip_length_s", "n_samples", "n_videos", "annotation", "prediction"}. Each of the last two is
            {"applies": False, "reason"} or {"applies": True, "n_tests", "series": [...], "groups"}. A series is {"layer",
            "kind", "series", "inside_minus_outside", "saliency_correlation", "around_starts", "around_ends"}; "groups"
            {group: the same list of the group's videos alone, without profiles}, empty with one group. The first two
            statistics hold "effect" (mean over samples), "null_mean", "null_low", "null_high" (band of the mean under
            the null), "p", "adjusted_p" (Benjamini-Hochberg over both statistics of all series and groups, `n_tests`
            in all), "n_samples", "n_videos", "dropped" {reason: samples}. The profiles hold lists per lag for the same
            keys and "lags_clips"; the series are centred per sample, lag 0 is the first clip inside for starts, the
            first after the window for ends; "p_any_lag" judges the largest deviation over lags at once. p is
            two-sided, (1 + draws at least as far from 0) / (1 + draws). Not a number becomes None.
        """
        if not self.gating.per_clip:
            return {"applies": False, "reason": Reason("alignment.global")}
        if not self._samples:
            return {"applies": False, "reason": Reason("alignment.no_sample")}
        if draws < 1 or not 0 < level < 1:
            raise ValueError(f"draws is {draws} and level {level}; expected draws >= 1 and a level between 0 and 1")
        head = {
            "applies": True,
            "draws": draws,
            "seed": seed,
            "level": level,
            "clip_length_s": self.clip_length_s,
            "n_samples": len(self._samples),
            "n_videos": len({sample.vid for sample in self._samples.values()}),
        }
        settings = {"seed": seed, "draws": draws}
        return head | {against: self._against(against, groups or {}, settings, level) for against in AGAINST}

    def _against(
        self, against: str, groups: Mapping[str, str], settings: dict[str, int], level: float
    ) -> dict[str, Any]:
        targets = [sample.targets[against] for sample in self._samples.values()]
        if all(target.inside is None and target.saliency is None for target in targets):
            return {"applies": False, "reason": Reason(f"alignment.no_{against}")}
        null = ShiftNull(len(self._keys), **settings)
        of_group = {
            group: ShiftNull(len(self._keys), n_statistics=N_HEADLINES, **settings)
            for group in dict.fromkeys(groups.values())
        }
        for samples in self._by_video():
            tables: list[ShiftTable] = [shift_table(sample.values, sample.targets[against]) for sample in samples]
            null.add_video(tables)
            if samples[0].vid in groups:
                of_group[groups[samples[0].vid]].add_video(tables)
        series = self._records(null, level)
        by_group = {group: self._records(mine, level) for group, mine in of_group.items()}
        n_tests = _control([*series, *(one for mine in by_group.values() for one in mine)])
        return {"applies": True, "n_tests": n_tests, "series": series, "groups": by_group}

    def _records(self, null: ShiftNull, level: float) -> list[dict[str, Any]]:
        return [
            {"layer": key.layer, "kind": key.kind, "series": key.name} | figures
            for key, figures in zip(self._keys, _figures(null, level), strict=True)
        ]

    def _by_video(self) -> Iterator[list[_Sample]]:
        """Yield the samples that are shifted together, in an order that does not depend on how they came in.

        Queries that saw different numbers of clips of one video cannot turn together and count as two groups.
        """
        groups: dict[tuple[str, int], list[_Sample]] = {}
        for _, sample in sorted(self._samples.items()):
            groups.setdefault((sample.vid, sample.values.shape[1]), []).append(sample)
        for group in sorted(groups):
            yield groups[group]


def _figures(null: ShiftNull, level: float) -> Iterator[dict[str, Any]]:
    """Yield the readout of each series."""
    observed, drawn = null.means()  # (S, K), (D, S, K)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)  # (S, K) each
    columns = {
        "null_mean": drawn.mean(axis=0),
        "null_low": low,
        "null_high": high,
        "p": _p_values(observed, drawn),
        "n_samples": null.n_samples,
        "n_videos": null.n_videos,
    }
    for index in range(len(observed)):
        figures: dict[str, Any] = {}
        for name, where in COLUMNS.items():
            if where.stop > null.n_statistics:
                continue
            read = {key: _plain(values[index, where]) for key, values in columns.items()}
            effect = _plain(observed[index, where])
            dropped = {r: n for (i, which, r), n in sorted(null.dropped.items()) if (i, which) == (index, name)}
            if name.startswith("around"):
                any_lag = _plain([_p_any(observed[index, where], drawn[:, index, where])])[0]
                profile = {"lags_clips": list(LAGS), "effect": effect, **read}
                figures[name] = profile | {"p_any_lag": any_lag, "dropped": dropped}
            else:
                figures[name] = {"effect": effect[0], **{k: v[0] for k, v in read.items()}, "dropped": dropped}
        yield figures


def _control(records: Sequence[dict[str, Any]]) -> int:
    """Add to every headline statistic its p after Benjamini-Hochberg over all of them; return how many tests these are."""
    headlines = [name for name, where in COLUMNS.items() if where.stop <= N_HEADLINES]
    tested = [record[name] for record in records for name in headlines]
    control = false_discovery([one["p"] for one in tested])
    for one, adjusted in zip(tested, control["adjusted"], strict=True):
        one["adjusted_p"] = adjusted
    return control["n_tests"]


def _p_values(observed: NDArray[np.float64], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return two-sided p values about the exact null mean, 0; NaN where nothing was observed."""
    # Turns that repeat a series give the observed value again but for rounding: they count as equal to it.
    reached = np.abs(drawn) >= np.abs(observed) * (1 - 1e-9)
    return np.where(np.isnan(observed), np.nan, (1 + reached.sum(axis=0)) / (1 + len(drawn)))


def _p_any(observed: NDArray[np.float64], drawn: NDArray[np.float64]) -> float:
    """Return the p value of the largest standardised deviation over lags, `observed` (L,) and `drawn` (D, L)."""
    seen = ~np.isnan(observed)
    if not seen.any():
        return float("nan")
    spread = drawn[:, seen].std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    largest = np.abs(observed[seen] / scale).max()
    return float(_p_values(largest, np.abs(drawn[:, seen] / scale).max(axis=1)))


def _plain(values: ArrayLike) -> list[float | int | None]:
    return [None if np.isnan(value) else value for value in np.asarray(values).tolist()]
