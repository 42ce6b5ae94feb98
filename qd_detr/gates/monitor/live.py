"""GateMonitor: sees the validation passes of a training loop, whoever wrote it."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

from torch import nn

from qd_detr.gates.analysis.collect import GateCollector
from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.fusion import AVIGATEFusionCustom
from qd_detr.gates.monitor.metrics import plain_metrics
from qd_detr.gates.monitor.writing import EpochWriter
from qd_detr.gates.wording import LANGUAGES

logger = logging.getLogger(__name__)


@dataclass
class EpochSeen:
    """A monitored validation pass.

    Attributes:
        epoch: its number.
        metrics: for the caller to fill, name -> number; what is no finite number is left out of the figures.
    """

    epoch: int
    metrics: Mapping[str, Any] = field(default_factory=dict)


class GateMonitor:
    """Records the gates of validation passes and writes how they evolve.

    Args:
        model: any model with `avigate_fusion`, also inside DataParallel, DistributedDataParallel or torch.compile; or the
            fusion itself. Of several processes, one makes a monitor.
        directory: gets `epoch_N/` (the usual tree without per-sample files) and `gate_evolution.json` and `.png`.
            Epochs found there are taken for earlier ones of the same training, up to the first that is watched now.
        figures: also draw each epoch's figures.
        tensorboard: also write TensorBoard scalars and histograms into `directory/tensorboard` where it is installed.
        log: called after every watched epoch with {"epoch": number, "gates/...": value, "validation/...": value}, floats as
            TensorBoard gets them: `wandb.log`, `trackio.log`, or a line of your own around `mlflow.log_metrics`.
        lang: "en" or "ko", the language of the epochs' reports and of the figures.
        strict: raise what goes wrong in an epoch. Otherwise it is logged as a warning and the training goes on: an
            epoch that could not be recorded costs less than a training that stops.

    Raises:
        TypeError: a model without such a fusion.
        ValueError: `lang` is another language.
        RequestError: the directory cannot be written to, or holds the evolution of another model.

    It changes nothing about training: what you track yourself goes on beside it, no random number is drawn, and outputs
    are the same to the bit. Gates are added up and not kept; of each sample a row of numbers stays until its epoch is
    written. A sample seen twice in one pass counts twice.

    `gate_evolution.json` is up to date after every epoch. Its figure is drawn while the run goes on if drawing takes at
    most 1 % of the run's time, and in any case by `close`, which the end of the program calls if nobody did.
    """

    def __init__(
        self,
        model: nn.Module,
        directory: str | Path = "training_analysis",
        *,
        figures: bool = False,
        tensorboard: bool = True,
        log: Callable[[dict[str, float]], object] | None = None,
        lang: str = "en",
        strict: bool = False,
    ) -> None:
        self.fusion = _fusion_of(model)
        if lang not in LANGUAGES:
            raise ValueError(f"GateMonitor writes in {' or '.join(LANGUAGES)}; got lang={lang!r}")
        self.strict = strict
        self._writer = EpochWriter(
            Path(directory),
            figures=figures,
            tensorboard=tensorboard,
            log=log,
            lang=lang,
            continued=self.fusion.facts,
        )

    @contextmanager
    def epoch(self, epoch: SupportsIndex) -> Iterator[EpochSeen]:
        """Record the gates of the forwards inside; on leaving, write this epoch and the evolution so far.

        A pass that raises is not recorded; one without a forward is an error (see `strict`).

        Raises:
            TypeError: `epoch` is no whole number.
        """
        seen = EpochSeen(operator.index(epoch))
        collector = GateCollector(self.fusion.facts)
        with self.fusion.recording(collector.add, beside=True) as recording:
            yield seen
        try:
            self._write(seen, collector, recording.failure)
        except Exception as error:  # a training must not end because of who watches it
            if self.strict:
                raise
            expected = isinstance(error, (RequestError, RunError, OSError))
            logger.warning("the gates of epoch %d were not recorded: %s", seen.epoch, error, exc_info=not expected)

    def close(self) -> None:
        """Draw what of the evolution's figure is outstanding. The monitor can still be used afterwards."""
        self._writer.close()

    def _write(self, seen: EpochSeen, collector: GateCollector, failure: Exception | None) -> None:
        if failure is not None:
            raise RunError(str(failure)) from failure
        analysis = collector.result()
        if not analysis.rows:
            raise RunError(
                f"no forward of the fusion was seen in epoch {seen.epoch}; put the validation pass inside the context"
            )
        self._writer.write(seen.epoch, analysis, plain_metrics(seen.metrics))


def _fusion_of(model: nn.Module) -> AVIGATEFusionCustom:
    inner: Any = model
    while not isinstance(inner, AVIGATEFusionCustom):
        # torch.compile keeps the model under `_orig_mod`, the parallel wrappers under `module`.
        below = next(
            (b for name in ("avigate_fusion", "_orig_mod", "module") if (b := getattr(inner, name, None))), None
        )
        if below is None or below is inner:
            raise TypeError(
                f"GateMonitor needs a model with avigate_fusion that can be tracked; got {type(model).__name__}"
            )
        inner = below
    return inner
