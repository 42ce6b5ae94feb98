"""Give a model of an unknown class a fusion whose gates can be watched, without changing anything else about it.

The user's own leaf modules (projections, feed-forwards, attention, norms, gate MLPs) move into our fusion as they
are: the Parameter objects, dtype, device, requires_grad, training mode and hooks stay because the modules stay. Only
the three kinds of module that we replace (fusion, layer, gating function) have their hooks handed over.

Everything is checked first, on a trial forward; a refused model is left untouched.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qd_detr.avigate_custom import GATING_TYPES, AVIGATEFusionCustom
from qd_detr.checkpoint import gating_change_note
from qd_detr.errors import CheckpointError, RequestError, first_few

logger = logging.getLogger(__name__)

_LEAVES = ("a_proj", "out_proj", "ffn1", "self_attention", "ffn2", "norm1", "norm2", "norm3", "norm4")
_GATE_LEAVES = ("mlp_mha", "mlp_ffn")
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_CALL_HOOKS = _HOOKS[:7]

# Outputs of the user's fusion and ours may differ by rounding alone. For half precision the bound is its own.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_TRIAL_CLIPS = 5


def graft_gate_tracking(model: nn.Module, gating_type: str | None = None) -> nn.Module:
    """Replace the model's own fusion by one that can be tracked; return the same model object.

    Args:
        model: any module that holds one AVIGATE fusion, under any name, nested or wrapped.
        gating_type: None for what the fusion does; "global" or "clipwise" may be exchanged, with a warning.

    Raises:
        TypeError: not a module. CheckpointError: no fusion, two, or one that computes something else.
        RequestError: a gating type that these weights cannot run with.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model object (torch.nn.Module) is needed; got {type(model).__name__}")
    if gating_type is not None and gating_type not in GATING_TYPES:
        raise RequestError(f"gating_type must be one of {', '.join(GATING_TYPES)}; got {gating_type!r}")
    name, found = _the_fusion(model)
    if isinstance(found, AVIGATEFusionCustom):
        fusion = found
    else:
        fusion = _rebuilt(name, found)
    if gating_type is not None and gating_type != fusion.gating_type:
        try:
            fusion.switch_gating_type(gating_type)
        except ValueError as error:
            raise RequestError(str(error)) from None
        logger.warning("%s", gating_change_note(fusion.trained_gating_type, gating_type))
    if fusion is not found:
        _replace_everywhere(model, found, fusion)
    _make_reachable(model, fusion)
    return model


def _the_fusion(model: nn.Module) -> tuple[str, nn.Module]:
    fusions = [(name, module) for name, module in model.named_modules() if _looks_like_fusion(module)]
    if not fusions:
        raise CheckpointError(
            f"no AVIGATE fusion in this {type(model).__name__}: no module has fusion_layers with a gating_function; "
            "a plain QD-DETR has no gates. Give a model trained with use_avigate_custom"
        )
    if len(fusions) > 1:
        raise CheckpointError(
            f"{len(fusions)} AVIGATE fusions in this {type(model).__name__} "
            f"({first_few([name or '(the model itself)' for name, _ in fusions])}); give a module that holds one"
        )
    name, fusion = fusions[0]
    if not name and not isinstance(fusion, AVIGATEFusionCustom):
        raise CheckpointError("this is the fusion itself; give the model that holds it, so that it can be replaced there")
    return name, fusion


def _looks_like_fusion(module: nn.Module) -> bool:
    layers = module._modules.get("fusion_layers")
    children = list(layers.children()) if layers is not None else []
    return bool(children) and all("gating_function" in child._modules for child in children)


def _rebuilt(name: str, own: nn.Module) -> AVIGATEFusionCustom:
    """Return our fusion around the user's leaf modules, proven on a trial forward to compute the same."""
    layers = list(own.fusion_layers.children())  # type: ignore[union-attr, operator]
    try:
        hidden_dim = layers[0].a_proj.weight.shape[0]  # type: ignore[union-attr]
        width = layers[0].gating_function.mlp_mha[2].weight.shape[0]  # type: ignore[union-attr, index]
        n_heads = layers[0].self_attention.num_heads  # type: ignore[union-attr]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{name} has fusion_layers but is not an AVIGATE fusion as legacy checkpoints have it ({error}); "
            "a fusion of another design cannot be tracked by this tool"
        ) from None
    elementwise = width == hidden_dim and hidden_dim > 1
    with torch.device("meta"):
        fusion = AVIGATEFusionCustom(
            hidden_dim, hidden_dim, hidden_dim, n_heads, len(layers), "elementwise" if elementwise else "clipwise"
        )
    _check_structure(name, own, fusion)
    for ours, theirs in zip(fusion.fusion_layers, layers, strict=True):
        for leaf in _LEAVES:
            setattr(ours, leaf, getattr(theirs, leaf))
        gates, their_gates = ours.gating_function, theirs.gating_function
        for leaf in _GATE_LEAVES:
            setattr(gates, leaf, getattr(their_gates, leaf))
    if not elementwise:
        observed = _observed_gating_type(own, fusion)
        fusion.switch_gating_type(observed)
    fusion.trained_gating_type = fusion.gating_type
    _prove_equal(name, own, fusion)
    for ours, theirs in zip(
        [fusion, *fusion.fusion_layers, *(layer.gating_function for layer in fusion.fusion_layers)],
        [own, *layers, *(layer.gating_function for layer in layers)],
        strict=True,
    ):
        assert isinstance(theirs, nn.Module)
        for attribute in (*_HOOKS, "_is_full_backward_hook"):
            if attribute in theirs.__dict__:
                # The same dict object, not a copy: handles given out earlier remove their hook from it.
                ours.__dict__[attribute] = theirs.__dict__[attribute]
        ours.training = theirs.training
    fusion.fusion_layers.training = own.fusion_layers.training  # type: ignore[union-attr]
    return fusion


def _check_structure(name: str, own: nn.Module, fusion: AVIGATEFusionCustom) -> None:
    expected = {key: tuple(value.shape) for key, value in fusion.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in own.named_parameters(remove_duplicate=False)}
    found |= {key: tuple(value.shape) for key, value in own.named_buffers(remove_duplicate=False)}
    problems = [f"{key} missing" for key in expected if key not in found]
    problems += [f"{key} unexpected" for key in found if key not in expected]
    problems += [
        f"{key} {found[key]} instead of {shape}" for key, shape in expected.items() if found.get(key, shape) != shape
    ]
    if problems:
        raise CheckpointError(
            f"{name} is not an AVIGATE fusion as legacy checkpoints have it: {first_few(problems)}; "
            "a fusion of another design cannot be tracked by this tool"
        )


def _observed_gating_type(own: nn.Module, fusion: AVIGATEFusionCustom) -> str:
    """Return "global" or "clipwise" by how many gates per sample the user's fusion computes for several clips."""
    rows: list[int] = []
    mlp = fusion.fusion_layers[0].gating_function.mlp_mha
    assert isinstance(mlp, nn.Module)
    with _quiet(own):
        handle = mlp.register_forward_hook(lambda module, inputs, output: rows.append(output.numel()))
        try:
            video, _, _ = _trial_inputs(own, fusion.hidden_dim)
            _call(own, fusion.hidden_dim)
        finally:
            handle.remove()
    if rows == [len(video)]:
        return "global"
    if rows == [len(video) * _TRIAL_CLIPS]:
        return "clipwise"
    raise CheckpointError(
        f"in a trial forward of {len(video)} samples with {_TRIAL_CLIPS} clips the first gate had {rows} values; expected "
        f"{len(video)} (global) or {len(video) * _TRIAL_CLIPS} (clipwise)"
    )


def _prove_equal(name: str, own: nn.Module, fusion: AVIGATEFusionCustom) -> None:
    with _quiet(own):
        theirs = _call(own, fusion.hidden_dim)
        video, audio, mask = _trial_inputs(own, fusion.hidden_dim)
        fusion.eval()  # our containers only; the leaves are the user's and already quiet
        ours = fusion(video, audio, mask)
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
        got = tuple(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
        raise CheckpointError(f"{name} returns {got} in a trial forward; expected a tensor {tuple(ours.shape)}")
    real = mask.bool()
    worst = (theirs - ours)[real].abs().max().item()
    bound = _TOLERANCE.get(theirs.dtype, 1e-5) * max(1.0, theirs[real].abs().max().item())
    if not worst <= bound:
        raise CheckpointError(
            f"{name} has the weights of an AVIGATE fusion but computes something else: in a trial forward the outputs "
            f"differ by {worst:.3g} (allowed {bound:.3g}); its gates may use another function than tanh. "
            "Tracking it as if it were the same would report gates it does not have"
        )


def _trial_inputs(own: nn.Module, hidden_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    like = next(own.parameters())
    generator = torch.Generator().manual_seed(0)
    video, audio = torch.randn(2, 3, _TRIAL_CLIPS, hidden_dim, generator=generator).to(like.device, like.dtype)
    mask = torch.ones(3, _TRIAL_CLIPS, device=like.device)
    mask[1, -2:] = 0
    return video, audio, mask


def _call(own: nn.Module, hidden_dim: int) -> Any:
    video, audio, mask = _trial_inputs(own, hidden_dim)
    try:
        return own(video, audio, mask, mask)
    except (TypeError, RuntimeError, ValueError, AttributeError, IndexError) as first:
        try:
            return own(video, audio, mask.bool(), mask.bool())
        except (TypeError, RuntimeError, ValueError, AttributeError, IndexError):
            raise CheckpointError(
                "the model's fusion could not be run in a trial forward as "
                f"fusion(video_feat, audio_feat, video_mask, audio_mask): {type(first).__name__}: {first}"
            ) from first


@contextmanager
def _quiet(own: nn.Module) -> Iterator[None]:
    """Run the user's modules in eval mode, without gradients, hooks or traces; all is put back."""
    modules = list(own.modules())
    training = [module.training for module in modules]
    hooks = [{name: module.__dict__[name] for name in _CALL_HOOKS if name in module.__dict__} for module in modules]
    devices = [p.device for p in own.parameters() if p.device.type == "cuda"][:1]
    try:
        for module, own_hooks in zip(modules, hooks, strict=True):
            module.training = False
            for name in own_hooks:
                module.__dict__[name] = OrderedDict()
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode, own_hooks in zip(modules, training, hooks, strict=True):
            module.training = mode
            module.__dict__.update(own_hooks)


def _replace_everywhere(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new
        for name, value in module.__dict__.items():
            if value is old:
                module.__dict__[name] = new


def _make_reachable(model: nn.Module, fusion: AVIGATEFusionCustom) -> None:
    """Let model.avigate_fusion be the fusion, outside the registered modules: the state dict keeps its keys."""
    holders = [model]
    inner = getattr(model, "module", None)
    if isinstance(inner, nn.Module):  # DataParallel and its like: scripts reach through either
        holders.append(inner)
    for holder in holders:
        if getattr(holder, "avigate_fusion", None) is not fusion:
            holder.__dict__["avigate_fusion"] = fusion
        if holder.avigate_fusion is not fusion:
            raise CheckpointError(
                f"{type(holder).__name__} has an avigate_fusion of its own that is not its fusion; rename it first"
            )


