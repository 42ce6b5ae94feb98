"""The options of a training run, by their legacy names: defaults, flags, and what may not be asked for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qd_detr.gates.errors import RequestError
from qd_detr.gates.gating import GATING_TYPES
from qd_detr.gates.weights.options import DEFAULTS

logger = logging.getLogger(__name__)

TRAINING_DEFAULTS: dict[str, Any] = {
    **DEFAULTS,
    "train_path": None,
    "eval_path": None,
    "results_root": "results",
    "results_dir": None,
    "exp_id": "run",
    "data_ratio": 1.0,
    "lw_saliency": 1.0,
    "saliency_margin": 0.2,
    "set_cost_span": 10,
    "set_cost_giou": 1,
    "set_cost_class": 4,
    "span_loss_coef": 10,
    "giou_loss_coef": 1,
    "label_loss_coef": 4,
    "eos_coef": 0.1,
    "max_es_cnt": 200,
    "eval_every": 5,
    "save_every": 0,
    "gate_monitor_every": 0,
    "amp": "off",
    "skip_missing": False,
}


@dataclass(frozen=True)
class Option:
    """An option's name, what its values are (see `_KINDS`), its help text, and the values it may take."""

    name: str
    kind: str
    help: str
    choices: tuple[str, ...] = ()


OPTIONS = (
    Option("dset_name", "text", "data set", ("hl", "tvsum")),
    Option("dset_domain", "text", "TVSum domain, as BK"),
    Option("train_path", "text", "annotations to train on, .jsonl"),
    Option("eval_path", "text", "annotations to validate on, .jsonl; the best checkpoint is chosen by them"),
    Option("data_ratio", "ratio", "train on this first share of the training queries"),
    Option("results_dir", "text", "folder to write, new or empty; default: a new one in --results_root"),
    Option("results_root", "text", "folder in which the run's own folder is made"),
    Option("exp_id", "text", "name of the run, part of its folder's name"),
    Option("v_feat_dirs", "texts", "folders of video features, in the order of concatenation"),
    Option("t_feat_dir", "text", "folder of text features"),
    Option("a_feat_dir", "text", "folder of audio features"),
    Option("v_feat_dim", "count", "video feature columns without the 2 temporal endpoints; default: as in the files"),
    Option("t_feat_dim", "count", "text feature columns; default: as in the files"),
    Option("a_feat_dim", "count", "audio feature columns and the 2 temporal endpoints; default: as in the files"),
    Option("skip_missing", "switch", "leave queries with missing feature files out"),
    Option("ctx_mode", "text", "append temporal endpoints (tef) or not", ("video", "video_tef")),
    Option("no_norm_vfeat", "switch", "do not normalise video and audio features"),
    Option("no_norm_tfeat", "switch", "do not normalise text features"),
    Option("max_q_l", "count", "longest text, tokens"),
    Option("max_v_l", "count", "longest video, clips"),
    Option("clip_length", "positive", "length of a clip, s"),
    Option("max_windows", "count", "most windows of a query to train on"),
    Option("use_avigate_custom", "switch", "gated audio-visual fusion; needed: without it there are no gates"),
    Option("gating_type", "text", "type of the gates", tuple(GATING_TYPES)),
    Option("fusion_layers", "count", "fusion layers"),
    Option("fusion_n_heads", "count", "attention heads of the fusion"),
    Option("enc_layers", "count", "encoder layers"),
    Option("dec_layers", "count", "decoder layers"),
    Option("dim_feedforward", "count", "width of the transformer's feed-forward"),
    Option("hidden_dim", "count", "hidden size"),
    Option("nheads", "count", "attention heads of the transformer"),
    Option("num_queries", "count", "decoder slots"),
    Option("n_input_proj", "count", "stages of the input projections"),
    Option("input_dropout", "share", "dropout of the input projections"),
    Option("dropout", "share", "dropout of the transformer"),
    Option("use_txt_pos", "switch", "add learned positions to the text"),
    Option("aux_loss", "on_switch", "judge the earlier decoder layers too"),
    Option("lw_saliency", "weight", "weight of the saliency loss"),
    Option("saliency_margin", "weight", "margin of the saliency loss"),
    Option("set_cost_span", "weight", "weight of the span distance in the matching"),
    Option("set_cost_giou", "weight", "weight of the gIoU in the matching"),
    Option("set_cost_class", "weight", "weight of the class in the matching"),
    Option("span_loss_coef", "weight", "weight of the span loss"),
    Option("giou_loss_coef", "weight", "weight of the gIoU loss"),
    Option("label_loss_coef", "weight", "weight of the class loss"),
    Option("eos_coef", "weight", "weight of background slots in the class loss"),
    Option("lr", "positive", "learning rate"),
    Option("wd", "weight", "weight decay"),
    Option("lr_drop", "count", "epochs after which the learning rate drops to a tenth"),
    Option("n_epoch", "count", "epochs"),
    Option("bsz", "count", "training batch size, over all processes"),
    Option("eval_bsz", "count", "validation batch size; results do not depend on it"),
    Option("grad_clip", "weight", "largest norm of the gradient; 0 for no limit"),
    Option("max_es_cnt", "limit", "validations without a better result before an early stop; -1 for never"),
    Option("eval_every", "count", "epochs between validations; the last epoch is always validated"),
    Option("save_every", "natural", "epochs between kept checkpoints model_e{NNNN}.ckpt; 0 for none"),
    Option(
        "gate_monitor_every",
        "natural",
        "watch the gates in every N-th validation, into training_analysis/; 0 for never",
    ),
    Option("nms_thd", "limit_share", "overlap above which a window is suppressed; -1 for no suppression"),
    Option("max_before_nms", "count", "windows that suppression looks at"),
    Option("max_after_nms", "count", "windows that suppression leaves"),
    Option("no_sort_results", "switch", "leave windows in slot order"),
    Option("seed", "natural", "seed of weights, order and dropout"),
    Option("amp", "text", "mixed precision on CUDA", ("off", "bf16", "fp16")),
)
BY_NAME = {option.name: option for option in OPTIONS}

# What an option's values are: the parser's type, the test, and how a message names it.
_KINDS: dict[str, tuple[type, Any, str]] = {
    "count": (int, lambda v: v >= 1, "a whole number of 1 or more"),
    "natural": (int, lambda v: 0 <= v < 2**63, "a whole number of 0 or more"),
    "limit": (int, lambda v: v >= -1, "a whole number of -1 or more"),
    "positive": (float, lambda v: 0 < v < float("inf"), "a number above 0"),
    "weight": (float, lambda v: 0 <= v < float("inf"), "a number of 0 or more"),
    "share": (float, lambda v: 0 <= v < 1, "a number from 0 to below 1"),
    "ratio": (float, lambda v: 0 < v <= 1, "a number above 0 and up to 1"),
    "limit_share": (float, lambda v: v == -1 or 0 <= v <= 1, "-1 or a number from 0 to 1"),
    "text": (str, lambda v: True, "text"),
    "texts": (str, lambda v: True, "a list of folders"),
    "switch": (bool, lambda v: True, "true or false"),
    "on_switch": (bool, lambda v: True, "true or false"),
}
_MAY_BE_ABSENT = ("dset_domain", "train_path", "eval_path", "results_dir", "v_feat_dim", "t_feat_dim", "a_feat_dim")

# Variants that were never trained with, or that this trainer does not have: the only value it takes.
_FIXED: dict[str, tuple[Any, str]] = {
    "pre_norm": (False, "it never worked in the legacy code"),
    "position_embedding": ("sine", "the others never worked in the legacy code"),
    "span_loss_type": ("l1", "the others never worked in the legacy code"),
    "contrastive_align_loss": (False, "this trainer has no contrastive alignment loss"),
    "txt_drop_ratio": (0, "this trainer drops no words"),
}
# Legacy flags that say nothing about a run of this trainer: how the legacy code ran, and inference.
_IDLE_SWITCHES = ("debug", "no_pin_memory", "eval_untrained", "resume_all")
_IDLE_VALUES = (
    "eval_split_name",
    "num_workers",
    "start_epoch",
    "contrastive_hdim",
    "temperature",
    "contrastive_align_loss_coef",
    "conf_thd",
)
# What an options file of another run says of itself alone.
_OF_ANOTHER_RUN = ("device", "resume", "results_dir", "results_root", "exp_id")
_WITHOUT_MEANING = frozenset((*_IDLE_SWITCHES, *_IDLE_VALUES, *_OF_ANOTHER_RUN))
# Where a run's data and results lie: they may have been moved.
PLACES = ("train_path", "eval_path", "v_feat_dirs", "t_feat_dir", "a_feat_dir", "results_dir", "results_root")
# What else a continued run may do differently without being another run.
CHANGEABLE_ON_RESUME = ("n_epoch", "max_es_cnt", "eval_every", "save_every", "eval_bsz", "gate_monitor_every")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every option and every legacy one. What is not given stays absent from the parsed namespace."""
    _add_legacy_flags(parser)
    for option in OPTIONS:
        default = TRAINING_DEFAULTS[option.name]
        shown = "" if default in (None, "", []) or isinstance(default, bool) else f" (default: {default})"
        text = option.help.replace("%", "%%") + shown
        if option.kind == "switch":
            parser.add_argument(f"--{option.name}", action="store_true", default=argparse.SUPPRESS, help=text)
        elif option.kind == "on_switch":
            flag = f"--no_{option.name}"
            parser.add_argument(
                flag, action="store_false", dest=option.name, default=argparse.SUPPRESS, help=f"do not {text}"
            )
        else:
            parser.add_argument(
                f"--{option.name}",
                type=_KINDS[option.kind][0],
                nargs="+" if option.kind == "texts" else None,
                choices=option.choices or None,
                metavar=None if option.choices else option.kind.upper().rstrip("S"),
                default=argparse.SUPPRESS,
                help=text,
            )


def _add_legacy_flags(parser: argparse.ArgumentParser) -> None:
    """Add, unseen in the help, the legacy flags that are no options here: legacy commands run as they are."""
    for name, (only, _) in _FIXED.items():
        if isinstance(only, bool):
            parser.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        else:
            kind = str if isinstance(only, str) else float
            parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for name in _IDLE_SWITCHES:
        parser.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for name in _IDLE_VALUES:
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def check_legacy_flags(given: Mapping[str, Any]) -> None:
    """Warn of legacy flags without meaning here.

    Args:
        given: everything that was parsed; what is no legacy flag is passed over.

    Raises:
        RequestError: one asks for a variant that this trainer does not have.
    """
    for name, (only, reason) in _FIXED.items():
        if name in given and given[name] != only:
            raise RequestError(f"--{name} {given[name]!r}: only {only!r} can be trained: {reason}")
    idle = [f"--{name}" for name in (*_IDLE_SWITCHES, *_IDLE_VALUES) if name in given]
    if idle:
        logger.warning("legacy flags that mean nothing to this trainer: %s", ", ".join(idle))


def resolve_options(flags: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return every option: as the flags say, else as an options file (a legacy opt.json) says, else the default.

    Raises:
        RequestError: a value that cannot be, a variant this trainer does not have, or no gated fusion.
    """
    options = dict(TRAINING_DEFAULTS)
    unknown = []
    for name, value in (config or {}).items():
        if name in BY_NAME and name not in _WITHOUT_MEANING:
            options[name] = value
        elif name in _FIXED:
            only, reason = _FIXED[name]
            if value != only:
                raise RequestError(f"the options file says {name} = {value!r}; only {only!r} can be trained: {reason}")
        elif name not in _WITHOUT_MEANING:
            unknown.append(name)
    if unknown:
        logger.warning("options that mean nothing to this trainer: %s", ", ".join(unknown))
    options.update({name: value for name, value in flags.items() if name in BY_NAME})
    check_options(options)
    return options


def check_options(options: dict[str, Any]) -> None:
    """Raise RequestError for the first option, in the order of the flags, that cannot be."""
    if isinstance(options["v_feat_dirs"], str):
        options["v_feat_dirs"] = [options["v_feat_dirs"]]
    for option in OPTIONS:
        value = options[option.name]
        if value is None and option.name in _MAY_BE_ABSENT:
            continue
        if not _fits(option, value):
            expected = f"one of {', '.join(option.choices)}" if option.choices else _KINDS[option.kind][2]
            raise RequestError(f"--{option.name} is {value!r}; expected {expected}")
    if not options["use_avigate_custom"]:
        raise RequestError(
            "use_avigate_custom is false: such a model has no gated fusion, hence no gates to analyse, and this "
            "trainer does not train it; give --use_avigate_custom"
        )
    for name in ("train_path", "eval_path"):
        if not options[name]:
            raise RequestError(f"no --{name}; give the annotation file")
    for name in ("nheads", "fusion_n_heads"):
        if options["hidden_dim"] % options[name]:
            raise RequestError(
                f"--hidden_dim is {options['hidden_dim']} and --{name} {options[name]}; hidden_dim has to be a multiple"
            )
    if options["hidden_dim"] % 4:
        raise RequestError(f"--hidden_dim is {options['hidden_dim']}; the sine positions need a multiple of 4")


def _fits(option: Option, value: Any) -> bool:
    kind, fits, _ = _KINDS[option.kind]
    if option.choices:
        return value in option.choices
    if option.kind == "texts":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind is bool or kind is str:
        return isinstance(value, kind)
    wanted = (int, float) if kind is float else int
    return isinstance(value, wanted) and not isinstance(value, bool) and bool(fits(value))


def refuse_changes(flags: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise RequestError if flags given with --resume ask for another run than the one that is continued.

    Places may differ: that the data in them are the same is for `Training.restore` to see.
    """
    free = (*CHANGEABLE_ON_RESUME, *PLACES)
    other = [
        f"--{name} {value!r} instead of {stored.get(name)!r}"
        for name, value in flags.items()
        if name in BY_NAME and name not in free and value != stored.get(name)
    ]
    if other:
        raise RequestError(
            f"--resume continues the run as it was; {'; '.join(other)} would make it another one. "
            f"Only {', '.join(sorted(CHANGEABLE_ON_RESUME))} may change, and where things lie: {', '.join(PLACES)}"
        )
