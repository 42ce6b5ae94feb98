"""What a checkpoint's options claim that its weights cannot show, and whether a model is built as they claim."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from qd_detr.gates.fusion import GatingFunction
from qd_detr.gates.gating import EXCHANGEABLE
from qd_detr.gates.model.architecture import gate_width, sizes_from_weights
from qd_detr.gates.model.families import FAMILIES, Family
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.weights.checkpoint import Checkpoint, settings_of
from qd_detr.gates.weights.options import Settings
from qd_detr.gates.weights.recognition import Recognition

# They decide what is computed from given inputs, and no tensor's shape shows them.
INVISIBLE = ("gating_type", "nheads", "fusion_n_heads", "use_txt_pos")
# They decide what the inputs are, or what becomes of the outputs.
AROUND = (
    "max_v_l",
    "clip_length",
    "ctx_mode",
    "no_norm_vfeat",
    "no_norm_tfeat",
    "dset_name",
    "eval_bsz",
    "no_sort_results",
)
_MOST_HEADS = 16

Reading = dict[str, Any]
Options = Mapping[str, Any] | None


def gating_is_open(checkpoint: Checkpoint, family: Family) -> bool:
    """Return whether the weights fit global and clipwise gating alike."""
    return family.gating_type is None and gate_width(checkpoint.weights) == 1


def open_questions(checkpoint: Checkpoint, config: Options, family: Family) -> list[str]:
    """Return the settings that decide the function, that the weights do not show, and that no source states.

    Raises:
        CheckpointError: these are not the weights of a model with gates.
    """
    sizes_from_weights(checkpoint.weights, family.sizes(checkpoint.weights))
    stated = _stated(checkpoint, config)
    questions = [name for name in family.questions if name not in stated]
    if gating_is_open(checkpoint, family) and stated.get("gating_type") not in EXCHANGEABLE:
        questions.insert(0, "gating_type")
    return questions


def _stated(checkpoint: Checkpoint, config: Options) -> dict[str, Any]:
    """Return what the sources state, the strongest one's value for each name."""
    stated: dict[str, Any] = {}
    for source in (checkpoint.opt_json, checkpoint.embedded, config):
        stated |= source or {}
    return stated


def conflicts(checkpoint: Checkpoint, config: Options, family: Family) -> list[str]:
    """Return sentences on settings that the options inside and beside the checkpoint state differently.

    A named options file that states the setting decides it: then it is not a conflict.
    """
    inside, beside = checkpoint.embedded, checkpoint.opt_json
    if inside is None or beside is None:
        return []
    asked = [
        name
        for name in dict.fromkeys((*INVISIBLE, *family.questions, *family.reads, *AROUND))
        if name not in (config or {})
    ]
    names = [name for name in asked if name in inside and name in beside]
    if not gating_is_open(checkpoint, family):
        names = [name for name in names if name != "gating_type"]  # the weights decide it
    return [
        f"{name} = {inside[name]!r} in the checkpoint, {beside[name]!r} in opt.json"
        for name in names
        if inside[name] != beside[name]
    ]


def readings_of(checkpoint: Checkpoint, questions: Sequence[str]) -> list[Reading]:
    """Return every combination of answers to open questions that the weights would fit.

    An option of which any number fits, as a family may have, stays at its default.
    """
    hidden_dim = checkpoint.weights["global_rep_token"].shape[0]
    heads = [count for count in range(1, _MOST_HEADS + 1) if hidden_dim % count == 0]
    answers: dict[str, list[Any]] = {
        "gating_type": list(EXCHANGEABLE),
        "nheads": heads,
        "fusion_n_heads": heads,
        "use_txt_pos": [False, True],
    }
    listed = [name for name in questions if name in answers]
    return [
        dict(zip(listed, combination, strict=True))
        for combination in itertools.product(*(answers[name] for name in listed))
    ]


def other_readings(checkpoint: Checkpoint, settings: Settings) -> list[Reading]:
    """Return the readings that differ from the one taken in a single setting."""
    family = FAMILIES[settings.recognition.family]
    taken = {name: settings.options[name] for name in INVISIBLE}
    names = [*(["gating_type"] if gating_is_open(checkpoint, family) else []), *family.questions, "use_txt_pos"]
    return [
        reading
        for name in names
        for reading in readings_of(checkpoint, [name])
        if reading and reading[name] != taken[name]
    ]


def settings_for(checkpoint: Checkpoint, config: Options, reading: Reading, recognition: Recognition) -> Settings:
    """Return the settings of a checkpoint under one reading."""
    return settings_of(checkpoint, recognition, {**(config or {}), **reading})


def structure_faults(model: QDDETR, settings: Settings) -> list[str]:
    """Return where a built model is not what its settings claim, a sentence each.

    The modules themselves are asked, not the model's record of what it was built from.
    """
    claims = settings.architecture
    faults = []

    def expect(what: str, found: object, claimed: object) -> None:
        if found != claimed:
            faults.append(f"{what} is {found!r}, by the settings {claimed!r}")

    expect("the fusion's gating type", model.avigate_fusion.gating_type, claims.gating_type)
    for name, module in model.named_modules():
        in_fusion = name.startswith("fusion.")
        if isinstance(module, GatingFunction):
            expect(f"the gating type of {name}", module.gating_type, claims.gating_type)
        elif isinstance(module, nn.MultiheadAttention):
            expect(
                f"the head count of {name}", module.num_heads, claims.fusion_n_heads if in_fusion else claims.n_heads
            )
        elif isinstance(getattr(module, "n_heads", None), int):
            expect(
                f"the head count of {name}",
                module.n_heads,
                claims.fusion_n_heads if name == "fusion" else claims.n_heads,
            )
    counts = {
        "fusion layers": (model.avigate_fusion.num_layers, claims.fusion_layers),
        "encoder layers": (len(model.transformer.encoder.layers), claims.enc_layers),
        "text-to-video layers": (len(model.transformer.t2v_encoder.layers), claims.enc_layers),
        "decoder layers": (len(model.transformer.decoder.layers), claims.dec_layers),
    }
    for what, (found, claimed) in counts.items():
        expect(f"the number of {what}", found, claimed)
    expect("use_txt_pos", model.architecture.use_txt_pos, claims.use_txt_pos)
    if model.training:
        faults.append("the model is in training mode: dropout would change every output")
    return faults
