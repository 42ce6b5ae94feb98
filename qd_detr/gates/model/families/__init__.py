"""Families of gated models: what is known of each stands in one file, and nothing else has to know of it.

A module in this package that declares `FAMILY` is a family; `FAMILIES` holds them by name.
"""

from __future__ import annotations

import importlib
import pkgutil

from qd_detr.gates.errors import RequestError
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.families.family import Family
from qd_detr.gates.model.qd_detr import QDDETR

__all__ = ["BASE", "FAMILIES", "Family", "build", "family_named"]

BASE = "base"


def _declared() -> dict[str, Family]:
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.name: family for family in sorted(found, key=lambda family: (family.name != BASE, family.name))}


FAMILIES: dict[str, Family] = _declared()
"""The families by name, the base first."""


def family_named(name: str) -> Family:
    """Return a family by its name.

    Raises:
        RequestError: there is none of that name.
    """
    if name not in FAMILIES:
        raise RequestError(f"--family {name} is not known; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def build(architecture: Architecture) -> QDDETR:
    """Return the model that an architecture describes, with weights as they start."""
    return family_named(architecture.family).build(architecture)
