"""Checkpoint files as users have them, and as nobody should give them: read safely, or refused in one clear sentence."""

import argparse
import json
import logging
import pickle
import random
import re
import zipfile
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch

from qd_detr.gates.errors import CheckpointError, MissingFileError, RequestError
from qd_detr.gates.weights.checkpoint import build_model, file_sha256, read_checkpoint, resolve

pytestmark = pytest.mark.usefixtures("one_thread")
RAN = []


def load(path, **settings):
    checkpoint = read_checkpoint(path)
    return build_model(checkpoint, resolve(checkpoint, **settings))


def assert_same_weights(model, original, dtype=torch.float32):
    want = original.state_dict()
    got = model.state_dict()
    assert got.keys() == want.keys()
    for key in want:
        assert got[key].dtype == dtype
        assert torch.equal(got[key], want[key].to(dtype)), key


# -- layouts ---------------------------------------------------------------------------------------------------------


def prefixed(*prefixes):
    return lambda weights: {"".join(prefixes) + key: value for key, value in weights.items()}


@pytest.mark.parametrize(
    "change",
    [
        None,
        prefixed("module."),
        prefixed("module.", "module."),
        prefixed("_orig_mod."),
        prefixed("module.", "_orig_mod."),
    ],
)
def test_prefixes_of_wrappers_are_understood(legacy_checkpoint, tiny_model, change):
    path = legacy_checkpoint("global", change=change)
    assert_same_weights(load(path), tiny_model("global"))
    assert read_checkpoint(path).epoch == 7


@pytest.mark.parametrize(
    "content",
    [
        lambda weights, opt: {"model": weights, "opt": opt},
        lambda weights, opt: {"state_dict": weights, "opt": vars(opt)},
        lambda weights, opt: {"model_state_dict": weights, "opt": opt, "epoch": "last"},
        lambda weights, opt: {"model": OrderedDict(weights), "opt": opt, "state_dict": {}},
        lambda weights, opt: {"model": {k: torch.nn.Parameter(v) for k, v in weights.items()}, "opt": opt},
    ],
)
def test_wrappers_of_a_state_dict_are_understood(legacy_checkpoint, tiny_model, content):
    model = load(legacy_checkpoint(content=content))
    assert_same_weights(model, tiny_model())
    assert all(p.is_leaf and p.requires_grad for p in model.parameters())


def test_a_bare_state_dict_runs_with_an_options_file_and_not_without(legacy_checkpoint, tiny_model, tmp_path):
    path = legacy_checkpoint("elementwise", content=lambda weights, opt: weights)
    with pytest.raises(CheckpointError, match=r"no options.*--config_path"):
        load(path)
    config = tmp_path / "my_options.json"
    config.write_text(
        "\ufeff" + json.dumps({"nheads": 2, "fusion_n_heads": 2, "use_avigate_custom": True}), encoding="utf-8"
    )
    assert_same_weights(load(path, config_path=config), tiny_model("elementwise"))


def test_the_form_that_torch_wrote_before_zip_files_is_read(legacy_checkpoint, tiny_model):
    assert_same_weights(load(legacy_checkpoint(save={"_use_new_zipfile_serialization": False})), tiny_model())


def test_contrastive_projections_belong_to_the_model_where_they_are(legacy_checkpoint):
    model = load(legacy_checkpoint(contrastive_hdim=7, options={"contrastive_align_loss": True}))
    assert model.architecture.contrastive_hdim == 7


def test_a_loaded_model_does_not_hang_on_its_file(legacy_checkpoint, tiny_model):
    path = legacy_checkpoint()
    model = load(path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert_same_weights(model, tiny_model())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_exactly(legacy_checkpoint, tiny_model, dtype):
    path = legacy_checkpoint(change=lambda weights: {key: value.to(dtype) for key, value in weights.items()})
    assert_same_weights(load(path), tiny_model().to(dtype))


def test_double_precision_stays_double(legacy_checkpoint, tiny_model, tiny_batch):
    path = legacy_checkpoint(change=lambda weights: {key: value.double() + 1e-12 for key, value in weights.items()})
    model = load(path)
    want = {key: value.double() + 1e-12 for key, value in tiny_model().state_dict().items()}
    assert all(torch.equal(value, want[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert model(tiny_batch())["pred_spans"].dtype == torch.float64


def test_tensors_that_are_views_are_read_as_what_they_show(legacy_checkpoint, tiny_model):
    def change(weights):
        weights["span_embed.layers.0.weight"] = weights["span_embed.layers.0.weight"].t().contiguous().t()
        weights["global_rep_pos"] = torch.stack([weights["global_rep_pos"]] * 2)[1]

    assert_same_weights(load(legacy_checkpoint(change=change)), tiny_model())


# -- files that are refused ------------------------------------------------------------------------------------------


class RunsCode:
    def __reduce__(self):
        return RAN.append, ("ran",)


class TouchesFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_never_run(legacy_checkpoint, tmp_path, zipped):
    touched = tmp_path / "touched"
    for thing in (RunsCode(), TouchesFile(str(touched))):
        path = legacy_checkpoint(
            content=lambda weights, opt, thing=thing: {"model": weights, "opt": opt, "more": thing},
            save={"_use_new_zipfile_serialization": zipped},
        )
        with pytest.raises(CheckpointError, match=r"refused.*nothing of it was run") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)
    plain = tmp_path / "plain.ckpt"
    plain.write_bytes(pickle.dumps({"model": RunsCode()}))
    with pytest.raises(CheckpointError):
        read_checkpoint(plain)
    assert not RAN
    assert not touched.exists()


def test_numpy_objects_inside_are_refused_by_name(legacy_checkpoint):
    path = legacy_checkpoint(content=lambda weights, opt: {"model": weights, "opt": opt, "best": np.arange(3.0)})
    with pytest.raises(CheckpointError, match=r"numpy\S+ while loading.*Save it again"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda w, o: [1, 2], "holds a list"),
        (lambda w, o: torch.zeros(3), "holds a Tensor"),
        (lambda w, o: {}, "holds no weights"),
        (lambda w, o: {"model": {}, "opt": o}, "holds no weights"),
        (lambda w, o: {"model": {"a": 1}, "opt": o}, "a not a tensor"),
        (lambda w, o: {"model": {1: torch.zeros(1)}, "opt": o}, "1 not a tensor"),
        (lambda w, o: {"epoch": 3, "opt": o}, "not a state dict"),
        (lambda w, o: {"model": w, "opt": [1]}, "'opt' is a list"),
        (lambda w, o: {"model": {"fc.weight": torch.zeros(3, 3)}, "opt": o}, "not those of a QD-DETR model"),
        (
            lambda w, o: {"model": {k: w[k] for k in w if not k.startswith("fusion.")}, "opt": o},
            "plain QD-DETR.*no gates",
        ),
    ],
)
def test_files_of_something_else_are_told_apart(legacy_checkpoint, content, message):
    with pytest.raises(CheckpointError, match=message):
        load(legacy_checkpoint(content=content))


def test_missing_empty_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"no checkpoint .*nowhere\.ckpt.*--model_path"):
        read_checkpoint(tmp_path / "nowhere.ckpt")
    with pytest.raises(CheckpointError, match="is not a file"):
        read_checkpoint(tmp_path)
    for name, data in (
        ("empty", b""),
        ("text", b"hello\n"),
        ("zip", b"PK\x03\x04"),
        ("noise", random.Random(0).randbytes(500)),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / name))):
            read_checkpoint(tmp_path / name)


def test_a_checkpoint_that_holds_a_tensor_twice_is_refused(legacy_checkpoint):
    path = legacy_checkpoint()
    with zipfile.ZipFile(path, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/0"))
        content = archive.read(name)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"holds \S*data/0 more than once"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_and_damaged_files_never_show_anything_but_our_error(legacy_checkpoint, zipped):
    path = legacy_checkpoint(save={"_use_new_zipfile_serialization": zipped})
    whole = path.read_bytes()
    chance = random.Random(1)
    damaged = [whole[: int(len(whole) * part)] for part in (0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.9999)]
    for _ in range(60):
        start = chance.randrange(len(whole))
        damaged.append(whole[:start] + chance.randbytes(chance.choice((1, 8, 400))) + whole[start + 8 :])
    for _ in range(60):  # where the structure is
        start = chance.choice((chance.randrange(4000), len(whole) - 1 - chance.randrange(9000)))
        damaged.append(whole[:start] + chance.randbytes(1) + whole[start + 1 :])
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        with suppress(RequestError):  # a changed number in a tensor or an option shows to nobody
            load(path)
            refused -= 1
        refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "class_embed.bias"}, r"1 missing \(class_embed.bias\)"),
        (lambda w: w.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda w: w.update({"class_embed.bias": torch.zeros(3)}), r"class_embed.bias \(3,\) instead of \(2,\)"),
        (lambda w: w.update({"fusion.fusion_layers.0.norm1.bias": torch.zeros(0)}), r"norm1.bias \(0,\) instead"),
        (lambda w: w.update({"class_embed.bias": torch.zeros(2, dtype=torch.int64)}), "class_embed.bias torch.int64"),
        (lambda w: w.update({"class_embed.bias": torch.zeros(2, dtype=torch.complex64)}), "complex64"),
        (lambda w: w.update({"class_embed.bias": torch.zeros(2, dtype=torch.float8_e4m3fn)}), "float8"),
        (lambda w: w.update({"class_embed.weight": torch.zeros(2, 16).to_sparse()}), "not dense"),
        (lambda w: w.update({"class_embed.bias": torch.zeros(2, device="meta")}), "class_embed.bias"),
        (lambda w: w.update({"class_embed.bias": torch.tensor([0, float("nan")])}), r"NaN or Inf \(class_embed.bias\)"),
        (lambda w: w.update(global_rep_pos=torch.full((16,), float("inf"))), r"NaN or Inf \(global_rep_pos\)"),
        (lambda w: {k: v for k, v in w.items() if "fusion_layers.0." not in k}, "lacks layer 0 of fusion"),
        (lambda w: w.update(global_rep_token=torch.tensor(1.0)), "global_rep_token has shape"),
        (lambda w: {k: v for k, v in w.items() if "transformer.encoder" not in k}, "no key like transformer.encoder"),
        (lambda w: {**w, "module.x": torch.zeros(1)}, "module.x"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_naming_the_key(legacy_checkpoint, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load(legacy_checkpoint(change=change))
    assert "\n" not in str(error.value)


def test_the_names_of_many_missing_keys_are_counted_and_cut(legacy_checkpoint):
    path = legacy_checkpoint(
        change=lambda w: {k: v for k, v in w.items() if "decoder.norm" not in k and "saliency" not in k}
    )
    with pytest.raises(CheckpointError, match=r"6 missing \(.*, \.\.\.\)"):
        load(path)


# -- options ---------------------------------------------------------------------------------------------------------


def settings_of(path, **asked):
    return resolve(read_checkpoint(path), **asked)


def test_the_weights_decide_the_sizes_and_the_embedded_options_the_rest(legacy_checkpoint, caplog):
    path = legacy_checkpoint(
        options={"hidden_dim": 256, "num_queries": 10, "v_feat_dim": 6, "max_v_l": 60, "clip_length": 1},
        opt_json={"hidden_dim": 999, "v_feat_dim": 4, "max_v_l": 75, "nheads": 8, "eval_bsz": 33},
    )
    settings = settings_of(path)
    assert settings.architecture.hidden_dim == settings.options["hidden_dim"] == 16
    assert settings.architecture.num_queries == settings.options["num_queries"] == 3
    assert settings.architecture.video_dim == 6
    assert settings.architecture.n_heads == 2
    assert (settings.options["max_v_l"], settings.options["clip_length"], settings.options["eval_bsz"]) == (60, 1, 33)
    assert settings.origins["hidden_dim"] == "weights"
    assert settings.origins["max_v_l"] == "checkpoint"
    assert settings.origins["eval_bsz"] == "opt.json"
    assert settings.origins["nms_thd"] == "default"
    told = " | ".join(settings.disagreements)
    for name in ("hidden_dim", "num_queries", "max_v_l", "nheads"):
        assert name in told
    assert "v_feat_dim" not in told  # legitimately two
    with caplog.at_level(logging.WARNING):
        load(path)
    assert "options disagree on max_v_l: 60 (checkpoint), 75 (opt.json); taken: checkpoint" in caplog.text


def test_a_named_options_file_comes_before_both(legacy_checkpoint, tmp_path):
    config = tmp_path / "named.json"
    config.write_text(json.dumps({"max_v_l": 50, "gating_type": "global"}))
    settings = settings_of(legacy_checkpoint("clipwise", opt_json={"max_v_l": 75}), config_path=config)
    assert settings.options["max_v_l"] == 50
    assert settings.trained_gating_type == "global"
    assert any(s.startswith("gating_type") for s in settings.disagreements)


def test_elementwise_shows_in_the_weights_whatever_the_options_say(legacy_checkpoint):
    settings = settings_of(legacy_checkpoint("elementwise", options={"gating_type": "global"}))
    assert settings.trained_gating_type == settings.architecture.gating_type == "elementwise"
    assert any("elementwise" in s for s in settings.disagreements)
    with pytest.raises(CheckpointError, match="nothing tells which"):
        settings_of(legacy_checkpoint("clipwise", options={"gating_type": "elementwise"}))


@pytest.mark.parametrize(
    ("trained", "asked", "runs"),
    [
        ("global", None, "global"),
        ("global", "clipwise", "clipwise"),
        ("clipwise", "global", "global"),
        ("elementwise", "elementwise", "elementwise"),
        ("global", "elementwise", None),
        ("elementwise", "clipwise", None),
        ("clipwise", "tanh", None),
    ],
)
def test_the_gating_type_runs_as_trained_or_as_asked_where_the_weights_allow(legacy_checkpoint, trained, asked, runs):
    path = legacy_checkpoint(trained)
    if runs is None:
        with pytest.raises(RequestError, match=asked):
            settings_of(path, gating_type=asked)
        return
    settings = settings_of(path, gating_type=asked)
    assert (settings.trained_gating_type, settings.architecture.gating_type) == (trained, runs)
    assert settings.origins["gating_type"] == ("flag" if asked else "checkpoint")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pre_norm": True}, "pre_norm = True .*never worked"),
        ({"position_embedding": "learned"}, "position_embedding = 'learned'"),
        ({"span_loss_type": "ce"}, "span_loss_type = 'ce'"),
        ({"nheads": 3}, "nheads = 3 .*does not divide"),
        ({"fusion_n_heads": 5}, "fusion_n_heads = 5"),
        ({"nheads": True}, "nheads .*positive integer"),
        ({"nheads": "2"}, "nheads"),
        ({"fusion_n_heads": 0}, "fusion_n_heads"),
        ({"use_txt_pos": "yes"}, "use_txt_pos .*true or false"),
        ({"use_txt_pos": None}, "use_txt_pos"),
        ({"max_v_l": -2}, "max_v_l"),
        ({"max_v_l": 7.5}, "max_v_l"),
        ({"clip_length": 0}, "clip_length .*seconds"),
        ({"clip_length": float("nan")}, "clip_length"),
        ({"clip_length": "2"}, "clip_length"),
        ({"dropout": -0.5}, "dropout .*from 0 to 1"),
        ({"input_dropout": 1.5}, "input_dropout"),
        ({"nms_thd": float("nan")}, "nms_thd"),
        ({"gating_type": "sigmoid"}, "gating_type .*'sigmoid'"),
        ({"gating_type": 3}, "gating_type"),
        ({"gating_type": ["global"]}, "gating_type"),
        ({"v_feat_dirs": [1]}, "v_feat_dirs"),
        ({"v_feat_dirs": {"a": 1}}, "v_feat_dirs"),
        ({"t_feat_dir": ["t"]}, "t_feat_dir"),
        ({"dset_name": "ego4d"}, "dset_name"),
        ({"ctx_mode": "audio"}, "ctx_mode"),
        ({"hidden_dim": torch.zeros(2)}, "hidden_dim .*is a Tensor"),
        ({"seed": {"a": torch.zeros(2)}}, "seed .*is a dict"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(legacy_checkpoint, options, message):
    with pytest.raises(RequestError, match=message) as error:
        settings_of(legacy_checkpoint("clipwise", options=options))
    assert "\n" not in str(error.value)


def test_options_of_other_tools_are_let_be(legacy_checkpoint):
    path = legacy_checkpoint(options={"my_own": torch.zeros(2), "results_root": None, "v_feat_dirs": "one/folder"})
    assert settings_of(path).options["v_feat_dirs"] == ["one/folder"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[1]", "holds a list"), ("", "is not JSON"), ("[" * 100_000, "is not JSON")],
)
def test_an_options_file_that_cannot_be_read_is_named(legacy_checkpoint, tmp_path, text, message):
    with pytest.raises(RequestError, match=f"opt.json .*{message}|opt.json {message}"):
        read_checkpoint(legacy_checkpoint(options=None, opt_json=text))
    config = tmp_path / "config.json"
    config.write_text(text)
    path = legacy_checkpoint()
    (path.parent / "opt.json").unlink()
    with pytest.raises(RequestError, match=message):
        settings_of(path, config_path=config)
    with pytest.raises(MissingFileError, match=r"no options file .*--config_path"):
        settings_of(path, config_path=tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(RequestError, match="is not JSON"):
        settings_of(path, config_path=tmp_path / "bytes.json")


def test_a_namespace_is_the_only_extra_type_and_only_while_loading(legacy_checkpoint):
    path = legacy_checkpoint()
    read_checkpoint(path)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # The test vector of FIPS 180-2.
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
