"""Every family of gated models against what its own code gave: recorded gates, outputs, predictions."""

from __future__ import annotations

import bz2
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import run_gate_analysis
import test_legacy_model as certificate_command
from qd_detr.gates.commands.certify.reference_families import reference_for
from qd_detr.gates.data.batches import collate
from qd_detr.gates.data.feature_layout import FeatureSpec
from qd_detr.gates.data.feature_search import FeatureSources
from qd_detr.gates.data.samples import Samples, open_samples
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.families import FAMILIES, build
from qd_detr.gates.model.qd_detr import QDDETR, SharedVideos
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, conditions_of
from qd_detr.gates.runs.interventions.sweep import run_sweep
from qd_detr.gates.weights.checkpoint import build_model, read_checkpoint, resolve
from tests.conftest import TINY, scramble
from tests.intervention_cases import samples_of, small_data

NAMES = [name for name in FAMILIES if name != "base"]
INPUTS = ("src_txt", "src_txt_mask", "src_vid", "src_vid_mask", "src_aud")


@pytest.fixture(scope="session")
def instances(shared, tmp_path_factory):
    """Return a function from a family's name to the unpacked folder of its recorded instance."""
    place = tmp_path_factory.mktemp("relatives")

    def unpacked(name: str) -> Path:
        folder = place / name
        if not folder.is_dir():
            shutil.copytree(shared / "relatives" / name, folder)
            packed = folder / "model_best.ckpt.bz2"
            (folder / "model_best.ckpt").write_bytes(bz2.decompress(packed.read_bytes()))
        return folder

    return unpacked


def opened(shared: Path, folder: Path, family: str) -> tuple[QDDETR, Samples]:
    checkpoint = read_checkpoint(folder / "model_best.ckpt")
    settings = resolve(checkpoint, family=family)
    spec = FeatureSpec.from_options(settings.options, settings.architecture)
    sources = FeatureSources(
        shared / "relatives" / "val12.jsonl", checkpoint.path, shared / "qvhighlights_sample", None, None, None
    )
    return build_model(checkpoint, settings), open_samples(spec, sources)


@pytest.mark.parametrize("name", NAMES)
def test_gates_and_outputs_are_the_recorded_ones_alone_and_in_the_legacy_batch(name, shared, instances):
    folder = instances(name)
    model, samples = opened(shared, folder, name)
    recorded = np.load(folder / "io.npz")
    items = [(query, samples.reader.read(query)) for query in samples.queries]
    compared = 0
    for prefix, some in [(f"q{query.qid}", [(query, f)]) for query, f in items] + [("batch12", items)]:
        batch, legacy = collate(some), prefix == "batch12"
        found: dict[Any, Any] = {}
        with torch.inference_mode(), model.avigate_fusion.recording(found.__setitem__) as recording:
            recording.set_sample_id("all")
            outputs = model(batch, legacy_batch_mask=legacy)
            outputs["fused"] = model.fuse(model.project(*(batch[key] for key in INPUTS)), legacy_batch_mask=legacy)
        for key in recorded.files:
            if not key.startswith(prefix + "_"):
                continue
            what, want = key[len(prefix) + 1 :], recorded[key]
            kind, _, layer = what.rpartition("_")
            if layer.isdigit():
                ours, bound = found["all"].gates[kind.removesuffix("_gate")][int(layer)], 1e-5
            elif what in outputs:
                ours, bound = outputs[what].numpy(), 1e-4
            else:
                assert what == "refined_audio"
                continue
            np.testing.assert_allclose(ours.reshape(want.shape), want, atol=bound, rtol=0, err_msg=key)
            compared += 1
    assert compared >= 13 * 4  # twelve alone and the batch: at least one gate and three outputs each


# One of each kind: told by options, by predictions, three gates, one gate. The others differ in their forward alone.
@pytest.mark.parametrize("name", ["sigmoid_global", "t2v_saliency", "scaled_film", "temporal_gate"])
def test_the_two_commands_recognise_it_and_repeat_its_predictions(name, shared, instances, tmp_path, capsys):
    folder = instances(name)
    given = ["--model_path", str(folder / "model_best.ckpt"), "--data_path", str(shared / "relatives" / "val12.jsonl")]
    given += ["--feature_root", str(shared / "qvhighlights_sample"), "--quiet"]
    assert certificate_command.main([*given, "--output_dir", str(tmp_path)]) == 0, capsys.readouterr()
    report = json.loads((tmp_path / "compatibility_report.json").read_text())
    assert report["family"]["name"] == name
    assert report["family"]["candidates"] == [name]
    assert report["predictions"]["agree"] == report["predictions"]["queries"] == 12
    run = tmp_path / "run"
    figures = [] if name in ("scaled_film", "temporal_gate") else ["--no_figures"]
    assert run_gate_analysis.main(["--legacy_model", *given, *figures, "--output_dir", str(run)]) == 0
    assert capsys.readouterr().err == ""
    config = json.loads((run / "run_config.json").read_text())
    assert config["family"]["candidates"] == [name]
    alone = [json.loads(line) for line in (folder / "preds_batch1.jsonl").read_text().splitlines()]
    ours = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [line["pred_relevant_windows"] for line in ours] == [
        [[*window[:2], pytest.approx(window[2], abs=2e-4)] for window in line["pred_relevant_windows"]]
        for line in alone
    ]


def variants() -> list[tuple[str, str, dict[str, Any]]]:
    """Return every family with the gating types and settings that its code could train."""
    settings: dict[str, list[dict[str, Any]]] = {
        "ssm": [
            {"band_width": w, "channels": 5, "streams": s, "dilations": d, "diag_subtract": 0.3}
            for w in (2, 8)
            for s in (1, 2, 3)
            for d in ([1, 3], [2, 1, 4])
        ],
        "scaled": [{"temperature": 0.7}],
        "scaled_film": [{"temperature": 0.7}],
        "text_audio": [
            {"audio_stages": a, "video_stages": v, "alignment": {"alignment_vid_proj": [3, 16]}}
            for a in (0, 2)
            for v in (1, 2)
        ],
    }
    return [
        (name, gating_type, setting)
        for name, family in FAMILIES.items()
        for gating_type in ([family.gating_type] if family.gating_type else ["global", "clipwise", "elementwise"])
        for setting in settings.get(name, [{}])
    ]


@pytest.mark.parametrize(("name", "gating_type", "setting"), variants())
def test_every_variant_computes_what_its_equations_say(name, gating_type, setting):
    layers = 1 if name in ("cross_attention", "temporal_gate", "text_audio") else 2
    claims = Architecture(
        **{**TINY, "gating_type": gating_type, "family": name, "settings": setting, "fusion_layers": layers}
    )
    model = build(claims).double().eval()
    scramble(model)
    generator = torch.Generator().manual_seed(1)
    video, audio, text = (torch.randn(1, 7, dim, generator=generator).double() for dim in (6, 5, 4))
    text = text[:, :4]
    found: dict[Any, Any] = {}
    with torch.inference_mode(), model.avigate_fusion.recording(found.__setitem__) as recording:
        recording.set_sample_id("q")
        outputs = model(src_txt=text, src_vid=video, src_aud=audio)
    reference = reference_for({key: value.numpy() for key, value in model.state_dict().items()}, claims)
    assert reference is not None
    want = reference.forward(video[0].numpy(), audio[0].numpy(), text[0].numpy())
    for key in ("pred_logits", "pred_spans", "saliency_scores"):
        np.testing.assert_allclose(outputs[key][0].numpy(), getattr(want, key), rtol=1e-7, atol=1e-8)
    assert set(found["q"].gates) == set(want.gates) == {gate.kind for gate in model.avigate_fusion.gates}
    for gate in model.avigate_fusion.gates:
        low, high = gate.value_range
        for ours, theirs in zip(found["q"].gates[gate.kind], want.gates[gate.kind], strict=True):
            np.testing.assert_allclose(ours[0], theirs, atol=1e-6, rtol=0)
            assert ((ours >= low) & (ours <= high)).all()


def small_one(name: str, **sizes: int) -> QDDETR:
    setting = next((s for n, _, s in variants() if n == name), {})
    gating_type = FAMILIES[name].gating_type or "clipwise"
    layers = 1 if name in ("cross_attention", "temporal_gate", "text_audio") else 2
    changed = {"gating_type": gating_type, "family": name, "settings": setting, "fusion_layers": layers}
    model = build(Architecture(**{**TINY, **changed, **sizes})).eval()
    scramble(model)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_queries_of_one_video_share_its_fusion_where_that_reads_no_text(name):
    model = small_one(name)
    generator = torch.Generator().manual_seed(3)
    video, audio = (torch.randn(2, 5, dim, generator=generator) for dim in (6, 5))
    text = torch.randn(3, 4, 4, generator=generator)
    vids = ["a", "b", "a"]
    shared = SharedVideos.among(vids)
    assert shared is not None
    assert (shared.first.tolist(), shared.of.tolist()) == ([0, 1], [0, 1, 0])
    assert SharedVideos.among(["a", "b"]) is None
    batch = {"src_vid": video[shared.of], "src_aud": audio[shared.of], "src_txt": text}
    with torch.inference_mode():
        apart = [model.fuse(model.project(text[b : b + 1], None, video[:1], None, audio[:1])) for b in (0, 2)]
        assert model.fusion_reads_text == (not torch.equal(*apart))
        if not model.fusion_reads_text:
            together, alone = model(batch, shared=shared), model(batch)
            for key in ("pred_logits", "pred_spans", "saliency_scores", "video_mask"):
                torch.testing.assert_close(together[key], alone[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_equal_clip_count_give_every_sample_its_value_alone(name):
    model = small_one(name)
    generator = torch.Generator().manual_seed(2)
    tokens = [4, 2]
    batch = {
        "src_vid": torch.randn(2, 5, 6, generator=generator),
        "src_aud": torch.randn(2, 5, 5, generator=generator),
        "src_txt": torch.randn(2, 4, 4, generator=generator),
        "src_txt_mask": torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]]),
    }
    with torch.inference_mode():
        together = model(batch)
        for b in range(2):
            one = {"src_vid": batch["src_vid"][b : b + 1], "src_aud": batch["src_aud"][b : b + 1]}
            alone = model({**one, "src_txt": batch["src_txt"][b : b + 1, : tokens[b]]})
            for key in ("pred_logits", "pred_spans", "saliency_scores"):
                torch.testing.assert_close(together[key][b], alone[key][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_family_runs_with_its_attention_gates_off_and_the_gates_are_read_back(name):
    model = small_one(name, video_dim=7)
    index, reader = small_data(clip_counts=(6, 4, 6))
    run = run_sweep(model, samples_of(index, reader), conditions_of(share=True))
    assert run.gates[ATTENTION_OFF].magnitude[:, :, run.kinds.index("attention")].max() == 0
    assert run.gates["baseline"].magnitude[:, :, run.kinds.index("attention")].min() > 0
    assert any(
        not np.array_equal(a.span_cxw, b.span_cxw)
        for a, b in zip(run.raw["baseline"], run.raw[ATTENTION_OFF], strict=True)
    )
