"""What `gate_evolution.png` shows of `gate_evolution.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.evolution import kinds_of
from qd_detr.gates.figures import style
from qd_detr.gates.figures.trends import EvolutionData, Mark, Panel, Series
from qd_detr.gates.figures.wording import FigureTexts, figure_texts

SYMBOLS = {"opened": "^", "closed": "v", "saturated": "s", "unsaturated": "D"}
# Quantities by their name in the records, and whether they are shares.
_ROWS = (("injection", False), ("magnitude", False), ("share_saturated", True), ("dead_share", True))
_EVENTS_TOLD = 6
_SHARE_LIMITS = (-0.03, 1.03)
_LEAST_TOP = 1e-6


def evolution_data(data: Mapping[str, Any], language: str = "en") -> EvolutionData:
    """Return what the figure shows: a row per quantity, a column per gate; then the metrics.

    A share that is 0 for every gate throughout is said in the caption and takes no panel.
    """
    texts = figure_texts(language)
    epochs = data["epochs"]
    x = np.array([record["epoch"] for record in epochs], dtype=float)
    n_layers = len(epochs[0]["layers"])
    kinds = kinds_of(epochs[0]["layers"][0])

    def values(kind: str, name: str) -> NDArray[np.float64]:
        found = [[record["layers"][layer][kind][name] for record in epochs] for layer in range(n_layers)]
        return np.array([[np.nan if v is None else v for v in row] for row in found], dtype=float)  # (layers, epochs)

    rows: list[tuple[Panel, ...]] = []
    never: list[str] = []
    for name, is_share in _ROWS:
        both = {kind: values(kind, name) for kind in kinds}
        if all(np.isnan(one).all() for one in both.values()):
            continue
        highest = np.nanmax([np.nanmax(one, initial=0.0) for one in both.values()])
        if is_share and highest == 0:
            never.append(texts(f"evolution.never.{name}"))
            continue
        limits = _SHARE_LIMITS if is_share else (0.0, max(1.08 * highest, _LEAST_TOP))
        unit = style.INJECTION_FORMULA if name == "injection" else texts(f"evolution.{name}.unit")
        rows.append(
            tuple(
                Panel(
                    texts(f"evolution.{name}", gate=texts.gate_title(kind)),
                    unit,
                    [
                        Series(label, x, both[kind][layer], layer_idx=layer)
                        for layer, label in enumerate(texts.layers(n_layers))
                    ],
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
        rows.append((Panel(texts("evolution.validation"), texts("evolution.metric"), series),))
    caption = _caption(data, epochs, never, texts)
    return EvolutionData(rows, caption, texts("evolution.heading"), texts("evolution.epoch"))


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


def _caption(
    data: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]], never: Sequence[str], texts: FigureTexts
) -> str:
    counts = [record["total_samples"] for record in epochs]
    least, most = f"{min(counts):,}", f"{max(counts):,}"
    samples = least if least == most else texts("range", low=least, high=most)
    parts = [texts("evolution.about", samples=samples, gating=data["gating_type"]), *never]
    told = [
        texts(
            f"evolution.{event['event']}",
            gate=texts.gate(event["kind"]),
            layer=event["layer"],
            since=event["since"],
            epoch=event["epoch"],
        )
        for event in data["events"][:_EVENTS_TOLD]
    ]
    more = len(data["events"]) - len(told)
    if len(epochs) == 1:
        parts.append(texts("evolution.one_epoch"))
    elif told:
        end = texts("evolution.more", n=more) if more else "."
        parts.append(texts("evolution.marks") + "; ".join(told) + end)
    else:
        parts.append(texts("evolution.no_events"))
    return " ".join(parts)
