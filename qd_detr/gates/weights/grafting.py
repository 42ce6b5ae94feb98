"""Give a model of an unknown class a fusion whose gates can be watched, without changing anything else about it.

The user's own leaf modules (projections, feed-forwards, attention, norms, gate MLPs) move into our fusion as they
are: the Parameter objects, dtype, device, requires_grad, training mode and hooks stay because the modules stay. Only
the three kinds of module that we replace (fusion, layer, gating function) have their hooks handed over.

Everything is checked first, on a trial forward; a refused model is left untouched.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qd_detr.gates.errors import CheckpointError, RequestError, first_few
from qd_detr.gates.fusion import AVIGATEFusionCustom
from qd_detr.gates.gating import GATING_TYPES, gatings_of_width
from qd_detr.gates.weights.checkpoint import gating_change_note
from qd_detr.gates.weights.foreign_calls import CALL_NAMES, ForwardArguments, GraftedFusion

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
    _check_reachable(model, found)
    fusion = found if isinstance(found, AVIGATEFusionCustom) else _rebuilt(name, found)
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
    compiled = [key for key, module in model.named_modules() if getattr(module, "_orig_mod", None) is fusion]
    if compiled:
        raise CheckpointError(
            f"the fusion {compiled[0] or '(the model itself)'} is compiled (torch.compile): its wrapper goes on calling "
            "the module it was made of, so nothing put in its place would run. Give the model as it was before "
            "torch.compile, and compile the adapted one"
        )
    if not name and not isinstance(fusion, AVIGATEFusionCustom):
        raise CheckpointError(
            "this is the fusion itself; give the model that holds it, so that it can be replaced there"
        )
    return name, fusion


def _looks_like_fusion(module: nn.Module) -> bool:
    layers = module._modules.get("fusion_layers")
    children = list(layers.children()) if layers is not None else []
    return bool(children) and all("gating_function" in child._modules for child in children)


def _rebuilt(name: str, own: nn.Module) -> AVIGATEFusionCustom:
    """Return our fusion around the user's leaf modules, proven on a trial forward to compute the same."""
    own_layers: Any = own.fusion_layers
    layers: list[Any] = list(own_layers.children())
    try:
        hidden_dim = layers[0].a_proj.weight.shape[0]
        width = layers[0].gating_function.mlp_mha[2].weight.shape[0]
        n_heads = layers[0].self_attention.num_heads
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{name} has fusion_layers but is not an AVIGATE fusion as legacy checkpoints have it ({error}); "
            "a fusion of another design cannot be tracked by this tool"
        ) from None
    possible = gatings_of_width(width, hidden_dim) or tuple(GATING_TYPES)
    arguments = ForwardArguments.of(name, own)
    with torch.device("meta"):
        fusion = GraftedFusion(hidden_dim, hidden_dim, hidden_dim, n_heads, len(layers), possible[0])
    fusion.arguments = arguments
    _check_structure(name, own, fusion)
    for layer, their_layer in zip(fusion.layers, layers, strict=True):
        for leaf in _LEAVES:
            setattr(layer, leaf, getattr(their_layer, leaf))
        for leaf in _GATE_LEAVES:
            setattr(layer.gating_function, leaf, getattr(their_layer.gating_function, leaf))
    if len(possible) > 1:
        fusion.switch_gating_type(_observed_gating_type(own, fusion, possible))
    fusion.trained_gating_type = fusion.gating_type
    _prove_equal(name, own, fusion)
    _tell_lost_dropout(name, own, fusion)
    replaced = [own, own_layers, *layers, *(layer.gating_function for layer in layers)]
    replacing: list[nn.Module] = [fusion, fusion.fusion_layers, *fusion.layers]
    replacing += [layer.gating_function for layer in fusion.layers]
    for theirs, ours in zip(replaced, replacing, strict=True):
        for attribute in (*_HOOKS, "_is_full_backward_hook"):
            if attribute in theirs.__dict__:
                # The same dict object, not a copy: handles given out earlier remove their hook from it.
                ours.__dict__[attribute] = theirs.__dict__[attribute]
        ours.training = theirs.training
        # In their order: an optimizer's saved state finds its parameters by position.
        ours._modules = {key: ours._modules[key] for key in theirs._modules if key in ours._modules}
        for attribute, value in theirs.__dict__.items():
            if not hasattr(ours, attribute):  # the user's model may read it
                ours.__dict__[attribute] = value
    fusion.watch_detours()
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


def _observed_gating_type(own: nn.Module, fusion: GraftedFusion, possible: Sequence[str]) -> str:
    """Return which of the possible types it is by how many gates the user's fusion computes for several clips."""
    rows: list[int] = []
    mlp = fusion.layers[0].gating_function.mlp_mha
    with _quiet(own):
        handle = mlp.register_forward_hook(lambda module, inputs, output: rows.append(output.numel()))
        try:
            video, _, _ = _trial_inputs(own, fusion.hidden_dim)
            _call(own, fusion)
        finally:
            handle.remove()
    numbers = {
        name: len(video) * math.prod(GATING_TYPES[name].shape(_TRIAL_CLIPS, fusion.hidden_dim)) for name in possible
    }
    for name, number in numbers.items():
        if rows == [number]:
            return name
    expected = " or ".join(f"{number} ({name})" for name, number in numbers.items())
    raise CheckpointError(
        f"in a trial forward of {len(video)} samples with {_TRIAL_CLIPS} clips the first gate had {rows} values; "
        f"expected {expected}"
    )


def _prove_equal(name: str, own: nn.Module, fusion: GraftedFusion) -> None:
    with _quiet(own):
        theirs = _call(own, fusion)
        video, audio, mask = _trial_inputs(own, fusion.hidden_dim)
        fusion.eval()  # our containers only; the leaves are the user's and already quiet
        ours = fusion.fuse(video, audio, mask if "video_mask" in fusion.arguments.roles.values() else None)
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


def _tell_lost_dropout(name: str, own: nn.Module, fusion: AVIGATEFusionCustom) -> None:
    # A legacy fusion has none; the trial forward, in eval mode, cannot show it.
    kept = set(fusion.modules())
    lost = [n for n, m in own.named_modules() if isinstance(m, nn.Dropout) and m.p > 0 and m not in kept]
    if lost:
        logger.warning(
            "%s has dropout of its own (%s); it is not applied any more when the adapted model is trained",
            name,
            first_few(lost),
        )


def _trial_inputs(own: nn.Module, hidden_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    like = next(own.parameters())
    generator = torch.Generator().manual_seed(0)
    video, audio = torch.randn(2, 3, _TRIAL_CLIPS, hidden_dim, generator=generator).to(like.device, like.dtype)
    mask = torch.ones(3, _TRIAL_CLIPS, device=like.device)
    mask[1, -2:] = 0
    return video, audio, mask


def _call(own: nn.Module, fusion: GraftedFusion) -> Any:
    video, audio, mask = _trial_inputs(own, fusion.hidden_dim)
    problems = []
    for given_mask in (mask, mask.bool()):
        values = dict(zip(CALL_NAMES, (video, audio, given_mask, given_mask), strict=True))
        try:
            return fusion.arguments.call(own, values)
        except (TypeError, RuntimeError, ValueError, AttributeError, IndexError) as error:
            problems.append(error)
    raise CheckpointError(
        f"the model's fusion could not be run in a trial forward as fusion({', '.join(fusion.arguments.roles)}): "
        f"{type(problems[0]).__name__}: {problems[0]}"
    ) from problems[0]


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


def _holders(model: nn.Module) -> list[nn.Module]:
    inner = getattr(model, "module", None)  # DataParallel and its like: scripts reach through either
    return [model, inner] if isinstance(inner, nn.Module) else [model]


def _check_reachable(model: nn.Module, found: nn.Module) -> None:
    for holder in _holders(model):
        named = getattr(holder, "avigate_fusion", None)
        # A property cannot be replaced by a plain attribute, a module of that name would be hidden by one.
        if named is not found and (
            named is not None or isinstance(getattr(type(holder), "avigate_fusion", None), property)
        ):
            raise CheckpointError(
                f"{type(holder).__name__} has an avigate_fusion of its own that is not its fusion; rename it first"
            )


def _make_reachable(model: nn.Module, fusion: AVIGATEFusionCustom) -> None:
    """Let model.avigate_fusion be the fusion, outside the registered modules: the state dict keeps its keys."""
    for holder in _holders(model):
        if getattr(holder, "avigate_fusion", None) is not fusion:
            holder.__dict__["avigate_fusion"] = fusion
