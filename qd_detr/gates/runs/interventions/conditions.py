"""The conditions of a sweep: which gates and which audio a model is run with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qd_detr.gates.errors import RequestError
from qd_detr.gates.gating import ATTENTION, AUDIO, FusionFacts, Gate, label_of
from qd_detr.gates.runs.interventions.edits import BASELINE, Edit, Intervention
from qd_detr.gates.runs.interventions.plans import plan_of

AUDIO_MODES = {
    "none": "silence: audio features zero after normalisation",
    "mean": "every clip has the mean audio of the data",
    "shuffle": "the audio of another video, cut or repeated to the length",
    "shift": "the video's own audio, turned in time by at least a quarter of it",
}
DOSES = (0.0, 0.25, 0.5, 1.0, 1.5)
MEAN_VIDEO = "video mean"
NEITHER = "video mean, all attention gates off"
SIGN_FLIPPED = "attention gates, sign flipped"


def all_off_name(kind: str) -> str:
    """Return the name of the standard sweep's intervention that switches the gates of a kind off in all layers."""
    return f"all {label_of(kind)} gates off"


ATTENTION_OFF = all_off_name(ATTENTION.kind)


@dataclass(frozen=True)
class AudioEdit:
    """Audio put in the place of the recorded one: a key of `AUDIO_MODES`, and the seed of its draw."""

    mode: str
    seed: int = 0


@dataclass(frozen=True)
class Condition:
    """A name, and what differs from the model as it is; nothing does in the baseline.

    With mean_video every clip shows the mean video of the data. Such conditions tell audio and video apart (see
    `analysis.audio_share`) and are no effects of the audio.
    """

    name: str
    intervention: Intervention | None = None
    audio: AudioEdit | None = None
    mean_video: bool = False


def dose_name(scale: float) -> str:
    """Return the name of the standard sweep's intervention that scales all attention gates."""
    return f"attention gates x {scale:g}"


def off_name(layer_idx: int, kind: str) -> str:
    """Return the name of the standard sweep's intervention that switches one gate off."""
    return f"layer {layer_idx} {label_of(kind)} gate off"


def audio_name(mode: str) -> str:
    """Return the name of an audio counterfactual."""
    return f"audio {mode}"


def _off(gate: Gate, layers: tuple[int, ...] | None) -> Edit:
    # "scale 0" is how saved sweeps have always said it.
    return Edit("scale" if gate.off == 0 else "set", gate.off, layers, (gate.kind,))


def standard_sweep(facts: FusionFacts) -> list[Intervention]:
    """Return what `--ablate` runs beside the baseline: gates off one by one and by kind, doses, the sign flipped.

    A gate that no value switches off is left as it is.
    """
    switched = [gate for gate in facts.gates if gate.off is not None]
    sweep = [
        Intervention(off_name(layer, gate.kind), (_off(gate, (layer,)),))
        for layer in range(facts.num_layers)
        for gate in switched
    ]
    sweep += [Intervention(all_off_name(gate.kind), (_off(gate, None),)) for gate in switched]
    audio = tuple(gate.kind for gate in facts.gates if gate.role == AUDIO)
    sweep += [Intervention(dose_name(dose), (Edit("scale", dose, None, audio),)) for dose in DOSES]
    sweep.append(Intervention(SIGN_FLIPPED, (Edit("scale", -1.0, None, audio),)))
    return sweep


def conditions_of(
    interventions: Sequence[Intervention] = (), audio_modes: Sequence[str] = (), seed: int = 0, *, share: bool = False
) -> list[Condition]:
    """Return the baseline, then a condition for each intervention, then one for each audio mode.

    With `share` those follow that the audio share of the prediction is computed from.

    An intervention that is there twice, under one name, counts once: a saved sweep may be run again with `--ablate`.

    Raises:
        RequestError: an unknown audio mode, or one name for two different conditions.
    """
    unknown = [mode for mode in audio_modes if mode not in AUDIO_MODES]
    if unknown:
        raise RequestError(f"--audio {unknown[0]} is not known; expected some of {', '.join(AUDIO_MODES)}")
    found: dict[str, Condition] = {}
    given = [Condition(BASELINE)]
    given += [Condition(one.name, one) for one in interventions]
    given += [Condition(audio_name(mode), audio=AudioEdit(mode, seed)) for mode in audio_modes]
    if share:
        off = (Edit("scale", 0.0, None, (ATTENTION.kind,)),)
        given.append(Condition(ATTENTION_OFF, Intervention(ATTENTION_OFF, off)))
        given.append(Condition(MEAN_VIDEO, mean_video=True))
        given.append(Condition(NEITHER, Intervention(NEITHER, off), mean_video=True))
    for condition in given:
        before = found.setdefault(condition.name, condition)
        if before != condition:
            raise RequestError(
                f"two different conditions are called {condition.name!r}; rename the one in --interventions"
            )
    return list(found.values())


def alike(conditions: Sequence[Condition], facts: FusionFacts) -> dict[str, str]:
    """Return for every condition that comes to the same as one before it the name of that one."""
    first: dict[object, str] = {}
    same: dict[str, str] = {}
    for condition in conditions:
        plan = plan_of(condition.intervention, facts)
        key = (condition.audio, condition.mean_video, tuple(plan.items()))
        if key in first:
            same[condition.name] = first[key]
        else:
            first[key] = condition.name
    return same
