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
from qd_detr.gates.figures.wording import FigureTexts
from qd_detr.gates.wording import Reason

FloatArray = NDArray[np.float64]
MIN_SAMPLES = 10
MAX_GROUPS = 8
# Kaufman & Rousseeuw (1990), table 4: an average silhouette of at most 0.25 means "no substantial structure".
MIN_SILHOUETTE = 0.25
_SILHOUETTE_SAMPLES = 3000  # the silhouette is quadratic in the samples; more are drawn from at random, seeded
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
        features: Kind of gate and layer of each feature; those of a kind stand together.
        quantity: What a feature is: "injection" or "magnitude", a sample's mean of it.
        gating_type: A name from `gating.GATING_TYPES`.
        n_videos: Videos behind the samples, if known.
    """

    groups: ProfileGroups
    features: Sequence[tuple[str, int]]
    quantity: str
    gating_type: str
    n_videos: int | None = None


_TOP_IN, _MAP_IN, _BETWEEN_IN = 0.66, 2.3, 1.0


@in_house_style
def plot_clustering(data: ClusteringData, scale: FigureScale | None = None) -> Figure:
    """Draw groups of samples: where they lie, their mean profiles, and how their number was chosen.

    Raises:
        ValueError: There are not as many features as the profiles have.
    """
    texts = (scale or FigureScale()).texts
    groups = data.groups
    if len(data.features) != groups.centres.shape[1]:
        raise ValueError(f"needs {groups.centres.shape[1]} features, got {len(data.features)}")
    profile_height = 0.3 * groups.n_groups
    caption = style.caption_lines(
        texts,
        texts(
            "clustering.about",
            samples=texts.n_samples(len(groups.labels), data.n_videos),
            gating=data.gating_type,
            quantity=texts(f"clustering.{data.quantity}"),
        ),
        texts("patterns.about_injection", formula=style.INJECTION_FORMULA) if data.quantity == "injection" else "",
    )
    figure = style.new_figure(_TOP_IN + _MAP_IN + _BETWEEN_IN + profile_height + 0.45 + style.caption_height(caption))
    style.add_heading(figure, texts("clustering.heading"))
    _draw_map(style.add_axes_inches(figure, 0.65, _TOP_IN, 3.6, _MAP_IN), groups, texts)
    _draw_silhouettes(style.add_axes_inches(figure, 5.0, _TOP_IN, 2.0, _MAP_IN), groups, texts)
    _draw_profiles(figure, data, _TOP_IN + _MAP_IN + _BETWEEN_IN, profile_height, texts)
    style.add_caption(figure, caption)
    return figure


def _names(groups: ProfileGroups, texts: FigureTexts) -> list[str]:
    return [texts("clustering.group", letter=style.group_letter(group)) for group in range(groups.n_groups)]


def _draw_profiles(figure: Figure, data: ClusteringData, top: float, height: float, texts: FigureTexts) -> None:
    """Draw the groups' mean profiles, a block of layers per kind of gate, on one scale from 0."""
    groups, left, gap, bar_room = data.groups, 1.35, 0.16, 0.75
    kinds = list(dict.fromkeys(kind for kind, _ in data.features))
    unit = (style.PAGE_WIDTH_IN - left - bar_room - gap * (len(kinds) - 1)) / len(data.features)
    limit = style.round_up(style.largest(groups.centres))
    above = 1 - (top - 0.34) / figure.get_size_inches()[1]
    title = texts("clustering.profile", quantity=texts(f"clustering.{data.quantity}"))
    figure.text(left / style.PAGE_WIDTH_IN, above, title, size=8.5, weight="bold", va="bottom")
    place = left
    for kind in kinds:
        columns = [index for index, (of, _) in enumerate(data.features) if of == kind]
        axes = style.add_axes_inches(figure, place, top, unit * len(columns), height)
        centres = groups.centres[:, columns]
        image = axes.imshow(centres, aspect="auto", cmap=style.MAGNITUDE_COLOURS, vmin=0, vmax=limit)
        axes.set_title(texts.gate_title(kind), fontsize=8, fontweight="normal", pad=3)
        step = max(1, int(np.ceil(0.16 / unit)))
        axes.set_xticks(np.arange(0, len(columns), step), [str(data.features[one][1]) for one in columns[::step]])
        axes.set_xlabel(texts("layers_axis"), labelpad=1)
        axes.tick_params(axis="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_yticks([])
        if place == left:
            rows = zip(_names(groups, texts), groups.sizes, strict=True)
            style.set_row_ticks(axes, [texts("clustering.row", group=name, n=f"{size:,}") for name, size in rows])
        if unit >= 0.34:
            for (row, column), value in np.ndenumerate(centres):
                ink = "black" if value > 0.6 * limit else "white"
                axes.text(column, row, style.plain(float(value)), ha="center", va="center", size=6.8, color=ink)
        place += unit * len(columns) + gap
    bar_axes = style.add_axes_inches(figure, style.PAGE_WIDTH_IN - 0.62, top, 0.1, height)
    bar = figure.colorbar(image, cax=bar_axes, ticks=[0, limit])
    bar.ax.set_yticklabels(["0", style.brief(limit)])
    bar.ax.tick_params(labelsize=7)


def _draw_map(axes: Axes, groups: ProfileGroups, texts: FigureTexts) -> None:
    n = len(groups.labels)
    size, alpha = (22, 0.85) if n <= 100 else (10, 0.55) if n <= 600 else (6, 0.45)
    for group, name in enumerate(_names(groups, texts)):
        points = groups.coordinates[groups.labels == group]
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            alpha=alpha,
            linewidths=0,
            color=style.group_colour(group),
            marker=_GROUP_MARKERS[group % 8],
            label=texts("clustering.entry", group=name, n=f"{groups.sizes[group]:,}"),
            zorder=3,
        )
    axes.grid()
    axes.set_title(texts("clustering.map"))
    first, second = (texts("percent", value=f"{100 * share:.0f}") for share in groups.explained)
    axes.set_xlabel(texts("clustering.first", share=first))
    axes.set_ylabel(texts("clustering.second", share=second))
    low, high = axes.get_ylim()
    # Head room for the legend, which would otherwise lie on points.
    axes.set_ylim(low, high + (high - low) * 0.12 * np.ceil(groups.n_groups / 2))
    legend = axes.legend(
        loc="upper left", ncols=2, columnspacing=1.0, handletextpad=0.3, markerscale=1.8 if n > 100 else 1
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _draw_silhouettes(axes: Axes, groups: ProfileGroups, texts: FigureTexts) -> None:
    ks = sorted(groups.silhouettes)
    values = [groups.silhouettes[k] for k in ks]
    axes.plot(ks, values, color=style.NEUTRAL_COLOUR, marker="o", markersize=4, linewidth=1)
    axes.plot([groups.n_groups], [groups.silhouette], "o", color=style.ATTENTION_COLOUR, markersize=7)
    axes.annotate(
        texts("clustering.chosen", n=groups.n_groups, silhouette=f"{groups.silhouette:.2f}"),
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
    axes.set_title(texts("clustering.how_many"))
    axes.set_xlabel(texts("clustering.number"))
    axes.set_ylabel(texts("clustering.silhouette"))
