"""One package with every other `qd_detr` on the path, so that the toolkit in `qd_detr.gates` stands beside the user's own.

Users trained with a package of this name. Whichever is imported first, the modules of both are found, and where both
have one (`avigate_custom`), it is the user's.
"""

from collections.abc import Iterator
from pathlib import Path
from pkgutil import extend_path


class _EveryFolder(list[str]):
    """The package's folders, looked for anew at every import: a user's script may extend sys.path after ours is loaded."""

    def __iter__(self) -> Iterator[str]:
        # Stable: of several toolkits (a checkout, an installation) the one that was imported stays the first.
        self[:] = sorted(extend_path(self[:], __name__), key=lambda folder: Path(folder, "gates").is_dir())
        return super().__iter__()


__path__ = _EveryFolder(__path__)

from qd_detr.gates import __version__

__all__ = ["__version__"]
