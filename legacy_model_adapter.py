"""Gate tracking for models trained before it existed: load a legacy checkpoint, or adapt a model you have loaded.

Exactness is the point. Every tensor is copied bit for bit, or stays the very object it was; a missing, unexpected or
differently shaped key is an error that names it; nothing is filled in, replicated or replaced by a stand-in.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from torch import nn

import qd_detr

_PLACE = str(Path(__file__).resolve().parent / "qd_detr")
if _PLACE not in qd_detr.__path__:  # another qd_detr, the user's own, was imported first: ours stands beside it
    qd_detr.__path__.append(_PLACE)

from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.weights.checkpoint import build_model, pick_device, read_checkpoint, resolve
from qd_detr.gates.weights.grafting import graft_gate_tracking
from qd_detr.gates.weights.record_only import record_gates

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def load_legacy_model_with_gate_tracking(
    model_path: str | Path,
    gating_type: str | None = None,
    device: str = "auto",
    config_path: str | Path | None = None,
    family: str | None = None,
) -> QDDETR:
    """Return the checkpoint's complete QD-DETR in eval mode; its gates are at `model.avigate_fusion`.

    Args:
        model_path: .ckpt or .pth file as legacy training wrote it; read without running code from it.
        gating_type: None runs it as trained. Only global and clipwise can be exchanged, with a warning.
        device: "auto" takes CUDA where there is one.
        config_path: options file, if the options are neither in the checkpoint nor in opt.json beside it.
        family: the family of gated models that it is of, where the checkpoint does not tell; by default as recognised,
            with a warning where more than one has these weights.

    Raises:
        FileNotFoundError: no such file. ValueError (`qd_detr.gates.errors.RequestError`): anything else that is wrong
            with the checkpoint or the request, by name and with the remedy.
    """
    where = pick_device(device)
    checkpoint = read_checkpoint(model_path)
    settings = resolve(checkpoint, gating_type=gating_type, config_path=config_path, family=family)
    if settings.recognition.undecided:
        logger.warning("%s: %s", model_path, settings.recognition.undecided)
    return build_model(checkpoint, settings, where)


def adapt_legacy_model(model: Model, gating_type: str | None = None, *, record_only: bool = False) -> Model:
    """Give your own, already loaded model gate tracking, in place; return the same object.

    Its fusion is replaced by one that holds the same Parameter objects, so optimizers stay valid and what is saved
    afterwards still loads in the old code. dtype, device, training mode, requires_grad and hooks stay. Outputs equal
    those before within 1e-5 (float32), which a trial forward proves before anything is changed.

    Args:
        model: of any class, the fusion under any attribute name, nested, or wrapped in DataParallel.
        gating_type: None keeps what the fusion does. Only global and clipwise can be exchanged, with a warning.
        record_only: leave the model alone, whatever its fusion computes: same modules, state dict and outputs to the
            bit. `model.avigate_fusion` then records what its gating functions (modules with mlp_mha and mlp_ffn)
            return, (B, 1), (B, 1, 1), (B, L, 1) or (B, L, D) of any range, in their first call of each model(...), or
            in all with `model.avigate_fusion.every_call = True`. Masks are not seen: all clips count as real. There is
            no injection and no intervention.

    Raises:
        ValueError (`qd_detr.gates.errors.RequestError`): no fusion or two, a fusion that computes something else, or a
            gating type its weights cannot run with. The model is untouched then.
    """
    if record_only:
        record_gates(model, gating_type)
    else:
        graft_gate_tracking(model, gating_type)
    return model
