"""The legacy model a second time, to check the first: NumPy, float64, one query, straight from the checkpoint's tensors.

It shares no code with `qd_detr.gates.model`; both follow the equations that the legacy model's description gives. Whatever
happened between file and model - a lost layer, another head count, another gating - makes the two differ.

Letters: n clips, T tokens, D hidden, Q slots, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qd_detr.gates.gating import gating_named
from qd_detr.gates.model.architecture import Architecture

Array = npt.NDArray[np.float64]
Gates = dict[str, list[Array]]


@dataclass(frozen=True)
class ReferenceOutputs:
    """One query's outputs: logits and spans (Q, 2), saliency (n,), and by kind the gates of every layer (n or 1, D or 1)."""

    pred_logits: Array
    pred_spans: Array
    saliency_scores: Array
    gates: Gates


class Reference:
    """Computes outputs from a state dict.

    Args:
        weights: the checkpoint's tensors by key, as arrays of any float type.
        claims: what the weights do not show - head counts, gating type, use_txt_pos - and the layer counts.
    """

    def __init__(self, weights: Mapping[str, npt.NDArray[np.floating]], claims: Architecture) -> None:
        self._weights = weights
        self._claims = claims
        self._kept: dict[str, Array] = {}

    def forward(self, video: Array, audio: Array, text: Array) -> ReferenceOutputs:
        """Return the outputs of one query from its features: video (n, Dv), audio (n, Da), text (T, Dt)."""
        memory, gates = self._memory(video, audio, self._project("input_txt_proj", text))
        slots, reference = self._decoder(memory[1:], self._positions(len(video)))
        spans = sigmoid(self._mlp("span_embed", slots, 3) + inverse_sigmoid(reference))
        clips, token = self._linear("saliency_proj1", memory[1:]), self._linear("saliency_proj2", memory[:1])
        return ReferenceOutputs(
            pred_logits=self._linear("class_embed", slots),
            pred_spans=spans,
            saliency_scores=(clips * token).sum(axis=1) / np.sqrt(memory.shape[1]),
            gates=gates,
        )

    # -- what families change ----------------------------------------------------------------------------------------

    def _memory(self, video: Array, audio: Array, t: Array) -> tuple[Array, Gates]:
        """Return [global token | clips] (1 + n, D) and the gates, from features and the projected text (T, D)."""
        fused, gates = self._fused(video, audio, t)
        return self._related(self._read(fused, t)), gates

    def _fused(self, video: Array, audio: Array, t: Array) -> tuple[Array, Gates]:
        """Return the fused video (n, D) and the gates."""
        v, a = self._project("input_vid_proj", video), self._project("input_aud_proj", audio)
        every: Gates = {}
        for layer in range(self._claims.fusion_layers):
            v, gates = self._fusion_layer(f"fusion.fusion_layers.{layer}", v, a)
            for kind, gate in gates.items():
                every.setdefault(kind, []).append(gate)
        return v, every

    def _gates(self, name: str, v: Array, a: Array) -> dict[str, Array]:
        joint = self._joint(v, a)
        return {
            "attention": np.tanh(self._feed_forward(f"{name}.mlp_mha", joint)),
            "ffn": np.tanh(self._feed_forward(f"{name}.mlp_ffn", joint)),
        }

    def _fusion_layer(self, name: str, v: Array, a: Array) -> tuple[Array, dict[str, Array]]:
        gates = self._gates(f"{name}.gating_function", v, a)
        z = gates["attention"] * self._heard(name, a) + v
        return self._after_gates(name, gates["ffn"] * self._refined(name, z) + z), gates

    def _related(self, v: Array) -> Array:
        """Return [global token | clips] once the encoder has related them."""
        x = np.concatenate([self._w("global_rep_token")[None], v])  # (1 + n, D)
        pos = np.concatenate([self._w("global_rep_pos")[None], self._positions(len(v))])
        for layer in range(self._claims.enc_layers):
            x = self._encoder_layer(f"transformer.encoder.layers.{layer}", x, pos)
        return x

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _project(self, name: str, x: Array) -> Array:
        stages = self._claims.n_input_proj
        for stage in range(stages):
            x = self._linear(f"{name}.{stage}.net.1", self._norm(f"{name}.{stage}.LayerNorm", x))
            if stage + 1 < stages:
                x = np.maximum(x, 0)
        return x

    def _joint(self, v: Array, a: Array) -> Array:
        if not gating_named(self._claims.gating_type).per_clip:
            return np.concatenate([v.mean(axis=0), a.mean(axis=0)])[None]  # (1, 2D)
        return np.concatenate([v, a], axis=1)  # (n, 2D)

    def _heard(self, name: str, a: Array) -> Array:
        return self._linear(f"{name}.out_proj", self._linear(f"{name}.a_proj", self._norm(f"{name}.norm1", a)))

    def _refined(self, name: str, z: Array) -> Array:
        return self._feed_forward(f"{name}.ffn1", self._norm(f"{name}.norm2", z))

    def _after_gates(self, name: str, zb: Array) -> Array:
        n = self._norm(f"{name}.norm3", zb)
        r = self._packed_attention(f"{name}.self_attention", n, n, n, self._claims.fusion_n_heads) + zb
        return self._feed_forward(f"{name}.ffn2", self._norm(f"{name}.norm4", r)) + r

    def _positions(self, n: int) -> Array:
        return sine(np.arange(1, n + 1) / (n + 1e-6) * 2 * np.pi, self._claims.hidden_dim)

    def _read(self, v: Array, t: Array) -> Array:
        """Return the clips (n, D) once they have read the text (T, D)."""
        t_pos = self._text_position(t) if self._claims.use_txt_pos else np.zeros_like(t)
        for layer in range(self._claims.enc_layers):
            v = self._text_to_video(f"transformer.t2v_encoder.layers.{layer}", v, self._positions(len(v)), t, t_pos)
        return v

    def _text_position(self, t: Array) -> Array:
        learned = self._w("txt_position_embed.position_embeddings.weight")[: len(t)]
        return self._norm("txt_position_embed.LayerNorm", t + learned)

    def _text_to_video(self, name: str, v: Array, pos: Array, t: Array, t_pos: Array) -> Array:
        s = v + self._packed_attention(f"{name}.self_attn", v + pos, t + t_pos, t, self._claims.n_heads)
        return self._norm(f"{name}.norm2", s + self._prelu_feed_forward(name, self._norm(f"{name}.norm1", s)))

    def _encoder_layer(self, name: str, x: Array, pos: Array) -> Array:
        attended = self._packed_attention(f"{name}.self_attn", x + pos, x + pos, x, self._claims.n_heads)
        x = self._norm(f"{name}.norm1", x + attended)
        return self._norm(f"{name}.norm2", x + self._prelu_feed_forward(name, x))

    def _decoder(self, memory: Array, pos: Array) -> tuple[Array, Array]:
        """Return the last layer's slots (Q, D) and the reference (Q, 2) that entered it."""
        dim = memory.shape[1]
        reference = sigmoid(self._w("query_embed.weight"))
        target = np.zeros((len(reference), dim))
        name = "transformer.decoder"
        for layer in range(self._claims.dec_layers):
            if layer:
                reference = sigmoid(self._mlp(f"{name}.bbox_embed", target, 3) + inverse_sigmoid(reference))
            place = np.concatenate([sine(reference[:, i] * 2 * np.pi, dim // 2) for i in (0, 1)], axis=1)
            query_pos = self._mlp(f"{name}.ref_point_head", place, 2)
            if layer:
                place = place * self._mlp(f"{name}.query_scale", target, 2)
            place = place * sigmoid(self._mlp(f"{name}.ref_anchor_head", target, 2)) / reference[:, 1:]
            target = self._decoder_layer(f"{name}.layers.{layer}", layer == 0, target, query_pos, place, memory, pos)
        return self._norm(f"{name}.norm", target), reference

    def _decoder_layer(
        self, name: str, first: bool, target: Array, query_pos: Array, place: Array, memory: Array, pos: Array
    ) -> Array:
        def linear(leaf: str, x: Array) -> Array:
            return self._linear(f"{name}.{leaf}", x)

        heads = self._claims.n_heads
        q = linear("sa_qcontent_proj", target) + linear("sa_qpos_proj", query_pos)
        k = linear("sa_kcontent_proj", target) + linear("sa_kpos_proj", query_pos)
        attended = _attention([q], [k], linear("sa_v_proj", target), heads, self._seen(f"{name}.self_attn"))
        target = self._norm(f"{name}.norm1", target + linear("self_attn.out_proj", attended))
        q, k, k_pos = (
            linear("ca_qcontent_proj", target),
            linear("ca_kcontent_proj", memory),
            linear("ca_kpos_proj", pos),
        )
        if first:
            q, k = q + linear("ca_qpos_proj", query_pos), k + k_pos
        q_parts, seen = [q, linear("ca_qpos_sine_proj", place)], self._seen(f"{name}.cross_attn")
        attended = _attention(q_parts, [k, k_pos], linear("ca_v_proj", memory), heads, seen)
        target = self._norm(f"{name}.norm2", target + linear("cross_attn.out_proj", attended))
        return self._norm(f"{name}.norm3", target + self._prelu_feed_forward(name, target))

    def _seen(self, name: str) -> npt.NDArray[np.bool_]:
        """Return which keys the attention `name` sees, spread over (H, queries, keys): a query by itself has no padding."""
        return np.ones(1, bool)

    # -- the pieces --------------------------------------------------------------------------------------------------

    def _w(self, key: str) -> Array:
        if key not in self._kept:
            self._kept[key] = np.asarray(self._weights[key], dtype=np.float64)
        return self._kept[key]

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self._w(f"{name}.weight").T + self._w(f"{name}.bias")

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * self._w(f"{name}.weight") + self._w(f"{name}.bias")

    def _feed_forward(self, name: str, x: Array) -> Array:
        return self._linear(f"{name}.2", np.maximum(self._linear(f"{name}.0", x), 0))

    def _prelu_feed_forward(self, name: str, x: Array) -> Array:
        inner = self._linear(f"{name}.linear1", x)
        inner = np.where(inner > 0, inner, self._w(f"{name}.activation.weight") * inner)
        return self._linear(f"{name}.linear2", inner)

    def _mlp(self, name: str, x: Array, layers: int) -> Array:
        for i in range(layers):
            x = self._linear(f"{name}.layers.{i}", np.maximum(x, 0) if i else x)
        return x

    def _packed_attention(self, name: str, q: Array, k: Array, v: Array, heads: int) -> Array:
        weights = np.split(self._w(f"{name}.in_proj_weight"), 3)
        biases = np.split(self._w(f"{name}.in_proj_bias"), 3)
        q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weights, biases, strict=True))
        return self._linear(f"{name}.out_proj", _attention([q], [k], v, heads, self._seen(name)))


def _attention(q_parts: list[Array], k_parts: list[Array], v: Array, heads: int, seen: npt.NDArray[np.bool_]) -> Array:
    """Return softmax(q k / sqrt(size)) v per head; a head's query and key are its share of every part, side by side."""
    mixed = []
    seen = np.broadcast_to(seen, (heads, len(q_parts[0]), len(v)))
    for head in range(heads):

        def share(x: Array, head: int = head) -> Array:
            return np.split(x, heads, axis=1)[head]

        q = np.concatenate([share(part) for part in q_parts], axis=1)
        k = np.concatenate([share(part) for part in k_parts], axis=1)
        scores = np.where(seen[head], q @ k.T / np.sqrt(q.shape[1]), -np.inf)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed.append(shares / shares.sum(axis=1, keepdims=True) @ share(v))
    return np.concatenate(mixed, axis=1)


def sine(x: Array, dim: int) -> Array:
    """Return (..., dim): feature k of x is sin (k even) or cos (k odd) of x / 10000^(2 (k // 2) / dim)."""
    k = np.arange(dim)
    angle = x[..., None] / 10000.0 ** (2 * (k // 2) / dim)
    return np.where(k % 2 == 0, np.sin(angle), np.cos(angle))


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-x))


def inverse_sigmoid(x: Array) -> Array:
    """Return log(x / (1 - x)), both parts at least 1e-3."""
    x = np.clip(x, 0, 1)
    return np.log(np.maximum(x, 1e-3) / np.maximum(1 - x, 1e-3))
