"""What an intervention comes to at each gate, brought to one form: equal plans are equal runs.

Scale by 1 is nothing, scale by 0 is "set 0", what stands before a "set" does not matter, a global gate has no clips to
shuffle. Two interventions whose plans are equal are run once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qd_detr.gates.gating import FusionFacts, ValueRange
from qd_detr.gates.runs.interventions.edits import Edit, Intervention, Value

Site = tuple[int, str]
"""Where a gate stands: layer from 0, and the kind of gate."""


class Step(NamedTuple):
    """One operation at one gate."""

    op: str
    value: Value = None
    seed: int | None = None


Steps = tuple[Step, ...]
Plan = Mapping[Site, Steps]
"""The steps at every gate that is changed; an empty plan changes nothing."""


def plan_of(intervention: Intervention | None, facts: FusionFacts) -> dict[Site, Steps]:
    """Return what an intervention does to each gate of a model; None, and what changes nothing, give an empty plan.

    Raises:
        ValueError: it names a layer that the model does not have.
    """
    steps: dict[Site, list[Edit]] = {}
    for edit in () if intervention is None else intervention.edits:
        layers = range(facts.num_layers) if edit.layers is None else edit.layers
        if any(not 0 <= layer < facts.num_layers for layer in layers):
            raise ValueError(f"{edit} names a layer that a model of {facts.num_layers} layers does not have")
        for layer in layers:
            for kind in edit.kinds or facts.kinds:
                steps.setdefault((layer, kind), []).append(edit)
    ranges = {gate.kind: gate.value_range for gate in facts.gates}
    plan = {
        (layer, kind): _simplest(edits, not facts.gating.per_clip, ranges[kind])
        for (layer, kind), edits in sorted(steps.items())
    }
    return {site: found for site, found in plan.items() if found}


def needs_recorded(plan: Plan) -> bool:
    """Return whether a plan takes values from the gates of other samples, which a first pass has to record."""
    return any(step.op == "swap" or step.value == "dataset" for steps in plan.values() for step in steps)


def _simplest(edits: Sequence[Edit], constant_in_time: bool, gate_range: ValueRange | None) -> Steps:
    done: list[Step] = []
    for edit in edits:
        last = done[-1] if done else None
        if edit.op in ("set", "swap") or edit.value == "dataset":
            done = [Step(edit.op, edit.value, edit.seed)]  # nothing is left of what stood before
        elif edit.op == "scale":
            done = _scaled(done, _number(edit.value))
        elif edit.op == "clamp":
            assert isinstance(edit.value, tuple)
            low, high = edit.value
            if last is not None and last.op == "set":
                done[-1] = Step("set", min(max(_number(last.value), low), high))
            elif last is not None or gate_range is None or low > gate_range[0] or high < gate_range[1]:
                done.append(Step("clamp", edit.value))
        elif not constant_in_time and (last is None or last.op not in ("set", "mean")):
            done.append(Step(edit.op, edit.value, edit.seed))  # a shuffle, or the mean over the sample
    return tuple(done)


def _scaled(done: list[Step], factor: float) -> list[Step]:
    last = done[-1] if done else None
    if factor == 0:
        return [Step("set", 0.0)]
    if last is not None and last.op in ("set", "scale"):
        done, factor = done[:-1], _number(last.value) * factor
        if last.op == "set":
            return [*done, Step("set", factor)]
    return done if factor == 1 else [*done, Step("scale", factor)]


def _number(value: Value) -> float:
    assert isinstance(value, float)
    return value
