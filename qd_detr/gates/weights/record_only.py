"""Record the gates of a model that is left as it is, whatever its fusion computes and whoever calls its layers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from torch import Tensor, nn

from qd_detr.gates.errors import CheckpointError, RequestError, first_few
from qd_detr.gates.gating import ATTENTION, FFN, Gate
from qd_detr.gates.tracking.api import GateTracking
from qd_detr.gates.tracking.history import GateHistory
from qd_detr.gates.tracking.recorder import GateUse

logger = logging.getLogger(__name__)

_GATES = (replace(ATTENTION, off=None), replace(FFN, off=None))
_KNOWN_LATER = ("gating_type", "trained_gating_type", "hidden_dim")


class RecordedGates(GateTracking):
    """The gates that a model's own gating functions return, seen by forward hooks; the model computes what it did.

    Attributes:
        every_call: False records a gating function's first call of each forward of the model; True all of its calls,
            in the order in which they happen, each as a layer of its own.
        gating_type, hidden_dim: told by the first forward recorded, AttributeError before it: by the shape of the gates,
            the size of gates without channels by what mlp_mha reads, [video | audio].
        has_injection: False. What gates let through is not known, no gate can be set, and no value counts as off.

    Masks are not seen: all clips count as real, padding too. Where gates have one value for a sequence, its clips are
    counted in what the gating function is given, (B, L, D); a sequence counts as one clip where that does not tell.
    """

    has_injection = False

    def __init__(self, holders: list[nn.Module], gating: Mapping[str, nn.Module]) -> None:
        self.every_call = False
        self._names = tuple(gating)
        self._half_input = _input_width(next(iter(gating.values()))) // 2
        self._seen: list[tuple[int, tuple[Tensor, ...], int | None]] | None = None
        self._layers: tuple[int, ...] | None = None
        self._told_outside = False
        self._is_replica = False
        self._start_tracking()
        for holder in holders:
            holder.register_forward_pre_hook(self._begin)
            holder.register_forward_hook(self._end)
        for index, module in enumerate(gating.values()):
            module.register_forward_hook(partial(self._called, index), with_kwargs=True)

    def __getattr__(self, name: str) -> Any:
        if name in (*_KNOWN_LATER, "facts", "gating", "gate_range"):  # the last three are made of the first
            raise AttributeError(f"{name} is known once a forward has been recorded: gates tell it by their shape")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def num_layers(self) -> int:
        """Number of layers: the gating functions that are called, or with `every_call` their calls in a forward."""
        return len(self._names if self._layers is None else self._layers)

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Attention and FFN gate, of unknown range."""
        return _GATES

    def enable_gate_tracking(self, *, injection: bool = False, history: GateHistory | None = None) -> None:
        """Start recording, with an empty history; `history` as for a fusion.

        Raises:
            RequestError: injection is asked for.
        """
        if injection:
            _unavailable("injection")
        self._layers = None
        for name in _KNOWN_LATER:
            self.__dict__.pop(name, None)
        super().enable_gate_tracking(injection=False, history=history)

    def fuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise RequestError: no intervention can be run."""
        _unavailable("an intervention")

    def switch_gating_type(self, gating_type: str) -> NoReturn:
        """Raise RequestError: the gating type cannot be exchanged."""
        _unavailable("another gating type")

    # -- hooks: none returns anything, so none changes what the model computes ----------------------------------------

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._seen = []

    def _called(self, index: int, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        if not self.is_recorded:
            return
        self._is_replica = getattr(module, "_is_replica", False)
        if self._seen is None:
            if not self._told_outside:
                logger.warning(
                    "%s was called outside a forward of the adapted model; only gates inside model(...) are recorded",
                    self._names[index],
                )
            self._told_outside = True
        elif self.every_call or all(index != seen for seen, _, _ in self._seen):
            inputs = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.dim() == 3]
            self._seen.append((index, *_gates_in(self._names[index], output, inputs)))

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        seen, self._seen = self._seen, None
        if not seen:
            return
        if not self.every_call:
            seen.sort(key=lambda one: one[0])
        first = seen[0][1][0]
        listeners = self._listeners(len(first))
        if not listeners:
            return
        self._check_layers(seen)
        n_clips = max(first.shape[1], seen[0][2] or 1)
        self._settle(first, n_clips)
        uses = [
            [GateUse(gate.kind, value) for gate, value in zip(_GATES, values, strict=True)] for _, values, _ in seen
        ]
        self._record(listeners, uses, None, n_clips)

    def _check_layers(self, seen: list[tuple[int, tuple[Tensor, ...], int | None]]) -> None:
        called = tuple(index for index, _, _ in seen)
        shapes = Counter(tuple(value.shape) for _, values, _ in seen for value in values)
        if len(shapes) > 1:
            raise RequestError(f"the gates of one forward differ in shape: {first_few([str(one) for one in shapes])}")
        if self._layers is None:
            self._layers = called
            unused = [name for index, name in enumerate(self._names) if index not in called]
            if unused:
                logger.warning("not called in the first forward recorded, hence not recorded: %s", first_few(unused))
        elif called != self._layers:
            was, now = (first_few([self._names[i] for i in one]) for one in (self._layers, called))
            raise RequestError(
                f"this forward called other gating functions than the first one recorded: {now} instead of {was}; "
                "enable_gate_tracking() begins anew"
            )

    def _settle(self, gate: Tensor, n_clips: int) -> None:
        """Take the gating type from the widest gate so far: with one clip alone, global and clipwise look alike."""
        if gate.shape[-1] > 1:
            found = "elementwise"
        else:
            found = "clipwise" if gate.shape[1] > 1 else self.__dict__.get("gating_type", "global")
        self.gating_type = self.trained_gating_type = found
        self.hidden_dim = gate.shape[-1] if gate.shape[-1] > 1 else self._half_input


def record_gates(model: nn.Module, gating_type: str | None = None) -> None:
    """Let `model.avigate_fusion` record the gates of a model that stays as it is.

    Raises:
        TypeError: not a module. RequestError: a gating type is asked for. CheckpointError: no gating function with
            mlp_mha and mlp_ffn, fusions side by side, one inside a compiled module, or an avigate_fusion of the model's own.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model object (torch.nn.Module) is needed; got {type(model).__name__}")
    if gating_type is not None:
        _unavailable("another gating type")
    inner = getattr(model, "module", None)  # DataParallel and its like: scripts reach through either
    holders = [model, inner] if isinstance(inner, nn.Module) else [model]
    for holder in holders:
        own = getattr(holder, "avigate_fusion", None)
        if isinstance(own, RecordedGates):
            return
        if own is not None:
            raise CheckpointError(
                f"{type(holder).__name__} has an avigate_fusion already, which record_only would hide; rename it first"
            )
    gating = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module._modules.get("mlp_ffn"), nn.Module) and _input_width(module)
    }
    if not gating:
        raise CheckpointError(
            f"no gating function in this {type(model).__name__}: no module holds mlp_mha and mlp_ffn, so there are no "
            "gates to record"
        )
    fusions = sorted({name.rpartition("fusion_layers.")[0] for name in gating if "fusion_layers." in name})
    if len(fusions) > 1:
        raise CheckpointError(
            f"{len(fusions)} AVIGATE fusions in this {type(model).__name__} ({first_few(fusions)}); give a module that "
            "holds one"
        )
    _refuse_compiled(model, gating)
    tracker = RecordedGates(holders, gating)
    for holder in holders:
        # Outside the registered modules: the state dict keeps its keys.
        holder.__dict__["avigate_fusion"] = tracker


def _refuse_compiled(model: nn.Module, gating: Mapping[str, nn.Module]) -> None:
    """Raise CheckpointError where a gating function lies inside a compiled module: hooks come too late for its graph.

    One that is compiled by itself is called as a module, hooks and all.
    """
    for name, module in model.named_modules():
        inner = module._modules.get("_orig_mod") or (module if module._compiled_call_impl is not None else None)
        if inner is not None and any(one is not inner and one in gating.values() for one in inner.modules()):
            raise CheckpointError(
                f"{name or 'the model itself'} is compiled (torch.compile): what was compiled before calls no hook, so its "
                "gates cannot be recorded; adapt the model that was given to torch.compile, and run that one"
            )


def _input_width(gating: nn.Module) -> int:
    """Return the size of what its mlp_mha reads, by its first matrix; 0 without one."""
    mlp = gating._modules.get("mlp_mha")
    return next((p.shape[1] for p in mlp.parameters() if p.dim() == 2), 0) if mlp is not None else 0


def _gates_in(name: str, output: Any, inputs: list[Tensor]) -> tuple[tuple[Tensor, ...], int | None]:
    """Return the two gates (B, n, C) of a call, and L where what it was given tells."""
    given = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not all(isinstance(one, Tensor) for one in given):
        got = f"{len(given)} values" if isinstance(given, (tuple, list)) else type(given).__name__
        raise RequestError(f"{name} returns {got}; two gates as tensors, attention and FFN, can be recorded")
    gates = tuple(one.detach().clone() for one in given)  # a model that goes on to work in place must not change these
    gates = tuple(one[:, None] if one.dim() == 2 and one.shape[1] == 1 else one for one in gates)
    n_clips = next((one.shape[1] for one in inputs if len(one) == len(gates[0])), None)
    for gate in gates:
        wide = gate.dim() == 3 and gate.shape[1] == 1 and gate.shape[2] > 1 and (n_clips or 1) > 1
        if gate.dim() != 3 or wide or gate.numel() == 0:
            raise RequestError(
                f"{name} returns a gate {tuple(gate.shape)}; (B, 1), (B, 1, 1), (B, L, 1) and (B, L, D) can be recorded"
            )
    return gates, n_clips


def _unavailable(what: str) -> NoReturn:
    raise RequestError(
        f"{what} cannot be had of a model adapted with record_only=True: its gates are recorded and nothing else of it "
        "is known; without record_only it is proven first, then everything is available"
    )
