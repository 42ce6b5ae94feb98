"""t2v_ffn: the base's keys; the encoder over [global | video] is skipped."""

from __future__ import annotations

from torch import Tensor

from qd_detr.gates.model.families.family import PLAIN_FUSION, PLAIN_MODEL, Family
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.model.transformer import Transformer


class WithoutEncoder(Transformer):
    """The memory is the clips as they have read the text, behind the global token as it is."""

    def relate(self, x: Tensor, pos: Tensor, pad: Tensor | None) -> Tensor:
        """Return x itself."""
        return x


class TextToVideoOnly(QDDETR):
    """The base model without its encoder; its weights are there and unused."""

    transformer_class = WithoutEncoder


FAMILY = Family(
    "t2v_ffn",
    "the base's gates, the encoder after the text skipped",
    model=TextToVideoOnly,
    untrained=r"^transformer\.encoder\.",
    copies={
        "transformer.py": ("b1ecdb6937653816",),
        "model.py": (PLAIN_MODEL,),
        "code/avigate_custom.py": (PLAIN_FUSION,),
    },
    code_without="self.encoder(",
)
