"""A process's share of a run, as flags, torchrun or a SLURM array give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qd_detr.gates.errors import RequestError


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of a run; `number` counts from 0.

    Attributes:
        told_by: what says so, for messages.
        local_rank: torchrun's place of the process on its machine, which chooses its GPU; None if it did not start it.
    """

    number: int
    count: int
    told_by: str = "--shard_id"
    local_rank: int | None = None

    @property
    def name(self) -> str:
        """The shard's folder: "0-of-2"."""
        return f"{self.number}-of-{self.count}"


def shard_of(num_shards: int | None, shard_id: int | None, environment: Mapping[str, str]) -> Shard | None:
    """Return the share of this process: of the two flags, else of torchrun's variables, else of a SLURM array's.

    `num_shards` 1 alone says that the run is whole, whatever started it. None: nothing speaks of shares.

    Raises:
        RequestError: one flag or variable of a pair is missing, is no number, or contradicts another.
    """
    torchrun = _of_torchrun(environment)
    if num_shards is None and shard_id is None:
        return torchrun or _of_slurm(environment)
    if num_shards == 1 and shard_id in (None, 0):
        return Shard(0, 1, local_rank=None if torchrun is None else torchrun.local_rank)
    if num_shards is None or shard_id is None:
        given, other = ("--shard_id", "--num_shards") if num_shards is None else ("--num_shards", "--shard_id")
        raise RequestError(f"{given} needs {other} beside it; give both, or neither under torchrun or in a SLURM array")
    found = _checked(shard_id, num_shards, "--shard_id", "--num_shards")
    if torchrun is not None and torchrun.count > 1 and (torchrun.number, torchrun.count) != (shard_id, num_shards):
        raise RequestError(
            f"--num_shards {num_shards} --shard_id {shard_id} contradict torchrun's WORLD_SIZE {torchrun.count} and "
            f"RANK {torchrun.number}; leave the two flags out"
        )
    return found


def _of_torchrun(environment: Mapping[str, str]) -> Shard | None:
    if not {"RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"} & environment.keys():
        return None
    rank, size = (_number(environment, name, "torchrun sets RANK and WORLD_SIZE") for name in ("RANK", "WORLD_SIZE"))
    local = _number(environment, "LOCAL_RANK", "torchrun sets it") if "LOCAL_RANK" in environment else None
    found = _checked(rank, size, "RANK", "WORLD_SIZE")
    return Shard(found.number, found.count, "RANK and WORLD_SIZE", local)


def _of_slurm(environment: Mapping[str, str]) -> Shard | None:
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
    if not set(names) & environment.keys():
        return None
    task, count, least = (_number(environment, name, f"a SLURM array sets {', '.join(names)}") for name in names)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", "") if "SLURM_ARRAY_TASK_STEP" in environment else 1
    if step < 1 or (task - least) % step:
        raise RequestError(
            f"SLURM_ARRAY_TASK_ID {task} is not SLURM_ARRAY_TASK_MIN {least} and some SLURM_ARRAY_TASK_STEP {step}; "
            "give an array without gaps, or --num_shards and --shard_id"
        )
    what = "SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN" + (f", in steps of {step}," if step > 1 else "")
    found = _checked((task - least) // step, count, what, "SLURM_ARRAY_TASK_COUNT")
    return Shard(found.number, found.count, "the SLURM array")


def _number(environment: Mapping[str, str], name: str, who: str) -> int:
    if name not in environment:
        raise RequestError(f"{name} is not set, though {who}; give --num_shards and --shard_id, or --num_shards 1")
    try:
        return int(environment[name])
    except ValueError:
        raise RequestError(f"{name} is {environment[name]!r:.40}; expected a whole number") from None


def _checked(number: int, count: int, what: str, of: str) -> Shard:
    if count < 1:
        raise RequestError(f"{of} is {count}; expected 1 or more")
    if not 0 <= number < count:
        raise RequestError(f"{what} is {number}; with {of} {count}, expected 0 to {count - 1}")
    return Shard(number, count)
