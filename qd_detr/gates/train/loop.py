"""The training loop: an epoch, and a run of them that can be interrupted and continued to the bit."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qd_detr.gates.command_line import progress
from qd_detr.gates.errors import DataError, RequestError, RunError
from qd_detr.gates.evaluation import write_metrics
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.train import checkpoints, logs, run_folder
from qd_detr.gates.train.data import Split, epoch_plan
from qd_detr.gates.train.distributed import World
from qd_detr.gates.train.identity import difference, mark_of
from qd_detr.gates.train.losses import Criterion
from qd_detr.gates.train.matching import NotFiniteError
from qd_detr.gates.train.targets import Targets
from qd_detr.gates.train.validation import Validation, validate
from qd_detr.gates.weights.checkpoint import FORMAT

logger = logging.getLogger(__name__)

PREDICTIONS = "best_{dset}_val_preds.jsonl"
_AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LR_DROP_FACTOR = 0.1
# fp16 gradients overflow now and then; each time the scale is halved. So many times in a row it is not the scale.
OVERFLOWS_MAX = 30

AroundValidation = Callable[[int], AbstractContextManager[Any]]


@dataclass
class Progress:
    """How far a run has come: epochs done, the best score and its epoch, validations since without a better one."""

    epochs_done: int = 0
    best_score: float = -math.inf
    best_epoch: int = -1
    validations_without_best: int = 0


class Training:
    """A training run: model, optimizer, schedule, progress, and the folder it writes.

    Args:
        model: on `world.device`, in float32.
        options: every option of the run, sizes filled in.
        directory: the run's folder, there already. Only rank 0 writes in it.
    """

    def __init__(
        self, model: QDDETR, train: Split, val: Split, options: Mapping[str, Any], directory: Path, world: World
    ) -> None:
        self.model = model
        self.train_split, self.val_split = train, val
        self.options = dict(options)
        self.directory = directory
        self.world = world
        self.criterion = Criterion.from_options(options)
        self.progress = Progress()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=options["lr"], weight_decay=options["wd"], fused=True)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, options["lr_drop"], LR_DROP_FACTOR)
        amp = options["amp"] if world.device.type == "cuda" else "off"
        self.amp_dtype = _AMP_DTYPES.get(amp)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=amp == "fp16")
        self.overflows = 0  # steps in a row that were left out
        self.data = {"training": mark_of(train), "validation": mark_of(val)}

    def run(self, around_validation: AroundValidation | None = None, *, quiet: bool = False) -> Progress:
        """Train until the last epoch or an early stop, and return how it went.

        Args:
            around_validation: given the epoch (from 0), a context for its validation pass, as
                `GateMonitor.epoch`; rank 0 alone enters it. What the context gives, unless None, is handed the
                validation's metrics as its attribute `metrics`.
            quiet: show nothing of how far it is.

        Raises:
            RunError: the training diverged, or a file cannot be written; in every process, whichever it happened to.
                The last good checkpoint is kept.
        """
        network = self.world.wrap(self.model)
        stop = self._stops_early()
        if stop:
            logger.warning(
                "the run stopped early after %d validations without a better one; a higher --max_es_cnt goes on",
                self.progress.validations_without_best,
            )
        done, epochs = self.progress.epochs_done, self.options["n_epoch"]
        with progress(epochs, "training", "epoch", quiet=quiet or not self.world.first, done=done) as advance:
            while not stop and self.progress.epochs_done < self.options["n_epoch"]:
                epoch = self.progress.epochs_done
                try:
                    losses = self.train_epoch(network, epoch)
                    validation = self._validate(epoch, around_validation)
                except NotFiniteError as error:
                    raise RunError(self._divergence(epoch, error)) from None
                except DataError as error:  # the request was right as far as headers tell
                    raise RunError(f"training stopped in epoch {_both_counts(epoch)}: {error}") from None
                stop = self._finish_epoch(epoch, losses, validation)
                advance()
        return self.progress

    def train_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """Train one epoch and return the mean weighted losses over its batches and processes."""
        plan = epoch_plan(
            len(self.train_split.queries),
            self.options["bsz"],
            self.options["seed"],
            epoch,
            self.world.rank,
            self.world.size,
        )
        network.train()
        sums: Tensor | None = None
        names: list[str] = []
        for batch, targets in self._batches(plan, epoch):
            weighted = self.train_step(network, batch, targets)
            names = list(weighted)
            values = torch.stack(list(weighted.values())).double()
            sums = values if sums is None else sums + values
        if sums is None:
            raise RunError(f"no batch of {self.world.size} processes could be filled; use fewer processes")
        return dict(zip(names, self.world.mean(sums / len(plan)).tolist(), strict=True))

    def _batches(self, plan: list[list[int]], epoch: int) -> Iterator[tuple[dict[str, Any], Targets]]:
        """Yield the epoch's batches; one that cannot be read ends the run in every process."""
        try:
            for _, batch, targets in self.train_split.batches(plan, self.options["seed"], epoch):
                yield batch, targets
        except DataError as error:
            self.world.agree(error)  # the others ask within their step, and raise the same

    def train_step(self, network: nn.Module, batch: Mapping[str, Any], targets: Targets) -> dict[str, Tensor]:
        """Take one step and return the batch's weighted losses, loss_overall last.

        Raises:
            NotFiniteError: the loss or its gradient is, or in fp16 the gradient of `OVERFLOWS_MAX` steps in a row; the
                weights are as they were before the step. Of several processes all raise it.
            DataError: another process could not read its share of the batch.
        """
        device = self.world.device
        autocast: AbstractContextManager[Any] = nullcontext()
        if self.amp_dtype is not None:
            autocast = torch.autocast(device.type, self.amp_dtype)
        with autocast:
            outputs = network(batch)
        failure: NotFiniteError | None = None
        try:
            weighted = self.criterion.weighted(self.criterion(outputs, targets.to(device)))
            loss = self.criterion.total(weighted)
            if not torch.isfinite(loss):
                failure = NotFiniteError("the loss is not finite")
        except NotFiniteError as error:  # the matching found it first
            failure = error
        # Asked of all processes: one that stopped alone would leave the others waiting for its gradients.
        self.world.agree(failure)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        limit = self.options["grad_clip"] or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        # The gradients of all processes are one by now, so that all of them raise, or none.
        if torch.isfinite(norm):
            self.overflows = 0
        elif self.scaler.is_enabled():  # it leaves the step out and lowers its scale
            self.overflows += 1
            if self.overflows >= OVERFLOWS_MAX:
                raise NotFiniteError(f"the gradient is not finite, in {self.overflows} steps in a row of fp16")
        else:
            raise NotFiniteError("the gradient is not finite")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: value.detach() for name, value in {**weighted, "loss_overall": loss}.items()}

    def validates(self, epoch: int) -> bool:
        """Return whether an epoch (from 0) ends with a validation."""
        return (epoch + 1) % self.options["eval_every"] == 0 or epoch + 1 == self.options["n_epoch"]

    def _validate(self, epoch: int, around_validation: AroundValidation | None) -> Validation | None:
        """Return rank 0's validation if the epoch has one; None in the other processes."""
        if not self.validates(epoch):
            return None
        validation: Validation | None = None

        def watched() -> None:
            nonlocal validation  # kept where it is: the others have no use for its predictions
            validation = self._watched_validation(epoch, around_validation)

        self.world.by_first(watched)
        return validation

    def _watched_validation(self, epoch: int, around_validation: AroundValidation | None) -> Validation:
        with around_validation(epoch) if around_validation else nullcontext() as seen:
            validation = validate(self.model, self.criterion, self.val_split, self.options)
            if seen is not None:
                brief = validation.metrics["brief"]
                seen.metrics = {name: value for name, value in brief.items() if value is not None}
        return validation

    def _finish_epoch(self, epoch: int, losses: Mapping[str, float], validation: Validation | None) -> bool:
        """Log, keep and write what the epoch gave; return whether the run stops early."""
        self.scheduler.step()
        self.progress.epochs_done = epoch + 1
        best = False
        if validation is not None:
            best = validation.score > self.progress.best_score
            if best:
                self.progress.best_score, self.progress.best_epoch = validation.score, epoch
            self.progress.validations_without_best = 0 if best else self.progress.validations_without_best + 1
        rng = self.world.gather(checkpoints.random_state())

        def log_and_keep() -> None:
            # Logs first and model_latest last: a run killed in between repeats the epoch, and its lines are cut then.
            logs.append(self.directory / logs.TRAIN_LOG, logs.log_line(epoch + 1, losses))
            if validation is not None:
                line = logs.log_line(epoch, validation.losses, validation.metrics)
                logs.append(self.directory / logs.EVAL_LOG, line)
                logger.info("epoch %d: %s %.2f", epoch, validation.score_name, validation.score)
            self._write(self.state(rng), validation if best else None)

        self.world.by_first(log_and_keep)
        return self._stops_early()

    def _stops_early(self) -> bool:
        """Return whether there were too many validations without a better one; rank 0 knows."""
        limit = self.options["max_es_cnt"]
        return bool(self.world.share(0 <= limit < self.progress.validations_without_best))

    def _write(self, content: Mapping[str, Any], best: Validation | None) -> None:
        if best is not None:
            checkpoints.write_checkpoint(self.directory / checkpoints.BEST, content)
            name = PREDICTIONS.format(dset=self.options["dset_name"])
            lines = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in best.lines)
            checkpoints.write_text(self.directory / name, lines)
            write_metrics(best.metrics, self.directory / name.replace(".jsonl", "_metrics.json"))
        every = self.options["save_every"]
        if every and self.progress.epochs_done % every == 0:
            path = self.directory / checkpoints.epoch_file(content["epoch"])
            checkpoints.write_checkpoint(path, checkpoints.without_training_state(content))
        checkpoints.write_checkpoint(self.directory / checkpoints.LATEST, content)

    def state(self, rng: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the content of a checkpoint; `rng` is every process's random state."""
        return {
            "format": FORMAT,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.scheduler.state_dict(),
            "epoch": self.progress.epochs_done - 1,
            "opt": checkpoints.checkpoint_options(self.options),
            "training_state": {
                "rng": rng,
                "scaler": self.scaler.state_dict(),
                "overflows": self.overflows,
                "data": self.data,
                "best_score": self.progress.best_score,
                "best_epoch": self.progress.best_epoch,
                "validations_without_best": self.progress.validations_without_best,
            },
        }

    def refuse_other_run(self, content: Mapping[str, Any]) -> None:
        """Raise RequestError if a checkpoint is of another number of processes or was trained on other data."""
        extra = content["training_state"]
        if len(extra["rng"]) != self.world.size:
            raise RequestError(
                f"the run had {len(extra['rng'])} processes and now has {self.world.size}; "
                "it can only be continued exactly with as many"
            )
        for role, path in (("training", "train_path"), ("validation", "eval_path")):
            # Checkpoints of older versions do not say what they were trained on.
            other = difference(extra["data"][role], self.data[role]) if "data" in extra else None
            if other is not None:
                raise RequestError(
                    f"--resume continues the run on its own {role} data, and {self.options[path]} gives {other}; give the "
                    f"data it was begun with (--{path} and the feature folders), or begin a new run"
                )

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go back to where a checkpoint of this run was written.

        Raises:
            RequestError: as `refuse_other_run`; nothing was changed.
        """
        self.refuse_other_run(content)
        extra = content["training_state"]
        self.model.load_state_dict(content["model"], strict=True)
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["lr_scheduler"])
        self.scaler.load_state_dict(extra["scaler"])
        self.overflows = extra.get("overflows", 0)
        self.progress = Progress(
            content["epoch"] + 1, extra["best_score"], extra["best_epoch"], extra["validations_without_best"]
        )
        checkpoints.restore_random_state(extra["rng"][self.world.rank])
        self.world.by_first(lambda: run_folder.go_on(self.directory, self.options, self.progress.epochs_done))

    def _divergence(self, epoch: int, error: NotFiniteError) -> str:
        kept = self.directory / checkpoints.LATEST
        done = self.progress.epochs_done
        where = f"kept: {kept}, of epoch {done - 1}" if done else "no checkpoint was written yet"
        return (
            f"training diverged in epoch {_both_counts(epoch)}: {error}; {where}. Lower --lr, or look at the features"
        )


def _both_counts(epoch: int) -> str:
    """Return an epoch as checkpoints and eval.log.txt count it, and as train.log.txt does."""
    return f"{epoch} (from 0, as checkpoints count; {epoch + 1} in {logs.TRAIN_LOG})"
