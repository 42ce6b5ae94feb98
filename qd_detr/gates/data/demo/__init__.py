"""The shipped example: planted data, and a model trained on it by `examples/make_demo.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qd_detr.gates.errors import MissingFileError
from qd_detr.gates.planted import VAL_FILE

KINDS = ("native", "legacy")
FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Demo:
    """What the example is run on; `legacy` for the checkpoint in the legacy format, without this project's mark."""

    model_path: Path
    data_path: Path
    legacy: bool


def demo(kind: str = "native") -> Demo:
    """Return the shipped example.

    Raises:
        MissingFileError: its files are not there.
    """
    found = Demo(FOLDER / kind / "model_best.ckpt", FOLDER / "planted" / VAL_FILE, kind == "legacy")
    for path in (found.model_path, found.data_path):
        if not path.is_file():
            raise MissingFileError(
                f"the demo's {path.name} is not in {path.parent}; examples/make_demo.py makes it anew"
            )
    return found
