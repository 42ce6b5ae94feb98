"""Training: targets, matching, losses, and the loop that `python -m qd_detr.gates.train` runs."""
