"""The checkpoint under examination, and the certificate being written about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from qd_detr.gates.command_line import progress
from qd_detr.gates.commands.certify.request import Certificate, CertificateRequest
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.weights.checkpoint import Checkpoint, build_model
from qd_detr.gates.weights.options import Settings
from qd_detr.gates.weights.recognition import Recognition


@dataclass
class Subject:
    """What every question of an examination needs.

    Attributes:
        config: the options named by the user, None if there are none.
        recognition: what family the checkpoint is of.
        certificate: where each question writes its answer.
    """

    request: CertificateRequest
    checkpoint: Checkpoint
    config: dict[str, Any] | None
    device: torch.device
    certificate: Certificate
    recognition: Recognition

    @property
    def facts(self) -> dict[str, Any]:
        """What compatibility_report.json will hold."""
        return self.certificate.facts

    @property
    def evaluated_on(self) -> str:
        """The data file that the run's options say it was evaluated on."""
        options = self.checkpoint.embedded or self.checkpoint.opt_json or {}
        return str(options.get("eval_path") or "none")

    def build(self, settings: Settings) -> QDDETR:
        """Return the model that these settings make of the checkpoint."""
        # The disagreements are told in the certificate; the log need not tell them again, once per model.
        return build_model(self.checkpoint, replace(settings, disagreements=[]), self.device)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[int], object]]:
        """Show a bar over `total` of something; the function yielded takes how many more are done."""
        with progress(total, what, "step", quiet=self.request.quiet) as advance:
            yield advance
