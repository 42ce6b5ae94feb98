"""Audio that was not there: silence, the mean of the data, another video's, the video's own at another time.

What is replaced is the features as the model takes them, after normalisation. The temporal endpoints, the last two
columns, always stay those of the clip's own place; padding stays 0.

Letters: B batch, L clips (padded), n clips of a sample, A feature columns without endpoints.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.batches import iter_batches
from qd_detr.gates.data.feature_layout import ENDPOINTS_DIM
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.runs.interventions.conditions import AudioEdit
from qd_detr.gates.runs.interventions.partners import fitted_rows, other_videos, shift_of

ReadBatch = tuple[list[int], dict[str, Any]]


class AudioEdits:
    """Makes the edited audio of batch after batch.

    Args:
        edits: which are wanted.
        samples: the videos in their batches are the data that the mean and the exchange speak of.
        mean_video: whether the mean video is wanted as well.

    Reads every video's audio once before the first batch if the mean is wanted, and the other video's with each batch
    if the exchange is.

    Raises:
        RequestError: an exchange with fewer than two videos.
    """

    def __init__(self, edits: Iterable[AudioEdit], samples: Samples, *, mean_video: bool = False) -> None:
        self.edits = tuple(dict.fromkeys(edits))
        self._endpoints = ENDPOINTS_DIM if samples.spec.temporal_endpoints else 0
        self._samples = samples
        self._first: dict[str, Query] = {}
        for position in sorted(p for batch in samples.batches for p in batch):
            query = samples.queries[position]
            self._first.setdefault(query.vid, query)
        self._partners = {
            edit.seed: other_videos(list(self._first), edit.seed) for edit in self.edits if edit.mode == "shuffle"
        }
        mean_audio = any(edit.mode == "mean" for edit in self.edits)
        self._mean: NDArray[np.float32] | None = None
        self._video_mean: NDArray[np.float32] | None = None
        if mean_audio or mean_video:
            self._mean, self._video_mean = self._mean_rows()

    def batches(
        self, batches: Sequence[Sequence[int]] | None = None
    ) -> Iterator[tuple[list[int], dict[str, Any], dict[AudioEdit, Tensor]]]:
        """Yield (positions, batch, edited audio (B, L, A + endpoints) by edit) of one batch after another.

        batches: those to run, where that is not all of the data's.
        """
        batches = self._samples.batches if batches is None else batches
        strangers = {seed: self._strangers(seed, batches) for seed in self._partners}
        try:
            for positions, batch in self._samples.in_batches(batches).read_batches():
                others = {seed: next(stream)[1] for seed, stream in strangers.items()}
                yield positions, batch, {edit: self._edited(edit, batch, others) for edit in self.edits}
        finally:
            for stream in strangers.values():
                stream.close()

    def _strangers(self, seed: int, batches: Sequence[Sequence[int]]) -> Generator[ReadBatch, None, None]:
        partner_of = [self._partner(query, seed) for query in self._samples.queries]
        yield from iter_batches(partner_of, self._samples.reader, batches)

    def _partner(self, query: Query, seed: int) -> Query:
        partner = self._partners[seed].get(query.vid)
        return query if partner is None else self._first[partner]  # None: of a video that no batch holds

    def _edited(self, edit: AudioEdit, batch: dict[str, Any], others: dict[int, dict[str, Any]]) -> Tensor:
        audio, mask = batch["src_aud"], batch["src_aud_mask"]
        edited = audio.clone()
        content = edited[..., : audio.shape[-1] - self._endpoints]  # a view: (B, L, A)
        if edit.mode == "none":
            content.zero_()
        elif edit.mode == "mean":
            assert self._mean is not None
            content[:] = torch.from_numpy(self._mean) * mask[..., None]
        else:
            for b, vid in enumerate(batch["vid"]):
                n = int(mask[b].sum())
                if edit.mode == "shift":
                    content[b, :n] = content[b, :n].roll(shift_of(n, edit.seed, vid), dims=0)
                else:
                    other = others[edit.seed]
                    rows = fitted_rows(int(other["src_aud_mask"][b].sum()), n)
                    content[b, :n] = other["src_aud"][b, rows, : content.shape[-1]]
        return edited

    def mean_video(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the batch's video (B, L, Dv) with the mean of the data in every clip, each with its own endpoints."""
        assert self._video_mean is not None
        video = batch["src_vid"].clone()
        content = video[..., : video.shape[-1] - self._endpoints]
        content[:] = torch.from_numpy(self._video_mean) * batch["src_vid_mask"][..., None]
        return video

    def _mean_rows(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the means of audio and of video over all clips of the data, without endpoints."""
        totals, clips = [np.zeros(1), np.zeros(1)], 0
        for query in self._first.values():
            features = self._samples.reader.read(query)
            for i, one in enumerate((features.audio, features.video)):
                content = one[:, : one.shape[1] - self._endpoints]
                totals[i] = totals[i] + content.sum(axis=0, dtype=np.float64)
            clips += len(features.audio)
        audio, video = ((total / clips).astype(np.float32) for total in totals)
        return audio, video
