"""What `gate_evolution.png` shows of `gate_evolution.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.evolution import kinds_of
from qd_detr.gates.figures.trends import EvolutionData, Mark, Panel, Series
from qd_detr.gates.gating import GATES

SYMBOLS = {"opened": "^", "closed": "v", "saturated": "s", "unsaturated": "D"}
# Quantities by their name in the records: what their row is called, the axis, and whether they are shares.
_ROWS = (
    ("injection", "injection", "|g · branch| / |residual|", False),
    ("magnitude", "magnitude", "mean |gate|", False),
    ("share_saturated", "saturated values", "share", True),
    ("dead_share", "dead over samples", "share", True),
)
_EVENTS_TOLD = 6
_SHARE_LIMITS = (-0.03, 1.03)
_LEAST_TOP = 1e-6


def evolution_data(data: Mapping[str, Any]) -> EvolutionData:
    """Return what the figure shows: a row per quantity, a column per gate; then the metrics."""
    epochs = data["epochs"]
    x = np.array([record["epoch"] for record in epochs], dtype=float)
    n_layers = len(epochs[0]["layers"])
    kinds = kinds_of(epochs[0]["layers"][0])

    def values(kind: str, name: str) -> NDArray[np.float64]:
        found = [[record["layers"][layer][kind][name] for record in epochs] for layer in range(n_layers)]
        return np.array([[np.nan if v is None else v for v in row] for row in found], dtype=float)  # (layers, epochs)

    rows: list[tuple[Panel, ...]] = []
    for name, title, y_label, is_share in _ROWS:
        both = {kind: values(kind, name) for kind in kinds}
        if all(np.isnan(one).all() for one in both.values()):
            continue
        highest = np.nanmax([np.nanmax(one, initial=0.0) for one in both.values()])
        limits = _SHARE_LIMITS if is_share else (0.0, max(1.08 * highest, _LEAST_TOP))
        rows.append(
            tuple(
                Panel(
                    f"{GATES[kind].title}: {title}",
                    y_label if kind == kinds[0] else "",
                    [Series(f"layer {layer}", x, both[kind][layer], layer_idx=layer) for layer in range(n_layers)],
                    limits,
                    marks=_marks(data["events"], kind, x, both[kind]) if name == "magnitude" else (),
                )
                for kind in kinds
            )
        )
    shown = _metrics_shown(epochs)
    if shown:
        series = [
            Series(name, x, np.array([_or_nan(record["metrics"].get(name)) for record in epochs])) for name in shown
        ]
        rows.append((Panel("Validation", "percent", series),))
    return EvolutionData(rows, _caption(data, epochs))


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _metrics_shown(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(
        dict.fromkeys(name for record in epochs for name, value in record["metrics"].items() if value is not None)
    )
    return [name for name in names if name.endswith("mAP") and "full" in name] or names[:3]


def _marks(
    events: Sequence[Mapping[str, Any]], kind: str, x: NDArray[np.float64], values: NDArray[np.float64]
) -> list[Mark]:
    return [
        Mark(
            event["epoch"],
            float(values[event["layer"], np.flatnonzero(x == event["epoch"])[0]]),
            SYMBOLS[event["event"]],
            event["layer"],
        )
        for event in events
        if event["kind"] == kind
    ]


def _caption(data: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> str:
    counts = [record["total_samples"] for record in epochs]
    n = str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    told = [
        f"layer {event['layer']} {GATES[event['kind']].label} {event['event']} after epoch {event['since']}, by {event['epoch']}"
        for event in data["events"][:_EVENTS_TOLD]
    ]
    more = len(data["events"]) - len(told)
    changes = "No gate opened, closed or saturated."
    if told:
        changes = "Marks (triangle up: opened, down: closed; square: saturated; diamond: no longer): " + "; ".join(told)
        changes += f"; and {more} more in the json." if more else "."
    if len(epochs) == 1:
        changes = "One epoch so far."
    dead = "Dead: no variance over samples."
    return f"n = {n} samples an epoch; {data['gating_type']} gates. {dead} {changes}"
