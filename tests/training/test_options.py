"""Options of a training run: precedence, legacy opt.json files, and what is refused."""

from __future__ import annotations

import pytest

from qd_detr.gates.errors import RequestError
from qd_detr.gates.train.__main__ import build_parser
from qd_detr.gates.train.distributed import device_name_of
from qd_detr.gates.train.options import BY_NAME, OPTIONS, TRAINING_DEFAULTS, check_legacy_flags, resolve_options
from qd_detr.gates.weights.options import DEFAULTS

NEEDED = {"use_avigate_custom": True, "train_path": "train.jsonl", "eval_path": "val.jsonl"}


def test_flags_win_over_the_options_file_and_that_over_the_default():
    options = resolve_options({**NEEDED, "lr": 0.5}, {"lr": 0.25, "wd": 0.125})
    assert (options["lr"], options["wd"], options["bsz"]) == (0.5, 0.125, DEFAULTS["bsz"])


def test_every_option_has_a_default_and_a_flag_that_stays_absent_unless_given():
    assert set(BY_NAME) <= set(TRAINING_DEFAULTS)
    assert not [option.name for option in OPTIONS if hasattr(build_parser().parse_args([]), option.name)]


def test_the_folder_and_device_of_another_run_are_not_taken_over_from_its_options_file():
    options = resolve_options(NEEDED, {"results_dir": "/elsewhere", "device": -1, "exp_id": "theirs", "num_workers": 4})
    assert options["results_dir"] is None
    assert options["exp_id"] == TRAINING_DEFAULTS["exp_id"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pre_norm", True),
        ("position_embedding", "learned"),
        ("span_loss_type", "ce"),
        ("contrastive_align_loss", True),
        ("txt_drop_ratio", 0.2),
    ],
)
def test_variants_that_cannot_be_trained_are_refused_by_name(name, value):
    with pytest.raises(RequestError, match=name):
        resolve_options(NEEDED, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bsz", 0),
        ("bsz", 2.5),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("dropout", 1.0),
        ("n_epoch", True),
        ("seed", -1),
        ("no_norm_vfeat", 1),
        ("v_feat_dirs", [3]),
        ("ctx_mode", "tef"),
        ("hidden_dim", 18),
        ("nms_thd", -0.5),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(RequestError, match=name):
        resolve_options({**NEEDED, name: value})


def test_the_auxiliary_losses_can_be_switched_off():
    assert resolve_options(NEEDED)["aux_loss"] is True
    assert build_parser().parse_args(["--no_aux_loss"]).aux_loss is False


def test_options_without_meaning_here_are_named_in_a_warning(caplog):
    resolve_options(NEEDED, {"shoe_size": 43})
    assert "shoe_size" in caplog.text


LEGACY_COMMAND = "--eval_split_name val --num_workers 4 --no_pin_memory --position_embedding sine --span_loss_type l1"
LEGACY_COMMAND += (
    " --contrastive_hdim 64 --temperature 0.07 --txt_drop_ratio 0 --start_epoch -1 --conf_thd 0.0 --device 0"
)


def test_a_legacy_command_is_taken_and_what_means_nothing_here_is_named(caplog):
    given = vars(build_parser().parse_args(LEGACY_COMMAND.split()))
    check_legacy_flags(given)
    assert resolve_options({**NEEDED, **given}) == resolve_options(NEEDED)
    (said,) = caplog.messages
    assert said.split(": ")[1] == (
        "--no_pin_memory, --eval_split_name, --num_workers, --start_epoch, --contrastive_hdim, --temperature, --conf_thd"
    )


@pytest.mark.parametrize(
    "flag",
    [
        "--pre_norm",
        "--position_embedding learned",
        "--span_loss_type ce",
        "--contrastive_align_loss",
        "--txt_drop_ratio 0.2",
    ],
)
def test_legacy_flags_ask_in_vain_for_variants_that_cannot_be_trained(flag):
    with pytest.raises(RequestError, match=flag.split()[0]):
        check_legacy_flags(vars(build_parser().parse_args(flag.split())))


def test_legacy_flags_are_not_shown_in_the_help():
    text = build_parser().format_help()
    assert "--max_es_cnt" in text
    assert "--num_workers" not in text
    assert "--pre_norm" not in text


@pytest.mark.parametrize(
    ("asked", "name"),
    [("0", "cuda:0"), ("3", "cuda:3"), ("-1", "cpu"), ("cpu", "cpu"), ("cuda:1", "cuda:1"), ("-2", "-2")],
)
def test_devices_may_be_numbered_as_in_the_legacy_code(asked, name):
    assert build_parser().parse_args(["--device", asked]).device == asked
    assert device_name_of(asked) == name
