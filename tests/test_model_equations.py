"""The model against an independent slow version: NumPy, float64, one sample, head and clip at a time.

Written from the legacy model's description, section by section; it shares no code with the package.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch

from qd_detr.gates.model.attention import packed_attention
from qd_detr.gates.model.heads import inverse_sigmoid
from qd_detr.gates.model.positions import anchor_sine, clip_positions
from qd_detr.gates.model.transformer import legacy_mixing_mask

pytestmark = pytest.mark.usefixtures("one_thread")
GATING = pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
D, H = 16, 2


class Weights:
    """Looks up parameters by the names of the state dict, as float64 arrays."""

    def __init__(self, module: torch.nn.Module, prefix: str = "") -> None:
        self.values = {key: value.detach().double().numpy() for key, value in module.state_dict().items()}
        self.prefix = prefix

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[self.prefix + name]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.values

    def under(self, prefix: str) -> "Weights":
        below = object.__new__(Weights)
        below.values, below.prefix = self.values, self.prefix + prefix
        return below

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return self[name + ".weight"] @ x + self[name + ".bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean()
        return centred / math.sqrt((centred**2).mean() + 1e-5) * self[name + ".weight"] + self[name + ".bias"]

    def two_layers(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.linear(f"{name}.2", np.maximum(self.linear(f"{name}.0", x), 0))

    def mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        count = sum(f"{name}.layers.{i}.weight" in self for i in range(9))
        for i in range(count):
            x = self.linear(f"{name}.layers.{i}", x)
            x = np.maximum(x, 0) if i + 1 < count else x
        return x


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def slow_inverse_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.array([math.log(max(min(max(v, 0), 1), 1e-3) / max(1 - min(max(v, 0), 1), 1e-3)) for v in x])


def slow_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, hidden: np.ndarray) -> np.ndarray:
    """q (Lq, E), k (Lk, E), v (Lk, F), all projected; hidden (heads, Lq, Lk) True = may not be seen -> (Lq, F)."""
    e, f = q.shape[1] // heads, v.shape[1] // heads
    out = np.zeros((len(q), v.shape[1]))
    for h in range(heads):
        for i in range(len(q)):
            seen = [j for j in range(len(k)) if not hidden[h, i, j]]
            scores = np.array([q[i, h * e : (h + 1) * e] @ k[j, h * e : (h + 1) * e] for j in seen]) / math.sqrt(e)
            weight = np.exp(scores - scores.max())
            weight /= weight.sum()
            for share, j in zip(weight, seen, strict=True):
                out[i, h * f : (h + 1) * f] += share * v[j, h * f : (h + 1) * f]
    return out


def slow_multihead(
    w: Weights, q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, hidden: np.ndarray
) -> np.ndarray:
    dim = q.shape[1]
    parts = [
        np.array(
            [
                w["in_proj_weight"][i * dim : (i + 1) * dim] @ row + w["in_proj_bias"][i * dim : (i + 1) * dim]
                for row in x
            ]
        )
        for i, x in enumerate((q, k, v))
    ]
    return np.array([w.linear("out_proj", row) for row in slow_attention(*parts, heads, hidden)])


def key_padding(pad: np.ndarray, heads: int, n_queries: int) -> np.ndarray:
    return np.broadcast_to(pad[None, None, :], (heads, n_queries, len(pad)))


def slow_fusion(
    w: Weights, video: np.ndarray, audio: np.ndarray, mask: np.ndarray, gating_type: str, heads: int = H
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Section 4 for one sample, padded as its batch padded it: fused (L, D), gates per layer, injections per layer."""
    clips = len(video)
    gates, flows = [], []
    v = video
    for layer in range(99):
        p = w.under(f"fusion_layers.{layer}.")
        if "a_proj.weight" not in p:
            break
        g_att, g_ffn, out = [], [], np.zeros_like(v)
        flow = {
            key: np.zeros(clips) for key in ("attention_injection", "ffn_injection", "attention_cosine", "ffn_cosine")
        }
        zb = np.zeros_like(v)
        for t in range(clips):
            joint = np.concatenate([v.mean(0), audio.mean(0)] if gating_type == "global" else [v[t], audio[t]])
            a, f = (np.tanh(p.two_layers(f"gating_function.{m}", joint)) for m in ("mlp_mha", "mlp_ffn"))
            g_att.append(a)
            g_ffn.append(f)
            att = p.linear("out_proj", p.linear("a_proj", p.norm("norm1", audio[t])))
            z = a * att + v[t]
            refined = p.two_layers("ffn1", p.norm("norm2", z))
            zb[t] = f * refined + z
            for kind, added, residual in (("attention", a * att, v[t]), ("ffn", f * refined, z)):
                added, residual = added - added.mean(), residual - residual.mean()
                flow[f"{kind}_injection"][t] = math.dist(added, 0 * added) / math.dist(residual, 0 * residual)
                flow[f"{kind}_cosine"][t] = added @ residual / math.sqrt((added @ added) * (residual @ residual))
        n = np.array([p.norm("norm3", row) for row in zb])
        r = slow_multihead(p.under("self_attention."), n, n, n, heads, key_padding(mask == 0, heads, clips)) + zb
        for t in range(clips):
            out[t] = p.two_layers("ffn2", p.norm("norm4", r[t])) + r[t]
        rows = 1 if gating_type == "global" else clips
        gates.append((np.array(g_att[:rows]), np.array(g_ffn[:rows])))
        flows.append(flow)
        v = out
    return v, gates, flows


def slow_projection(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    stages = sum(f"{name}.{i}.net.1.weight" in w for i in range(9))
    rows = []
    for row in x:
        for i in range(stages):
            row = w.linear(f"{name}.{i}.net.1", w.norm(f"{name}.{i}.LayerNorm", row))
            row = np.maximum(row, 0) if i + 1 < stages else row
        rows.append(row)
    return np.array(rows)


def slow_positions(mask: np.ndarray, dim: int) -> np.ndarray:
    total, so_far, rows = mask.sum(), 0.0, []
    for m in mask:
        so_far += m
        x = so_far / (total + 1e-6) * 2 * math.pi
        angles = [x / 10000 ** (2 * (k // 2) / dim) for k in range(dim)]
        rows.append([math.cos(a) if k % 2 else math.sin(a) for k, a in enumerate(angles)])
    return np.array(rows)


def slow_anchor_sine(reference: np.ndarray, dim: int) -> np.ndarray:
    half = dim // 2
    return np.array(
        [
            [
                (math.cos if k % 2 else math.sin)(part * 2 * math.pi / 10000 ** (2 * (k // 2) / half))
                for part in anchor
                for k in range(half)
            ]
            for anchor in reference
        ]
    )


def prelu(w: Weights, x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, x, w["activation.weight"][0] * x)


def slow_decode(
    w: Weights,
    fused: np.ndarray,
    text: np.ndarray,
    vid_mask: np.ndarray,
    txt_mask: np.ndarray,
    mixing: np.ndarray | None,
    use_txt_pos: bool = False,
) -> dict[str, Any]:
    """Sections 5 and 6 for one sample; mixing (H, L, T) is the second mask that its batch gave it, or None."""
    clips = len(fused)
    pos = slow_positions(vid_mask, D)
    text_pos = np.zeros_like(text)
    if use_txt_pos:
        table = w["txt_position_embed.position_embeddings.weight"]
        text_pos = np.array([w.norm("txt_position_embed.LayerNorm", row + table[t]) for t, row in enumerate(text)])
    hidden = np.array(key_padding(txt_mask == 0, H, clips))
    if mixing is not None:
        hidden = hidden | mixing
    video = fused
    for i in range(99):
        p = w.under(f"transformer.t2v_encoder.layers.{i}.")
        if "linear1.weight" not in p:
            break
        s = video + slow_multihead(p.under("self_attn."), video + pos, text + text_pos, text, H, hidden)
        video = np.array(
            [
                p.norm("norm2", row + p.linear("linear2", prelu(p, p.linear("linear1", p.norm("norm1", row)))))
                for row in s
            ]
        )
    x = np.concatenate([w["global_rep_token"][None], video])
    x_pos = np.concatenate([w["global_rep_pos"][None], pos])
    pad = np.concatenate([[False], vid_mask == 0])
    for i in range(99):
        p = w.under(f"transformer.encoder.layers.{i}.")
        if "linear1.weight" not in p:
            break
        q = x + x_pos
        x = x + slow_multihead(p.under("self_attn."), q, q, x, H, key_padding(pad, H, len(x)))
        x = np.array([p.norm("norm1", row) for row in x])
        x = np.array([p.norm("norm2", row + p.linear("linear2", prelu(p, p.linear("linear1", row)))) for row in x])
    token, memory = x[0], x[1:]
    outputs = slow_decoder(w, memory, pos, vid_mask == 0)
    saliency = [
        float(sum(w.linear("saliency_proj1", row) * w.linear("saliency_proj2", token)) / math.sqrt(D)) for row in memory
    ]
    return {"layers": outputs, "saliency_scores": np.array(saliency)}


def slow_decoder(w: Weights, memory: np.ndarray, pos: np.ndarray, pad: np.ndarray) -> list[dict[str, np.ndarray]]:
    d = w.under("transformer.decoder.")
    reference = sigmoid(w["query_embed.weight"])
    slots = len(reference)
    target = np.zeros((slots, D))
    outputs = []

    def each(p: Weights, name: str, x: np.ndarray) -> np.ndarray:
        return np.array([p.linear(name, row) for row in x])

    def beside(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        e = D // H
        return np.concatenate(
            [np.concatenate([a[:, h * e : (h + 1) * e], b[:, h * e : (h + 1) * e]], 1) for h in range(H)], 1
        )

    for i in range(99):
        p = d.under(f"layers.{i}.")
        if "linear1.weight" not in p:
            break
        sine = slow_anchor_sine(reference, D)
        query_pos = np.array([d.mlp("ref_point_head", row) for row in sine])
        if i > 0:
            sine = sine * np.array([d.mlp("query_scale", row) for row in target])
        sine = sine * np.array([sigmoid(d.mlp("ref_anchor_head", row)) for row in target]) / reference[:, 1:]
        q = each(p, "sa_qcontent_proj", target) + each(p, "sa_qpos_proj", query_pos)
        k = each(p, "sa_kcontent_proj", target) + each(p, "sa_kpos_proj", query_pos)
        mixed = slow_attention(q, k, each(p, "sa_v_proj", target), H, np.zeros((H, slots, slots), bool))
        target = target + each(p, "self_attn.out_proj", mixed)
        target = np.array([p.norm("norm1", row) for row in target])
        q, k = each(p, "ca_qcontent_proj", target), each(p, "ca_kcontent_proj", memory)
        k_pos = each(p, "ca_kpos_proj", pos)
        if i == 0:
            q, k = q + each(p, "ca_qpos_proj", query_pos), k + k_pos
        q, k = beside(q, each(p, "ca_qpos_sine_proj", sine)), beside(k, k_pos)
        mixed = slow_attention(q, k, each(p, "ca_v_proj", memory), H, key_padding(pad, H, slots))
        target = target + each(p, "cross_attn.out_proj", mixed)
        target = np.array([p.norm("norm2", row) for row in target])
        target = np.array(
            [p.norm("norm3", row + p.linear("linear2", prelu(p, p.linear("linear1", row)))) for row in target]
        )
        normed = [d.norm("norm", row) for row in target]
        outputs.append(
            {
                "pred_logits": np.array([w.linear("class_embed", row) for row in normed]),
                "pred_spans": np.array(
                    [
                        sigmoid(w.mlp("span_embed", row) + slow_inverse_sigmoid(ref))
                        for row, ref in zip(normed, reference, strict=True)
                    ]
                ),
            }
        )
        reference = np.array(
            [
                sigmoid(d.mlp("bbox_embed", row) + slow_inverse_sigmoid(ref))
                for row, ref in zip(target, reference, strict=True)
            ]
        )
    return outputs


def fusion_inputs(batch: int = 3, clips: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    video, audio = torch.randn(2, batch, clips, D, generator=generator, dtype=torch.float64)
    return video, audio, torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]], dtype=torch.float64)


@GATING
@pytest.mark.parametrize("padded", [False, True])
def test_fusion_gates_and_injections_equal_the_slow_version(tiny_model, gating_type, padded):
    fusion = tiny_model(gating_type).fusion.double()
    video, audio, mask = fusion_inputs()
    mask = mask if padded else torch.ones_like(mask)
    fusion.enable_gate_tracking(injection=True)
    fusion.set_current_sample_id("batch")
    with torch.no_grad():
        fused = fusion(video, audio, mask if padded else None)
    entry = fusion.gate_history["batch"]
    for b in range(3):
        want, gates, flows = slow_fusion(
            Weights(fusion), video[b].numpy(), audio[b].numpy(), mask[b].numpy(), gating_type
        )
        np.testing.assert_allclose(fused[b].numpy(), want, atol=1e-12)
        for layer in range(2):
            for key, gate in zip(("attention_gates", "ffn_gates"), gates[layer], strict=True):
                np.testing.assert_allclose(entry[key][layer][b], gate, atol=1e-7)
            for key, flow in flows[layer].items():
                np.testing.assert_allclose(entry[key][layer][b], flow, rtol=1e-6, atol=1e-7, err_msg=key)


def test_the_global_mean_runs_over_padding(tiny_model):
    fusion = tiny_model("global").fusion.double()
    video, audio, mask = fusion_inputs()
    moved = video.clone()
    moved[1, 4] += 1.0  # a padded clip of sample 1
    with torch.no_grad():
        before, after = fusion(video, audio, mask), fusion(moved, audio, mask)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1, :3], after[1, :3])


@pytest.mark.parametrize("gating_type", ["clipwise", "elementwise"])
def test_padding_moves_no_real_clip_of_the_other_types(tiny_model, gating_type):
    fusion = tiny_model(gating_type).fusion.double()
    video, audio, mask = fusion_inputs()
    moved = video + (1 - mask)[..., None] * 5.0
    with torch.no_grad():
        before, after = fusion(video, audio, mask), fusion(moved, audio, mask)
    assert torch.equal(before[mask.bool()], after[mask.bool()])


@pytest.mark.parametrize("use_txt_pos", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_whole_model_equals_the_slow_version(tiny_model, tiny_batch, legacy, use_txt_pos):
    model = tiny_model("clipwise", use_txt_pos=use_txt_pos, n_input_proj=3).double()
    batch = tiny_batch()
    with torch.no_grad():
        outputs = model(batch, legacy_batch_mask=legacy)
    w = Weights(model)
    vid_mask, txt_mask = (batch[key].double().numpy() for key in ("src_vid_mask", "src_txt_mask"))
    for b in range(3):
        video, audio, text = (
            slow_projection(w, f"input_{name}_proj", batch[f"src_{name}"][b].double().numpy())
            for name in ("vid", "aud", "txt")
        )
        fused, _, _ = slow_fusion(w.under("fusion."), video, audio, vid_mask[b], "clipwise")
        mixing = slow_mixing(vid_mask, txt_mask)[b] if legacy else None
        want = slow_decode(w, fused, text, vid_mask[b], txt_mask[b], mixing, use_txt_pos)
        real = vid_mask[b] > 0
        np.testing.assert_allclose(outputs["saliency_scores"][b][real], want["saliency_scores"][real], atol=1e-6)
        for name in ("pred_logits", "pred_spans"):
            np.testing.assert_allclose(outputs[name][b], want["layers"][-1][name], atol=1e-6, err_msg=name)


def slow_mixing(vid_mask: np.ndarray, txt_mask: np.ndarray) -> np.ndarray:
    batch, clips, tokens = len(vid_mask), vid_mask.shape[1], txt_mask.shape[1]
    mixed = np.zeros((batch, H, clips, tokens), bool)
    for b in range(batch):
        for h in range(H):
            other = (b * H + h) % batch
            for t in range(clips):
                for s in range(tokens):
                    mixed[b, h, t, s] = vid_mask[other, t] == 0 and txt_mask[other, s] == 0
    return mixed


def test_heads_get_the_masks_that_legacy_batches_gave_them(tiny_batch):
    batch = tiny_batch()
    vid_mask, txt_mask = batch["src_vid_mask"], batch["src_txt_mask"]
    got = legacy_mixing_mask(vid_mask, txt_mask, H).numpy()
    np.testing.assert_array_equal(got, slow_mixing(vid_mask.numpy(), txt_mask.numpy()))
    # By hand: rows run 0 1 2 0 1 2, two heads a sample; sample 0's second head is given the mask of sample 1,
    # which has 3 clips and 2 tokens.
    assert got[0, 1, 4, 3]
    assert not got[0, 0].any()
    assert got[1, 1].sum() == 0  # row 3 is sample 0 again, without padding


def test_training_adds_the_next_samples_text_and_the_earlier_layers(tiny_model, tiny_batch):
    model = tiny_model("global", dropout=0.0, input_dropout=0.0).double().train()
    batch = tiny_batch()
    with torch.no_grad():
        outputs = model(batch)
    w = Weights(model)
    vid_mask, txt_mask = (batch[key].double().numpy() for key in ("src_vid_mask", "src_txt_mask"))
    for b in range(3):
        other = (b + 1) % 3
        video, audio = (
            slow_projection(w, f"input_{name}_proj", batch[f"src_{name}"][b].double().numpy())
            for name in ("vid", "aud")
        )
        texts = [slow_projection(w, "input_txt_proj", batch["src_txt"][i].double().numpy()) for i in (b, other)]
        fused, _, _ = slow_fusion(w.under("fusion."), video, audio, vid_mask[b], "global")
        own = slow_decode(w, fused, texts[0], vid_mask[b], txt_mask[b], None)
        wrong = slow_decode(w, fused, texts[1], vid_mask[b], txt_mask[other], None)
        real = vid_mask[b] > 0
        np.testing.assert_allclose(outputs["saliency_scores_neg"][b][real], wrong["saliency_scores"][real], atol=1e-6)
        assert len(outputs["aux_outputs"]) == 1
        for name in ("pred_logits", "pred_spans"):
            np.testing.assert_allclose(outputs["aux_outputs"][0][name][b], own["layers"][0][name], atol=1e-6)


def test_positions_of_clips_and_anchors_equal_the_slow_version():
    masks = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0]])
    got = clip_positions(masks, D)
    for row, mask in zip(got, masks, strict=True):
        np.testing.assert_allclose(row, slow_positions(mask.double().numpy(), D), atol=2e-6)
    anchors = torch.tensor([[[0.1, 0.9], [0.5, 0.02], [1.0, 0.3]]])
    np.testing.assert_allclose(anchor_sine(anchors, D)[0], slow_anchor_sine(anchors[0].double().numpy(), D), atol=2e-6)


def test_inverse_sigmoid_clamps_both_parts():
    x = torch.tensor([-1.0, 0.0, 1e-4, 0.25, 0.9999, 1.0, 2.0], dtype=torch.float64)
    np.testing.assert_allclose(inverse_sigmoid(x), slow_inverse_sigmoid(x.numpy()), atol=1e-12)
    assert inverse_sigmoid(x)[0].item() == pytest.approx(math.log(1e-3))


def test_packed_attention_equals_torchs_own_for_every_sharing_of_inputs():
    torch.manual_seed(0)
    own = torch.nn.MultiheadAttention(D, H, batch_first=True).double()
    a, b, c = torch.randn(3, 2, 5, D, dtype=torch.float64)
    pad = torch.tensor([[False] * 5, [False, False, True, True, True]])
    for q, k, v in ((a, a, a), (a, a, b), (a, b, b), (a, b, c)):
        want = own(q, k, v, key_padding_mask=pad)[0]
        got = packed_attention(own, q, k, v, ~pad[:, None, None, :])
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


def test_inputs_without_masks_are_all_real_and_the_two_ways_of_calling_are_one(tiny_model, tiny_batch):
    model = tiny_model()
    batch = tiny_batch(clips=(5, 5), tokens=(4, 4))
    keywords = {key: value for key, value in batch.items() if key.startswith("src_")}
    bare = {key: value for key, value in keywords.items() if "mask" not in key}
    with torch.no_grad():
        outputs = [model(batch), model(**keywords), model(**bare), model({**bare, "src_vid_mask": None})]
    for other in outputs[1:]:
        for name in ("pred_logits", "pred_spans", "saliency_scores", "video_mask"):
            assert torch.equal(outputs[0][name].float(), other[name].float())
    assert set(outputs[0]) >= {"pred_logits", "pred_spans", "saliency_scores", "video_mask"}


def test_a_batch_without_audio_is_told_by_name(tiny_model, tiny_batch):
    batch = tiny_batch()
    del batch["src_aud"]
    with pytest.raises(TypeError, match="lacks src_aud"):
        tiny_model()(batch)
    with pytest.raises(TypeError, match="src_aud"):
        tiny_model()(batch["src_txt"], src_vid=batch["src_vid"])
