"""`python -m qd_detr.gates.planted`: make the planted data set."""

import sys

from qd_detr.gates.data.planted import generate, main, training_flags

__all__ = ["generate", "main", "training_flags"]

if __name__ == "__main__":
    sys.exit(main())
