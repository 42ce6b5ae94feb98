"""A model as a user's own code might have it: another class, other names, no tracking. For the adapter's check alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Gates(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp_mha = nn.Sequential(nn.Linear(2 * dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, 1))
        self.mlp_ffn = nn.Sequential(nn.Linear(2 * dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, 1))

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        joint = torch.cat([video, audio], dim=-1)
        return torch.tanh(self.mlp_mha(joint)), torch.tanh(self.mlp_ffn(joint))


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.gating_function = _Gates(dim)
        self.a_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.ffn1 = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.self_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ffn2 = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))

    def forward(self, video: Tensor, audio: Tensor, hidden: Tensor | None) -> Tensor:
        g_att, g_ffn = self.gating_function(video, audio)
        mixed = g_att * self.out_proj(self.a_proj(self.norm1(audio))) + video
        refined = g_ffn * self.ffn1(self.norm2(mixed)) + mixed
        n = self.norm3(refined)
        related = self.self_attention(n, n, n, key_padding_mask=hidden, need_weights=False)[0] + refined
        return self.ffn2(self.norm4(related)) + related


class ForeignFusion(nn.Module):
    """A clipwise fusion without any tracking."""

    def __init__(self, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.fusion_layers = nn.ModuleList(_Layer(dim, heads) for _ in range(layers))

    def forward(
        self, video: Tensor, audio: Tensor, video_mask: Tensor | None = None, audio_mask: Tensor | None = None
    ) -> Tensor:
        """Return the fused video (B, L, D)."""
        hidden = None if video_mask is None else video_mask == 0
        for layer in self.fusion_layers:
            video = layer(video, audio, hidden)
        return video


class ForeignModel(nn.Module):
    """Holds its fusion under a name of its own."""

    def __init__(self, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.mixer = ForeignFusion(dim, heads, layers)
        self.head = nn.Linear(dim, 2)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Return (B, L, 2)."""
        return self.head(self.mixer(video, audio))
