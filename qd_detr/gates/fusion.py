"""AVIGATEFusionCustom: gated fusion of audio into video, layer by layer, with gates that can be watched.

Letters: B batch, L clips (padded), D hidden_dim, G gate shape after the batch axis:
global (1, 1), clipwise (L, 1), elementwise (L, D).

Source of the equations: the legacy model's section "Gated fusion". Every parameter name is a file format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from qd_detr.gates.gating import ATTENTION, FFN, Gate, GatingType, gating_named, over_layers
from qd_detr.gates.model.attention import hooked, padding_of, self_attention
from qd_detr.gates.tracking.api import GateTracking
from qd_detr.gates.tracking.recorder import GateUse


@dataclass(frozen=True)
class GateSite:
    """Where a gate stands: its fusion layer (from 0) and its kind (`Gate.kind`)."""

    layer_idx: int
    kind: str


GateEdit = Callable[[GateSite, Tensor], Tensor]
"""Given where a gate stands and its value (B, *G), returns the value to use in its place."""


@dataclass(frozen=True)
class GateStep:
    """A layer's forward, stopped at a gate.

    Attributes:
        which: the gate. gate: its own value (B, *G).
        branch, residual: what it scales, and what the product is added to, (B, L, D).
        then: goes on with the gate to use, as often as wanted, to the next gate or the layer's output (B, L, D).
    """

    which: Gate
    gate: Tensor
    branch: Tensor
    residual: Tensor
    then: Callable[[Tensor], GateStep | Tensor]

    def let_through(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Return the injection of the gate to use and its cosine, each (B, L); see `injection_of`.

        What multiplies the branch is the gate's distance from where it is off: g, or 1 + g for one that is off at -1.
        """
        with torch.no_grad():
            factor = gate - self.which.off if self.which.off else gate
            return injection_of(factor, self.branch, self.residual)


class GatingFunction(nn.Module):
    """Two gates of one type from the joint audio-visual features: g = tanh(MLP([v | a])).

    Attributes:
        gating: the type of its gates, as facts; `gating_type` is its name.
        value_range: the interval that holds every gate, (-1, 1) for tanh; None where a subclass cannot tell.
    """

    value_range: tuple[float, float] | None = (-1.0, 1.0)

    def __init__(self, hidden_dim: int, gating_type: str) -> None:
        super().__init__()
        self.gating_type = gating_type
        width = self.gating.channels(hidden_dim)
        self.mlp_mha = two_layers(2 * hidden_dim, hidden_dim // 2, width)
        self.mlp_ffn = two_layers(2 * hidden_dim, hidden_dim // 2, width)

    @property
    def gating(self) -> GatingType:
        """The type of its gates."""
        return gating_named(self.gating_type)

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Its gates, in the order in which the forward returns and a layer uses them."""
        return tuple(replace(gate, value_range=self.value_range) for gate in (ATTENTION, FFN))

    def squash(self, raw: Tensor) -> Tensor:
        """Map the MLP's output to a gate inside `value_range`."""
        return torch.tanh(raw)

    def joint(self, video: Tensor, audio: Tensor) -> Tensor:
        """Return what the MLPs read: (B, 1, 2D) for one gate a sequence, (B, L, 2D) for a gate a clip."""
        if not self.gating.per_clip:
            # Padding is averaged in: legacy checkpoints were trained so, and masking would move every gate.
            return torch.cat([video.mean(dim=1), audio.mean(dim=1)], dim=-1).unsqueeze(1)
        return torch.cat([video, audio], dim=-1)

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        """Return the attention gate and the FFN gate, each (B, *G), of video and audio (B, L, D)."""
        joint = self.joint(video, audio)
        return self._gate(self.mlp_mha, joint), self._gate(self.mlp_ffn, joint)

    def _gate(self, mlp: nn.Sequential, joint: Tensor) -> Tensor:
        # A user's own MLP, taken over as it is, may end in its Tanh; it must not be squashed twice.
        return mlp(joint) if isinstance(mlp[-1], nn.Tanh) else self.squash(mlp(joint))


class TwoLayers(nn.Sequential):
    """Linear, ReLU, Linear. The ReLU works in place, but for a watched layer, whose output has to stay what it was."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_dim)."""
        first, relu, last = self
        inner = first(x)
        return last(relu(inner) if hooked(first) or hooked(relu) else torch.relu_(inner))


class GatedFusionLayer(nn.Module):
    """One fusion layer: gated audio, gated feed-forward, self-attention over clips, feed-forward."""

    def __init__(self, hidden_dim: int, n_heads: int, gating_type: str) -> None:
        super().__init__()
        self.gating_function = GatingFunction(hidden_dim, gating_type)
        self.a_proj = nn.Linear(hidden_dim, hidden_dim)
        self.out_proj = nn.Linear(hidden_dim, hidden_dim)
        self.ffn1 = two_layers(hidden_dim, 4 * hidden_dim, hidden_dim)
        self.self_attention = nn.MultiheadAttention(hidden_dim, n_heads, batch_first=True)
        self.ffn2 = two_layers(hidden_dim, 4 * hidden_dim, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)
        self.norm4 = nn.LayerNorm(hidden_dim)

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The layer's gates, in the order in which the forward uses them."""
        value_range = getattr(self.gating_function, "value_range", None)
        plain = tuple(replace(gate, value_range=value_range) for gate in (ATTENTION, FFN))
        return getattr(self.gating_function, "gates", plain)

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        pad_mask: Tensor | None = None,
        edit: Callable[[str, Tensor], Tensor] | None = None,
        uses: list[GateUse] | None = None,
        measure: bool = False,
    ) -> Tensor:
        """Return the layer's output (B, L, D) alone, so that a user's hook on the layer sees a tensor.

        Args:
            video, audio: (B, L, D).
            pad_mask: (B, L), True = padding; masked as keys.
            edit: given a gate's kind and the gate, returns the gate to use; None uses it as it is.
            uses: if given, the gates are appended to it as they were used.
            measure: with them what each lets through (see `injection_of`); the output does not depend on it.
        """
        return through(self.first_gate(video, audio, self.audio_branch(audio), pad_mask), edit, uses, measure=measure)

    # The layer from gate to gate, so that runs which differ in a gate alone can share what comes before it.

    def audio_branch(self, audio: Tensor) -> Tensor:
        """Return what the attention gate scales, (B, L, D): identity attention, each clip hears only its own audio."""
        return self.out_proj(self.a_proj(self.norm1(audio)))

    def gate_values(self, video: Tensor, audio: Tensor, pad_mask: Tensor | None) -> tuple[Tensor, ...]:
        """Return the layer's gates, each (B, *G), in the order of `gates`."""
        return self.gating_function(video, audio)

    def first_gate(
        self,
        video: Tensor,
        audio: Tensor,
        branch: Tensor,
        pad_mask: Tensor | None,
        relate: Callable[[Tensor], Tensor] | None = None,
    ) -> GateStep:
        """Return the layer stopped at its attention gate.

        Args:
            branch: `audio_branch(audio)`, which runs may share.
            relate: what follows the last gate, if not `relate_clips`.
        """
        values = self.gate_values(video, audio, pad_mask)
        finish = relate or (lambda fused: self.relate_clips(fused, pad_mask))

        def add_audio(gate: Tensor) -> GateStep:
            return self.after_audio(torch.addcmul(video, gate, branch), values, finish)

        return GateStep(self.gates[0], values[0], branch, video, add_audio)

    def after_audio(self, mixed: Tensor, values: tuple[Tensor, ...], finish: Callable[[Tensor], Tensor]) -> GateStep:
        """Return the layer stopped at its FFN gate; mixed: the video with the gated audio added (B, L, D)."""
        refined = self.refined(mixed)
        return GateStep(
            self.gates[1], values[1], refined, mixed, lambda gate: finish(torch.addcmul(mixed, gate, refined))
        )

    def refined(self, mixed: Tensor) -> Tensor:
        """Return what the FFN gate scales, (B, L, D)."""
        return self.ffn1(self.norm2(mixed))

    def relate_clips(self, fused: Tensor, pad_mask: Tensor | None) -> Tensor:
        """Return the layer's output (B, L, D) once both gates have been used."""
        related = self_attention(self.self_attention, self.norm3(fused), pad_mask) + fused
        return self.ffn2(self.norm4(related)) + related


def through(
    at: GateStep | Tensor,
    edit: Callable[[str, Tensor], Tensor] | None,
    uses: list[GateUse] | None,
    *,
    measure: bool,
) -> Tensor:
    """Go from gate to gate to a layer's output; `edit`, `uses` and `measure` as in `GatedFusionLayer.forward`."""
    while isinstance(at, GateStep):
        gate = at.gate if edit is None else edit(at.which.kind, at.gate)
        if uses is not None:
            uses.append(GateUse(at.which.kind, gate, *(at.let_through(gate) if measure else ())))
        at = at.then(gate)
    return at


def injection_of(gate: Tensor, branch: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Return |P(g * branch)| / |P residual| and the cosine of the two vectors, each (B, L); P = I - 11'/D.

    gate (B, *G), branch and residual (B, L, D). P takes the mean over channels off: every LayerNorm that reads the
    residual removes it, so a constant moved between weights changes neither a prediction nor these two. Norms run over
    D. A zero residual gives injection 0 where nothing is added and inf where something is; the cosine of a zero vector
    is 0.
    """
    base = _centred(residual)
    length = torch.linalg.vector_norm(base, dim=-1)
    if gate.shape[-1] == 1:
        # One gate for all channels scales the norm and keeps or flips the direction: no (B, L, D) product is needed.
        scale = gate[..., 0]  # (B, 1) or (B, L)
        heard = _centred(branch)
        added = scale.abs() * torch.linalg.vector_norm(heard, dim=-1)
        along = torch.linalg.vecdot(heard, base) * scale
    else:
        let_through = _centred(gate * branch)
        added = torch.linalg.vector_norm(let_through, dim=-1)
        along = torch.linalg.vecdot(let_through, base)
    injection = torch.where(added == 0, added, added / length)
    product = added * length
    cosine = torch.where(product == 0, torch.zeros_like(along), along / product).clamp(-1.0, 1.0)
    return injection, cosine


def _centred(vectors: Tensor) -> Tensor:
    """Return vectors (B, L, D) less their mean over channels."""
    return vectors - vectors.mean(dim=-1, keepdim=True)


class AVIGATEFusionCustom(GateTracking, nn.Module):
    """Fuses projected audio into projected video through learned gates, and lets the gates be watched.

    Args:
        vid_dim, aud_dim: feature sizes of the inputs; both must equal `hidden_dim` (the features come projected).
        hidden_dim: D. n_heads: heads of each layer's self-attention. num_layers: fusion layers.
        gating_type: "global", "clipwise" or "elementwise".

    Tracking never changes an output, to the bit.
    """

    def __init__(
        self,
        vid_dim: int,
        aud_dim: int,
        hidden_dim: int,
        n_heads: int = 8,
        num_layers: int = 1,
        gating_type: str = "global",
    ) -> None:
        super().__init__()
        if vid_dim != hidden_dim or aud_dim != hidden_dim:
            raise ValueError(
                f"vid_dim and aud_dim must equal hidden_dim (the features come projected); "
                f"got vid_dim={vid_dim}, aud_dim={aud_dim}, hidden_dim={hidden_dim}"
            )
        gating_named(gating_type)
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1; got {num_layers}")
        if hidden_dim % n_heads:
            raise ValueError(
                f"hidden_dim must be a multiple of n_heads; got hidden_dim={hidden_dim}, n_heads={n_heads}"
            )
        self.hidden_dim = hidden_dim
        self.n_heads = n_heads
        self.gating_type = gating_type
        self.trained_gating_type = gating_type
        self.fusion_layers = nn.ModuleList(
            GatedFusionLayer(hidden_dim, n_heads, gating_type) for _ in range(num_layers)
        )
        self._start_tracking()

    @property
    def num_layers(self) -> int:
        """Number of fusion layers."""
        return len(self.fusion_layers)

    @property
    def layers(self) -> list[GatedFusionLayer]:
        """The fusion layers, first to last."""
        return cast("list[GatedFusionLayer]", list(self.fusion_layers))

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates of every layer, in the order in which it uses them; a range holds that gate in all layers."""
        return over_layers([layer.gates for layer in self.layers])

    def switch_gating_type(self, gating_type: str) -> None:
        """Run the same weights as global or clipwise gating; `trained_gating_type` keeps what they were trained as.

        The two have weights of the same shapes but are different functions.

        Raises:
            ValueError: elementwise is involved; its gates have hidden_dim outputs, the others' one.
        """
        if gating_type == self.gating_type:
            return
        if gating_type not in self.gating.exchangeable_with:
            raise ValueError(
                f"a fusion trained as {self.trained_gating_type} cannot run as {gating_type}: an elementwise gate has "
                "hidden_dim outputs and the others one, so their weights differ in shape; only global and clipwise "
                "can be exchanged"
            )
        self.gating_type = gating_type
        for layer in self.layers:
            layer.gating_function.gating_type = gating_type

    def forward(
        self,
        video_feat: Tensor,
        audio_feat: Tensor,
        video_mask: Tensor | None = None,
        audio_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the fused video (B, L, D) alone.

        Args:
            video_feat, audio_feat: (B, L, D), clip by clip; masks: (B, L), 1 = real, 0 = padding.
            audio_mask: not used, as in the legacy model; each clip reads only its own audio.

        Raises:
            ValueError: inputs of unequal or wrong shape.
        """
        return self.fuse(video_feat, audio_feat, video_mask)

    def fuse(
        self,
        video: Tensor,
        audio: Tensor,
        video_mask: Tensor | None = None,
        *,
        edit: GateEdit | None = None,
    ) -> Tensor:
        """Run the layers and record their gates if tracking is on.

        Args:
            video: (B, L, D), the projected video.
            audio: (B, L, D), the projected audio; the same enters every layer.
            video_mask: (B, L), 1 = real.
            edit: an intervention on the gates. It is a value of this call; nothing of it stays on the model.

        Raises:
            ValueError: inputs of unequal or wrong shape, or sample ids that do not fit the batch.
        """
        self._check_inputs(video, audio, video_mask)
        listeners = self._listeners(len(video))
        measure = any(listener.measure for listener in listeners)
        pad_mask = padding_of(video_mask)
        recorded: list[list[GateUse]] = []
        for layer_idx, layer in enumerate(self.fusion_layers):
            uses: list[GateUse] | None = [] if listeners else None
            video = layer(
                video,
                audio,
                pad_mask,
                None if edit is None else at_layer(edit, layer_idx),
                uses,
                measure,
            )
            recorded.append(uses or [])
        self._record(listeners, recorded, pad_mask, video.shape[1])
        return video

    def _check_inputs(self, video: Tensor, audio: Tensor, mask: Tensor | None) -> None:
        if video.dim() != 3 or video.shape != audio.shape or video.shape[-1] != self.hidden_dim:
            raise ValueError(
                f"video and audio must both be (batch, clips, {self.hidden_dim}); "
                f"got {tuple(video.shape)} and {tuple(audio.shape)}"
            )
        if mask is not None and mask.shape != video.shape[:2]:
            raise ValueError(f"video_mask must be {tuple(video.shape[:2])}; got {tuple(mask.shape)}")


def at_layer(edit: GateEdit, layer_idx: int) -> Callable[[str, Tensor], Tensor]:
    """Return an edit as one layer takes it: by the kind of gate."""
    return lambda kind, gate: edit(GateSite(layer_idx, kind), gate)


def two_layers(in_dim: int, inner_dim: int, out_dim: int) -> nn.Sequential:
    """Return Linear, ReLU, Linear, under the indices 0 to 2 that checkpoints have."""
    return TwoLayers(nn.Linear(in_dim, inner_dim), nn.ReLU(), nn.Linear(inner_dim, out_dim))
