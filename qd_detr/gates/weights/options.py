"""The options of a run, under their legacy names, and where each one's value came from.

Precedence, strongest first: what the caller asks for; the weights, for what they show; a named options file; the
options inside the checkpoint (saved together with the weights); opt.json beside it; the legacy default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from qd_detr.gates.weights.recognition import Recognition


from qd_detr.gates.data.datasets import DATASET_NAMES
from qd_detr.gates.errors import CheckpointError, MissingFileError, RequestError
from qd_detr.gates.files import read_json
from qd_detr.gates.gating import GATING_TYPES, gating_named, gatings_of_width
from qd_detr.gates.model.architecture import Architecture, gate_width, sizes_from_weights

DEFAULTS: dict[str, Any] = {
    "dset_name": "hl",
    "dset_domain": None,
    "max_q_l": 32,
    "max_v_l": 75,
    "clip_length": 2,
    "max_windows": 5,
    "v_feat_dirs": [],
    "t_feat_dir": "",
    "a_feat_dir": "",
    "v_feat_dim": None,
    "t_feat_dim": None,
    "a_feat_dim": None,
    "ctx_mode": "video_tef",
    "no_norm_vfeat": False,
    "no_norm_tfeat": False,
    "position_embedding": "sine",
    "enc_layers": 2,
    "dec_layers": 2,
    "dim_feedforward": 1024,
    "hidden_dim": 256,
    "nheads": 8,
    "num_queries": 10,
    "pre_norm": False,
    "n_input_proj": 2,
    "input_dropout": 0.5,
    "dropout": 0.1,
    "use_txt_pos": False,
    "use_avigate_custom": False,
    "gating_type": "global",
    "fusion_layers": 4,
    "fusion_n_heads": 4,
    "contrastive_align_loss": False,
    "contrastive_hdim": 64,
    "span_loss_type": "l1",
    "aux_loss": True,
    "eval_bsz": 100,
    "nms_thd": -1,
    "max_before_nms": 10,
    "max_after_nms": 10,
    "no_sort_results": False,
    "seed": 2018,
    "lr": 1e-4,
    "wd": 1e-4,
    "lr_drop": 400,
    "n_epoch": 200,
    "bsz": 32,
    "grad_clip": 0.1,
}

# Which field of Architecture an option names, where the weights show it.
SIZE_OPTIONS = {
    "hidden_dim": "hidden_dim",
    "num_queries": "num_queries",
    "n_input_proj": "n_input_proj",
    "fusion_layers": "fusion_layers",
    "enc_layers": "enc_layers",
    "dec_layers": "dec_layers",
    "dim_feedforward": "dim_feedforward",
    "max_q_l": "max_q_l",
    "t_feat_dim": "text_dim",
}
_WHOLE_MAX = 2**63 - 1
_BOOLEANS = ("no_norm_vfeat", "no_norm_tfeat", "pre_norm", "use_txt_pos", "no_sort_results", "aux_loss")
_COUNTS = (
    "max_q_l",
    "max_v_l",
    "max_windows",
    "nheads",
    "fusion_n_heads",
    "eval_bsz",
    "max_before_nms",
    "max_after_nms",
)


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a checkpoint's model computes.

    Attributes:
        options: every option, by its legacy name.
        origins: per option, "flag", "weights", "config_path", "checkpoint", "opt.json" or "default".
        architecture: what to build; its gating_type is the one to run with.
        trained_gating_type: the gating type the weights were trained with.
        recognition: what family the checkpoint is of, and how that is known.
        disagreements: sentences on options that two sources give differently, and which one was taken.
    """

    options: dict[str, Any]
    origins: dict[str, str]
    architecture: Architecture
    trained_gating_type: str
    disagreements: list[str]
    recognition: Recognition


def read_options_file(path: str | Path) -> dict[str, Any]:
    """Return the options in a JSON file.

    Raises:
        MissingFileError: no such file. RequestError: not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no options file {path}; give the opt.json of the training run with --config_path")
    try:
        options = read_json(path)
    except OSError as error:
        raise RequestError(f"options {path} cannot be read ({error.strerror}); give a readable opt.json") from None
    except ValueError as error:
        raise RequestError(f"{path} is not JSON ({error}); give the opt.json of the training run") from None
    if not isinstance(options, dict):
        raise RequestError(
            f"{path} holds a {type(options).__name__}, not an object of options; give the run's opt.json"
        )
    return options


def resolve_settings(
    weights: Mapping[str, Tensor],
    *,
    embedded: Mapping[str, Any] | None = None,
    opt_json: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    gating_type: str | None = None,
    recognition: Recognition,
) -> Settings:
    """Decide every option of a checkpoint from its weights and the sources of options there are.

    recognition: what the checkpoint is.

    Raises:
        CheckpointError: no gates, no options at all, or a variant that never worked in the legacy code.
        RequestError: a gating type these weights cannot run with.
    """
    from qd_detr.gates.model.families import FAMILIES  # needs torch, which the tables above do not

    family = FAMILIES[recognition.family]
    sizes: dict[str, Any] = dict(sizes_from_weights(weights, family.sizes(weights)))
    sources = [("config_path", config), ("checkpoint", embedded), ("opt.json", opt_json)]
    present = [(name, source) for name, source in sources if source is not None]
    if not present:
        raise CheckpointError(
            "the checkpoint holds no options and no opt.json lies beside it; the weights do not show nheads, "
            "fusion_n_heads, use_txt_pos, max_v_l, clip_length, the feature folders and whether gating is global or "
            "clipwise: give the options file of the training run with --config_path (config_path=...)"
        )
    options, origins, disagreements = _merge(present)
    _check_types(options, origins)
    for name, field_name in SIZE_OPTIONS.items():
        if origins[name] != "default" and options[name] != sizes[field_name]:
            disagreements.append(
                f"{name}: {options[name]} ({origins[name]}), {sizes[field_name]} by the weights; taken: weights"
            )
        options[name], origins[name] = sizes[field_name], "weights"
    for name, want in (("pre_norm", False), ("position_embedding", "sine"), ("span_loss_type", "l1")):
        if options[name] != want:
            raise CheckpointError(
                f"the options say {name} = {options[name]!r:.100} ({origins[name]}), a variant that never worked in the "
                f"legacy code; only {name} = {want!r} can be run"
            )
    if family.gating_type is None:
        trained = _trained_gating_type(weights, options, origins, disagreements, sizes["hidden_dim"])
    else:
        trained, origins["gating_type"] = family.gating_type, "family"
        if gating_type not in (None, trained):
            raise RequestError(
                f"gating type {gating_type} was asked of a model of the family {family.name}, whose gates are {trained}; "
                "leave --gating_type out"
            )
    if origins["gating_type"] == "default" and gating_type in gating_named(trained).exchangeable_with:
        trained = gating_type  # nothing but the legacy default speaks against the caller
    run_type = _gating_type_to_run(trained, gating_type)
    options["gating_type"] = run_type
    if gating_type is not None:
        origins["gating_type"] = "flag"
    for name in ("nheads", "fusion_n_heads"):
        if sizes["hidden_dim"] % options[name]:
            raise CheckpointError(
                f"the options say {name} = {options[name]} ({origins[name]}), which does not divide hidden_dim = "
                f"{sizes['hidden_dim']} of the weights; give the run's own options with --config_path"
            )
    architecture = Architecture(
        **sizes,
        n_heads=options["nheads"],
        fusion_n_heads=family.fusion_n_heads or options["fusion_n_heads"],
        gating_type=run_type,
        use_txt_pos=options["use_txt_pos"],
        input_dropout=float(options["input_dropout"]),
        dropout=float(options["dropout"]),
        family=family.name,
        settings=family.settings(weights, {k: v for _, source in reversed(present) for k, v in source.items()}),
    )
    return Settings(options, origins, architecture, trained, disagreements, recognition)


def _merge(
    sources: list[tuple[str, Mapping[str, Any]]],
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    options, origins = dict(DEFAULTS), dict.fromkeys(DEFAULTS, "default")
    disagreements = []
    for name in DEFAULTS:
        given = [(label, source[name]) for label, source in sources if name in source]
        if not given:
            continue
        origins[name], options[name] = given[0]
        for label, value in given:
            if not _is_plain(value):
                raise RequestError(
                    f"the option {name} ({label}) is {_shown(value)}; expected text, a finite number, true or false, "
                    "or a list of texts; give the run's own options with --config_path"
                )
        for label, value in given[1:]:
            # v_feat_dim is legitimately two: opt.json was written before the endpoints were counted in.
            if value != options[name] and name != "v_feat_dim":
                disagreements.append(
                    f"{name}: {options[name]!r:.100} ({origins[name]}), {value!r:.100} ({label}); taken: {origins[name]}"
                )
    return options, origins, disagreements


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) and _is_text(item) for item in value)
    if isinstance(value, str):
        return _is_text(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and -_WHOLE_MAX <= value <= _WHOLE_MAX)


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: run_config.json could not be written with it
        return False
    return True


def _shown(value: Any) -> str:
    plain = value is None or isinstance(value, (bool, float, str))
    return f"{value!r:.60}" if plain else f"a {type(value).__name__}"


def _check_types(options: dict[str, Any], origins: dict[str, str]) -> None:
    def wrong(name: str, expected: str) -> RequestError:
        return RequestError(
            f"the option {name} ({origins[name]}) is {options[name]!r:.100}; expected {expected}; "
            "give the run's own options with --config_path"
        )

    for name in _BOOLEANS:
        if not isinstance(options[name], bool):
            raise wrong(name, "true or false")
    for name in _COUNTS:
        value = options[name]
        if name == "max_v_l" and value == -1:
            continue  # what related code bases write for videos that are not cut
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise wrong(name, "a positive integer")
    clip_length = options["clip_length"]
    if isinstance(clip_length, bool) or not isinstance(clip_length, (int, float)) or not 1e-3 <= clip_length < 1e6:
        raise wrong("clip_length", "seconds, a positive number from 0.001")
    for name, lowest in (("nms_thd", -1), ("dropout", 0), ("input_dropout", 0)):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= 1:
            raise wrong(name, f"a number from {lowest} to 1")
    if isinstance(options["v_feat_dirs"], str):
        options["v_feat_dirs"] = [options["v_feat_dirs"]]
    folders = options["v_feat_dirs"] = [] if options["v_feat_dirs"] is None else options["v_feat_dirs"]
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise wrong("v_feat_dirs", "a list of folders")
    for name in ("t_feat_dir", "a_feat_dir"):
        options[name] = "" if options[name] is None else options[name]
        if not isinstance(options[name], str):
            raise wrong(name, "a folder")
    if options["dset_name"] not in DATASET_NAMES:
        raise wrong("dset_name", f"one of {', '.join(DATASET_NAMES)}")
    if options["ctx_mode"] not in ("video", "video_tef"):
        raise wrong("ctx_mode", "'video' or 'video_tef'")


def _trained_gating_type(
    weights: Mapping[str, Tensor],
    options: dict[str, Any],
    origins: dict[str, str],
    disagreements: list[str],
    hidden_dim: int,
) -> str:
    stated, width = options["gating_type"], gate_width(weights)
    if not isinstance(stated, str) or stated not in GATING_TYPES:
        raise RequestError(
            f"the option gating_type ({origins['gating_type']}) is {stated!r:.100}; expected one of {tuple(GATING_TYPES)}"
        )
    by_weights = gatings_of_width(width, hidden_dim)
    if len(by_weights) == 1:
        if stated not in by_weights and origins["gating_type"] != "default":
            disagreements.append(
                f"gating_type: {stated!r} ({origins['gating_type']}), {by_weights[0]!r} by the weights; taken: weights"
            )
        origins["gating_type"] = "weights"
        return by_weights[0]
    if by_weights and stated not in by_weights:
        numbers = "is a single number" if width == 1 else f"has {width} numbers"
        raise CheckpointError(
            f"the options say gating_type = {stated!r} ({origins['gating_type']}), but each gate of these weights "
            f"{numbers}, so they were trained as {' or '.join(by_weights)}, and nothing tells which; give options "
            "that do with --config_path"
        )
    return stated


def _gating_type_to_run(trained: str, asked: str | None) -> str:
    if asked is None or asked == trained:
        return trained
    if asked not in GATING_TYPES:
        raise RequestError(f"gating_type must be one of {', '.join(GATING_TYPES)}; got {asked!r}")
    if asked not in gating_named(trained).exchangeable_with:
        raise RequestError(
            f"gating type {asked} was asked of a model trained as {trained}: their gates have different weights "
            f"(an elementwise gate has hidden_dim outputs, the others one), so no conversion exists; "
            f"leave --gating_type out, or give {trained}"
        )
    return asked
