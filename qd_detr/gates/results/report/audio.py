"""The report's section on whether the audio helps: what changes when gates or audio are changed on purpose."""

from __future__ import annotations

from typing import Any

from qd_detr.gates.analysis.intervals import FEW_CLUSTERS, TOO_FEW_CLUSTERS
from qd_detr.gates.gating import REFINEMENT
from qd_detr.gates.results.conditions import condition_words
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.annotation import metrics_lines
from qd_detr.gates.results.report.markdown import foreign, number, percent, table
from qd_detr.gates.results.report.wording import counted, heads, report_texts
from qd_detr.gates.runs.interventions.conditions import ATTENTION_OFF, DOSES, audio_name, dose_name
from qd_detr.gates.runs.interventions.edits import BASELINE
from qd_detr.gates.wording import Texts

LIKE_R1 = "R1@0.5"
_SPOKEN_OF = (ATTENTION_OFF, audio_name("none"))


def audio_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section, or nothing if no condition was run."""
    data: dict[str, Any] | None = findings.sections.get("audio_help")
    if data is None:
        return []
    lines = [texts("audio.title"), "", _about(data, findings, texts), ""]
    lines += _condition_table(data, data["metrics"]["primary"], texts)
    told = [
        # The first verdict opens the report.
        *(verdict_sentence(verdict, texts) for verdict in data["verdict"][1:]),
        *_power_sentence(data, texts),
        *dose_sentences(data, texts),
        *interaction_sentences(data, texts),
        *calibration_sentences(data, texts),
        *metrics_lines(findings, texts, shown=data["metrics"]["names"]),
    ]
    return [*lines, *(f"- {sentence}" for sentence in told), *([""] if told else [])]


def _about(data: dict[str, Any], findings: RunFindings, texts: Texts) -> str:
    videos = data["n_source_videos"]
    kind = "none" if videos < TOO_FEW_CLUSTERS else "few" if videos < FEW_CLUSTERS else "many"
    intervals = texts(
        f"audio.intervals.{kind}",
        level=f"{100 * data['bootstrap']['level']:g}",
        source_videos=counted(texts, videos, "source_video"),
    )
    parts = [texts("audio.about", queries=counted(texts, data["n_queries"], "query"), intervals=intervals)]
    if data["metrics"]["names"]:
        parts.append(texts("audio.star"))
    if any(gate.role == REFINEMENT for gate in findings.analysis.facts.gates):
        parts.append(texts("audio.gates_off"))
    if any(record["name"] == audio_name("none") for record in data["conditions"]):
        parts.append(texts("audio.silence"))
    return " ".join(parts)


def with_sentences(section: dict[str, Any]) -> dict[str, Any]:
    """Return the section for its JSON file: each verdict and relation with its "sentence" in English."""
    texts = report_texts("en")
    written = {**section, "verdict": [{**one, "sentence": verdict_sentence(one, texts)} for one in section["verdict"]]}
    if section["explanation"]:
        told = {
            key: [{**one, "sentence": relation_sentence(one, texts)} for one in section["explanation"][key]]
            for key in ("relations", "within")
        }
        written["explanation"] = {**section["explanation"], **told}
    return written


def verdict_sentence(verdict: dict[str, Any], texts: Texts) -> str:
    """Return a verdict in a sentence, the answer first, then its numbers."""
    effect = verdict["effect"]
    if effect["estimate"] is None:
        return texts("audio.verdict.unknown", reason=texts.say(effect["reason"]))
    answer = texts(f"audio.verdict.{verdict['verdict']}", margin=f"{verdict['margin']:g}")
    numbers = _numbers(verdict, texts)
    if verdict["verdict"] != "undecided":
        return texts("audio.verdict", answer=answer, numbers=numbers)
    why = verdict["reason_key"]
    if why in ("adjusted", "disagree"):
        numbers = texts(f"audio.undecided.{why}", numbers=numbers)
    least = verdict["minimum_detectable"]
    if least is None:
        return texts("audio.verdict", answer=answer, numbers=numbers)
    return texts("audio.verdict.blind", answer=answer, numbers=numbers, least=f"{least:.1f}")


def _numbers(verdict: dict[str, Any], texts: Texts) -> str:
    effect = verdict["effect"]
    shared = {
        "metric": verdict["metric"],
        "without": texts(f"audio.without.{verdict['without']}"),
        "queries": counted(texts, effect["n"], "query"),
        "videos": counted(texts, effect["n_clusters"], "source_video"),
    }
    estimate = f"{effect['estimate']:+.2f}"
    if effect["low"] is None or effect["high"] is None:
        return texts("audio.counts.none", estimate=estimate, reason=texts.say(effect["reason"]), **shared)
    if effect["rule_of_three"] is not None and effect["estimate"] == 0:
        return texts("audio.counts.same", share=percent(effect["rule_of_three"]), **shared)
    interval = {
        "low": f"{effect['low']:+.2f}",
        "high": f"{effect['high']:+.2f}",
        "level": f"{100 * effect['level']:g}",
    }
    return texts("audio.counts", estimate=estimate, **interval, **shared)


def wrong_audio_sentences(data: dict[str, Any], texts: Texts) -> list[str]:
    """Return whether audio that is not the clip's own is worse, or better, than none; nothing where it does not stand."""
    stand = [one for one in data["wrong_audio"] if one["significant"]]
    stand = [one for one in stand if one["without"] == data["verdict"][0]["without"]]
    sentences = []
    for found, mine in (
        ("worse", [one for one in stand if one["difference"]["estimate"] < 0]),
        ("better", [one for one in stand if one["difference"]["estimate"] > 0]),
    ):
        parts = [
            texts(f"audio.wrong.{one['mode']}", difference=interval_text(one["difference"], texts)) for one in mine
        ]
        if parts:
            without = texts(f"audio.without.{mine[0]['without']}")
            shown = {"without": without, "metric": mine[0]["metric"], "parts": ", ".join(parts)}
            sentences.append(texts(f"audio.wrong.{found}", **shown))
    return sentences


def _power_sentence(data: dict[str, Any], texts: Texts) -> list[str]:
    """Return what this data could have shown, and whether an effect that stands exceeds the margin.

    Nothing of a verdict that is undecided, whose own sentence says it.
    """
    if not data["verdict"] or data["verdict"][0]["minimum_detectable"] is None:
        return []
    primary = data["verdict"][0]
    if primary["verdict"] == "undecided":
        return []
    effective = f"{primary['effective_n']:.0f}"
    told = texts("audio.power", least=f"{primary['minimum_detectable']:.1f}", effective=effective)
    if primary["size"] is None:
        return [told]
    size = texts(f"audio.size.{primary['size']}", margin=f"{primary['margin']:g}")
    return [f"{told} {size}"]


def dose_sentences(data: dict[str, Any], texts: Texts) -> list[str]:
    """Return at which strengths of the attention gates the primary metric changes; nothing where none between stands."""
    metric, by_name = data["metrics"]["primary"], {record["name"]: record for record in data["conditions"]}
    if metric is None or data["dose_curve"] is None:
        return []
    stand, same = [], []
    for dose in DOSES:
        entry = by_name[dose_name(dose)]["metrics"][metric]
        if not entry["change"] or dose == 0:
            continue
        if entry["verdict"]["verdict"] in ("helps", "hurts"):
            stand.append(texts("audio.dose.part", dose=f"{dose:g}", change=interval_text(entry["change"], texts)))
        else:
            same.append(f"{dose:g}")
    if not stand:
        return []
    rest = texts("audio.dose.same", doses=", ".join(same)) if same else ""
    return [texts("audio.dose", metric=metric, parts=", ".join(stand), rest=rest)]


def interaction_sentences(data: dict[str, Any], texts: Texts) -> list[str]:
    """Return whether layers stand in for each other, where that stands for the primary metric."""
    found, metric = data["interactions"], data["metrics"]["primary"]
    entry = found and found["metrics"].get(metric)
    if not entry or not entry["significant"]:
        return []
    low, high = entry["interaction"]["low"], entry["interaction"]["high"]
    if low is None or low <= 0 <= high:
        return []
    key = "stand_in" if entry["interaction"]["estimate"] > 0 else "need"
    shown = {name: f"{entry[name]:+.2f}" for name in ("together", "sum")}
    difference = interval_text(entry["interaction"], texts)
    return [texts(f"audio.layers.{key}", metric=metric, difference=difference, **shown)]


def calibration_sentences(data: dict[str, Any], texts: Texts) -> list[str]:
    """Return whether the first window's score is higher, or lower, than the share of first windows that are right."""
    rows = {one["condition"]: one for one in data["calibration"] if one["threshold"] == LIKE_R1}
    found = rows.pop(BASELINE, None)
    interval = found and found["overconfidence"]
    if not interval or interval["low"] is None or interval["low"] <= 0 <= interval["high"]:
        return []
    key = "high" if interval["estimate"] > 0 else "low"
    shown = {name: f"{found[name]:.1f}" for name in ("mean_score", "right")}
    difference = interval_text(interval, texts)
    sentence = texts(f"audio.score.{key}", threshold=LIKE_R1, difference=difference, **shown)
    after = next(iter(rows.values()), None)  # of the primary contrast
    if after is None or not data["verdict"]:
        return [sentence]
    without = texts(f"audio.without.{data['verdict'][0]['without']}")
    shown = {name: f"{after[name]:.1f}" for name in ("mean_score", "right")}
    return [f"{sentence} {texts('audio.score.without', without=without, **shown)}"]


def relation_sentence(relation: dict[str, Any], texts: Texts) -> str:
    """Return in a sentence how gates relate to the audio effect."""
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


def interval_cell(interval: dict[str, Any], texts: Texts) -> str:
    """Return an estimate with its interval, as a table shows them: no reason in every cell."""
    if interval["estimate"] is None:
        return "-"
    return f"{interval['estimate']:+.2f}" if interval["low"] is None else interval_text(interval, texts)


def _condition_table(data: dict[str, Any], primary: str | None, texts: Texts) -> list[str]:
    names = data["metrics"]["names"]
    same_as = {record["name"]: record["same_as"] for record in data["conditions"]}
    rows = []
    for record in data["conditions"]:
        if record["same_as"]:
            continue
        # The sentences speak of all attention gates off, which comes to a layer's own where there is one.
        names_here = [record["name"], *(same for same in _SPOKEN_OF if same_as.get(same) == record["name"])]
        cells = [" = ".join(foreign(condition_words(name, texts)) for name in names_here)]
        moved = record["predictions"]
        cells.append("-" if moved is None else percent(moved["first_window_changed"]["estimate"] / 100))
        for metric in names:
            entry = record["metrics"].get(metric)
            change = entry and entry["change"]
            shown = number(entry["value"], 2) if entry and record["name"] == BASELINE else "-"
            if change:
                mark = " *" if entry["significant"] else ""
                shown = (
                    f"{interval_cell(change, texts)}{mark}" if metric == primary else f"{change['estimate']:+.2f}{mark}"
                )
            cells.append(shown)
        rows.append(cells)
    return table([*heads(texts, "audio", "condition", "moves"), *names], rows)
