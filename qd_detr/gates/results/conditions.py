"""What the conditions of a run are called where people read. In the files they keep the names under which they ran."""

from __future__ import annotations

import re
from collections.abc import Mapping

from qd_detr.gates.figures.wording import gate_words
from qd_detr.gates.gating import GATES
from qd_detr.gates.runs.interventions.conditions import AUDIO_MODES, MEAN_VIDEO, NEITHER, SIGN_FLIPPED, audio_name
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.wording import Texts

_NAMED: Mapping[str, str] = {
    BASELINE: "condition.baseline",
    SIGN_FLIPPED: "condition.flipped",
    MEAN_VIDEO: "condition.mean_video",
    NEITHER: "condition.neither",
    **{audio_name(mode): f"condition.audio_{mode}" for mode in AUDIO_MODES},
}
_ONE_OFF = re.compile(r"layer (?P<layer>\d+) (?P<gate>.+) gate off")
_ALL_OFF = re.compile(r"all (?P<gate>.+) gates off")
_DOSE = re.compile(r"attention gates x (?P<scale>\S+)")


def condition_words(name: str, texts: Texts) -> str:
    """Return what a condition is called in the texts' language; one that a user named stays as it is."""
    if name in _NAMED:
        return texts(_NAMED[name])
    for pattern, key in ((_ONE_OFF, "one_off"), (_ALL_OFF, "all_off"), (_DOSE, "dose")):
        found = pattern.fullmatch(name)
        if found:
            values = found.groupdict()
            if "gate" in values:
                kinds = {gate.label: kind for kind, gate in GATES.items()}
                values["gate"] = gate_words(texts, kinds.get(values["gate"], values["gate"].replace(" ", "_")))
            return texts(f"condition.{key}", **values)
    return name
