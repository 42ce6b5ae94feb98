"""The first screen: does the audio help, for which videos, when, how much, and what to be careful about.

A sentence is there only where its numbers hold; a run that did not measure something says nothing of it.
"""

from __future__ import annotations

from typing import Any

from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.annotation import SIGNIFICANT, alignment_sentences, p_text, planted_sentence
from qd_detr.gates.results.report.audio import interval_text, verdict_sentence
from qd_detr.gates.results.report.gates import enters_sentence, nothing_enters
from qd_detr.gates.results.report.markdown import number, percent
from qd_detr.gates.results.report.wording import counted
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF
from qd_detr.gates.wording import Texts

OPENING_METRICS = ("MR-full-mAP", "MR-full-R1@0.5", "mAP")


def key_sentences(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the findings in a few sentences."""
    return [
        *_helps(findings, texts),
        *_which(findings, texts),
        *_when(findings, texts),
        *_how_much(findings, texts),
        *_careful(findings, texts),
    ]


def _helps(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the verdict of the primary contrast; without labels, how often its predictions move."""
    data = findings.sections.get("audio_help")
    if not data:
        return []
    if data["verdict"]:
        return [f"**{verdict_sentence(data['verdict'][0], texts)}**"]
    if data["metrics"]["available"]:
        return []
    off = next((one for one in data["conditions"] if one["name"] == ATTENTION_OFF and one["predictions"]), None)
    if off is None:
        return []
    moved = off["predictions"]["first_window_changed"]["estimate"]
    return [texts("short.no_labels", condition=off["name"], share=percent(moved / 100))]


def _which(findings: RunFindings, texts: Texts) -> list[str]:
    data = findings.sections.get("audio_help")
    if not data or not data["verdict"]:
        return []
    groups = [one for one in data.get("groups") or [] if one["threshold"] is not None]
    sentences = [_group_sentence(groups[-1], texts)] if groups else []
    primary = data["verdict"][0]
    flips = next((one for one in data.get("flips") or [] if one["without"] == primary["without"]), None)
    if flips and flips["rescued"]["count"] + flips["harmed"]["count"]:
        counts = {side: flips[side]["count"] for side in ("rescued", "harmed")}
        of = counted(texts, flips["rescued"]["share"]["n"], "query")
        sentences.append(texts("short.flips", threshold=flips["threshold"], of=of, **counts))
    for key, of in (("short.helps_more", "best_slice"), ("short.hurts_more", "worst_slice")):
        record = primary[of]
        if record:
            shown = interval_text(record["effect"], texts), interval_text(record["difference"], texts)
            name = texts.say(record["description"])
            sentences.append(texts(key, slice=name, n=record["n"], effect=shown[0], difference=shown[1]))
    return sentences


def _group_sentence(groups: dict[str, Any], texts: Texts) -> str:
    shown = {}
    for side in ("open", "closed"):
        of_side = groups[side]
        effect = of_side["effects"][0] if of_side["effects"] else None
        worth = "" if effect is None else texts("groups.worth", effect=interval_text(effect["effect"], texts))
        shown[side] = counted(texts, len(of_side["vids"]), "video") + worth
    return texts(f"groups.two.{groups['of']}", open=shown["open"], closed=shown["closed"])


def _when(findings: RunFindings, texts: Texts) -> list[str]:
    moments = findings.sections.get("timeline", {}).get("moments")
    if moments and moments["applies"] and moments["size"]["p"] is not None and moments["size"]["p"] < SIGNIFICANT:
        return [
            texts(
                "timeline.inside",
                n=moments["n"],
                share=percent(moments["share_inside"]),
                clips=percent(moments["share_of_clips"]),
                p=p_text(moments["size"]["p"]),
            )
        ]
    return alignment_sentences(findings, texts)


def _how_much(findings: RunFindings, texts: Texts) -> list[str]:
    sentences = []
    reading = findings.sections.get("audio_share", {}).get("readings", {}).get("windows")
    if reading and reading["n"]:
        of = counted(texts, reading["n"] + reading["n_unmoved"], "query")
        shares = {"mean": number(reading["mean"], 2), "median": number(reading["median"], 2)}
        sentences.append(
            texts(
                "share.mean", **shares, n=reading["n"], of=of, rest=texts("share.rest") if reading["n_unmoved"] else ""
            )
        )
    elif reading:
        sentences.append(texts("share.none"))
    # Which layer lets most in describes the mechanism; it opens a report only where nothing was measured on predictions.
    if "audio_help" not in findings.sections or nothing_enters(findings.analysis):
        sentences += enters_sentence(findings.analysis, texts)
    metrics = findings.sections.get("metrics")
    if metrics:
        given = [(name, value) for name, value in metrics["brief"].items() if value is not None]
        wanted = [f"{name} {number(value, 2)}" for name, value in given if name in OPENING_METRICS]
        if wanted:
            sentences.append(texts("short.metrics", metrics=", ".join(wanted)))
    if "planted" in findings.sections:
        sentences.append(planted_sentence(findings.sections["planted"], texts))
    return sentences


def _careful(findings: RunFindings, texts: Texts) -> list[str]:
    data = findings.sections.get("audio_help")
    if not data or not data["verdict"]:
        return []
    parts = [texts("careful.seed", videos=counted(texts, data["n_source_videos"], "source_video"))]
    primary = data["verdict"][0]
    if primary["rough"]:
        parts.append(texts("careful.rough"))
    batches = findings.sections.get("audit", {}).get("batch_effects")
    if batches and batches["first_window_changes"] and not findings.notes.get("legacy_batches"):
        first, of = batches["first_window_changes"], counted(texts, batches["queries"], "query")
        parts.append(texts("careful.batches", first=first, of=of))
    return [" ".join(parts)]
