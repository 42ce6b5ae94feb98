"""Sine positions of clips and of decoder anchors, and the text's learned position.

Letters: B batch, L clips, T tokens, Q slots, D features.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

TEMPERATURE = 10000.0
TWO_PI = 2 * math.pi


def clip_positions(vid_mask: Tensor, dim: int) -> Tensor:
    """Return the sine positions (B, L, dim) of clips whose mask (B, L) is 1 where real.

    The position of a clip is its rank among the real ones, scaled so that the last is 2 pi.
    """
    rank = vid_mask.to(torch.float32).cumsum(dim=1)
    rank = rank / (rank[:, -1:] + 1e-6) * TWO_PI
    return _interleaved_sine(rank, dim)


@lru_cache(maxsize=256)
def whole_positions(clips: int, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return `clip_positions` of a video without padding, (1, clips, dim): they depend on its length alone."""
    with torch.inference_mode(False), torch.no_grad():  # kept, and perhaps used where gradients are wanted
        return clip_positions(torch.ones(1, clips, device=device), dim).to(dtype)


def anchor_sine(reference: Tensor, dim: int) -> Tensor:
    """Return the sine code (B, Q, dim) of anchors (B, Q, 2): centre in the first half, width in the second."""
    return _interleaved_sine(reference * TWO_PI, dim // 2).flatten(2)


def _interleaved_sine(x: Tensor, dim: int) -> Tensor:
    """Return (..., dim): feature k is sin (even k) or cos (odd k) of x / 10000^(2 (k // 2) / dim)."""
    pair = torch.arange(dim // 2 + dim % 2, dtype=torch.float32, device=x.device)
    angle = x[..., None] / TEMPERATURE ** (2 * pair / dim)  # (..., ceil(dim / 2))
    code = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (..., 2 ceil(dim / 2))
    return code[..., :dim]


# On the device "meta" a normal draw makes torch import its compiler and SymPy: 1.8 s of CPU for numbers it does not hold.


def normal(*size: int) -> Tensor:
    """Return `torch.randn(*size)`; on the device "meta" nothing is drawn."""
    empty = torch.empty(*size)
    return empty if empty.is_meta else torch.randn(*size)


def embedding(count: int, dim: int) -> nn.Embedding:
    """Return `nn.Embedding(count, dim)`; on the device "meta" nothing is drawn."""
    empty = torch.empty(count, dim)
    return nn.Embedding.from_pretrained(empty, freeze=False) if empty.is_meta else nn.Embedding(count, dim)


class TextPosition(nn.Module):
    """Learned position of a token; always in the state dict, used only with the option use_txt_pos."""

    def __init__(self, max_tokens: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.position_embeddings = embedding(max_tokens, dim)
        self.LayerNorm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, text: Tensor) -> Tensor:
        """Return LayerNorm(text + position) (B, T, D)."""
        tokens = torch.arange(text.shape[1], device=text.device)
        return self.dropout(self.LayerNorm(text + self.position_embeddings(tokens)))
