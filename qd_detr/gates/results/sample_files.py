"""Files about recorded samples that the tracking API of a fusion writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from qd_detr.gates.analysis.samples import chosen_ids, gate_statistics
from qd_detr.gates.files import to_json, write_whole
from qd_detr.gates.gating import Gate, range_of
from qd_detr.gates.results.context import SampleContext
from qd_detr.gates.results.drawing import draw_comparison, draw_sample
from qd_detr.gates.results.names import file_names
from qd_detr.gates.tracking.entries import SampleId
from qd_detr.gates.tracking.history import GateHistory


def save_analysis(
    history: GateHistory, directory: str | Path, sample_id: SampleId | None, gates: Sequence[Gate]
) -> None:
    """Write `gate_analysis_{id}.png` per sample and `gate_statistics_{id or all}.json`.

    Raises:
        KeyError: that id is not there, or nothing has been recorded; nothing is written then.
    """
    ids = chosen_ids(history, sample_id)
    names = file_names(history)
    statistics = gate_statistics(history, gates, sample_id)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    which = "all" if sample_id is None else names[sample_id]
    texts = Counter(str(one) for one in ids)
    # JSON keys are text: where 1 and "1" were both recorded, their file names, which differ, keep them apart.
    keys = {one: str(one) if texts[str(one)] == 1 else names[one] for one in ids}
    text = to_json({keys[one]: statistics[one] for one in ids})
    write_whole(folder / f"gate_statistics_{which}.json", text)
    for one in ids:
        draw_sample(folder / f"gate_analysis_{names[one]}.png", SampleContext(one), history[one], range_of(gates))


def save_comparison(
    history: GateHistory, sample_ids: Sequence[SampleId], directory: str | Path, gates: Sequence[Gate]
) -> None:
    """Write `gate_comparison.png` of recorded samples."""
    if isinstance(sample_ids, (str, int)):
        sample_ids = [sample_ids]
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [(SampleContext(one), history[one]) for one in sample_ids]
    draw_comparison(folder / "gate_comparison.png", chosen, range_of(gates))
