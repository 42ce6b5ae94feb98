"""What differs between data sets: how their features are stored, and what their annotations say."""

from __future__ import annotations

from dataclasses import dataclass

from qd_detr.gates.errors import RequestError


@dataclass(frozen=True)
class Ratings:
    """Labels that are scores per clip, (clips, raters): `raters` of them (None: any number), each low..high."""

    raters: int | None
    low: float
    high: float


@dataclass(frozen=True)
class Dataset:
    """A data set's facts.

    Attributes:
        name: what the option dset_name calls it; aliases: what other code bases call data of the same kind.
        video_stems: the files that each video folder has for a vid, without suffix; `video_suffix` is the usual one.
        text_stems: the files that may hold a query's text, the usual one first.
        video_key, text_key, audio_key: the array's name in an .npz.
        normalizes_text: False if its tokens were never normalised, whatever the options say.
        ratings: what its labels are, if not windows and scored clips; only saliency is judged then.
    """

    name: str
    aliases: tuple[str, ...] = ()
    video_stems: tuple[str, ...] = ("{vid}",)
    video_suffix: str = ".npz"
    video_key: str = "features"
    text_stems: tuple[str, ...] = ("qid{qid}", "{qid}")
    text_key: str = "last_hidden_state"
    audio_key: str = "features"
    normalizes_text: bool = True
    ratings: Ratings | None = None

    @property
    def moments(self) -> bool:
        """Whether windows are annotated and judged."""
        return self.ratings is None


_KNOWN = (
    Dataset(
        "hl",
        aliases=("qvhighlights", "qvhighlight", "charades", "charadesSTA", "charades-sta", "tacos", "activitynet"),
    ),
    Dataset(
        "tvsum",
        video_stems=("{vid}_rgb", "{vid}_opt"),
        video_suffix=".npy",
        text_stems=("{qid}", "qid{qid}"),
        text_key="token",
        normalizes_text=False,
        ratings=Ratings(20, 1, 5),
    ),
    Dataset(
        "youtube_highlight",
        aliases=("youtube", "youtube_uni", "youtube_highlights"),
        text_stems=("{qid}", "qid{qid}"),
        normalizes_text=False,
        ratings=Ratings(None, -1, 1),
    ),
)
DATASETS = tuple(dataset.name for dataset in _KNOWN)
_BY_NAME = {name: dataset for dataset in _KNOWN for name in (dataset.name, *dataset.aliases)}
DATASET_NAMES = tuple(_BY_NAME)
"""Every name that the option dset_name may have."""


def dataset_of(name: str) -> Dataset:
    """Return the data set that the option dset_name means.

    Raises:
        RequestError: it is none of those known here.
    """
    found = _BY_NAME.get(name)
    if found is None:
        raise RequestError(f"dset_name is {name!r:.60}; the data sets known here are {', '.join(DATASET_NAMES)}")
    return found
