"""Groups of samples whose gate profiles are alike: `cluster_profiles` computes, `plot_clustering` draws `gate_clustering`.

Letters: S samples, F features (a mean gate per layer and kind, say), G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from qd_detr.gates.figures import style
from qd_detr.gates.figures.style import FigureScale, in_house_style
from qd_detr.gates.figures.wording import figure_texts
from qd_detr.gates.wording import Reason

FloatArray = NDArray[np.float64]
MIN_SAMPLES = 10
MAX_GROUPS = 8
# Kaufman & Rousseeuw (1990), table 4: an average silhouette of at most 0.25 means "no substantial structure".
MIN_SILHOUETTE = 0.25
_SILHOUETTE_SAMPLES = 3000  # the silhouette is quadratic in the samples; more are drawn from at random, seeded
_GROUP_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#222222")
_GROUP_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True, eq=False)
class ProfileGroups:
    """Groups found; group 0 is the largest.

    Attributes:
        labels: Group of each sample, (S,).
        sizes: Samples per group, (G,).
        centres: Mean profile of each group, (G, F).
        silhouette: Average silhouette of the chosen number of groups.
        silhouettes: Average silhouette of every number of groups that was tried.
        coordinates: The samples on the first two principal components, (S, 2).
        explained: Share of the variance on each of the two, (2,).
    """

    labels: NDArray[np.intp]
    sizes: NDArray[np.intp]
    centres: FloatArray
    silhouette: float
    silhouettes: Mapping[int, float]
    coordinates: FloatArray
    explained: FloatArray

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.sizes)


@dataclass(frozen=True)
class NoGroups:
    """Why there are no groups."""

    reason: Reason


def cluster_profiles(features: ArrayLike, seed: int = 0, max_groups: int = MAX_GROUPS) -> ProfileGroups | NoGroups:
    """Group samples with alike profiles by k-means; the number of groups is the one with the largest silhouette.

    The features are taken as they are: gates of one range need no scaling, and scaling a layer that hardly varies
    would make groups of noise.

    Args:
        features: (S, F), one profile a row.
        seed: The same seed and features give the same groups.
        max_groups: The largest number tried.

    Returns:
        The groups, or why there are none.
    """
    values = np.asarray(features, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"features must be (samples, features), got {values.shape}")
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import silhouette_score
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:
        return NoGroups(Reason("groups.library"))
    if len(values) < MIN_SAMPLES:
        return NoGroups(Reason("groups.samples", {"least": MIN_SAMPLES, "n": len(values)}))
    if not np.isfinite(values).all():
        odd = int((~np.isfinite(values).all(axis=1)).sum())
        return NoGroups(Reason("groups.not_finite_1" if odd == 1 else "groups.not_finite", {"n": odd}))
    # Differences below 1e-6 are the noise floor of float32 gates, no property of the samples.
    distinct = len(np.unique(np.round(values, 6), axis=0))
    if distinct < 4:
        return NoGroups(Reason("groups.distinct", {"least": 4, "n": distinct}))
    tried: dict[int, float] = {}
    found: dict[int, NDArray[np.intp]] = {}
    # One thread: the same groups to the bit on any machine, and on so little data also the quicker way.
    with threadpool_limits(1):
        for k in range(2, min(max_groups, distinct - 1) + 1):
            found[k] = KMeans(n_clusters=k, n_init=10, random_state=seed).fit_predict(values)
            sample_size = _SILHOUETTE_SAMPLES if len(values) > _SILHOUETTE_SAMPLES else None
            tried[k] = float(silhouette_score(values, found[k], sample_size=sample_size, random_state=seed))
    best = max(tried, key=lambda k: (tried[k], -k))
    if tried[best] <= MIN_SILHOUETTE:
        found_best = {"best": tried[best], "groups": best, "n": len(values), "limit": MIN_SILHOUETTE}
        return NoGroups(Reason("groups.silhouette", found_best))
    sizes = np.bincount(found[best], minlength=best)
    by_size = np.argsort(-sizes, kind="stable")
    labels = np.argsort(by_size)[found[best]]
    coordinates, explained = _principal_components(values)
    centres = np.stack([values[labels == group].mean(axis=0) for group in range(best)])
    return ProfileGroups(labels, sizes[by_size], centres, tried[best], tried, coordinates, explained)


def _principal_components(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    centred = values - values.mean(axis=0)
    _, strengths, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.where(axes[:2][np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)] < 0, -1, 1)[:, None]
    coordinates = np.zeros((len(values), 2))
    coordinates[:, : len(axes)] = centred @ axes.T
    explained = np.zeros(2)
    explained[: len(axes)] = (strengths**2 / (strengths**2).sum())[:2]
    return coordinates, explained


@dataclass(frozen=True, eq=False)
class ClusteringData:
    """What `gate_clustering` shows.

    Attributes:
        groups: The groups.
        feature_names: A name per feature, as "attention 0"; as many as the profiles have.
        gating_type: A name from `gating.GATING_TYPES`.
        n_videos: Videos behind the samples, if known.
        what: What a feature is, for the caption.
    """

    groups: ProfileGroups
    feature_names: Sequence[str]
    gating_type: str
    n_videos: int | None = None
    what: str = "a sample's mean gate of each layer"


@in_house_style
def plot_clustering(data: ClusteringData, scale: FigureScale | None = None) -> Figure:
    """Draw groups of samples: where they lie, their mean profiles, and how their number was chosen."""
    scale = scale or FigureScale()
    groups = data.groups
    n_features = len(data.feature_names)
    if n_features != groups.centres.shape[1]:
        raise ValueError(f"needs {groups.centres.shape[1]} feature names, got {n_features}")
    profile_height = 0.3 * groups.n_groups
    crowded = n_features > 10
    videos = f" of {figure_texts('en').counted(data.n_videos, 'video')}" if data.n_videos is not None else ""
    caption = style.caption_lines(
        scale.texts,
        f"n = {figure_texts('en').counted(len(groups.labels), 'sample')}{videos}; {data.gating_type} gates. "
        f"Profile: {data.what}. "
        "Groups by k-means, their number by the largest average silhouette; below the dashed line there is no structure.",
        scale.texts("sign_caveat"),
    )
    height = 0.66 + 2.3 + 0.95 + profile_height + (0.75 if crowded else 0.32) + style.caption_height(caption)
    figure = style.new_figure(height)
    style.add_heading(figure, "Groups of samples with alike gate profiles")
    axes = style.add_axes_inches(figure, 0.65, 0.66, 3.6, 2.3)
    _draw_map(axes, groups)
    axes = style.add_axes_inches(figure, 5.0, 0.66, 2.0, 2.3)
    _draw_silhouettes(axes, groups)
    left = 1.35
    axes = style.add_axes_inches(figure, left, 0.66 + 2.3 + 0.95, style.PAGE_WIDTH_IN - left - 0.75, profile_height)
    limit = max(scale.gate_limit, style.largest(np.abs(groups.centres)))
    image = axes.imshow(groups.centres, aspect="auto", cmap=style.GATE_COLOURS, vmin=-limit, vmax=limit)
    axes.set_title("Mean profile of each group")
    style.set_row_ticks(
        axes, [f"{name} (n = {size:,})" for name, size in zip(_names(groups), groups.sizes, strict=True)]
    )
    axes.set_xticks(np.arange(n_features), data.feature_names, rotation=90 if crowded else 0, fontsize=7)
    axes.tick_params(axis="x", length=0)
    axes.spines[:].set_visible(False)
    if n_features <= 16:
        for (row, column), value in np.ndenumerate(groups.centres):
            ink = "white" if abs(value) > 0.75 * limit else "black"
            axes.text(column, row, style.signed(float(value)), ha="center", va="center", size=6.8, color=ink)
    bar_axes = style.add_axes_inches(figure, style.PAGE_WIDTH_IN - 0.62, 0.66 + 2.3 + 0.95, 0.1, profile_height)
    bar = figure.colorbar(image, cax=bar_axes, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([style.plain(-limit, 1), "0", style.plain(limit, 1)])
    bar.ax.tick_params(labelsize=7)
    style.add_caption(figure, caption)
    return figure


def _names(groups: ProfileGroups) -> list[str]:
    return [f"group {chr(ord('A') + group)}" for group in range(groups.n_groups)]


def _draw_map(axes: Axes, groups: ProfileGroups) -> None:
    n = len(groups.labels)
    size, alpha = (22, 0.85) if n <= 100 else (10, 0.55) if n <= 600 else (6, 0.45)
    for group, name in enumerate(_names(groups)):
        points = groups.coordinates[groups.labels == group]
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            alpha=alpha,
            linewidths=0,
            color=_GROUP_COLOURS[group % 8],
            marker=_GROUP_MARKERS[group % 8],
            label=f"{name}, n = {groups.sizes[group]:,}",
            zorder=3,
        )
    axes.grid()
    axes.set_title("Samples on the two main axes of difference")
    axes.set_xlabel(f"1st principal component ({groups.explained[0]:.0%} of variance)")
    axes.set_ylabel(f"2nd ({groups.explained[1]:.0%})")
    low, high = axes.get_ylim()
    # Head room for the legend, which would otherwise lie on points.
    axes.set_ylim(low, high + (high - low) * 0.12 * np.ceil(groups.n_groups / 2))
    legend = axes.legend(
        loc="upper left", ncols=2, columnspacing=1.0, handletextpad=0.3, markerscale=1.8 if n > 100 else 1
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _draw_silhouettes(axes: Axes, groups: ProfileGroups) -> None:
    ks = sorted(groups.silhouettes)
    values = [groups.silhouettes[k] for k in ks]
    axes.plot(ks, values, color=style.NEUTRAL_COLOUR, marker="o", markersize=4, linewidth=1)
    axes.plot([groups.n_groups], [groups.silhouette], "o", color=style.ATTENTION_COLOUR, markersize=7)
    axes.annotate(
        f"{groups.n_groups} groups: {groups.silhouette:.2f}",
        (groups.n_groups, groups.silhouette),
        xytext=(0, 7),
        textcoords="offset points",
        ha="left" if groups.n_groups < ks[-1] - 1 else "right",
        size=7.5,
    )
    axes.axhline(MIN_SILHOUETTE, color=style.FAINT_COLOUR, linestyle=(0, (3, 2)), linewidth=0.9)
    axes.set_ylim(min(0.0, *values), 1.08)
    axes.set_xlim(ks[0] - 0.5, ks[-1] + 0.5)
    axes.set_xticks(ks)
    axes.set_title("How many groups")
    axes.set_xlabel("number of groups")
    axes.set_ylabel("average silhouette")
