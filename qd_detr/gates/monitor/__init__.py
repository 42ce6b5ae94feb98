"""Watch gates while training: three lines around a validation pass, or a folder of checkpoints after the fact.

monitor = GateMonitor(model, "training_analysis")
...
with monitor.epoch(epoch) as seen:              # around a validation pass
    seen.metrics = validate(model)              # optional: {"MR-full-mAP": 33.0}

python -m qd_detr.gates.monitor --checkpoints results/run --data_path val.jsonl --output_dir training_analysis
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qd_detr.gates.monitor.live import EpochSeen, GateMonitor

__all__ = ["EpochSeen", "GateMonitor"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qd_detr.gates.monitor import live  # torch: the command's --help needs none of it

    return getattr(live, name)
