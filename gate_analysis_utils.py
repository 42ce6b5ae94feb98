"""GateAnalyzer: analyse what `model.avigate_fusion` has recorded in a loop of your own.

    model.avigate_fusion.enable_gate_tracking()
    for batch in dataloader:
        model.avigate_fusion.set_current_sample_id(batch["qid"])
        outputs = model(batch)
    GateAnalyzer(model.avigate_fusion).analyze_all_samples("./gate_analysis_results")
"""

from qd_detr.analyzer import GateAnalyzer

__all__ = ["GateAnalyzer"]
