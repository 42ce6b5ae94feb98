"""The figures of a results tree: hands what was computed to the plotting functions and saves what they return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.analysis.collect import GateAnalysis
from qd_detr.gates.analysis.statistics import SampleRow
from qd_detr.gates.figures.clustering import ClusteringData, NoGroups, cluster_profiles, plot_clustering
from qd_detr.gates.figures.comparison import MAX_COMPARED, ComparisonData, plot_comparison
from qd_detr.gates.figures.distributions import (
    GateDistribution,
    LayerSummary,
    OverallData,
    plot_layer_distributions,
    plot_overall,
)
from qd_detr.gates.figures.patterns import PatternData, plot_activation_patterns
from qd_detr.gates.figures.sample import plot_sample
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.sample_pool import write_sample_figures
from qd_detr.gates.figures.style import FigureScale, round_up, save_figure
from qd_detr.gates.figures.wording import warn_of_missing_font
from qd_detr.gates.gating import ATTENTION, ValueRange
from qd_detr.gates.results.context import OutputOptions, RunFindings, SampleContext
from qd_detr.gates.results.drawing_findings import finding_figures
from qd_detr.gates.results.report.audit import NOISE
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.tracking.entries import SampleGates, SampleId
from qd_detr.gates.wording import Reason

Figures = list[tuple[str, Reason | str]]


def sample_data(
    context: SampleContext,
    entry: SampleGates,
    contributions: NDArray[np.float64] | None = None,
    complete: bool = True,
) -> Iterator[SampleData]:
    """Yield what a figure shows of an entry's samples; an entry of several gives one each.

    contributions: those of an entry of one sample, (layers, clips); complete, whether they sum to the effect.
    """
    samples = list(entry.samples())
    query, line = context.query, context.line
    for b, sample in enumerate(samples):
        n_clips = int(sample.valid_lengths[0])
        name = str(context.sample_id) if len(samples) == 1 else f"{context.sample_id}[{b}]"
        yield SampleData(
            sample_id=name,
            gating_type=sample.gating_type,
            values={kind: values[:, 0] for kind, values in sample.gates.items()},
            n_clips=n_clips,
            clip_length_s=context.clip_length_s,
            duration_s=query.duration_s if query else None,
            query=query.query if query else None,
            vid=query.vid if query else None,
            injection={kind: values[:, 0] for kind, values in sample.injection.items()},
            contributions=contributions,
            contributions_complete=complete,
            true_windows_s=np.array(query.relevant_windows) if query and query.relevant_windows is not None else None,
            predicted_windows=np.array(line["pred_relevant_windows"]).reshape(-1, 3) if line else None,
            predicted_saliency=np.array(line["pred_saliency_scores"]) if line else None,
            annotated_saliency=_annotated(context, n_clips),
        )


def _annotated(context: SampleContext, n_clips: int) -> np.ndarray | None:
    query = context.query
    if query is None or query.relevant_clip_ids is None or query.saliency_scores is None:
        return None
    saliency = np.zeros(n_clips)
    for clip, scores in zip(query.relevant_clip_ids, query.saliency_scores, strict=False):
        if clip < n_clips:
            saliency[clip] = np.mean(scores)
    return saliency


def draw_sample(path: Path, context: SampleContext, entry: SampleGates, value_range: ValueRange | None) -> None:
    """Draw one recorded entry; one of several samples is drawn by its first and says so in its name."""
    data = next(iter(sample_data(context, entry)))
    save_figure(plot_sample(data, _scale(value_range, [entry])), path)


def draw_comparison(
    path: Path,
    chosen: Sequence[tuple[SampleContext, SampleGates]],
    value_range: ValueRange | None,
    language: str = "en",
) -> None:
    """Draw recorded entries side by side; more than fit one figure continue in `{name}_2`, `{name}_3`, ..."""
    samples = [data for context, entry in chosen for data in sample_data(context, entry)]
    scale = replace(_scale(value_range, [entry for _, entry in chosen]), language=language)
    for page, first in enumerate(range(0, len(samples), MAX_COMPARED), start=1):
        target = path if page == 1 else path.with_stem(f"{path.stem}_{page}")
        save_figure(plot_comparison(ComparisonData(samples[first : first + MAX_COMPARED]), scale), target)


def _scale(value_range: ValueRange | None, entries: Sequence[SampleGates]) -> FigureScale:
    gates = [np.abs(values).max(initial=0.0) for entry in entries for values in entry.gates.values()]
    largest = float(max(gates, default=1.0)) or 1.0
    return FigureScale.for_gates(value_range, (-largest, largest))


def draw_run(tree: ResultsTree, findings: RunFindings, options: OutputOptions) -> tuple[Figures, list[Reason]]:
    """Draw a run's figures into its tree; return (relative path, caption) of those made and what to say of the others."""
    if not options.figures:
        return [], [Reason("figures.left_out")]
    analysis = findings.analysis
    suffix = options.figure_format
    scale = run_scale(analysis, options.lang)
    made: Figures = []
    notes: list[Reason] = [Reason(f"no_font.{options.lang}")] if warn_of_missing_font(options.lang) else []

    def save(figure: Any, name: str, caption: Reason) -> None:
        save_figure(figure, tree.path(f"{name}.{suffix}"))
        made.append((f"{name}.{suffix}", caption))

    overall = overall_data(findings)
    profiles, features, quantity = _profiles(analysis)
    groups = cluster_profiles(profiles, seed=options.seed)
    pattern = pattern_data(findings, None if isinstance(groups, NoGroups) else groups.labels)
    save(plot_overall(overall, scale), "overall_statistics", Reason("figures.overall"))
    save(plot_layer_distributions(overall, scale), "layer_distributions", Reason("figures.layers"))
    save(plot_activation_patterns(pattern, scale), "activation_patterns", Reason("figures.patterns"))
    for name, figure, caption in finding_figures(findings, scale):
        save(figure, name, caption)
    if isinstance(groups, NoGroups):
        notes.append(groups.reason)
    else:
        clustering = ClusteringData(groups, features, quantity, analysis.facts.gating_type, _n_videos(findings))
        save(plot_clustering(clustering, scale), "gate_clustering", Reason("figures.groups"))
    if options.compare is not None:
        chosen = compared_ids(findings, options.compare)
        contexts = {context.sample_id: context for context in findings.contexts}
        pairs = [(contexts.get(i, SampleContext(i)), findings.history[i]) for i in chosen]
        draw_comparison(
            tree.path(f"comparisons/gate_comparison.{suffix}"), pairs, analysis.facts.gate_range, options.lang
        )
        made.append(
            (f"comparisons/gate_comparison.{suffix}", Reason("figures.compared", {"ids": ", ".join(map(str, chosen))}))
        )
    if options.sample_figures:
        _draw_samples(tree, findings, scale, options)
        notes.append(Reason("figures.individual", {"n": len(findings.contexts)}))
    return made + findings.extra_figures, notes


def _draw_samples(tree: ResultsTree, findings: RunFindings, scale: FigureScale, options: OutputOptions) -> None:
    timelines = findings.sections.get("timeline", {}).get("samples", [])
    incomplete = {one["qid"] for one in timelines if not one["targets"]["prediction"]["complete"]}

    def items() -> Iterator[tuple[str, SampleData]]:
        for context in findings.contexts:
            found = findings.contributions.get(context.sample_id)
            complete = context.sample_id not in incomplete
            for b, data in enumerate(sample_data(context, findings.history[context.sample_id], found, complete)):
                # An entry of several samples gives its first figure the entry's name.
                name = findings.names[context.sample_id if b == 0 else data.sample_id]
                yield f"gate_analysis_{name}.{options.figure_format}", data

    folder = tree.path("individual_samples/x").parent
    few = len(findings.contexts) < 24  # starting workers costs more than drawing these
    with options.progress(len(findings.contexts), "figures") as report:
        write_sample_figures(items(), folder, scale, workers=0 if few else None, progress=report)


def run_scale(analysis: GateAnalysis, language: str = "en") -> FigureScale:
    """Return the one scale of all figures of a run, whose words are in `language`."""
    overall = {gate.kind: analysis.statistics[gate.gates_key] for gate in analysis.facts.gates}
    tops = {kind: _injection_top(entry["injection"]) for kind, entry in overall.items() if entry["injection"]}
    return FigureScale.for_gates(
        analysis.facts.gate_range,
        (min(e["min"] for e in overall.values()), max(e["max"] for e in overall.values())),
        {kind: top for kind, top in tops.items() if top},
        language,
    )


def _injection_top(injection: Mapping[str, Any]) -> float:
    # One outlier must not flatten every other sample's line; up to twice the 99th percentile nothing is cut.
    return round_up(min(injection["max"], 2 * injection["percentiles"]["99"]))


def compared_ids(findings: RunFindings, asked: Sequence[str]) -> list[SampleId]:
    """Return the samples asked for, or without any a telling few: least, middle and most audio."""
    if asked:
        by_text = {str(sample_id): sample_id for sample_id in findings.history}
        return [by_text[one] for one in dict.fromkeys(asked)]
    rows = [row for row in findings.analysis.rows if row.sample_id in findings.history]
    ranked = sorted(rows, key=_audio)
    picks = np.unique(np.linspace(0, len(ranked) - 1, min(5, len(ranked))).round().astype(int))
    return [ranked[i].sample_id for i in picks[::-1]]


def _audio(row: SampleRow) -> float:
    values = [
        gate.abs_mean if gate.injection_mean is None else gate.injection_mean for gate in row.gates[ATTENTION.kind]
    ]
    return sum(values) / len(values)


def overall_data(findings: RunFindings) -> OverallData:
    """Return what the distribution figures show."""
    analysis = findings.analysis
    kinds = analysis.facts.kinds
    videos = _videos_of_points(findings)
    return OverallData(
        gating_type=analysis.facts.gating_type,
        n_samples=len(analysis.rows),
        n_videos=_n_videos(findings),
        gates={kind: _distribution(analysis, kind) for kind in kinds},
        magnitude={kind: _by_video(_column(analysis, kind, "abs_mean"), videos) for kind in kinds},
        injection={kind: _by_video(_column(analysis, kind, "injection_mean"), videos) for kind in kinds}
        if analysis.has_injection
        else {},
        points="sample" if videos is None else "video",
    )


def _videos_of_points(findings: RunFindings) -> list[str] | None:
    """Return every row's video where gates were found not to depend on the query: such a video is one case, not several."""
    check = findings.sections.get("audit", {}).get("query_independence") or {"largest_gate_change": None}
    change = check["largest_gate_change"]
    vids = {context.sample_id: context.query.vid for context in findings.contexts if context.query is not None}
    of_rows = [vids.get(row.sample_id) for row in findings.analysis.rows]
    known = [vid for vid in of_rows if vid is not None]
    return known if change is not None and change <= NOISE and len(known) == len(of_rows) else None


def _by_video(values: np.ndarray, videos: Sequence[str] | None) -> np.ndarray:
    """Return the mean of each video's rows, (videos, N); the rows as they are without videos."""
    if videos is None:
        return values
    names, of_row = np.unique(np.array(videos), return_inverse=True)
    return np.array([values[of_row == video].mean(axis=0) for video in range(len(names))])


def _n_videos(findings: RunFindings) -> int | None:
    vids = {context.query.vid for context in findings.contexts if context.query is not None}
    return len(vids) or None


def _layer_entries(analysis: GateAnalysis, kind: str) -> list[dict[str, Any]]:
    return [analysis.statistics["layer_statistics"][str(i)][kind] for i in range(analysis.facts.num_layers)]


def _distribution(analysis: GateAnalysis, kind: str) -> GateDistribution:
    entries = _layer_entries(analysis, kind)
    histograms = [entry["histogram"] for entry in entries]
    magnitudes = [entry["magnitude"]["histogram"] for entry in entries]
    edges, counts = _common(histograms)
    magnitude_edges, magnitude_counts = _common(magnitudes)
    return GateDistribution(edges, counts, _summary(entries), magnitude_edges, magnitude_counts)


def _common(histograms: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    edges = [np.asarray(h["edges"], float) for h in histograms]
    if all(np.array_equal(e, edges[0]) for e in edges):
        return edges[0], np.array([h["counts"] for h in histograms])
    # Gates of unknown range have bins of their own per layer.
    target = np.linspace(min(e[0] for e in edges), max(e[-1] for e in edges), 129)
    # A bin goes where its middle lies, whether or not it is finer than those all layers share.
    return target, np.array(
        [
            np.histogram((e[:-1] + e[1:]) / 2, target, weights=h["counts"])[0]
            for e, h in zip(edges, histograms, strict=True)
        ]
    )


def _summary(entries: Sequence[Mapping[str, Any]]) -> LayerSummary:
    p = [entry["percentiles"] for entry in entries]
    return LayerSummary(
        mean=np.array([e["mean"] for e in entries]),
        p05=np.array([q["5"] for q in p]),
        p25=np.array([q["25"] for q in p]),
        median=np.array([e["median"] for e in entries]),
        p75=np.array([q["75"] for q in p]),
        p95=np.array([q["95"] for q in p]),
    )


def _column(analysis: GateAnalysis, kind: str, name: str) -> np.ndarray:
    """Return one figure of every sample and layer, (S, N)."""
    return np.array([[getattr(gate, name) for gate in row.gates[kind]] for row in analysis.rows], dtype=float)


def pattern_data(findings: RunFindings, groups: NDArray[np.intp] | None = None) -> PatternData:
    """Return what the samples x layers figure shows, the rows in their groups."""
    analysis = findings.analysis
    kinds = analysis.facts.kinds
    return PatternData(
        sample_ids=[str(row.sample_id) for row in analysis.rows],
        gating_type=analysis.facts.gating_type,
        gates={kind: _column(analysis, kind, "mean") for kind in kinds},
        magnitudes={kind: _column(analysis, kind, "abs_mean") for kind in kinds},
        injection={kind: _column(analysis, kind, "injection_mean") for kind in kinds} if analysis.has_injection else {},
        n_videos=_n_videos(findings),
        groups=groups,
    )


def _profiles(analysis: GateAnalysis) -> tuple[np.ndarray, list[tuple[str, int]], str]:
    """Return every sample's gate profile, (S, F), kind and layer of the features, and their quantity.

    One quantity for all types of gating: the injection where it was measured. The mean of a gate is none: over channels
    it cancels, and its sign means nothing.
    """
    quantity, column = ("injection", "injection_mean") if analysis.has_injection else ("magnitude", "abs_mean")
    profiles = np.concatenate([_column(analysis, kind, column) for kind in analysis.facts.kinds], axis=1)
    features = [(kind, layer) for kind in analysis.facts.kinds for layer in range(analysis.facts.num_layers)]
    return profiles, features, quantity
