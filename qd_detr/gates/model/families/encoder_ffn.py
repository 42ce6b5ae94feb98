"""encoder_ffn: the base's keys; the encoder's layers are feed-forwards without attention."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from qd_detr.gates.model.families.family import PLAIN_FUSION, PLAIN_MODEL, Family
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.model.transformer import EncoderLayer, Transformer


class FeedForwardEncoder(Transformer):
    """Every encoder layer is x = norm2(x + feed_forward(x)); no attention, no positions, no norm1."""

    def relate(self, x: Tensor, pos: Tensor, pad: Tensor | None) -> Tensor:
        """Return [token | clips] (B, 1 + L, D), every row by itself."""
        for layer in cast("list[EncoderLayer]", list(self.encoder.layers)):
            x = layer.norm2(x + layer.feed_forward(x))
        return x


class FeedForwardModel(QDDETR):
    """The base model with that encoder."""

    transformer_class = FeedForwardEncoder


FAMILY = Family(
    "encoder_ffn",
    "the base's gates, an encoder of feed-forwards alone",
    model=FeedForwardModel,
    untrained=r"^transformer\.encoder\..*\.(self_attn|norm1)\.",
    copies={
        "transformer.py": ("80ede31b75548615",),
        "model.py": (PLAIN_MODEL,),
        "code/avigate_custom.py": (PLAIN_FUSION,),
    },
)
