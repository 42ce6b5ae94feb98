"""The report on when: what moves in time with the audio, the timeline, and whether gates follow the moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qd_detr.gates.analysis.group_effects import telling_groups
from qd_detr.gates.gating import ATTENTION
from qd_detr.gates.results.context import RunFindings
from qd_detr.gates.results.report.audio import interval_text
from qd_detr.gates.results.report.markdown import number, percent, table
from qd_detr.gates.results.report.wording import counted, heads, label
from qd_detr.gates.wording import Texts

SIGNIFICANT = 0.05
_FIGURES = ("inside_minus_outside", "saliency_correlation")


def moves_sentence(data: dict[str, Any], texts: Texts) -> list[str]:
    """Return whether the clips that the audio brings into the first window lie inside the moments."""
    moves = data["window_moves"]
    if moves is None or moves["difference"]["low"] is None:
        return []
    low, high = moves["difference"]["low"], moves["difference"]["high"]
    found = "same" if low <= 0 <= high else "towards" if low > 0 else "away"
    return [
        texts(
            f"moves.{found}",
            moved=moves["n_moved"],
            of=counted(texts, moves["n"], "query"),
            gained=percent(moves["gained"]["inside"] / 100),
            lost=percent(moves["lost"]["inside"] / 100),
            all=percent(moves["inside"] / 100),
            difference=interval_text(moves["difference"], texts),
        )
    ]


def timeline_sentence(findings: RunFindings, texts: Texts) -> list[str]:
    """Return whether the contributions lie inside the moments; nothing where no sample tells."""
    moments = findings.sections.get("timeline", {}).get("moments")
    if not moments or not moments["applies"]:
        return []
    p = moments["size"]["p"]
    if p is None:
        return []
    shares = {"share": percent(moments["share_inside"]), "clips": percent(moments["share_of_clips"])}
    found = "inside" if moments["share_inside"] > moments["share_of_clips"] else "outside"
    found = found if p < SIGNIFICANT else "same"
    return [texts(f"timeline.{found}", n=moments["n"], p=p_text(p), **shares)]


def when_section(findings: RunFindings, texts: Texts) -> list[str]:
    """Return the section on the timeline and on the gates against the moments; nothing where neither was measured."""
    lines = [*_timeline(findings.sections.get("timeline"), texts), *_alignment(findings, texts)]
    return [texts("when.title"), "", *lines] if lines else []


def _timeline(data: dict[str, Any] | None, texts: Texts) -> list[str]:
    if data is None:
        return []
    told = []
    for name, target in data["targets"].items():
        effect = interval_text(target["effect"], texts)
        counts = {"n": target["n"], "complete": target["n_complete"], "largest": number(target["largest_residual"])}
        told.append(texts(f"timeline.target.{name}", effect=effect, **counts))
    faithful = data["faithfulness"]
    if faithful:
        for found in ("better", "not_shown"):
            orders = [
                texts(f"timeline.order.{order}", more=interval_text(more, texts))
                for order, more in faithful["advantage"].items()
                if (found == "better") == (more["low"] is not None and more["low"] > 0)
            ]
            if orders:
                told.append(texts(f"timeline.faithful.{found}", orders=", ".join(orders)))
    occlusion = data["occlusion"]
    if occlusion:
        shown = {key: number(occlusion[key], 2) for key in ("mean", "lowest")}
        told.append(texts("timeline.occlusion", clips=occlusion["clips"], n=occlusion["n"], **shown))
    return [*(f"- {sentence}" for sentence in told), ""]


def _alignment(findings: RunFindings, texts: Texts) -> list[str]:
    """Return whether the attention gates do something else inside the moments than outside."""
    data: dict[str, Any] | None = findings.sections.get("alignment")
    if data is None:
        return []
    if not data["applies"]:
        return [texts("alignment.not", reason=texts.say(data["reason"])), ""]
    missing, columns = [], []  # a column is (against, statistic)
    for against in ("annotation", "prediction"):
        part = data[against]
        known = [
            name
            for name in _FIGURES
            if part["applies"] and any(one[name]["effect"] is not None for one in part["series"])
        ]
        columns += [(against, name) for name in known]
        if not part["applies"]:
            missing.append(texts("alignment.not", reason=texts.say(part["reason"])))
        elif not known:
            missing.append(texts(f"alignment.nothing.{against}"))
    if not columns:
        return [*(f"- {sentence}" for sentence in missing), ""]
    groups = telling_groups(findings.sections.get("audio_help", {}).get("groups", []))
    names = {"all": texts("alignment.group.all")}
    names |= {side: texts(f"groups.{groups['of']}.{side}") for side in ("open", "closed")} if groups else {}
    rows = [
        [names.get(group, group), layer, label(texts, "series", series), *cells]
        for group in _groups(data, columns)
        for layer, series, cells in _rows_of(data, group, columns, texts)
        # Magnitude says the same of a group; what it is in all videos is said once.
        if group == "all" or series == "injection"
    ]
    head = heads(texts, "alignment", "group", "gate", "series", *("_".join(key) for key in columns))
    about = texts("alignment.about", draws=f"{data['draws']:,}")
    told = [*_stand_inside(data["annotation"], texts), *missing]
    return [about, "", *table(head, rows), *(f"- {sentence}" for sentence in told), *([""] if told else [])]


def _groups(data: dict[str, Any], columns: Sequence[tuple[str, str]]) -> list[str]:
    return ["all", *data[columns[0][0]]["groups"]]


def _rows_of(
    data: dict[str, Any], group: str, columns: Sequence[tuple[str, str]], texts: Texts
) -> Iterator[tuple[int, str, list[str]]]:
    """Yield per series of the attention gates its layer, its name and its cells."""
    parts = {
        against: data[against]["series"] if group == "all" else data[against]["groups"][group] for against, _ in columns
    }
    for together in zip(*parts.values(), strict=True):
        of = dict(zip(parts, together, strict=True))
        one = together[0]
        if one["kind"] == ATTENTION.kind:
            yield one["layer"], one["series"], [_with_p(of[against][name], texts) for against, name in columns]


def _stand_inside(part: dict[str, Any], texts: Texts) -> list[str]:
    """Return in which layers more, or less, audio is let in inside the annotated moments, of what stands."""
    layers: dict[str, list[str]] = {}
    for one in part["series"] if part["applies"] else ():
        figure = one["inside_minus_outside"]
        injection = (one["kind"], one["series"]) == (ATTENTION.kind, "injection")
        if injection and figure["effect"] is not None and figure["adjusted_p"] < SIGNIFICANT:
            key = "higher" if figure["effect"] > 0 else "lower"
            layers.setdefault(key, []).append(texts("layer", layer=one["layer"]))
    return [texts(f"alignment.stands.{key}", layers=", ".join(names)) for key, names in layers.items()]


def _with_p(figure: dict[str, Any], texts: Texts) -> str:
    if figure["effect"] is None:
        return "-"
    mark = " *" if figure["adjusted_p"] < SIGNIFICANT else ""
    return texts("alignment.cell", effect=f"{figure['effect']:+.3f}", p=p_text(figure["adjusted_p"])) + mark


def p_value(p: float | None) -> str:
    """Return a p value as the report writes it: thousands of draws do not tell values below 0.001 apart."""
    return number(p) if p is None or p >= 0.001 else "< 0.001"


def p_text(p: float) -> str:
    """Return "= 0.020" or "< 0.001"."""
    return p_value(p) if p < 0.001 else f"= {number(p)}"
