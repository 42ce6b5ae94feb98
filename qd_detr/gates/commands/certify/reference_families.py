"""The families' second implementation: NumPy, float64, one query, from the equations of each.

Letters: n clips, T tokens, D hidden, C channels of the strip's encoder, w its band width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from qd_detr.gates.commands.certify.reference import Array, Gates, Reference, sigmoid
from qd_detr.gates.model.architecture import Architecture


class SigmoidGlobal(Reference):
    """g_att is a sigmoid."""

    def _gates(self, name: str, v: Array, a: Array) -> dict[str, Array]:
        raw = self._feed_forward(f"{name}.mlp_mha", self._joint(v, a))
        return {**super()._gates(name, v, a), "attention": sigmoid(raw)}


class Strip(Reference):
    """Gates from the diagonals of the similarity matrix."""

    def _gates(self, name: str, v: Array, a: Array) -> dict[str, Array]:
        name = f"{name}.ssm_gate"
        z_a, z_v = self._pooled(name, a), self._pooled(name, v)
        streams = {1: [z_a], 2: [z_a, z_v], 3: [z_a, z_v, z_a - z_v]}[self._claims.settings["streams"]]
        f = self._norm(f"{name}.norm", np.concatenate(streams)[None])
        raw = {leaf: self._feed_forward(f"{name}.{leaf}", f) for leaf in ("mlp_mha", "mlp_ffn")}
        return {"attention": sigmoid(raw["mlp_mha"]), "ffn": np.tanh(raw["mlp_ffn"])}

    def _pooled(self, name: str, x: Array) -> Array:
        n, settings = len(x), self._claims.settings
        u = x / (np.sqrt((x**2).sum(axis=1, keepdims=True)) + 1e-6)
        similar = (u @ u.T - settings["diag_subtract"] * np.eye(n) + 1) / 2
        w = settings["band_width"]
        strip = np.zeros((2 * w + 1, n))
        for k in range(-w, w + 1):
            for t in range(n - abs(k)):
                strip[w + k, t] = similar[t, t + abs(k)]
        h = np.maximum(self._convolved(f"{name}.encoder.net.0", strip, 1), 0)
        for i, dilation in enumerate(settings["dilations"]):
            h = np.maximum(self._convolved(f"{name}.encoder.net.{2 + 5 * i}", h, dilation), 0)
            h = np.maximum(self._convolved(f"{name}.encoder.net.{5 + 5 * i}", h, 1), 0)
        return h.sum(axis=1) / (n + 1e-6)

    def _convolved(self, name: str, x: Array, dilation: int) -> Array:
        """Return (C, n): a convolution over time whose input is zero outside."""
        kernel = self._w(f"{name}.weight")  # (C, rows, 1 or 3)
        reach = kernel.shape[2] // 2
        found = np.zeros((len(kernel), x.shape[1])) + self._w(f"{name}.bias")[:, None]
        for tap in range(kernel.shape[2]):
            shift = (tap - reach) * dilation
            moved = np.zeros_like(x)
            for t in range(x.shape[1]):
                if 0 <= t + shift < x.shape[1]:
                    moved[:, t] = x[:, t + shift]
            found += kernel[:, :, tap] @ moved
        return found


class Scaled(Reference):
    """Scaled gates, a norm behind each gated branch."""

    def _gates(self, name: str, v: Array, a: Array) -> dict[str, Array]:
        raw = {leaf: self._feed_forward(f"{name}.{leaf}", self._joint(v, a)) for leaf in ("mlp_mha", "mlp_ffn")}
        biased = (raw["mlp_mha"] + self._w(f"{name}.mha_bias")) / self._claims.settings["temperature"]
        return {
            "attention": self._w(f"{name}.mha_scale") * sigmoid(biased),
            "ffn": self._w(f"{name}.ffn_alpha") * np.tanh(raw["mlp_ffn"]),
        }

    def _heard(self, name: str, a: Array) -> Array:
        return self._norm(f"{name}.delta_norm_mha", super()._heard(name, a))

    def _refined(self, name: str, z: Array) -> Array:
        return self._norm(f"{name}.delta_norm_ffn", super()._refined(name, z))


class ScaledFilm(Scaled):
    """1 + g multiplies the FFN branch, and a shift is added."""

    def _gates(self, name: str, v: Array, a: Array) -> dict[str, Array]:
        raw = self._feed_forward(f"{name}.mlp_ffn_beta", self._joint(v, a))
        return {**super()._gates(name, v, a), "ffn_shift": self._w(f"{name}.ffn_beta") * np.tanh(raw)}

    def _fusion_layer(self, name: str, v: Array, a: Array) -> tuple[Array, dict[str, Array]]:
        gates = self._gates(f"{name}.gating_function", v, a)
        z = gates["attention"] * self._heard(name, a) + v
        zb = z + (1 + gates["ffn"]) * self._refined(name, z) + gates["ffn_shift"]
        return self._after_gates(name, zb), gates


class WithoutEncoder(Reference):
    """The memory is the clips that have read the text, behind the token."""

    def _related(self, v: Array) -> Array:
        return np.concatenate([self._w("global_rep_token")[None], v])


class FeedForwardEncoder(Reference):
    """Encoder layers of feed-forward and norm2 alone."""

    def _encoder_layer(self, name: str, x: Array, pos: Array) -> Array:
        return self._norm(f"{name}.norm2", x + self._prelu_feed_forward(name, x))


class InsideTransformer(WithoutEncoder):
    """The fusion reads clips that have read the text. Alone, the token is the only key of its attention."""

    def _memory(self, video: Array, audio: Array, t: Array) -> tuple[Array, Gates]:
        a = self._project("input_aud_proj", audio)
        v = self._read(self._project("input_vid_proj", video), t)
        every: Gates = {"attention": [], "ffn": []}
        for layer in range(self._claims.fusion_layers):
            v, gates = self._fusion_layer(f"fusion.fusion_layers.{layer}", v, a)
            for kind, gate in gates.items():
                every[kind].append(gate)
        return self._related(v), every

    def _after_gates(self, name: str, zb: Array) -> Array:
        weight = np.split(self._w(f"{name}.self_attention.in_proj_weight"), 3)[2]
        bias = np.split(self._w(f"{name}.self_attention.in_proj_bias"), 3)[2]
        value = self._norm(f"{name}.norm3", self._w("global_rep_token")[None]) @ weight.T + bias
        r = self._linear(f"{name}.self_attention.out_proj", value) + zb
        return self._feed_forward(f"{name}.ffn2", self._norm(f"{name}.norm4", r)) + r


class CrossAttention(Reference):
    """One layer of 8 heads, in which video attends to audio."""

    def _fused(self, video: Array, audio: Array, t: Array) -> tuple[Array, Gates]:
        v, a = self._linear("fusion.video_proj", video), self._linear("fusion.audio_proj", audio)
        name, heads = "fusion.fusion_layers.0", 8
        gates = self._gates(f"{name}.gating_function", v, a)
        keys = self._norm(f"{name}.norm1", a)
        query = self._norm(f"{name}.norm1", v)
        z = gates["attention"] * self._packed_attention(f"{name}.cross_attention", query, keys, keys, heads) + v
        zb = gates["ffn"] * self._refined(name, z) + z
        n = self._norm(f"{name}.norm3", zb)
        r = self._packed_attention(f"{name}.self_attention", n, n, n, heads) + zb
        out = self._feed_forward(f"{name}.ffn2", self._norm(f"{name}.norm4", r)) + r
        return out, {kind: [gate] for kind, gate in gates.items()}


class TemporalGate(Reference):
    """One gate a clip, smoothed over its neighbours."""

    def _fused(self, video: Array, audio: Array, t: Array) -> tuple[Array, Gates]:
        v, a = self._linear("fusion.v_proj", video), self._linear("fusion.a_proj", audio)
        net = "fusion.gate_net"
        fits = a @ self._w(f"{net}.w_q.weight").T @ t.mean(axis=0)
        g0 = sigmoid(self._linear(f"{net}.fc_base", np.concatenate([v, a], axis=1))[:, 0]) * sigmoid(fits)
        around = np.concatenate([[0.0], g0, [0.0]])
        g1 = (around[:-2] + around[1:-1] + around[2:]) / 3
        g = (g1 * sigmoid(self._w(f"{net}.gamma") * (g1 - self._w(f"{net}.tau"))))[:, None]
        return v + g * self._linear("fusion.w_a", a), {"attention": [g]}


class TextAudio(Reference):
    """Audio that has read the text, behind one gate, beside the video's features."""

    def _fused(self, video: Array, audio: Array, t: Array) -> tuple[Array, Gates]:
        settings, module, heads = self._claims.settings, "audio_fusion_module", self._claims.n_heads
        stages = settings["audio_stages"]
        a = self._staged("input_aud_proj", audio, stages, False) if stages else self._linear("input_aud_proj", audio)
        p = self._linear(f"{module}.audio_proj", a)
        dummy = self._w(f"{module}.dummy_token")[0]
        keys, values = np.concatenate([t, dummy]), np.concatenate([t, np.zeros_like(dummy)])
        c = self._packed_attention(f"{module}.cross_attention", p, keys, values, heads)
        x = self._norm(f"{module}.norm1", p + c)
        y = self._norm(f"{module}.norm2", x + self._feed_forward(f"{module}.ffn", x))
        s = self._packed_attention(f"{module}.gate_self_attention", y, y, y, heads).mean(axis=0)
        g = sigmoid(self._feed_forward(f"{module}.gate_mlp", s[None]))  # (1, 1)
        last_relu = settings["video_stages"] == 1 and self._claims.n_input_proj > 1
        joined = np.concatenate([video, g * y], axis=1)
        return self._staged("input_vid_proj", joined, settings["video_stages"], last_relu), {"attention": [g]}

    def _staged(self, name: str, x: Array, stages: int, last_relu: bool) -> Array:
        for stage in range(stages):
            x = self._linear(f"{name}.{stage}.net.1", self._norm(f"{name}.{stage}.LayerNorm", x))
            if stage + 1 < stages or last_relu:
                x = np.maximum(x, 0)
        return x


_BY_FAMILY: dict[str, type[Reference]] = {
    "base": Reference,
    "sigmoid_global": SigmoidGlobal,
    "ssm": Strip,
    "scaled": Scaled,
    "scaled_film": ScaledFilm,
    "t2v_ffn": WithoutEncoder,
    "encoder_ffn": FeedForwardEncoder,
    "t2v_saliency": InsideTransformer,
    "cross_attention": CrossAttention,
    "temporal_gate": TemporalGate,
    "text_audio": TextAudio,
}


def reference_for(weights: Mapping[str, npt.NDArray[np.floating]], claims: Architecture) -> Reference | None:
    """Return the second implementation of a checkpoint's family; None if there is none."""
    found = _BY_FAMILY.get(claims.family)
    return None if found is None else found(weights, claims)
