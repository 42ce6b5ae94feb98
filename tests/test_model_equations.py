"""The model against an independent slow version: the certificate's NumPy reference, float64, one sample at a time.

The reference is written from the legacy model's description and shares no code with the model.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qd_detr.gates.commands.certify.reference import Reference, inverse_sigmoid, sine
from qd_detr.gates.model import heads
from qd_detr.gates.model.attention import packed_attention
from qd_detr.gates.model.positions import anchor_sine, clip_positions
from qd_detr.gates.model.transformer import legacy_mixing_mask

pytestmark = pytest.mark.usefixtures("one_thread")
GATING = pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
D, H = 16, 2
FUSION = "fusion.fusion_layers"


def padded_positions(mask):
    return sine(np.cumsum(mask) / (mask.sum() + 1e-6) * 2 * np.pi, D)


class PaddedReference(Reference):
    """The reference for one sample as its batch padded it, which also keeps what the gates let through.

    Args:
        mixing: (H, L, T) what its legacy batch hid of the text besides.
    """

    def __init__(self, model, vid_mask, txt_mask=None, mixing=False, **claims):
        weights = {key: value.double().numpy() for key, value in model.state_dict().items()}
        super().__init__(weights, replace(model.architecture, **claims))
        self.vid_mask, self.txt_mask, self.mixing = vid_mask, txt_mask, mixing
        self.flows = []

    def _positions(self, n):
        return padded_positions(self.vid_mask)

    def _seen(self, name):
        if "t2v_encoder" in name:
            return (self.txt_mask > 0) & ~np.asarray(self.mixing)
        if "transformer.encoder" in name:
            return np.append(True, self.vid_mask > 0)  # the global token first
        return np.ones(1, bool) if "decoder" in name and "self_attn" in name else self.vid_mask > 0

    def _fusion_layer(self, name, v, a):
        g = self._gates(f"{name}.gating_function", v, a)
        heard = g["attention"] * self._heard(name, a)
        refined = g["ffn"] * self._refined(name, heard + v)
        flow = {}
        for kind, added, residual in (("attention", heard, v), ("ffn", refined, heard + v)):
            for key, values in injections(added, residual).items():
                flow[f"{kind}_{key}"] = values
        self.flows.append(flow)
        return super()._fusion_layer(name, v, a)


def injections(added, residual):
    """Return by clip the share that is added and its direction, both without the mean that a LayerNorm removes."""
    found = {"injection": [], "cosine": []}
    for x, y in zip(added, residual, strict=True):
        x, y = x - x.mean(), y - y.mean()
        found["injection"].append(math.sqrt(x @ x) / math.sqrt(y @ y))
        found["cosine"].append(x @ y / math.sqrt((x @ x) * (y @ y)))
    return found


def features_of(batch, b):
    return [batch[f"src_{name}"][b].double().numpy() for name in ("vid", "aud", "txt")]


def masks_of(batch):
    return [batch[f"src_{name}_mask"].double().numpy() for name in ("vid", "txt")]


def fusion_inputs(batch: int = 3, clips: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    video, audio = torch.randn(2, batch, clips, D, generator=generator, dtype=torch.float64)
    return video, audio, torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]], dtype=torch.float64)


@GATING
@pytest.mark.parametrize("padded", [False, True])
def test_fusion_gates_and_injections_equal_the_slow_version(tiny_model, gating_type, padded):
    model = tiny_model(gating_type).double()
    video, audio, mask = fusion_inputs()
    mask = mask if padded else torch.ones_like(mask)
    model.fusion.enable_gate_tracking(injection=True)
    model.fusion.set_current_sample_id("batch")
    with torch.no_grad():
        fused = model.fusion(video, audio, mask if padded else None)
    entry = model.fusion.gate_history["batch"]
    for b in range(3):
        slow, want = PaddedReference(model, mask[b].numpy()), video[b].numpy()
        for layer in range(2):
            want, gates = slow._fusion_layer(f"{FUSION}.{layer}", want, audio[b].numpy())
            for kind, gate in gates.items():
                np.testing.assert_allclose(entry[f"{kind}_gates"][layer][b], gate, atol=1e-7)
            for key, flow in slow.flows[layer].items():
                np.testing.assert_allclose(entry[key][layer][b], flow, rtol=1e-6, atol=1e-7, err_msg=key)
        np.testing.assert_allclose(fused[b].numpy(), want, atol=1e-12)


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
    vid_mask, txt_mask = masks_of(batch)
    for b in range(3):
        mixing = slow_mixing(vid_mask, txt_mask)[b] if legacy else False
        want = PaddedReference(model, vid_mask[b], txt_mask[b], mixing).forward(*features_of(batch, b))
        real = vid_mask[b] > 0
        np.testing.assert_allclose(outputs["saliency_scores"][b][real], want.saliency_scores[real], atol=1e-6)
        for name in ("pred_logits", "pred_spans"):
            np.testing.assert_allclose(outputs[name][b], getattr(want, name), atol=1e-6, err_msg=name)


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
    vid_mask, txt_mask = masks_of(batch)
    assert len(outputs["aux_outputs"]) == 1
    for b in range(3):
        other = (b + 1) % 3
        video, audio, text = features_of(batch, b)
        first = PaddedReference(model, vid_mask[b], txt_mask[b], dec_layers=1).forward(video, audio, text)
        wrong_text = batch["src_txt"][other].double().numpy()
        wrong = PaddedReference(model, vid_mask[b], txt_mask[other]).forward(video, audio, wrong_text)
        real = vid_mask[b] > 0
        np.testing.assert_allclose(outputs["saliency_scores_neg"][b][real], wrong.saliency_scores[real], atol=1e-6)
        for name in ("pred_logits", "pred_spans"):
            np.testing.assert_allclose(outputs["aux_outputs"][0][name][b], getattr(first, name), atol=1e-6)


def test_positions_of_clips_and_anchors_equal_the_slow_version():
    masks = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0]])
    got = clip_positions(masks, D)
    for row, mask in zip(got, masks, strict=True):
        np.testing.assert_allclose(row, padded_positions(mask.double().numpy()), atol=2e-6)
    anchors = torch.tensor([[[0.1, 0.9], [0.5, 0.02], [1.0, 0.3]]])
    want = np.concatenate([sine(anchors[0, :, i].double().numpy() * 2 * np.pi, D // 2) for i in (0, 1)], axis=1)
    np.testing.assert_allclose(anchor_sine(anchors, D)[0], want, atol=2e-6)
    # By hand: feature 2 of 4 is sin of x / 10000^(2 / 4).
    assert sine(np.array(0.5), 4)[2] == pytest.approx(math.sin(0.5 / 100))


def test_inverse_sigmoid_clamps_both_parts():
    x = torch.tensor([-1.0, 0.0, 1e-4, 0.25, 0.9999, 1.0, 2.0], dtype=torch.float64)
    np.testing.assert_allclose(heads.inverse_sigmoid(x), inverse_sigmoid(x.numpy()), atol=1e-12)
    assert heads.inverse_sigmoid(x)[0].item() == pytest.approx(math.log(1e-3))


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
