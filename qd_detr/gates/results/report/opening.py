"""The first screen: does the audio help, for which videos, when, how much, and what to be careful about.

The answers come from what the predictions do. A sentence is there only where its numbers hold; a run that did not measure
something says nothing of it.
"""

from __future__ import annotations

from typing import Any

from qd_detr.gates.analysis.group_effects import telling_groups
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.annotation import planted_sentence
from qd_detr.gates.results.report.audio import interval_text, verdict_sentence, wrong_audio_sentences
from qd_detr.gates.results.report.gates import enters_sentence, nothing_enters
from qd_detr.gates.results.report.markdown import percent
from qd_detr.gates.results.report.when import moves_sentence, timeline_sentence
from qd_detr.gates.results.report.wording import counted
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF
from qd_detr.gates.wording import Texts

_QUESTIONS = ("helps", "which", "when", "how_much", "careful")


def key_sentences(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the answers, a paragraph for each of the five questions that has one, after what puts them in doubt."""
    answers = {
        "helps": _helps(findings, texts),
        "which": [*_which(findings, texts), *_planted(findings, texts)],
        "when": _when(findings, texts),
        "how_much": _how_much(findings, texts),
        "careful": _careful(findings, texts),
    }
    told = [texts(f"short.{one}", answer=" ".join(answers[one])) for one in _QUESTIONS if answers[one]]
    return [*_in_doubt(findings, texts), *told]


def _in_doubt(findings: RunFindings, texts: Texts) -> list[str]:
    """Return what puts every number in doubt: another gating type than trained, a family that nothing decides."""
    note, candidates = findings.analysis.facts.gating_note, findings.notes.get("families", [])
    doubts = [] if note is None else [f"**{texts.say(note)}**"]
    if len(candidates) > 1:
        doubts.append(texts("audit.family", candidates=", ".join(candidates), family=findings.notes["family"]))
    return doubts


def _helps(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the verdict of the primary contrast, and whether wrong audio is worse than none."""
    data = findings.sections.get("audio_help")
    if not data:
        return []
    if not data["metrics"]["available"]:
        return [texts("short.no_labels")]
    if not data["verdict"]:
        return []
    return [verdict_sentence(data["verdict"][0], texts), *wrong_audio_sentences(data, texts)]


def _which(findings: RunFindings, texts: Texts) -> list[str]:
    data = findings.sections.get("audio_help")
    if not data or not data["verdict"]:
        return []
    groups = telling_groups(data["groups"])
    sentences = [_group_sentence(groups, texts)] if groups else _large_share(findings, texts)
    primary = data["verdict"][0]
    flips = next((one for one in data["flips"] if one["without"] == primary["without"]), None)
    if flips and flips["rescued"]["count"] + flips["harmed"]["count"]:
        counts = {side: flips[side]["count"] for side in ("rescued", "harmed")}
        of = counted(texts, flips["rescued"]["share"]["n"], "query")
        sentences.append(texts("short.flips", threshold=flips["threshold"], of=of, **counts))
    apart = [(key, primary[of]) for key, of in (("higher", "best_slice"), ("lower", "worst_slice")) if primary[of]]
    if apart:  # of two, the one farther from the rest: a slice and its complement say the same
        key, record = max(apart, key=lambda one: abs(one[1]["difference"]["estimate"]))
        shown = {name: interval_text(record[name], texts) for name in ("effect", "difference")}
        sentences.append(texts(f"short.slice.{key}", slice=texts.say(record["description"]), n=record["n"], **shown))
    return sentences


def _planted(findings: RunFindings, texts: Texts) -> list[str]:
    data = findings.sections.get("planted")
    return [] if data is None else [planted_sentence(data, texts)]


def _group_sentence(groups: dict[str, Any], texts: Texts) -> str:
    shown = {}
    for side in ("open", "closed"):
        effects = groups[side]["effects"][:1]
        shown[side] = counted(texts, len(groups[side]["vids"]), "video")
        shown[f"{side}_worth"] = "".join(
            texts("groups.worth", effect=interval_text(one["effect"], texts)) for one in effects
        )
    return texts(f"groups.two.{groups['of']}", **shown)


def _large_share(findings: RunFindings, texts: Texts) -> list[str]:
    samples = findings.sections.get("audio_share", {}).get("samples", [])
    shares = [one["windows"]["share"] for one in samples if one["windows"]["share"] is not None]
    of = counted(texts, len(samples), "query")
    return [texts("short.large_share", n=sum(share > 0.5 for share in shares), of=of)] if shares else []


def _when(findings: RunFindings, texts: Texts) -> list[str]:
    """Return where in time the predictions change; the gates are no evidence on that."""
    data = findings.sections.get("audio_help")
    if not data or not _moved(data):
        return []
    sentences = [*moves_sentence(data, texts), *timeline_sentence(findings, texts)]
    return sentences if "timeline" in findings.sections else [*sentences, texts("short.timeline")]


def _moved(data: dict[str, Any]) -> float:
    """Return in which share of the queries the first window moves with all attention gates off, 0 to 1."""
    off = next((one for one in data["conditions"] if one["name"] == ATTENTION_OFF), None)
    return off["predictions"]["first_window_changed"]["estimate"] / 100 if off and off["predictions"] else 0.0


def _how_much(findings: RunFindings, texts: Texts) -> list[str]:
    sentences = []
    data = findings.sections.get("audio_help")
    reading = findings.sections.get("audio_share", {}).get("readings", {}).get("windows")
    groups = telling_groups(data["groups"]) if data else None
    if reading and reading["n"]:
        of = counted(texts, reading["n"] + reading["n_unmoved"], "query")
        rest = texts("share.rest") if reading["n_unmoved"] else ""
        shares = {"mean": _share(reading["mean"]), "median": _share(reading["median"])}
        if groups and groups["of"] == "audio_share":
            means = {side: _share(groups[side]["mean"]) for side in ("open", "closed")}
            sentences.append(texts("share.groups", **means, mean=shares["mean"]))
        else:
            sentences.append(texts("share.mean", **shares, n=reading["n"], of=of, rest=rest))
    elif reading:
        sentences.append(texts("share.none"))
    if data and _moved(data) and not moves_sentence(data, texts):
        sentences.append(texts("short.moved", share=percent(_moved(data))))
    # Which layer lets most in describes the mechanism; it opens a report only where nothing was measured on predictions.
    if data is None or nothing_enters(findings.analysis):
        sentences += enters_sentence(findings.analysis, texts)
    return sentences


def _share(value: float) -> str:
    return f"{value:.2f}"


def _careful(findings: RunFindings, texts: Texts) -> list[str]:
    data = findings.sections.get("audio_help")
    if not data:
        return []
    parts = [texts("careful.seed", videos=counted(texts, data["n_source_videos"], "source_video"))]
    if data["verdict"] and data["verdict"][0]["rough"]:
        parts.append(texts("careful.rough"))
    if data["metrics"]["available"] and data["metrics"]["reason"]:
        shown = texts.say(data["metrics"]["reason"])
        parts.append(texts("audio.reason", reason=shown[0].upper() + shown[1:]))
    batches = findings.sections.get("audit", {}).get("batch_effects")
    if batches and batches["first_window_changes"] and not findings.notes.get("legacy_batches"):
        first, of = batches["first_window_changes"], counted(texts, batches["queries"], "query")
        parts.append(texts("careful.batches", first=first, of=of))
    return parts
