"""The report's section on whether the audio helps: what changes when gates or audio are changed on purpose."""

from __future__ import annotations

from typing import Any

from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.markdown import foreign, number, percent, table
from qd_detr.gates.results.report.wording import counted, heads, label, report_texts
from qd_detr.gates.wording import Texts


def audio_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section, or nothing if no condition was run."""
    data: dict[str, Any] | None = findings.sections.get("audio_help")
    if data is None:
        return []
    boot, primary = data["bootstrap"], data["metrics"]["primary"]
    about = texts(
        "audio.about",
        queries=counted(texts, data["n_queries"], "query"),
        level=f"{100 * boot['level']:g}",
        source_videos=counted(texts, data["n_source_videos"], "source_video"),
        draws=f"{boot['draws']:,}",
        seed=boot["seed"],
        recorded=label(texts, "audio.recorded", data["gates_recorded"]),
    )
    lines = [texts("audio.title"), "", about, ""]
    # The first verdict opens the report.
    lines += [line for verdict in data["verdict"][1:] for line in (verdict_sentence(verdict, texts), "")]
    reason = data["metrics"]["reason"]
    if reason:
        shown = texts.say(reason)
        lines += [texts("audio.reason", reason=shown[0].upper() + shown[1:]), ""]
    lines += _condition_table(data, primary, texts)
    lines += _slice_table(data, texts)
    return lines + _explanation(data, texts)


def with_sentences(section: dict[str, Any]) -> dict[str, Any]:
    """Return the section for its JSON file: each verdict and relation with its "sentence" in English."""
    texts = report_texts("en")
    written = {**section, "verdict": [{**one, "sentence": verdict_sentence(one, texts)} for one in section["verdict"]]}
    if section["explanation"]:
        relations = section["explanation"]["relations"]
        told = [{**one, "sentence": relation_sentence(one, texts)} for one in relations]
        written["explanation"] = {**section["explanation"], "relations": told}
    return written


def verdict_sentence(verdict: dict[str, Any], texts: Texts) -> str:
    """Return a verdict in a sentence, the answer first, then its numbers."""
    effect = verdict["effect"]
    if effect["estimate"] is None:
        return texts("audio.verdict.unknown", reason=texts.say(effect["reason"]))
    without = texts(f"audio.without.{verdict['without']}")
    numbers = texts("audio.numbers", metric=verdict["metric"], without=without, effect=_with_counts(effect, texts))
    answer = texts(f"audio.verdict.{verdict['verdict']}", margin=f"{verdict['margin']:g}")
    least = verdict["minimum_detectable"]
    if verdict["verdict"] != "undecided" or least is None:
        return texts("audio.verdict", answer=answer, numbers=numbers)
    return texts("audio.verdict.blind", answer=answer, numbers=numbers, least=f"{least:.1f}")


def _with_counts(effect: dict[str, Any], texts: Texts) -> str:
    counts = {
        "queries": counted(texts, effect["n"], "query"),
        "videos": counted(texts, effect["n_clusters"], "source_video"),
    }
    estimate = f"{effect['estimate']:+.2f}"
    if effect["low"] is None or effect["high"] is None:
        return texts("audio.counts.none", estimate=estimate, reason=texts.say(effect["reason"]), **counts)
    if effect["rule_of_three"] is not None and effect["estimate"] == 0:
        return texts("audio.counts.same", share=percent(effect["rule_of_three"]), **counts)
    bounds = {"low": f"{effect['low']:+.2f}", "high": f"{effect['high']:+.2f}"}
    return texts("audio.counts", estimate=estimate, level=f"{100 * effect['level']:g}", **bounds, **counts)


def relation_sentence(relation: dict[str, Any], texts: Texts) -> str:
    """Return a relation in a sentence."""
    interval = relation["correlation"]
    what = texts(
        "explanation.what",
        figure=texts(f"series.{relation['figure']}"),
        effect=texts(f"explanation.effect.{relation['effect']}"),
        score=relation["score"],
        without=texts(f"audio.without.{relation['without']}"),
    )
    if interval["estimate"] is None or interval["low"] is None or interval["high"] is None:
        return texts("explanation.none", what=what, reason=texts.say(interval["reason"]))
    if interval["low"] <= 0 <= interval["high"]:
        found = "not_found"
    elif not relation["significant"]:
        found = "not_standing"
    else:
        found = "larger" if interval["estimate"] > 0 else "smaller"
    shown = {key: f"{interval[key]:+.2f}" for key in ("estimate", "low", "high")}
    return texts(f"explanation.{found}", what=what, numbers=texts("explanation.numbers", n=interval["n"], **shown))


def interval_text(interval: dict[str, Any], texts: Texts) -> str:
    """Return an estimate with its interval, or why there is none."""
    if interval["estimate"] is None:
        return texts("audio.no_estimate", reason=texts.say(interval["reason"]))
    estimate = f"{interval['estimate']:+.2f}"
    if interval["low"] is None:
        return texts("audio.no_interval", estimate=estimate, reason=texts.say(interval["reason"]))
    return texts("audio.interval", estimate=estimate, low=f"{interval['low']:+.2f}", high=f"{interval['high']:+.2f}")


def _condition_table(data: dict[str, Any], primary: str | None, texts: Texts) -> list[str]:
    names = data["metrics"]["names"]
    rows = []
    for record in data["conditions"]:
        if record["same_as"]:
            continue
        cells = [foreign(record["name"])]
        moved = record["predictions"]
        cells.append("-" if moved is None else percent(moved["first_window_changed"]["estimate"] / 100))
        for metric in names:
            entry = record["metrics"].get(metric)
            change = entry and entry["change"]
            shown = number(entry["value"], 2) if entry and record["name"] == "baseline" else "-"
            if change:
                mark = " *" if entry["significant"] else ""
                shown = (
                    f"{interval_text(change, texts)}{mark}" if metric == primary else f"{change['estimate']:+.2f}{mark}"
                )
            cells.append(shown)
        rows.append(cells)
    lines = table([*heads(texts, "audio", "condition", "moves"), *names], rows)
    if names:
        lines += [texts("audio.conditions"), ""]
    return lines


def _slice_table(data: dict[str, Any], texts: Texts) -> list[str]:
    if not data["verdict"]:
        return []
    primary, without = data["metrics"]["primary"], data["verdict"][0]["without"]
    rows = [
        [
            texts.say(record["description"]),
            record["n"],
            interval_text(record["effect"], texts),
            interval_text(record["difference"], texts),
            texts("yes" if record["significant"] else "no"),
        ]
        for record in data["slices"]
        # A slice of every query has no others to differ from.
        if (record["metric"], record["without"]) == (primary, without) and record["n"] < data["n_labelled"]
    ]
    if not rows:
        return []
    head = heads(texts, "slices", "slice", "n")
    way = texts(f"audio.way.{without}")
    head += [texts("slices.head.effect", metric=primary, way=way), *heads(texts, "slices", "difference", "stands")]
    return [texts("slices.title"), "", *table(head, rows)]


def _explanation(data: dict[str, Any], texts: Texts) -> list[str]:
    found = data["explanation"]
    # Under silence gates answer to what they were never trained on: no evidence on the gates as they are.
    relations = [one for one in (found or {"relations": []})["relations"] if one["without"] == "gates_off"]
    known = [one for one in relations if one["correlation"]["low"] is not None]
    if not known:
        return []
    strongest = max(known, key=lambda one: abs(one["correlation"]["estimate"]))
    stand = sum(bool(one["significant"]) for one in relations)
    about = texts("explanation.about", tests=len(relations), found=stand)
    return [texts("explanation.title"), "", f"{about} {relation_sentence(strongest, texts)}", ""]
