"""Tries many inputs of every family, and counts what came of them."""

from __future__ import annotations

import argparse
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.fuzz import loaders, training, whole
from benchmarks.fuzz.commands import Outcome, Workplace
from qd_detr.gates.errors import RequestError, RunError

LIMIT_S = 10
MEMORY_LIMIT = 8 << 30
LOADERS_SHARE = 0.75
TURNS = 20
FAMILIES: dict[str, tuple[Callable[[Any, random.Random], Any], float]] = {
    **{name: (function, share * LOADERS_SHARE) for name, (function, share) in loaders.FAMILIES.items()},
    **{
        name: (function, share * (1 - LOADERS_SHARE))
        for name, (function, share) in {**whole.FAMILIES, **training.FAMILIES}.items()
    },
}


@dataclass
class Count:
    """What came of a family's inputs."""

    tried: int = 0
    fine: int = 0
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class _TookTooLong(BaseException):
    pass


def _too_long(signum: int, frame: object) -> None:
    raise _TookTooLong


def fuzz(
    inputs: int,
    seed: int,
    families: list[str] | None = None,
    keep: Path | None = None,
    limit_s: int = LIMIT_S,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Count]:
    """Try `inputs` inputs spread over the families; the same seed gives the same inputs. Ctrl-C ends it with what was done."""
    before = signal.signal(signal.SIGALRM, _too_long)
    counts: dict[str, Count] = {}
    shares = {name: share for name, (_, share) in FAMILIES.items() if families is None or name in families}
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz ") as folder:
            bench = loaders.Bench.make(Path(folder) / "loaders")
            place = Workplace.make(Path(folder) / "commands")
            place.baseline()  # the first run loads much of what all others need
            wanted = {name: max(1, round(inputs * share / sum(shares.values()))) for name, share in shares.items()}
            counts = {name: Count() for name in wanted}
            # In turns, so that a run that is ended early has tried every family.
            for turn in range(TURNS):
                for name, count in counts.items():
                    one = bench if name in loaders.FAMILIES else place
                    began = time.process_time()
                    while count.tried * TURNS < wanted[name] * (turn + 1):
                        failures = len(count.failures)
                        _one(one, name, f"{seed} {name} {count.tried}", count, keep, limit_s)
                        for failure in count.failures[failures:]:
                            say(failure)
                    count.seconds += time.process_time() - began
                say(f"turn {turn + 1} of {TURNS}: {sum(count.tried for count in counts.values())} inputs")
    except KeyboardInterrupt:
        say("ended early")
    finally:
        signal.signal(signal.SIGALRM, before)
    return counts


def _one(bench: loaders.Bench | Workplace, name: str, key: str, count: Count, keep: Path | None, limit_s: int) -> None:
    count.tried += 1
    quiet = isinstance(bench, loaders.Bench)
    signal.alarm(limit_s)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # those of making an input; a command's own are looked at where it is called
            if quiet:
                logging.disable(logging.WARNING)
            outcome = FAMILIES[name][0](bench, random.Random(key))
    except (RequestError, RunError) as error:
        count.errors[type(error).__name__] += 1
        if len(str(error)) > 4000:
            count.failures.append(f"{key}: a message of {len(str(error))} characters: {str(error)[:200]}")
    except (Exception, _TookTooLong):
        count.failures.append(f"{key}\n{traceback.format_exc(limit=-4)}")
        if keep is not None:
            shutil.copytree(
                bench.folder, keep / key.replace(" ", "_").replace(",", ""), symlinks=True, dirs_exist_ok=True
            )
    else:
        if isinstance(outcome, Outcome) and outcome.status:
            count.errors[f"exit {outcome.status}"] += 1
        else:
            count.fine += 1
    finally:
        signal.alarm(0)
        logging.disable(logging.NOTSET)
        if isinstance(bench, Workplace):
            bench.tidy()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), metavar="NAME", help="only these families")
    parser.add_argument("--keep", type=Path, help="keep the folder of every failing input below this one")
    parser.add_argument("--limit", type=int, default=LIMIT_S, metavar="S", help="seconds for an input (default: 10)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    started = time.monotonic()
    counts = fuzz(
        args.inputs,
        args.seed,
        args.family,
        args.keep,
        args.limit,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(f"{'family':<30}{'tried':>7}{'accepted':>10}{'refused':>9}{'failures':>10}{'CPU s':>7}  refused as")
    for name, count in counts.items():
        errors = ", ".join(f"{kind} {n}" for kind, n in count.errors.most_common())
        refused = count.errors.total()
        print(
            f"{name:<30}{count.tried:>7}{count.fine:>10}{refused:>9}{len(count.failures):>10}{count.seconds:>7.0f}  {errors}"
        )
    failures = [failure for count in counts.values() for failure in count.failures]
    tried = sum(count.tried for count in counts.values())
    print(
        f"{tried} inputs in {time.monotonic() - started:.0f} s, {len(failures)} failures (on stderr); "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
