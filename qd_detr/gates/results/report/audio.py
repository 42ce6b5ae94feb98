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
    for verdict in data["verdict"] or []:
        lines += _verdict_lines(verdict, texts)
    reason = data["metrics"]["reason"]
    if reason:
        shown = texts.say(reason)
        lines += [texts("audio.reason", reason=shown[0].upper() + shown[1:]), ""]
    lines += _condition_table(data, primary, texts)
    lines += _slice_table(data, texts)
    return lines + _explanation(data, texts)


def audio_sentences(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the verdicts for the report's opening."""
    data = findings.sections.get("audio_help")
    return [verdict_sentence(verdict, texts) for verdict in (data or {}).get("verdict") or []]


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
    """Return a verdict in a sentence."""
    effect = verdict["effect"]
    if effect["low"] is None or effect["high"] is None or effect["estimate"] is None:
        return texts("audio.verdict.unknown", reason=texts.say(effect["reason"]))
    return texts(
        "audio.verdict",
        metric=verdict["metric"],
        without=texts(f"audio.without.{verdict['without']}"),
        estimate=f"{effect['estimate']:+.2f}",
        level=f"{100 * effect['level']:g}",
        low=f"{effect['low']:+.2f}",
        high=f"{effect['high']:+.2f}",
        n=effect["n"],
        n_clusters=effect["n_clusters"],
        conclusion=texts(f"audio.verdict.{verdict['direction']}"),
    )


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


def _verdict_lines(verdict: dict[str, Any], texts: Texts) -> list[str]:
    lines = [f"**{verdict_sentence(verdict, texts)}**", ""]
    stands = [
        (key, verdict[of]) for key, of in (("helps_most", "best_slice"), ("hurts_most", "worst_slice")) if verdict[of]
    ]
    if not stands and verdict["largest_slice"]:
        stands = [("no_slice", verdict["largest_slice"])]
    for key, record in stands:
        name, effect = texts.say(record["description"]), _interval(record["effect"], texts)
        lines.append(texts(f"audio.{key}", slice=name, effect=effect, n=record["n"]))
    return [*lines, ""]


def _interval(interval: dict[str, Any], texts: Texts) -> str:
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
        same = record["same_as"]
        name = foreign(record["name"])
        cells = [texts("audio.same_as", name=name, same=foreign(same)) if same else name]
        moved = record["predictions"]
        cells.append("-" if moved is None else percent(moved["first_window_changed"]["estimate"] / 100))
        for metric in names:
            entry = record["metrics"].get(metric)
            change = entry and entry["change"]
            shown = number(entry["value"], 2) if entry and record["name"] == "baseline" else "-"
            if change:
                mark = " *" if entry["significant"] else ""
                shown = f"{_interval(change, texts)}{mark}" if metric == primary else f"{change['estimate']:+.2f}{mark}"
            cells.append(shown)
        rows.append(cells)
    lines = table([*heads(texts, "audio", "condition", "moves"), *names], rows)
    if names:
        lines += [texts("audio.conditions"), ""]
    return lines


def _slice_table(data: dict[str, Any], texts: Texts) -> list[str]:
    primary = data["metrics"]["primary"]
    rows = [
        [
            texts.say(r["description"]),
            texts(f"audio.way.{r['without']}"),
            r["n"],
            _interval(r["effect"], texts),
            texts("yes" if r["significant"] else "no"),
        ]
        for r in data["slices"] or []
        if r["metric"] == primary
    ]
    if not rows:
        return []
    head = heads(texts, "slices", "slice", "without", "n")
    head += [texts("slices.head.effect", metric=primary), texts("slices.head.stands")]
    return [texts("slices.title"), "", *table(head, rows)]


def _explanation(data: dict[str, Any], texts: Texts) -> list[str]:
    found = data["explanation"]
    if not found:
        return []
    about = texts("explanation.about", tests=found["n_tests"], found=found["found"])
    sentences = [f"- {relation_sentence(relation, texts)}" for relation in found["relations"]]
    return [texts("explanation.title"), "", about, "", *sentences, ""]
