"""The losses of QD-DETR: spans, their gIoU, foreground, and saliency.

Letters: B batch, L clips, Q slots, M spans, P pairs of clips, K decoder layers, N = K * B.

Every term is named as in the legacy logs. The decoder layers are matched and judged in one go: each layer is one more
set of predictions for the same targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qd_detr.gates.data.datasets import dataset_of
from qd_detr.gates.train.matching import CostWeights, Matches, generalized_iou, match, matching_costs
from qd_detr.gates.train.targets import HIGHEST_LABEL, Targets

FOREGROUND = 0
# Softness of the contrast between clips, and what stands for the score of a clip that is padding.
CONTRAST_TEMPERATURE = 0.5
PADDING_SCORE = -1e3
_TINY = 1e-6

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts in the sum, and the terms' own constants, by what the options call them."""

    span: float = 10.0
    giou: float = 1.0
    label: float = 4.0
    saliency: float = 1.0
    eos_coef: float = 0.1
    saliency_margin: float = 0.2


@dataclass(frozen=True)
class Criterion:
    """Losses of a batch of outputs.

    Attributes:
        moments: False trains on saliency alone (TVSum). aux_loss: the earlier decoder layers are judged too.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    costs: CostWeights = field(default_factory=CostWeights)
    moments: bool = True
    aux_loss: bool = True

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Criterion:
        """Take the weights from a run's options by their legacy names."""
        return cls(
            weights=LossWeights(
                span=options["span_loss_coef"],
                giou=options["giou_loss_coef"],
                label=options["label_loss_coef"],
                saliency=options["lw_saliency"],
                eos_coef=options["eos_coef"],
                saliency_margin=options["saliency_margin"],
            ),
            costs=CostWeights(options["set_cost_span"], options["set_cost_giou"], options["set_cost_class"]),
            moments=dataset_of(options["dset_name"]).moments,
            aux_loss=options["aux_loss"],
        )

    def __call__(self, outputs: Mapping[str, Any], targets: Targets) -> Losses:
        """Return every term, unweighted, in float32.

        loss_span, loss_giou, loss_label, class_error (%, not trained on), loss_saliency; with aux_loss the first four
        again with the decoder layer's number behind.

        Args:
            outputs: of the model in training mode: pred_logits and pred_spans (B, Q, 2), saliency_scores and
                saliency_scores_neg (B, L), video_mask (B, L), and, for aux_loss, aux_outputs.
        """
        losses: Losses = {}
        layers = [outputs, *(outputs.get("aux_outputs", ()) if self.aux_loss else ())]
        by_layer = self._moment_losses(layers, targets) if self.moments else []
        if by_layer:
            losses.update(by_layer[0])
        losses["loss_saliency"] = saliency_loss(
            outputs["saliency_scores"].float(),
            outputs["saliency_scores_neg"].float(),
            outputs["video_mask"],
            targets,
            self.weights.saliency_margin,
        )
        for i, layer_losses in enumerate(by_layer[1:]):
            losses.update({f"{name}_{i}": value for name, value in layer_losses.items()})
        return losses

    def weighted(self, losses: Losses) -> Losses:
        """Return every term as it counts in the sum, which is how the legacy logs show them; class_error stays in %."""
        weights = {
            "loss_span": self.weights.span,
            "loss_giou": self.weights.giou,
            "loss_label": self.weights.label,
            "loss_saliency": self.weights.saliency,
            "class_error": 1.0,
        }
        return {name: value * weights[_without_layer(name)] for name, value in losses.items()}

    @staticmethod
    def total(weighted: Losses) -> Tensor:
        """Return the sum of weighted terms that is trained on."""
        return torch.stack([value for name, value in weighted.items() if name.startswith("loss_")]).sum()

    def _moment_losses(self, layers: list[Mapping[str, Any]], targets: Targets) -> list[Losses]:
        """Return loss_span, loss_giou, loss_label and class_error of each layer."""
        k, batch = len(layers), len(targets.span_counts)
        logits = torch.cat([layer["pred_logits"] for layer in layers]).float()  # (N, Q, 2)
        spans = torch.cat([layer["pred_spans"] for layer in layers]).float()  # (N, Q, 2)
        wanted = targets.span_cxw.repeat(k, 1, 1)  # (N, M, 2)
        matches = match(matching_costs(logits, spans, wanted, self.costs), targets.span_counts * k)

        found = spans[matches.set_idx, matches.slot].unflatten(0, (k, -1))  # (K, pairs, 2): equally many per layer
        true = wanted[matches.set_idx, matches.span].unflatten(0, (k, -1))
        loss_span = (found - true).abs().mean(dim=(1, 2))  # (K,)
        loss_giou = (1 - generalized_iou(found, true)).mean(dim=1)  # (K,)
        loss_label = label_loss(logits, matches, self.weights.eos_coef).unflatten(0, (k, batch)).mean(dim=(1, 2))
        error = class_error(logits, matches, k)
        return [
            {
                "loss_span": loss_span[i],
                "loss_giou": loss_giou[i],
                "loss_label": loss_label[i],
                "class_error": error[i],
            }
            for i in range(k)
        ]


def _without_layer(name: str) -> str:
    stem, _, layer = name.rpartition("_")
    return stem if layer.isdigit() else name


def label_loss(logits: Tensor, matches: Matches, eos_coef: float) -> Tensor:
    """Return the weighted cross-entropy (N, Q): matched slots are foreground, the others background."""
    wanted = logits.new_full(logits.shape[:2], 1 - FOREGROUND, dtype=torch.int64)  # (N, Q)
    wanted[matches.set_idx, matches.slot] = FOREGROUND
    weight = logits.new_full((2,), eos_coef)
    weight[FOREGROUND] = 1.0
    # Not reduced here: torch's own mean would divide by the weights' sum, the legacy loss by the number of slots.
    return F.cross_entropy(logits.transpose(1, 2), wanted, weight, reduction="none")


@torch.no_grad()
def class_error(logits: Tensor, matches: Matches, k: int) -> Tensor:
    """Return, per decoder layer (K,), the share in % of matched slots that are not called foreground."""
    called = logits[matches.set_idx, matches.slot].argmax(dim=-1)  # (pairs of all layers,)
    return 100 - 100 * (called == FOREGROUND).float().unflatten(0, (k, -1)).mean(dim=1)


def saliency_loss(scores: Tensor, scores_neg: Tensor, vid_mask: Tensor, targets: Targets, margin: float) -> Tensor:
    """Return the margin, contrast and negative-pair losses of saliency, added up.

    Args:
        scores, scores_neg: (B, L), with the sample's own text and with another's. vid_mask: (B, L), 1 = real.
    """
    mask = vid_mask.to(scores.dtype)
    return (
        _margin_loss(scores, targets.pairs, margin)
        + _contrast_loss(scores, scores_neg, mask, targets.labels)
        # -log(1 - sigmoid(x)) = softplus(x), which does not overflow.
        + (F.softplus(scores_neg) * mask).sum(dim=1).mean()
    )


def _margin_loss(scores: Tensor, pairs: Tensor, margin: float) -> Tensor:
    """Return 2 / (B P) * sum of max(0, margin + worse - better) over the pairs (B, P, 2); no pair adds nothing."""
    there = pairs[..., 0] >= 0  # (B, P)
    better, worse = scores.gather(1, pairs.clamp(min=0).flatten(1)).unflatten(1, (-1, 2)).unbind(-1)  # (B, P) each
    shortfall = (margin + worse - better).clamp(min=0) * there
    return 2 * shortfall.sum() / shortfall.numel()


def _contrast_loss(scores: Tensor, scores_neg: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Return the rank-wise contrast: for r = 1..11, clips labelled r or more against all others.

    A rank that no clip reaches adds nothing, so that no rank has to be skipped.
    """
    u = torch.cat([scores, scores_neg], dim=1)  # (B, 2L)
    mask = torch.cat([mask, mask], dim=1)
    u = (mask * u + (1 - mask) * PADDING_SCORE) / CONTRAST_TEMPERATURE
    shifted = u - u.max(dim=1, keepdim=True).values
    log_p = shifted - torch.log(shifted.exp().sum(dim=1, keepdim=True) + _TINY)

    ranks = torch.arange(1, HIGHEST_LABEL, device=labels.device)  # (11,)
    positive = (labels[..., None] >= ranks).to(u.dtype)  # (B, L, 11); the other text's half has no positives
    length = labels.shape[1]
    explained = torch.einsum("bl,blr->br", log_p[:, :length] * mask[:, :length], positive)
    term = -explained / (positive.sum(dim=1) + _TINY)  # (B, 11)
    return term.mean(dim=0).sum() / HIGHEST_LABEL
