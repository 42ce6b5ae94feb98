"""Checkpoints: read without running code from the file, and turned into a model strictly, bit for bit."""

from __future__ import annotations

import argparse
import hashlib
import logging
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qd_detr.gates.errors import CheckpointError, RequestError, check_checkpoint_is_there, first_few
from qd_detr.gates.model.families import build
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.weights.options import Settings, read_options_file, resolve_settings
from qd_detr.gates.weights.recognition import Recognition, recognise
from qd_detr.gates.weights.scalars import ALLOWED

logger = logging.getLogger(__name__)

FORMAT = "qd_detr-gates/1"
# DataParallel and AveragedModel, torch.compile, Lightning modules, moving averages.
_PREFIXES = ("module.", "_orig_mod.", "model.", "ema_model.", "ema.")
_COUNTER = "n_averaged"  # AveragedModel's only entry that is no weight
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds, as plain data.

    Attributes:
        weights: the state dict, keys without wrappers' prefixes, tensors as stored.
        embedded: the options inside, or None. opt_json: the options beside, or None.
        with_state: the keys whose parameters have optimizer state; None if the file does not say.
        format: the file's own format mark, or None for a legacy file. epoch: as stored, or None.
    """

    path: Path
    weights: dict[str, Tensor]
    embedded: dict[str, Any] | None
    opt_json: dict[str, Any] | None
    format: str | None
    epoch: int | None
    with_state: frozenset[str] | None = None

    @property
    def own(self) -> bool:
        """True if this project's trainer wrote it: then no legacy run, and no legacy batches, stand behind it."""
        return self.format == FORMAT


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a .ckpt or .pth file of any of the known layouts; `argparse.Namespace` is the only extra type allowed.

    Raises:
        MissingFileError: no such file. CheckpointError: not a checkpoint, damaged, or a file that would run code.
    """
    path = Path(path)
    check_checkpoint_is_there(path)
    content = load_content(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint or state dict; {_EXPECTED}")
    embedded = content.get("opt")
    if isinstance(embedded, argparse.Namespace):
        embedded = vars(embedded)
    if embedded is not None and not isinstance(embedded, Mapping):
        raise CheckpointError(f"{path}: its 'opt' is a {type(embedded).__name__}; expected options by name")
    weights = _weights(content, path)
    _check_size(weights, path)
    beside = path.parent / "opt.json"
    epoch, mark = content.get("epoch"), content.get("format")
    return Checkpoint(
        path=path,
        weights=weights,
        embedded=None if embedded is None else {k: v for k, v in embedded.items() if isinstance(k, str)},
        opt_json=_options_beside(beside, needed=embedded is None) if beside.is_file() else None,
        format=mark if isinstance(mark, str) else None,
        epoch=epoch if isinstance(epoch, int) else None,
        with_state=_with_state(content, list(weights)),
    )


def _options_beside(path: Path, *, needed: bool) -> dict[str, Any] | None:
    """Return the options of opt.json; None with a warning if it is unusable and the checkpoint holds its own."""
    try:
        return read_options_file(path)
    except RequestError as error:
        if needed:
            raise
        logger.warning("the options in the checkpoint are taken alone: %s", error)
        return None


_EXPECTED = (
    'expected torch.save of {"model": state_dict, ...}, {"state_dict": ...} or a bare state dict, '
    "in the form its training run wrote"
)


def load_content(path: Path) -> Any:
    """Return what a torch.save file holds: tensors, plain data, `argparse.Namespace`, NumPy's numbers; nothing is run.

    Raises:
        CheckpointError: the file is damaged, not such a file, or asks to run code.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *ALLOWED]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zipped = zipfile.is_zipfile(path)
            if zipped:
                _check_archive(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise CheckpointError(
                f"{path} was refused: it asks to run {refused.group(1)} while loading, which no checkpoint of weights "
                "needs; nothing of it was run. Save it again as tensors and plain options (an argparse.Namespace is fine)"
            ) from None
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_first_line(error)}; {_EXPECTED}") from None
    except CheckpointError:
        raise
    except MemoryError:
        raise CheckpointError(f"{path} asks for more memory than there is; it is damaged or not a checkpoint") from None
    except (
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        OSError,
        AssertionError,
        ImportError,
        UnicodeError,
        ArithmeticError,
        RecursionError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        # What torch.load raises on damaged bytes is not documented; these were all seen.
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}: {_first_line(error)}); copy it again. {_EXPECTED}"
        ) from None


def _check_archive(path: Path) -> None:
    """Raise CheckpointError if the zip's members cannot be mapped into memory as they lie in the file."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        inside = [name for name in archive.namelist() if name.lower().endswith((".ckpt", ".pth", ".pt"))]
        if inside and not any(name.endswith("data.pkl") for name in archive.namelist()):
            raise CheckpointError(
                f"{path} is a zip with {first_few(inside)} inside; unpack it and give that file with --model_path"
            )
        names: set[str] = set()
        for member in archive.infolist():
            if member.filename in names:  # which of them is meant, programs read differently
                raise zipfile.BadZipFile(f"it holds {member.filename[:100]} more than once")
            names.add(member.filename)
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                # torch.save compresses nothing; mapped, compressed bytes would pass for weights.
                raise CheckpointError(
                    f"{path} was packed again with compression ({member.filename[:100]}), which no torch.save does; "
                    "unpack it, pack it without compression (zip -0), or copy the original again"
                )
            if member.header_offset + member.file_size > size:
                raise zipfile.BadZipFile(f"{member.filename[:100]} reaches beyond the end of the file")
            if member.CRC:  # torch.save can be told to leave the sum out
                with archive.open(member) as content:
                    while content.read(1 << 20):  # raises at the end where the sum is another
                        pass


def _check_size(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError if the tensors would take far more memory than the file has bytes."""
    # A tensor of stride 0 claims any size over a few bytes. Shared weights are counted twice; they stay far below.
    claimed = sum(value.numel() * value.element_size() for value in weights.values() if not value.is_meta)
    size = path.stat().st_size
    if claimed > 8 * size + (64 << 20):
        raise CheckpointError(
            f"{path} has {size} bytes, but its tensors claim {claimed}: their shapes are damaged or made up; copy it again"
        )


def _first_line(error: BaseException) -> str:
    """Return the first sentence of the first line: what torch says after it is advice for its own developers."""
    lines = str(error).strip().splitlines()
    return lines[0].partition(". ")[0][:200] if lines else "no details"


def _weights(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    weights: Any = content
    for wrapper in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(wrapper), Mapping):
            weights = content[wrapper]
            break
    if not weights:
        raise CheckpointError(f"{path} holds no weights; {_EXPECTED}")
    odd = [
        f"{key!s:.100}" if isinstance(key, (str, int)) else f"a key of type {type(key).__name__}"
        for key, value in weights.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if odd:
        raise CheckpointError(f"{path} is not a state dict: {first_few(odd)} not a tensor; {_EXPECTED}")
    nested = [key for key, value in weights.items() if value.is_nested]
    if nested:
        raise CheckpointError(f"{path}: {first_few(nested)} not dense floating point but nested; {_EXPECTED}")
    return _without_prefixes(dict(weights), path)


def _without_prefixes(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the state dict with what wrappers put before every key taken off, and AveragedModel's counter left out."""
    for prefix in _PREFIXES:
        below = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
        others = [key for key in weights if not key.startswith(prefix)]
        if not below:
            continue
        if not others or (prefix == "module." and others == [_COUNTER]):
            return _without_prefixes(below, path)
        if any(key.startswith("transformer.") for key in below):
            raise CheckpointError(
                f"{path} holds a model under the prefix {prefix!r} and besides it {first_few(others)}, which are no part "
                "of one; save the model's own state dict without them"
            )
    return weights


def _with_state(content: Mapping[Any, Any], keys: list[str]) -> frozenset[str] | None:
    """Return the keys whose parameters the optimizer has state for; None if nothing tells which parameter is which."""
    optimizer = content.get("optimizer")
    groups = optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None
    state = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    if not isinstance(state, Mapping) or not isinstance(groups, list) or len(groups) != 1:
        return None
    parameters = groups[0].get("params") if isinstance(groups[0], Mapping) else None
    if not isinstance(parameters, list) or len(parameters) != len(keys):
        return None
    return frozenset(key for key, parameter in zip(keys, parameters, strict=True) if parameter in state)


def recognised(
    checkpoint: Checkpoint, config: Mapping[str, Any] | None = None, *, asked: str | None = None
) -> Recognition:
    """Return what family a checkpoint is of; see `recognise`."""
    sources = [config, checkpoint.embedded, checkpoint.opt_json]
    return recognise(
        checkpoint.weights,
        [source for source in sources if source is not None],
        folder=checkpoint.path.parent,
        with_state=checkpoint.with_state,
        own=checkpoint.own,
        asked=asked,
    )


def resolve(
    checkpoint: Checkpoint,
    *,
    gating_type: str | None = None,
    config_path: str | Path | None = None,
    family: str | None = None,
) -> Settings:
    """Decide the settings of a checkpoint's model; see `recognise` and `resolve_settings` for the rules and errors."""
    config = None if config_path is None else read_options_file(config_path)
    return settings_of(checkpoint, recognised(checkpoint, config, asked=family), config, gating_type=gating_type)


def settings_of(
    checkpoint: Checkpoint,
    recognition: Recognition,
    config: Mapping[str, Any] | None = None,
    *,
    gating_type: str | None = None,
) -> Settings:
    """Decide the settings of a checkpoint that has been recognised; config: the options of a named file."""
    return resolve_settings(
        checkpoint.weights,
        embedded=checkpoint.embedded,
        opt_json=checkpoint.opt_json,
        config=config,
        gating_type=gating_type,
        recognition=recognition,
    )


def build_model(checkpoint: Checkpoint, settings: Settings, device: str | torch.device = "cpu") -> QDDETR:
    """Return the checkpoint's model in eval mode: every tensor copied bit for bit, nothing else filled in.

    Tensors of less than float32 are widened, which is exact; a checkpoint with float64 tensors gives a float64 model.

    Raises:
        CheckpointError: a missing, unexpected, differently shaped or non-finite tensor, by name.
    """
    with torch.device("meta"):
        model = build(settings.architecture)
    expected = model.state_dict()
    check_keys(expected, checkpoint.weights, str(checkpoint.path))
    double = any(value.dtype == torch.float64 for value in checkpoint.weights.values())
    dtype = torch.float64 if double else torch.float32
    # Copied out of the file's mapping: the model must not change or vanish with the file.
    own = {
        name: checkpoint.weights[name].to(dtype=dtype, copy=True, memory_format=torch.contiguous_format)
        for name in expected
    }
    model.load_state_dict(own, strict=True, assign=True)
    torn = [name for name, value in model.state_dict().items() if not torch.equal(value, own[name])]
    if torn:  # two keys of one parameter, as the file of a fusion that is held twice has them
        raise CheckpointError(
            f"{checkpoint.path} holds different values for what is one parameter of the model ({first_few(torn)}); "
            "it is damaged, copy it again"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    fusion = model.avigate_fusion
    fusion.trained_gating_type = settings.trained_gating_type
    model.options = dict(settings.options)
    if fusion.gating_type != fusion.trained_gating_type:
        logger.warning("%s", gating_change_note(fusion.trained_gating_type, fusion.gating_type))
    for sentence in settings.disagreements:
        logger.warning("options disagree on %s", sentence)
    return model.eval().to(device)


def gating_change_note(trained: str, run: str) -> str:
    """Return the sentence that goes wherever a model runs with another gating type than it was trained with."""
    return (
        f"trained with {trained} gating, run with {run} as asked: the weights fit both, the function is another; "
        "these are not the gates the model was trained with"
    )


def check_keys(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError naming every kind of difference between two state dicts, or tensors that are not finite."""
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    shaped = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    typed = [
        f"{key} {found[key].dtype}"
        for key in expected
        if key in found
        and not (found[key].dtype in _FLOATS and found[key].layout == torch.strided and not found[key].is_meta)
    ]
    parts = [
        f"{len(names)} {label} ({first_few(names)})"
        for names, label in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (shaped, "of another shape"),
            (typed, "not dense floating point"),
        )
        if names
    ]
    if parts:
        raise CheckpointError(
            f"the weights in {what} do not fit the model they describe: {'; '.join(parts)}; "
            "nothing was loaded. Give the checkpoint as its training run wrote it"
        )
    broken = [key for key in expected if not torch.isfinite(found[key]).all()]
    if broken:
        raise CheckpointError(
            f"{len(broken)} tensors in {what} hold NaN or Inf ({first_few(broken)}); "
            "the training run diverged, give an earlier checkpoint"
        )


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        RequestError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        meant = "cuda is what torch calls a GPU: try --device cuda or" if "gpu" in name.lower() else "try"
        raise RequestError(
            f"device {name!r} cannot be used here ({_first_line(error)}); {meant} --device cpu"
        ) from None
    if device.type == "meta":
        raise RequestError("device 'meta' holds no numbers; try --device cpu")
    return device


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
