"""GateAnalyzer: analyse what `model.avigate_fusion` has recorded in a loop of your own.

model.avigate_fusion.enable_gate_tracking()
for batch in dataloader:
    model.avigate_fusion.set_current_sample_id(batch["qid"])
    outputs = model(batch)
GateAnalyzer(model.avigate_fusion).analyze_all_samples("./gate_analysis_results")
"""

from pathlib import Path

import qd_detr

_PLACE = str(Path(__file__).resolve().parent / "qd_detr")
if _PLACE not in qd_detr.__path__:  # another qd_detr, the user's own, was imported first: ours stands beside it
    qd_detr.__path__.append(_PLACE)

from qd_detr.gates.results.analyzer import GateAnalyzer

__all__ = ["GateAnalyzer"]
