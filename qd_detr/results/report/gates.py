"""The report on the gates themselves: what they let through, what values they take, what they vary with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qd_detr.analysis.collect import GateAnalysis
from qd_detr.results.context import RunFindings
from qd_detr.results.report.markdown import inline, number, percent, shortened, table

KIND_NAMES = {"attention": "attention gate", "ffn": "FFN gate"}


@dataclass(frozen=True)
class RankedGate:
    """One gate of one layer with the two figures it can be ranked by."""

    layer: int
    kind: str
    injection: float | None
    magnitude: float

    @property
    def name(self) -> str:
        """Return "layer 0 attention gate"."""
        return f"layer {self.layer} {KIND_NAMES[self.kind]}"


def ranked_gates(analysis: GateAnalysis) -> list[RankedGate]:
    """Return every gate, strongest injection first (strongest magnitude first where injection was not measured)."""
    gates = [
        RankedGate(int(layer), kind, entry[f"{kind}_injection_mean"], entry[f"{kind}_abs_mean"])
        for layer, entry in analysis.statistics["layer_statistics"].items()
        for kind in KIND_NAMES
    ]
    return sorted(gates, key=lambda g: -(g.magnitude if g.injection is None else g.injection))


def injection_sentences(analysis: GateAnalysis) -> list[str]:
    """Return the findings on how much is let through and by which gate."""
    gates = ranked_gates(analysis)
    audio = [gate for gate in gates if gate.kind == "attention"]
    if not analysis.has_injection:
        return ["What the gates let through was not measured in this recording; magnitudes alone do not rank layers."]
    first = gates[0]
    sentences = [
        f"Audio enters most in layer {audio[0].layer}: what its attention gate lets through is "
        f"{number(audio[0].injection, 2)} times as large as the video features it is added to (mean over clips)."
    ]
    if len(audio) > 1:
        others = ", ".join(f"layer {gate.layer}: {number(gate.injection, 2)}" for gate in audio[1:])
        sentences.append(f"The other layers' attention gates follow ({others}).")
    by_magnitude = max(gates, key=lambda g: g.magnitude)
    if (by_magnitude.layer, by_magnitude.kind) != (first.layer, first.kind):
        sentences.append(
            f"Ranked by injection, the {first.name} comes first ({number(first.injection, 2)}). Bare magnitude |g| would "
            f"have put another gate first, the {by_magnitude.name} (mean |g| {number(by_magnitude.magnitude, 2)}, "
            f"against {number(first.magnitude, 2)}), although that lets through only {number(by_magnitude.injection, 2)}."
        )
    else:
        sentences.append(
            f"Ranked by injection, the {first.name} comes first ({number(first.injection, 2)}); "
            f"bare magnitude |g| gives the same gate ({number(first.magnitude, 2)})."
        )
    return sentences


def injection_section(findings: RunFindings) -> list[str]:
    """Return the section on injection."""
    analysis = findings.analysis
    lines = ["## How much is let through", ""]
    if not analysis.has_injection:
        return [*lines, injection_sentences(analysis)[0], ""]
    lines += [
        "Injection is |g * branch| / |residual| per clip: the size of what a gate lets through against the size of what it "
        "is added to. For the attention gate the branch is the audio, so its injection says how much audio enters. For "
        "the FFN gate the branch is a feed-forward step on features that are already fused: refinement, not audio. The "
        "cosine is the direction of the injected vector against the residual: 1 the same, 0 orthogonal, -1 opposite.",
        "",
    ]
    rows = []
    for gate in ranked_gates(analysis):
        entry = analysis.statistics["layer_statistics"][str(gate.layer)][gate.kind]
        injection, cosine = entry["injection"], entry["cosine"]
        rows.append(
            [
                gate.name,
                "audio" if gate.kind == "attention" else "refinement",
                number(injection["mean"]),
                number(injection["median"]),
                f"{number(injection['percentiles']['5'])} to {number(injection['percentiles']['95'])}",
                number(cosine["mean"]),
                number(gate.magnitude),
            ]
        )
    head = ["gate", "lets through", "injection, mean", "median", "5 % to 95 % of clips", "cosine, mean", "mean abs(g)"]
    lines += table(head, rows)
    return lines + _extreme_samples(findings)


def _extreme_samples(findings: RunFindings) -> list[str]:
    rows = findings.analysis.rows
    if len(rows) < 4:
        return []
    contexts = {context.sample_id: context for context in findings.contexts}
    scored = sorted(rows, key=lambda row: -_audio(row))
    lines = ["Samples by how much audio enters (attention injection, mean over layers and clips):", ""]
    body = []
    for label, row in [("most", row) for row in scored[:3]] + [("least", row) for row in scored[-3:]]:
        context = contexts.get(row.sample_id)
        query = context.query if context else None
        body.append([label, inline(row.sample_id), number(_audio(row)), shortened(query.query) if query else "-"])
    return lines + table(["", "sample", "injection", "query"], body)


def _audio(row: Any) -> float:
    return sum(gate.injection_mean or 0.0 for gate in row.attention) / len(row.attention)


def values_section(findings: RunFindings) -> list[str]:
    """Return the section on gate values."""
    analysis = findings.analysis
    lines = ["## What values the gates take", ""]
    rows = []
    for layer, layer_entry in analysis.statistics["layer_statistics"].items():
        for kind, kind_name in KIND_NAMES.items():
            e = layer_entry[kind]
            rows.append(
                [
                    f"layer {layer} {kind_name}",
                    number(e["mean"]),
                    number(e["std"]),
                    number(e["median"]),
                    f"{number(e['percentiles']['5'])} to {number(e['percentiles']['95'])}",
                    number(e["magnitude"]["mean"]),
                    percent(e["share_positive"]),
                    percent(e["share_near_zero"]),
                    percent(e["share_saturated"]),
                ]
            )
    head = ["gate", "mean", "std", "median", "5 % to 95 %", "mean abs(g)", "positive", "near zero", "saturated"]
    lines += table(head, rows)
    lines += [
        "Near zero: abs(g) < 0.05. Saturated: within the outermost 2.5 % of the gate's range on either side. The sign is "
        "listed for completeness only: the projection behind a gate can flip its own, so it says nothing by itself.",
        "",
    ]
    lines += [f"- {sentence}" for sentence in _value_sentences(analysis)]
    return [*lines, ""]


def _value_sentences(analysis: GateAnalysis) -> list[str]:
    sentences = []
    for layer, layer_entry in analysis.statistics["layer_statistics"].items():
        for kind, kind_name in KIND_NAMES.items():
            e = layer_entry[kind]
            gate = f"The layer {layer} {kind_name}"
            saturated = e["share_saturated"]
            if saturated is not None and saturated >= 0.5:
                sentences.append(f"{gate} is saturated in {percent(saturated)} of its values.")
            if e["share_near_zero"] >= 0.5:
                sentences.append(f"{gate} is near zero in {percent(e['share_near_zero'])} of its values.")
            if e["magnitude"]["mean"] > 0 and abs(e["mean"]) < 0.1 * e["magnitude"]["mean"]:
                sentences.append(
                    f"{gate} averages {number(e['mean'])} while its mean magnitude is {number(e['magnitude']['mean'])}: "
                    "values of both signs cancel, the mean must not be read as \"closed\"."
                )
            dead = e["dead"]
            if dead.get("dead_count"):
                of = f"{dead['dead_count']} of {dead['gates']} channels" if dead["gates"] > 1 else "it"
                sentences.append(f"{gate}: {of} did not vary over the samples (dead).")
    return sentences


def variation_section(findings: RunFindings) -> list[str]:
    """Return the section on what the gates vary with."""
    analysis = findings.analysis
    lines = ["## What the gates vary with", ""]
    rows = []
    for layer, layer_entry in analysis.statistics["layer_statistics"].items():
        for kind, kind_name in KIND_NAMES.items():
            v = layer_entry[kind]["variance"]
            shares = v["shares"]
            rows.append(
                [
                    f"layer {layer} {kind_name}",
                    *(percent(None if shares is None else shares.get(part)) for part in ("channels", "videos", "clips")),
                    number(v.get("std_videos_and_clips")),
                    v["verdict"] or "-",
                ]
            )
    lines += table(["gate", "channels", "videos", "clips", "std over videos and clips", "verdict"], rows)
    lines += [
        "Shares of a gate's variance: between channels (a constant offset of each), between samples, and between the "
        "clips of one sample. A gate whose spread over videos and clips is below 1 % of its range's half-width is called "
        "constant; else it is video-level or clip-level by the larger part.",
        "",
    ]
    return lines
