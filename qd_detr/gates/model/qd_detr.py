"""QD-DETR with AVIGATE fusion, complete: projections, fusion, transformer, heads.

Letters: B batch, L clips, T tokens, Q slots, D hidden. Masks are 1 = real, 0 = padding.

The way through it is cut in three so that a caller can keep what does not change between runs:
`project` (features -> hidden size), `fusion.fuse` (audio into video), `decode` (everything after).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qd_detr.gates.fusion import AVIGATEFusionCustom, GateEdit, GateStep
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.attention import padding_of
from qd_detr.gates.model.heads import MLP, input_projection, inverse_sigmoid
from qd_detr.gates.model.positions import TextPosition, clip_positions, embedding, normal, whole_positions
from qd_detr.gates.model.transformer import Transformer, legacy_mixing_mask
from qd_detr.gates.tracking.api import GateTracking

Outputs = dict[str, Any]


@dataclass
class Projected:
    """Features at hidden size: video and audio (B, L, D), text (B, T, D), and the masks (B, L) and (B, T).

    `branches`: what of the fusion depends on the audio alone, by layer, once it has been computed.
    """

    video: Tensor
    audio: Tensor
    text: Tensor
    vid_mask: Tensor
    txt_mask: Tensor
    branches: dict[int, Tensor] = field(default_factory=dict)

    @property
    def pad_mask(self) -> Tensor | None:
        """The video's padding (B, L), True = padding; None if there is none."""
        return padding_of(self.vid_mask)

    def of_samples(self, videos: SharedVideos) -> Projected:
        """Return the same with a row per sample, where video, audio and their mask had one per video."""
        of = videos.of.to(self.video.device)
        return replace(self, video=self.video[of], audio=self.audio[of], vid_mask=self.vid_mask[of], branches={})

    def with_audio(self, audio: Tensor) -> Projected:
        """Return the same with another projected audio (B, L, D)."""
        return replace(self, audio=audio, branches={})


class SharedVideos(NamedTuple):
    """Which samples of a batch are about one video: its V videos stand in rows `first` (V,), `of` (B,) numbers them."""

    first: Tensor
    of: Tensor

    @classmethod
    def among(cls, vids: Sequence[str]) -> SharedVideos | None:
        """Return what is shared among the videos (B) of a batch; None if they all differ."""
        numbers = {vid: number for number, vid in enumerate(dict.fromkeys(vids))}
        if len(numbers) == len(vids):
            return None
        return cls(torch.tensor([vids.index(vid) for vid in numbers]), torch.tensor([numbers[vid] for vid in vids]))


class QDDETR(nn.Module):
    """Moment retrieval and highlight detection from video, audio and a sentence.

    Attributes:
        fusion: the gated fusion; also `avigate_fusion`. Its state-dict prefix is `fusion.`, as in legacy checkpoints.
        architecture: what it was built from.
        options: every option of the run it comes from, if it comes from a checkpoint.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        dim = a.hidden_dim
        self.architecture = a
        self.options: dict[str, Any] = {}
        # In the order in which the legacy code drew its weights: with the same seed, both start from the same ones.
        self.transformer = self._make_transformer()
        self.txt_position_embed = TextPosition(a.max_q_l, dim, a.input_dropout)
        self.span_embed = MLP(dim, dim, dim, 2)
        self.class_embed = nn.Linear(dim, 2)
        self.query_embed = embedding(a.num_queries, 2)
        self.input_txt_proj = input_projection(a.text_dim, dim, a.n_input_proj, a.input_dropout)
        self._add_fusion()
        if a.contrastive_hdim is not None:
            self.contrastive_align_projection_query = nn.Linear(dim, a.contrastive_hdim)
            self.contrastive_align_projection_txt = nn.Linear(dim, a.contrastive_hdim)
            self.contrastive_align_projection_vid = nn.Linear(dim, a.contrastive_hdim)
        self.saliency_proj1 = nn.Linear(dim, dim)
        self.saliency_proj2 = nn.Linear(dim, dim)
        self.global_rep_token = nn.Parameter(normal(dim))
        self.global_rep_pos = nn.Parameter(normal(dim))

    # What the families of gated models change; see `qd_detr.gates.model.families`.

    transformer_class = Transformer
    fusion_reads_text = False
    """Whether the fused video depends on the sentence, so that the queries of one video cannot share it."""

    def _make_transformer(self) -> Transformer:
        a = self.architecture
        return self.transformer_class(a.hidden_dim, a.n_heads, a.enc_layers, a.dec_layers, a.dim_feedforward, a.dropout)

    def _add_fusion(self) -> None:
        """Add the fusion and the projections of what it fuses."""
        a = self.architecture
        dim = a.hidden_dim
        self.fusion: Any = self._make_fusion()
        self.input_vid_proj = input_projection(a.video_dim, dim, a.n_input_proj, a.input_dropout)
        self.input_aud_proj = input_projection(a.audio_dim, dim, a.n_input_proj, a.input_dropout)

    def _make_fusion(self) -> GateTracking:
        a = self.architecture
        dim = a.hidden_dim
        return AVIGATEFusionCustom(dim, dim, dim, a.fusion_n_heads, a.fusion_layers, a.gating_type)

    @property
    def avigate_fusion(self) -> Any:
        """The gated fusion, under the name that users' scripts know."""
        return self.fusion

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype; inputs are brought to it."""
        return self.global_rep_token.dtype

    def forward(
        self,
        src_txt: Tensor | Mapping[str, Any],
        src_txt_mask: Tensor | None = None,
        src_vid: Tensor | None = None,
        src_vid_mask: Tensor | None = None,
        src_aud: Tensor | None = None,
        src_aud_mask: Tensor | None = None,
        *,
        gate_edit: GateEdit | None = None,
        legacy_batch_mask: bool = False,
        shared: SharedVideos | None = None,
    ) -> Outputs:
        """Return the outputs of a batch: `model(batch)` with the dataset's dict, or the legacy keyword call.

        Args:
            src_txt: (B, T, Dt), or a mapping with all of these names. src_vid: (B, L, Dv). src_aud: (B, L, Da).
            src_txt_mask, src_vid_mask: (B, T), (B, L), 1 = real; None means all real. src_aud_mask: not used.
            gate_edit: an intervention on the gates, for this call alone.
            legacy_batch_mask: mix masks between samples as legacy batches did (see `legacy_mixing_mask`).
            shared: run projection and fusion once a video; gates are then recorded, and edited, a row a video.

        Returns:
            pred_logits (B, Q, 2; foreground first), pred_spans (B, Q, 2; centre and width as fractions),
            saliency_scores (B, L), video_mask (B, L). In training mode also saliency_scores_neg (B, L) and
            aux_outputs, a list of {pred_logits, pred_spans} of the earlier decoder layers.

        Raises:
            TypeError: an input is missing.
        """
        if isinstance(src_txt, Mapping):
            batch = src_txt
            missing = [name for name in ("src_txt", "src_vid", "src_aud") if batch.get(name) is None]
            if missing:
                raise TypeError(f"the batch lacks {', '.join(missing)}; it has {', '.join(map(str, batch))}")
            src_txt, src_txt_mask = batch["src_txt"], batch.get("src_txt_mask")
            src_vid, src_vid_mask = batch["src_vid"], batch.get("src_vid_mask")
            src_aud = batch["src_aud"]
        if src_vid is None or src_aud is None:
            raise TypeError("src_vid and src_aud are needed: this model fuses audio into video")
        assert not isinstance(src_txt, Mapping)
        if shared is not None:
            src_vid, src_aud = src_vid[shared.first], src_aud[shared.first]
            src_vid_mask = None if src_vid_mask is None else src_vid_mask[shared.first]
        projected = self.project(src_txt, src_txt_mask, src_vid, src_vid_mask, src_aud)
        fused = self.fuse(projected, edit=gate_edit, legacy_batch_mask=legacy_batch_mask)
        if shared is not None:
            fused, projected = fused[shared.of.to(fused.device)], projected.of_samples(shared)
        return self.decode(fused, projected, legacy_batch_mask=legacy_batch_mask, training_extras=self.training)

    def project(
        self,
        src_txt: Tensor,
        src_txt_mask: Tensor | None,
        src_vid: Tensor,
        src_vid_mask: Tensor | None,
        src_aud: Tensor,
    ) -> Projected:
        """Bring features to the hidden size, on the model's device and in its dtype."""
        device = self.global_rep_token.device
        vid_mask = src_vid.new_ones(src_vid.shape[:2]) if src_vid_mask is None else src_vid_mask
        txt_mask = src_txt.new_ones(src_txt.shape[:2]) if src_txt_mask is None else src_txt_mask
        return Projected(
            video=self.project_video(src_vid),
            audio=self.project_audio(src_aud),
            text=self.input_txt_proj(self._brought(src_txt)),
            vid_mask=vid_mask.to(device, non_blocking=True),
            txt_mask=txt_mask.to(device, non_blocking=True),
        )

    def project_video(self, src_vid: Tensor) -> Tensor:
        """Bring video alone to the hidden size, (B, L, D); see `project_audio`."""
        return self.input_vid_proj(self._brought(src_vid))

    def project_audio(self, src_aud: Tensor) -> Tensor:
        """Bring audio alone to the hidden size, (B, L, D): runs that differ in it share the rest of `project`."""
        return self.input_aud_proj(self._brought(src_aud))

    def _brought(self, features: Tensor) -> Tensor:
        return features.to(self.global_rep_token.device, self.dtype, non_blocking=True)

    # The fusion from gate to gate: `fuse` is `first_video`, then every layer's `first_gate` and the steps after it.

    def first_video(self, projected: Projected, *, legacy_batch_mask: bool = False) -> Tensor:
        """Return the video that enters the first fusion layer."""
        return projected.video

    def first_gate(
        self, layer_idx: int, video: Tensor, projected: Projected, *, legacy_batch_mask: bool = False
    ) -> GateStep:
        """Return a fusion layer, given the video that enters it, stopped at its first gate."""
        branch = self.branch_of(layer_idx, projected)
        return self.fusion.layers[layer_idx].first_gate(video, projected.audio, branch, projected.pad_mask)

    def branch_of(self, layer_idx: int, projected: Projected) -> Tensor:
        """Return what a layer's attention gate scales, (B, L, D), computed once for an audio."""
        if layer_idx not in projected.branches:
            projected.branches[layer_idx] = self.fusion.layers[layer_idx].audio_branch(projected.audio)
        return projected.branches[layer_idx]

    def fuse(self, projected: Projected, *, edit: GateEdit | None = None, legacy_batch_mask: bool = False) -> Tensor:
        """Return the fused video (B, L, D), its gates recorded if anybody wants them; edit as in `forward`."""
        return self.fusion.fuse(projected.video, projected.audio, projected.vid_mask, edit=edit)

    def decode(
        self,
        fused: Tensor,
        projected: Projected,
        *,
        legacy_batch_mask: bool = False,
        training_extras: bool = False,
        attached_references: bool = False,
    ) -> Outputs:
        """Return the outputs from fused video (B, L, D).

        training_extras adds the second pass with another sample's text and the earlier decoder layers' outputs;
        inference needs neither and pays for neither. attached_references makes gradients those of the function: the
        decoder otherwise detaches its moving anchors, as the legacy code did while training.
        """
        vid_mask = projected.vid_mask
        vid_pad, dim = padding_of(vid_mask), self.architecture.hidden_dim
        if vid_pad is None:  # one for the batch, and what is computed from it once as well
            video_pos = whole_positions(vid_mask.shape[1], dim, fused.device, fused.dtype)
        else:
            video_pos = clip_positions(vid_mask, dim).to(fused.dtype)
        memory = self._memory(fused, video_pos, vid_pad, projected, legacy_batch_mask)
        layers = self.transformer.decoder(
            self.query_embed.weight, memory[:, 1:], video_pos, vid_pad, attached=attached_references
        )
        heads = [self._heads(slots, reference) for slots, reference in (layers if training_extras else layers[-1:])]
        outputs: Outputs = {**heads[-1], "saliency_scores": self._saliency(memory), "video_mask": vid_mask}
        if training_extras:
            outputs["aux_outputs"] = heads[:-1]
            shifted = Projected(
                projected.video, projected.audio, projected.text.roll(-1, 0), vid_mask, projected.txt_mask.roll(-1, 0)
            )
            other = self._memory(self._fused_with(fused, shifted), video_pos, vid_pad, shifted, legacy_batch_mask)
            outputs["saliency_scores_neg"] = self._saliency(other)
        return outputs

    def _fused_with(self, fused: Tensor, shifted: Projected) -> Tensor:
        """Return the fused video for another sample's text: the same, where the fusion reads none."""
        return fused

    def _memory(
        self, fused: Tensor, video_pos: Tensor, vid_pad: Tensor | None, projected: Projected, legacy_batch_mask: bool
    ) -> Tensor:
        """Return [global token | clips] (B, 1 + L, D) from fused video."""
        return self.transformer.encode(
            fused,
            video_pos,
            vid_pad,
            *self._text(projected, legacy_batch_mask),
            token=self.global_rep_token,
            token_pos=self.global_rep_pos,
        )

    def _text(
        self, projected: Projected, legacy_batch_mask: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Return text, its position, its padding and the mask that legacy batches mix, as `Transformer.read_text` takes them."""
        mixing = None
        if legacy_batch_mask:
            mixing = legacy_mixing_mask(projected.vid_mask, projected.txt_mask, self.architecture.n_heads)
        position = self.txt_position_embed(projected.text) if self.architecture.use_txt_pos else None
        return projected.text, position, padding_of(projected.txt_mask), mixing

    def _heads(self, slots: Tensor, reference: Tensor) -> Outputs:
        spans = (self.span_embed(slots) + inverse_sigmoid(reference)).sigmoid()
        return {"pred_logits": self.class_embed(slots), "pred_spans": spans}

    def _saliency(self, memory: Tensor) -> Tensor:
        clips = self.saliency_proj1(memory[:, 1:])  # (B, L, D)
        token = self.saliency_proj2(memory[:, :1])  # (B, 1, D)
        return (clips * token).sum(dim=-1) / math.sqrt(self.architecture.hidden_dim)
