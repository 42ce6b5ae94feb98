"""The processes of a training run: one alone, or those that `torchrun` started.

Every process holds the whole model and takes its share of each batch; gradients are averaged over the processes. The
first one (rank 0) validates, logs and writes. What stops one of them stops all, with the same message: a process that
ended alone would leave the others waiting for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from qd_detr.gates.errors import DataError, RequestError, RunError
from qd_detr.gates.train.matching import NotFiniteError
from qd_detr.gates.weights.checkpoint import pick_device

# The others wait while rank 0 validates.
_PATIENCE = timedelta(hours=6)
# What can stop a run, the more specific first; a failure is told to the other processes as one of them.
_FAILURES: tuple[type[RequestError | RunError], ...] = (NotFiniteError, DataError, RequestError, RunError)

# What gloo and NCCL say, in plain RuntimeErrors, when a process they talk to is gone.
_PEER_ENDED = re.compile(r"gloo|NCCL|Connection (?:closed|reset|refused)|Broken pipe|Socket Timeout", re.I)

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among those of the run, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that validates, logs and writes."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """Return rank 0's value in every process; a place where all wait for it."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self._exchange_device())
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def agree(self, failure: RequestError | RunError | None) -> None:
        """Raise in every process if one of them has a failure: the first one's; a place where all wait for it."""
        if self.size > 1:
            flag = torch.tensor(int(failure is not None), device=self._exchange_device())
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            if flag.item():
                raise next(_told(told) for told in self.gather(_telling(failure)) if told is not None)
        elif failure is not None:
            raise failure

    def by_first(self, work: Callable[[], T]) -> T:
        """Return in every process what `work` gives in rank 0, which alone does it; its failure is raised in all.

        Raises:
            RequestError, RunError: as `work` raised it; an OSError becomes a RunError if there are other processes.
        """
        if self.size == 1:
            return work()
        done: Any = None
        if self.first:
            try:
                done = (work(), None)
            except (RequestError, RunError) as error:
                done = (None, _telling(error))
            except OSError as error:
                done = (None, _telling(RunError(str(error))))
        value, told = self.share(done)
        if told is not None:
            raise _told(told)
        return value

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes; of one process alone, the very values."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model whose backward pass averages gradients over the processes."""
        if self.size == 1:
            return model
        # Parameters that are there for the checkpoint format alone (txt_position_embed) never get a gradient.
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)

    def _exchange_device(self) -> torch.device:
        return self.device if self.device.type == "cuda" else torch.device("cpu")


def _telling(failure: RequestError | RunError | None) -> tuple[int, str] | None:
    """Return a failure as what can be sent: its kind and its message."""
    if failure is None:
        return None
    return next(i for i, kind in enumerate(_FAILURES) if isinstance(failure, kind)), str(failure)


def _told(told: tuple[int, str]) -> RequestError | RunError:
    kind, message = told
    return _FAILURES[kind](message)


def device_name_of(asked: str) -> str:
    """Return torch's name of a device; the legacy code counted GPUs from 0 and called the CPU -1."""
    if asked == "-1":
        return "cpu"
    return f"cuda:{int(asked)}" if re.fullmatch("[0-9]{1,4}", asked) else asked


@contextmanager
def join_world(device_name: str) -> Iterator[World]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Args:
        device_name: torch's name, "auto", or the legacy code's number.

    Raises:
        RequestError: the device cannot be used here.
    """
    device_name = device_name_of(device_name)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, pick_device(device_name))
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    device = pick_device(device_name)
    if device.type == "cuda" and device.index is None:
        if local_rank >= torch.cuda.device_count():
            raise RequestError(
                f"torchrun started more processes than the {torch.cuda.device_count()} GPUs here; lower --nproc_per_node"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield World(rank, size, device)
    except RuntimeError as error:
        if isinstance(error, RunError) or not _PEER_ENDED.search(str(error)):
            raise
        raise RunError(
            "another process of the run ended or cannot be reached any more; see what it said, and go on with --resume and "
            "the run's model_latest.ckpt"
        ) from None
    finally:
        dist.destroy_process_group()
