"""The proof that a model holds a file's tensors: every key accounted for, every tensor equal to the bit.

The file is read anew for the proof, and half-precision numbers are widened by NumPy here, by integer shifts or its own
conversion: nothing of what loaded the model vouches for itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.families import build
from qd_detr.gates.model.qd_detr import QDDETR

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class KeyAccount:
    """Where every key of a state dict went. `groups` maps a part of the model to (tensors, numbers in them)."""

    in_file: int
    in_model: int
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]
    not_numbers: list[str]
    not_finite: list[str]
    groups: dict[str, tuple[int, int]]

    @property
    def complete(self) -> bool:
        """True if file and model have the same keys with the same shapes, and every number is one."""
        return not (self.missing or self.unexpected or self.misshapen or self.not_numbers or self.not_finite)


def account_for_keys(found: Mapping[str, Tensor], architecture: Architecture) -> KeyAccount:
    """Hold a state dict's keys against those that a model of this architecture has."""
    with torch.device("meta"):
        expected = build(architecture).state_dict()
    groups: dict[str, tuple[int, int]] = {}
    for key, value in found.items():
        part = _part(key)
        tensors, numbers = groups.get(part, (0, 0))
        groups[part] = (tensors + 1, numbers + value.numel())
    both = [key for key in expected if key in found]
    floats = [key for key in both if found[key].is_floating_point() and found[key].layout == torch.strided]
    return KeyAccount(
        in_file=len(found),
        in_model=len(expected),
        missing=[key for key in expected if key not in found],
        unexpected=[key for key in found if key not in expected],
        misshapen=[
            f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in both
            if found[key].shape != expected[key].shape
        ],
        not_numbers=[f"{key} {found[key].dtype}" for key in both if key not in floats],
        not_finite=[key for key in floats if not torch.isfinite(found[key]).all()],
        groups=groups,
    )


def _part(key: str) -> str:
    """Return the part of the model that a key belongs to: down to the numbered layer, or the first name."""
    numbered = re.match(r"(.*?(?:layers|proj)\.\d+)\.", key)
    if numbered and key.startswith(("fusion.", "transformer.encoder", "transformer.t2v", "transformer.decoder.layers")):
        return numbered.group(1)
    parts = key.split(".")
    return ".".join(parts[:2]) if parts[0] == "transformer" else parts[0]


@dataclass(frozen=True)
class TensorProof:
    """One tensor in the file and in the model. stored_sha256 is of the bytes as stored, the others at model width."""

    key: str
    shape: tuple[int, ...]
    stored_as: str
    stored_sha256: str
    file_sha256: str
    model_sha256: str
    difference: str | None

    @property
    def equal(self) -> bool:
        """True if file and model hold the same bits."""
        return self.file_sha256 == self.model_sha256


@dataclass(frozen=True)
class WeightsProof:
    """All tensors, and one hash over all of them for each side."""

    tensors: list[TensorProof]
    file_sha256: str
    model_sha256: str
    model_dtype: str

    @property
    def equal(self) -> bool:
        """True if nothing differs by a bit."""
        return self.file_sha256 == self.model_sha256 and all(tensor.equal for tensor in self.tensors)

    @property
    def widened(self) -> dict[str, int]:
        """How many tensors the file stores at less width than the model holds, by stored type."""
        narrow = [tensor.stored_as for tensor in self.tensors if tensor.stored_as != self.model_dtype]
        return {name: narrow.count(name) for name in sorted(set(narrow))}


def prove_weights(stored: Mapping[str, Tensor], model: QDDETR) -> WeightsProof:
    """Compare a file's tensors with a model's, bit for bit."""
    held = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    model_dtype = next(iter(held.values())).dtype
    overall_file, overall_model = hashlib.sha256(), hashlib.sha256()
    proofs = []
    for key in sorted({*stored, *held}):
        ours = _native(held[key]) if key in held else None
        theirs = widen(stored[key], model_dtype) if key in stored else None
        for overall, array in ((overall_file, theirs), (overall_model, ours)):
            overall.update(f"{key} {None if array is None else array.shape}\n".encode())
            overall.update(b"" if array is None else array.tobytes())
        proofs.append(
            TensorProof(
                key=key,
                shape=tuple((stored[key] if key in stored else held[key]).shape),
                stored_as=_name(stored[key].dtype) if key in stored else "absent",
                stored_sha256="" if key not in stored else _sha256(_bits(stored[key])),
                file_sha256="" if theirs is None else _sha256(theirs),
                model_sha256="" if ours is None else _sha256(ours),
                difference=_difference(theirs, ours),
            )
        )
    return WeightsProof(proofs, overall_file.hexdigest(), overall_model.hexdigest(), _name(model_dtype))


def widen(tensor: Tensor, dtype: torch.dtype) -> AnyArray:
    """Return a stored tensor's numbers at the width of `dtype` (float32 or float64), which is exact."""
    if tensor.dtype == torch.bfloat16:
        # bfloat16 is the upper half of a float32.
        array = (_bits(tensor).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        array = _native(tensor)
    wide = np.float64 if dtype == torch.float64 else np.float32
    return np.ascontiguousarray(array.astype(wide, copy=False)).reshape(tuple(tensor.shape))


def _native(tensor: Tensor) -> AnyArray:
    # ascontiguousarray gives a number without axes one.
    return np.ascontiguousarray(tensor.detach().cpu().contiguous().numpy()).reshape(tuple(tensor.shape))


def _bits(tensor: Tensor) -> AnyArray:
    if tensor.dtype == torch.bfloat16:
        return _native(tensor.detach().cpu().contiguous().view(torch.int16))
    return _native(tensor)


def _sha256(array: AnyArray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _difference(theirs: AnyArray | None, ours: AnyArray | None) -> str | None:
    """Return in words how two arrays differ, or None if they are equal to the bit."""
    if theirs is None:
        return "not in the file"
    if ours is None:
        return "not in the model"
    if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        return f"{theirs.dtype} {theirs.shape} in the file, {ours.dtype} {ours.shape} in the model"
    if theirs.tobytes() == ours.tobytes():
        return None
    word = np.uint64 if theirs.dtype == np.float64 else np.uint32
    moved = theirs.view(word) != ours.view(word) if theirs.ndim else np.array([True])
    gap = float(np.abs(theirs.astype(float) - ours.astype(float)).max())
    return f"{int(moved.sum())} of {moved.size} numbers differ, by up to {gap:.3g}"
