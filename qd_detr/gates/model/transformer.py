"""The transformer of QD-DETR: text into video, encoder with a global token, decoder with moving anchors.

Letters: B batch, L clips, T tokens, Q slots, D hidden, H heads, E = D / H. Everything is batch-first.
Parameter names are a file format.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qd_detr.gates.model.attention import merge_heads, packed_attention, split_heads, visible_keys
from qd_detr.gates.model.heads import MLP, inverse_sigmoid
from qd_detr.gates.model.positions import anchor_sine


class Transformer(nn.Module):
    """Memory from video and text, then `num_queries` slots from the memory."""

    def __init__(
        self, dim: int, n_heads: int, enc_layers: int, dec_layers: int, dim_feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.t2v_encoder = EncoderStack(TextToVideoLayer(dim, n_heads, dim_feedforward, dropout), enc_layers)
        self.encoder = EncoderStack(EncoderLayer(dim, n_heads, dim_feedforward, dropout), enc_layers)
        self.decoder = Decoder(dim, n_heads, dec_layers, dim_feedforward, dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def encode(
        self,
        video: Tensor,
        video_pos: Tensor,
        vid_pad: Tensor | None,
        text: Tensor,
        text_pos: Tensor | None,
        txt_pad: Tensor | None,
        mixing_mask: Tensor | None,
        token: Tensor,
        token_pos: Tensor,
    ) -> Tensor:
        """Return the memory (B, 1 + L, D): the global token first, then the clips.

        Args:
            video: (B, L, D); video_pos: (B, L, D), or (1, L, D) for all. text: (B, T, D); text_pos: as it, or None.
            vid_pad: (B, L), txt_pad: (B, T), True = padding, or None.
            token, token_pos: (D,), content and position of the global token, always a valid key.
            mixing_mask: (B, H, L, T), True = hidden; the legacy batches' second mask (`legacy_mixing_mask`).
        """
        video = self.read_text(video, video_pos, text, text_pos, txt_pad, mixing_mask)
        batch = len(video)
        x = torch.cat([token.expand(batch, 1, -1), video], dim=1)  # (B, 1 + L, D)
        pos = torch.cat([token_pos.expand(len(video_pos), 1, -1), video_pos], dim=1)
        return self.relate(x, pos, None if vid_pad is None else F.pad(vid_pad, (1, 0), value=False))

    def read_text(
        self,
        video: Tensor,
        video_pos: Tensor,
        text: Tensor,
        text_pos: Tensor | None,
        txt_pad: Tensor | None,
        mixing_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the clips (B, L, D) once they have attended to the text; arguments as in `encode`."""
        visible = visible_keys(txt_pad)
        if mixing_mask is not None:
            visible = ~mixing_mask if visible is None else visible & ~mixing_mask
        for layer in self.t2v_encoder.layers:
            video = layer(video, video_pos, text, text_pos, visible)
        return video

    def relate(self, x: Tensor, pos: Tensor, pad: Tensor | None) -> Tensor:
        """Return [token | clips] (B, 1 + L, D) once they have attended to each other."""
        visible = visible_keys(pad)
        for layer in self.encoder.layers:
            x = layer(x, pos, visible)
        return x


class EncoderStack(nn.Module):
    """Copies of one layer; no norm follows them."""

    def __init__(self, layer: nn.Module, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(n_layers))


class EncoderLayer(nn.Module):
    """Self-attention over [global | video], post-norm, PReLU feed-forward."""

    def __init__(self, dim: int, n_heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, n_heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the feed-forward branch (..., D) with its dropouts."""
        return self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))

    def forward(self, x: Tensor, pos: Tensor, visible: Tensor | None) -> Tensor:
        """Return (B, 1 + L, D)."""
        q = x + pos
        x = self.norm1(x + self.dropout(packed_attention(self.self_attn, q, q, x, visible)))
        return self.norm2(x + self.feed_forward(x))


class TextToVideoLayer(EncoderLayer):
    """Cross-attention of video on text."""

    def forward(  # type: ignore[override]
        self, video: Tensor, video_pos: Tensor, text: Tensor, text_pos: Tensor | None, visible: Tensor | None
    ) -> Tensor:
        """Return (B, L, D). Values are the text without its position."""
        key = text if text_pos is None else text + text_pos
        attended = packed_attention(self.self_attn, video + video_pos, key, text, visible)
        s = video + self.dropout(attended)
        # The second residual is s itself, not norm1(s): the legacy weights were trained so.
        return self.norm2(s + self.feed_forward(self.norm1(s)))


class Decoder(nn.Module):
    """Slots with anchors (centre, width) that every layer moves."""

    def __init__(self, dim: int, n_heads: int, n_layers: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        layers = [DecoderLayer(dim, n_heads, dim_feedforward, dropout)]
        layers += [copy.deepcopy(layers[0]) for _ in range(1, n_layers)]
        for later in layers[1:]:
            later.ca_qpos_proj = None
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)
        self.query_scale = MLP(dim, dim, dim)
        self.ref_point_head = MLP(dim, dim, dim)
        self.bbox_embed = MLP(dim, dim, dim, 2)
        self.ref_anchor_head = MLP(dim, dim, 1)
        last = self.bbox_embed.layers[-1]
        assert isinstance(last, nn.Linear)
        # Its bias alone: the legacy code zeroed the weight too, but then drew it anew with the other matrices.
        nn.init.zeros_(last.bias)

    def forward(
        self, anchors: Tensor, memory: Tensor, pos: Tensor, vid_pad: Tensor | None, *, attached: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """Return, per layer, the slots (B, Q, D) and the reference (B, Q, 2) that entered that layer.

        Args:
            anchors: (Q, 2), before their sigmoid. memory: (B, L, D), clips only; pos: (B, L, D), or (1, L, D) for all.
            vid_pad: (B, L) or None.
            attached: let gradients through the references, so that they are those of the function; no value changes.
        """
        batch, dim = len(memory), memory.shape[-1]
        visible = visible_keys(vid_pad)
        reference = entered = anchors.sigmoid().expand(batch, -1, -1)  # (B, Q, 2)
        target = memory.new_zeros(batch, anchors.shape[0], dim)
        outputs = []
        for i, layer in enumerate(self.layers):
            sine = anchor_sine(reference, dim).to(memory.dtype)  # (B, Q, D)
            query_pos = self.ref_point_head(sine)
            if i > 0:
                sine = sine * self.query_scale(target)
            sine = sine * (self.ref_anchor_head(target).sigmoid() / reference[..., 1:])
            target = layer(target, query_pos, sine, memory, pos, visible)
            outputs.append((self.norm(target), entered))
            if i + 1 < len(self.layers):
                # The next layer starts from a fixed point, but the spans predicted from it train bbox_embed: legacy
                # runs did so (their optimizers hold moments for it, and its weights have moved).
                entered = (self.bbox_embed(target) + inverse_sigmoid(reference)).sigmoid()
                reference = entered if attached else entered.detach()
        return outputs


class OutputProjection(nn.Module):
    """Holds `out_proj` under the name that the decoder's attentions have in checkpoints."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)  # as torch's own MultiheadAttention starts, and as legacy runs did


class DecoderLayer(nn.Module):
    """Conditional decoder layer: content and position are projected apart; only the first adds them for content."""

    def __init__(self, dim: int, n_heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.sa_qcontent_proj = nn.Linear(dim, dim)
        self.sa_qpos_proj = nn.Linear(dim, dim)
        self.sa_kcontent_proj = nn.Linear(dim, dim)
        self.sa_kpos_proj = nn.Linear(dim, dim)
        self.sa_v_proj = nn.Linear(dim, dim)
        self.self_attn = OutputProjection(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.ca_qcontent_proj = nn.Linear(dim, dim)
        self.ca_qpos_proj: nn.Linear | None = nn.Linear(dim, dim)  # every layer but the first loses it
        self.ca_kcontent_proj = nn.Linear(dim, dim)
        self.ca_kpos_proj = nn.Linear(dim, dim)
        self.ca_v_proj = nn.Linear(dim, dim)
        self.ca_qpos_sine_proj = nn.Linear(dim, dim)
        self.cross_attn = OutputProjection(dim)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, target: Tensor, query_pos: Tensor, sine: Tensor, memory: Tensor, pos: Tensor, visible: Tensor | None
    ) -> Tensor:
        """Return the slots (B, Q, D)."""
        q = self.sa_qcontent_proj(target) + self.sa_qpos_proj(query_pos)
        k = self.sa_kcontent_proj(target) + self.sa_kpos_proj(query_pos)
        attended = self._attend(q, k, self.sa_v_proj(target), None)
        target = self.norm1(target + self.dropout(self.self_attn.out_proj(attended)))

        q = self.ca_qcontent_proj(target)
        k = self.ca_kcontent_proj(memory)
        k_pos = self.ca_kpos_proj(pos)
        if self.ca_qpos_proj is not None:
            q = q + self.ca_qpos_proj(query_pos)
            k = k + k_pos
        q = self._beside(q, self.ca_qpos_sine_proj(sine))
        k = self._beside(k, k_pos.expand_as(k))
        attended = self._attend(q, k, self.ca_v_proj(memory), visible)
        target = self.norm2(target + self.dropout(self.cross_attn.out_proj(attended)))

        refined = self.linear2(self.dropout(self.activation(self.linear1(target))))
        return self.norm3(target + self.dropout(refined))

    def _beside(self, content: Tensor, position: Tensor) -> Tensor:
        """Return (B, N, 2D): in every head, content features first, then position features."""
        heads = (self.n_heads, -1)
        return torch.cat([content.unflatten(-1, heads), position.unflatten(-1, heads)], dim=-1).flatten(2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        mixed = F.scaled_dot_product_attention(
            split_heads(q, self.n_heads),
            split_heads(k, self.n_heads),
            split_heads(v, self.n_heads),
            attn_mask=visible,
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        return merge_heads(mixed)


def legacy_mixing_mask(vid_mask: Tensor, txt_mask: Tensor, n_heads: int) -> Tensor:
    """Return the mask (B, H, L, T), True = hidden, that legacy batches add to the cross-attention of video on text.

    m[b] = outer(padded clip, padded token) was laid out as m repeated H times along axis 0, while the attention
    numbers its rows b * H + h; so head h of sample b is given m[(b * H + h) mod B], another sample's mask.
    """
    batch = len(vid_mask)
    m = (vid_mask == 0)[:, :, None] & (txt_mask == 0)[:, None, :]  # (B, L, T)
    rows = torch.arange(batch * n_heads, device=vid_mask.device) % batch
    return m[rows].unflatten(0, (batch, n_heads))
