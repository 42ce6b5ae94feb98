"""The report's section on which videos and queries: groups, slices, shares, and whether the gates tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qd_detr.gates.analysis.group_effects import telling_groups
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.audio import interval_cell
from qd_detr.gates.results.report.markdown import table
from qd_detr.gates.results.report.wording import counted, heads, label
from qd_detr.gates.wording import Texts


def videos_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section, or nothing if nothing was measured on predictions."""
    data: dict[str, Any] = findings.sections.get("audio_help", {})
    lines = [
        *_effect_table(data, texts),
        *_share_sentence(findings.sections.get("audio_share", {}).get("readings", {}), texts),
        *_relations(data, texts),
    ]
    return [texts("videos.title"), "", *lines] if lines else []


def _effect_table(data: dict[str, Any], texts: Texts) -> list[str]:
    """Return the effect in each group of videos and slice of queries, beside that on all others."""
    if not data.get("verdict"):
        return []
    primary, without = data["metrics"]["primary"], data["verdict"][0]["without"]
    groups = telling_groups(data["groups"])
    rows: list[list[object]] = []
    sides = [(groups, side) for side in ("open", "closed")] if groups else []
    for record, side in sides:
        for effect in record[side]["effects"][:1]:
            shown = (interval_cell(effect[key], texts) for key in ("effect", "difference"))
            rows.append([texts(f"groups.{record['of']}.{side}"), record[side]["n_queries"], *shown])
    slices = [
        record
        for record in data["slices"]
        # A slice of every query has no others to differ from.
        if (record["metric"], record["without"]) == (primary, without) and record["n"] < data["n_labelled"]
    ]
    for record in slices:
        mark = " *" if record["significant"] else ""
        rows.append(
            [
                texts.say(record["description"]),
                record["n"],
                interval_cell(record["effect"], texts),
                interval_cell(record["difference"], texts) + mark,
            ]
        )
    if not rows:
        return []
    head = heads(texts, "slices", "slice", "n")
    head += [
        texts("slices.head.effect", metric=primary, way=texts(f"audio.way.{without}")),
        texts("slices.head.difference"),
    ]
    lines = table(head, rows)
    if slices:
        stand = sum(bool(record["significant"]) for record in slices)
        lines += [
            texts("slices.some", n=len(slices), stand=stand) if stand else texts("slices.none", n=len(slices)),
            "",
        ]
    return lines


def _share_sentence(readings: dict[str, dict[str, Any]], texts: Texts) -> list[str]:
    """Return the audio's share by windows and by saliency."""
    told = [
        texts(
            f"share.reading.{name}",
            mean=f"{reading['mean']:.2f}",
            median=f"{reading['median']:.2f}",
            queries=counted(texts, reading["n"], "query"),
        )
        for name, reading in readings.items()
        if reading["n"]
    ]
    return [texts("share.readings", readings=", ".join(told)), ""] if told else []


def _relations(data: dict[str, Any], texts: Texts) -> list[str]:
    """Return whether the attention gates tell which queries the audio matters for, overall and within the groups."""
    found = data.get("explanation")
    if not found:
        return []
    # Under silence gates answer to what they were never trained on: no evidence on the gates as they are.
    relations = [one for one in found["relations"] if one["without"] == "gates_off"]
    within = [one for one in found["within"] if one["without"] == "gates_off"]
    if not any(one["correlation"]["low"] is not None for one in relations):
        return []
    stand, inside = (sum(bool(one["significant"]) for one in some) for some in (relations, within))
    key = "none_found" if not stand else "overall" if not within else "which" if not inside else "within"
    told = texts(f"explanation.{key}", tests=len(relations), found=stand, within=len(within), inside=inside)
    groups = telling_groups(data["groups"])
    rows = _relation_rows(relations, texts("explanation.all"), texts)
    for side in ("open", "closed"):
        mine = [one for one in within if one["group"] == side]
        if groups and mine:
            rows += _relation_rows(mine, texts(f"groups.{groups['of']}.{side}"), texts)
    scores = [(one["score"], one["effect"]) for one in relations if one["figure"] == relations[0]["figure"]]
    columns = [texts(f"explanation.head.{effect}", score=score) for score, effect in scores]
    return [told, "", *table([*heads(texts, "explanation", "figure", "over"), *columns], rows)]


def _relation_rows(relations: Sequence[dict[str, Any]], over: str, texts: Texts) -> list[list[object]]:
    rows: list[list[object]] = []
    for figure in dict.fromkeys(one["figure"] for one in relations):
        mine = [one for one in relations if one["figure"] == figure]
        rows.append([label(texts, "series", figure), over, *(_relation_cell(one) for one in mine)])
    return rows


def _relation_cell(relation: dict[str, Any]) -> str:
    estimate = relation["correlation"]["estimate"]
    return "-" if estimate is None else f"{estimate:+.2f}" + (" *" if relation["significant"] else "")
