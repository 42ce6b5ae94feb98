"""Damages what users may feed the toolkit and counts what comes of it: success or an error of ours, never a traceback.

Every input is a small valid one with seeded damage: flipped and foreign bytes, cuts, splices, absurd numbers, deep
nesting, NaN, half surrogate pairs, other encodings, links, pipes, hostile names. A third of them go through the functions that
read files (`loaders`), the others through whole commands, whose results are compared with the undamaged ones (`whole`).
An input that takes over ten seconds, or more memory than the limit, counts as a failure too.

    python -m benchmarks.fuzz --inputs 12000 --seed 0 [--family NAME ...] [--keep DIR]
"""

from benchmarks.fuzz.running import FAMILIES, fuzz

__all__ = ["FAMILIES", "fuzz"]
