"""How a user's own fusion is called, and a fusion of ours that can be called in the same way.

The user's model goes on calling what it calls `self.fusion`; its argument names and their order are its own.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qd_detr.gates.errors import CheckpointError, first_few
from qd_detr.gates.fusion import AVIGATEFusionCustom

logger = logging.getLogger(__name__)

CALL_NAMES = ("video_feat", "audio_feat", "video_mask", "audio_mask")


@dataclass(frozen=True)
class ForwardArguments:
    """How a user's own fusion is called.

    Attributes:
        order: the names of its forward's arguments, in their order.
        roles: of those that it has, the name of ours for each of theirs.
        defaults: the defaults of its further arguments; they may be given with these values only.
        positional: whether it takes `*args` and so has no names to call it by.
    """

    order: tuple[str, ...]
    roles: dict[str, str]
    defaults: dict[str, Any]
    positional: bool = False

    @classmethod
    def of(cls, name: str, own: nn.Module) -> ForwardArguments:
        """Read them from the signature of its forward.

        Raises:
            CheckpointError: not two feature arguments.
        """
        parameters = inspect.signature(own.forward).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if len(named) < 2 and any(p.kind == p.VAR_POSITIONAL for p in parameters):
            return cls(CALL_NAMES, {n: n for n in CALL_NAMES}, {}, positional=True)
        masks = [p.name for p in named if "mask" in p.name.lower()][:2]
        features = [p.name for p in named if p.name not in masks and p.default is p.empty]
        others = [p for p in named[2:4] if p.default is None or p.default is p.empty]
        if not masks and len(named) <= 4 and len(others) == len(named) - 2:
            # Names that tell nothing (v, a, vm, am): the order of the legacy fusion; the trial forward has the last word.
            features, masks = [p.name for p in named[:2]], [p.name for p in others]
        for pair in (masks, features):
            pair.sort(key=lambda n: "aud" in n.lower())  # stable: theirs may name the audio first
        if len(features) != 2:
            raise CheckpointError(
                f"{name} takes {first_few([p.name for p in named], 6)}; an AVIGATE fusion takes video and audio features "
                "and their masks. A fusion of another design cannot be tracked by this tool"
            )
        roles = dict(zip(features, CALL_NAMES[:2], strict=True)) | dict(
            zip(
                masks, CALL_NAMES[3:] if len(masks) == 1 and "aud" in masks[0].lower() else CALL_NAMES[2:], strict=False
            )
        )
        return cls(tuple(p.name for p in named), roles, {p.name: p.default for p in named if p.name not in roles})

    def ours(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call's arguments under our names.

        Raises:
            TypeError: one that our forward has nothing for.
        """
        if len(args) > len(self.order):
            raise TypeError(f"{len(args)} arguments given; expected at most {len(self.order)}: {', '.join(self.order)}")
        given = dict(zip(self.order, args, strict=False)) | dict(kwargs)
        for name in [name for name in given if name in self.defaults and given[name] is self.defaults[name]]:
            del given[name]
        unknown = [name for name in given if name not in self.roles]
        if unknown:
            raise TypeError(f"{', '.join(unknown)} cannot be given to a fusion that is being tracked")
        return {self.roles[name]: value for name, value in given.items()}

    def call(self, own: nn.Module, values: Mapping[str, Any]) -> Any:
        """Call the user's own fusion with those of the values, given by our names, that it takes."""
        if self.positional:
            return own(*(values[role] for role in self.roles.values()))
        return own(**{name: values[role] for name, role in self.roles.items()})


class GraftedFusion(AVIGATEFusionCustom):
    """Our fusion in the place of a user's own, called as the user's own was."""

    arguments: ForwardArguments
    _fusing = False
    _told = False

    def watch_detours(self) -> None:
        """Warn once if gates are computed by somebody who calls the layers, and not this fusion."""
        for layer in self.layers:
            layer.gating_function.register_forward_hook(self._gate_computed)

    def fuse(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layers as `AVIGATEFusionCustom.fuse` does."""
        self._fusing = True
        try:
            return super().fuse(*args, **kwargs)
        finally:
            self._fusing = False

    def _gate_computed(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._fusing and not self._told:
            self._told = True
            logger.warning(
                "the model calls the layers of its fusion without the fusion: those gates are not recorded. A model as "
                "it was before, adapted with adapt_legacy_model(model, record_only=True), records them"
            )

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the fused video (B, L, D) alone; arguments in the order and by the names of the user's own forward."""
        return super().forward(**self.arguments.ours(args, kwargs))
