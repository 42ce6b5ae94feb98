"""The toolkit's place, `qd_detr.gates`, in one package with every other `qd_detr` on the path.

Users trained with a package of this name of their own. Whichever of the two is imported first, both are found.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from qd_detr.gates import __version__

__all__ = ["__version__"]
