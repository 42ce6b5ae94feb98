"""The QD-DETR model: torch alone, no file and no flag."""
