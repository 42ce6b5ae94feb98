"""The processes of a training run: one alone, or those that `torchrun` started.

Every process holds the whole model and takes its share of each batch; gradients are averaged over the processes. The
first one (rank 0) validates, logs and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from qd_detr.checkpoint import pick_device
from qd_detr.errors import RequestError

# The others wait while rank 0 validates.
_PATIENCE = timedelta(hours=6)


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

    def all_true(self, value: bool) -> bool:
        """Return whether the value is true in every process."""
        if self.size == 1:
            return value
        flag = torch.tensor(int(value), device=self._exchange_device())
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag.item())

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model whose backward pass averages gradients over the processes."""
        if self.size == 1:
            return model
        # Parameters that are there for the checkpoint format alone (txt_position_embed) never get a gradient.
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)

    def _exchange_device(self) -> torch.device:
        return self.device if self.device.type == "cuda" else torch.device("cpu")


@contextmanager
def join_world(device_name: str) -> Iterator[World]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Raises:
        RequestError: the device cannot be used here.
    """
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
    finally:
        dist.destroy_process_group()
