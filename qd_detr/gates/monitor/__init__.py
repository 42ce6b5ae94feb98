"""Watch gates while training: three lines around a validation pass, or a folder of checkpoints after the fact.

monitor = GateMonitor(model, "training_analysis")
...
with monitor.epoch(epoch) as seen:              # around a validation pass
    seen.metrics = validate(model)              # optional: {"MR-full-mAP": 33.0}

python -m qd_detr.gates.monitor --checkpoints results/run --data_path val.jsonl --output_dir training_analysis
"""

from qd_detr.gates.monitor.live import EpochSeen, GateMonitor

__all__ = ["EpochSeen", "GateMonitor"]
