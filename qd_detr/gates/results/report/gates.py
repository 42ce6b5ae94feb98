"""The report on the gates themselves: what they let through, what values they take, what they vary with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qd_detr.gates.analysis.collect import GateAnalysis
from qd_detr.gates.gating import ATTENTION
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


def injection_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section on injection."""
    analysis = findings.analysis
    lines = [texts("injection.title"), ""]
    if not analysis.has_injection:
        return [*lines, texts("injection.not_measured"), ""]
    enters = enters_sentence(analysis, texts)
    lines += [*enters, "", texts("injection.about"), ""] if enters else [texts("injection.about"), ""]
    roles = {gate.kind: gate.role for gate in analysis.facts.gates}
    rows = []
    for gate in ranked_gates(analysis):
        entry = analysis.statistics["layer_statistics"][str(gate.layer)][gate.kind]
        injection, cosine = entry["injection"], entry["cosine"]
        rows.append(
            [
                gate_name(texts, gate.layer, gate.kind),
                texts(f"injection.lets.{roles[gate.kind]}"),
                number(injection["mean"]),
                number(injection["median"]),
                _middle(injection, texts),
                number(cosine["mean"]),
                number(gate.magnitude),
            ]
        )
    head = heads(texts, "injection", "gate", "lets", "mean", "median", "percentiles", "cosine", "magnitude")
    lines += table(head, rows)
    return lines


def _middle(summary: dict[str, Any], texts: Texts) -> str:
    percentiles = summary["percentiles"]
    return texts("range", low=number(percentiles["5"]), high=number(percentiles["95"]))


def values_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section on gate values."""
    analysis = findings.analysis
    lines = [texts("values.title"), ""]
    rows = []
    for layer, layer_entry in analysis.statistics["layer_statistics"].items():
        for kind in analysis.facts.kinds:
            e = layer_entry[kind]
            rows.append(
                [
                    gate_name(texts, layer, kind),
                    number(e["mean"]),
                    number(e["std"]),
                    number(e["median"]),
                    _middle(e, texts),
                    number(e["magnitude"]["mean"]),
                    percent(e["share_positive"]),
                    percent(e["share_near_zero"]),
                    percent(e["share_saturated"]),
                ]
            )
    head = heads(
        texts,
        "values",
        "gate",
        "mean",
        "std",
        "median",
        "percentiles",
        "magnitude",
        "positive",
        "near_zero",
        "saturated",
    )
    lines += table(head, rows)
    lines += [texts("values.about"), ""]
    lines += [f"- {sentence}" for sentence in _value_sentences(analysis, texts)]
    return [*lines, ""]


def _value_sentences(analysis: GateAnalysis, texts: Texts) -> list[str]:
    sentences = []
    for layer, layer_entry in analysis.statistics["layer_statistics"].items():
        for kind in analysis.facts.kinds:
            e = layer_entry[kind]
            gate = gate_name(texts, layer, kind)
            saturated, near_zero, magnitude = e["share_saturated"], e["share_near_zero"], e["magnitude"]["mean"]
            if saturated is not None and saturated >= 0.5:
                sentences.append(texts("values.saturated", gate=gate, share=percent(saturated)))
            if near_zero >= 0.5:
                sentences.append(texts("values.near_zero", gate=gate, share=percent(near_zero)))
            if magnitude > 0 and abs(e["mean"]) < 0.1 * magnitude:
                sentences.append(texts("values.cancel", gate=gate, mean=number(e["mean"]), magnitude=number(magnitude)))
            dead = e["dead"]
            if dead.get("dead_count") and dead["gates"] > 1:
                counts = {"dead": dead["dead_count"], "channels": dead["gates"]}
                sentences.append(texts("values.dead_channels", gate=gate, **counts))
            elif dead.get("dead_count"):
                sentences.append(texts("values.dead", gate=gate))
    return sentences


def variation_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section on what the gates vary with."""
    analysis = findings.analysis
    lines = [texts("variation.title"), ""]
    rows = []
    for layer, layer_entry in analysis.statistics["layer_statistics"].items():
        for kind in analysis.facts.kinds:
            v = layer_entry[kind]["variance"]
            shares = v["shares"]
            rows.append(
                [
                    gate_name(texts, layer, kind),
                    *(
                        percent(None if shares is None else shares.get(part))
                        for part in ("channels", "videos", "clips")
                    ),
                    number(v.get("std_videos_and_clips")),
                    label(texts, "verdict", v["verdict"]) if v["verdict"] else "-",
                ]
            )
    lines += table(heads(texts, "variation", "gate", "channels", "videos", "clips", "std", "verdict"), rows)
    return [*lines, texts("variation.about"), ""]
