"""The base: AVIGATE fusion with tanh gates; `qd_detr.gates.fusion` holds its equations."""

from __future__ import annotations

from qd_detr.gates.model.families.family import NOTHING, PLAIN_FUSION, PLAIN_MODEL, PLAIN_TRANSFORMER, Family
from qd_detr.gates.model.qd_detr import QDDETR

FAMILY = Family(
    "base",
    "the base model: tanh gates",
    model=QDDETR,
    untrained=NOTHING,
    copies={
        "transformer.py": (PLAIN_TRANSFORMER,),
        "model.py": (PLAIN_MODEL,),
        "code/avigate_custom.py": (PLAIN_FUSION,),
    },
)
