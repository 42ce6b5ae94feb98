"""Gate analysis for QD-DETR models with AVIGATE audio-visual fusion."""

__version__ = "0.2.0"
