"""The report on the gates themselves: what they let through, what values they take, what they vary with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qd_detr.gates.analysis.collect import GateAnalysis
from qd_detr.gates.gating import ATTENTION, SHIFT, Gate
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.markdown import number, percent, table
from qd_detr.gates.results.report.wording import gate_name, heads, label
from qd_detr.gates.wording import Texts


@dataclass(frozen=True)
class RankedGate:
    """One gate of one layer with the two figures it can be ranked by."""

    layer: int
    kind: str
    injection: float | None
    magnitude: float


def ranked_gates(analysis: GateAnalysis) -> list[RankedGate]:
    """Return every gate, strongest injection first (strongest magnitude first where injection was not measured)."""
    gates = [
        RankedGate(int(layer), kind, entry[f"{kind}_injection_mean"], entry[f"{kind}_abs_mean"])
        for layer, entry in analysis.statistics["layer_statistics"].items()
        for kind in analysis.facts.kinds
    ]
    return sorted(gates, key=lambda g: -(g.magnitude if g.injection is None else g.injection))


def enters_sentence(analysis: GateAnalysis, texts: Texts) -> list[str]:
    """Return by which layer the audio enters most, where there is something to rank; or that none enters."""
    if not analysis.has_injection:
        return []
    if nothing_enters(analysis):
        return [texts("injection.none")]
    audio = _audio_gates(analysis)
    if len(audio) < 2:
        return []
    others = [texts("injection.other", layer=gate.layer, injection=number(gate.injection, 2)) for gate in audio[1:]]
    first = {"layer": audio[0].layer, "injection": number(audio[0].injection, 2)}
    return [texts("injection.audio", **first, others=", ".join(others))]


def nothing_enters(analysis: GateAnalysis) -> bool:
    """Return whether injection was measured and no gate lets any audio through."""
    audio = _audio_gates(analysis)
    return bool(audio) and not any(gate.injection for gate in audio)


def _audio_gates(analysis: GateAnalysis) -> list[RankedGate]:
    return [gate for gate in ranked_gates(analysis) if gate.kind == ATTENTION.kind] if analysis.has_injection else []


def gates_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section on the gates: what they let through, what values they take, what they vary with."""
    analysis = findings.analysis
    told = value_sentences(analysis, texts)
    lines = [texts("gates.title"), "", _about(findings, texts), "", *_gate_table(analysis, texts)]
    return [*lines, *(f"- {sentence}" for sentence in told), *([""] if told else [])]


def _about(findings: RunFindings, texts: Texts) -> str:
    analysis = findings.analysis
    parts = [texts("gates.above" if "audio_help" in findings.sections else "gates.alone")]
    parts += [texts(f"reading.{analysis.facts.gating.form}"), texts("gates.values")]
    if analysis.has_injection:
        parts.insert(2, texts("injection.about"))
    else:
        parts.append(texts("injection.not_measured"))
    # 0 closes a gate that multiplies its branch by itself; not so where it is part of a factor.
    parts += [
        texts("gates.off", gate=gate.label, off=f"{gate.off:g}")
        for gate in analysis.facts.gates
        if gate.off not in (0, None)
    ]
    if any(gate.role == SHIFT for gate in analysis.facts.gates) and not analysis.facts.gating.per_channel:
        parts.append(texts("gates.shift"))
    return " ".join(parts)


def _gate_table(analysis: GateAnalysis, texts: Texts) -> list[str]:
    rows = []
    for layer, gate, entry in _entries(analysis):
        shares = entry["variance"]["shares"] or {}
        verdict = entry["variance"]["verdict"]
        row = [f"{gate_name(texts, layer, gate)} ({texts(f'injection.lets.{gate.role}')})"]
        if analysis.has_injection:
            injection = entry["injection"]
            row += [number(injection["mean"]), _middle(injection, texts), number(entry["cosine"]["mean"])]
        row += [number(entry["mean"]), _middle(entry, texts), number(entry["magnitude"]["mean"])]
        row += [percent(entry["share_near_zero"]), percent(entry["share_saturated"])]
        row += [percent(shares.get(part)) for part in ("channels", "videos", "clips")]
        rows.append([*row, label(texts, "verdict", verdict) if verdict else "-"])
    head = heads(texts, "values", "gate")
    if analysis.has_injection:
        head += heads(texts, "injection", "mean", "percentiles", "cosine")
    names = ("mean", "percentiles", "magnitude", "near_zero", "saturated", "channels", "videos", "clips", "verdict")
    return table([*head, *heads(texts, "values", *names)], rows)


def _middle(summary: dict[str, Any], texts: Texts) -> str:
    percentiles = summary["percentiles"]
    return texts("range", low=number(percentiles["5"]), high=number(percentiles["95"]))


def _entries(analysis: GateAnalysis) -> list[tuple[str, Gate, dict[str, Any]]]:
    layers = analysis.statistics["layer_statistics"]
    return [(layer, gate, entry[gate.kind]) for layer, entry in layers.items() for gate in analysis.facts.gates]


def value_sentences(analysis: GateAnalysis, texts: Texts) -> list[str]:
    """Return what stands out about a gate's values; gates of which one thing is to be said share the sentence."""
    found: dict[str, list[str]] = {}
    for layer, gate, entry in _entries(analysis):
        name = gate_name(texts, layer, gate)
        saturated, near_zero, magnitude = entry["share_saturated"], entry["share_near_zero"], entry["magnitude"]["mean"]
        if saturated is not None and saturated >= 0.5:
            found.setdefault("saturated", []).append(f"{name} ({percent(saturated)})")
        if near_zero >= 0.5 and gate.off == 0:
            found.setdefault("near_zero", []).append(f"{name} ({percent(near_zero)})")
        if magnitude > 0 and abs(entry["mean"]) < 0.1 * magnitude:
            shown = texts("values.cancel.one", mean=number(entry["mean"]), magnitude=number(magnitude))
            found.setdefault("cancel", []).append(f"{name} ({shown})")
        dead, channels = entry["dead"].get("dead_count"), entry["dead"].get("gates", 1)
        if dead:
            of = texts("values.dead.channels", dead=dead, channels=channels) if channels > 1 else ""
            found.setdefault("dead", []).append(name + of)
    return [texts(f"values.{what}", gates=", ".join(gates)) for what, gates in found.items()]
