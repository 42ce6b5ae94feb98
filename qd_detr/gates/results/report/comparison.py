"""COMPARISON_REPORT.md: finished runs side by side. Every sentence says of how many runs it speaks."""

from __future__ import annotations

from typing import Any

from qd_detr.gates.results.report.audio import interval_text
from qd_detr.gates.results.report.markdown import foreign, inline, number, percent, table
from qd_detr.gates.results.report.wording import counted, heads, report_texts
from qd_detr.gates.wording import Reason, Texts

_EFFECTS = "audio_effect_AP_"
PARTS = ("metrics", "slices", "measures", "predictions", "gates")
"""The tables of a comparison, in their order."""


def comparison_text(comparison: dict[str, Any], figures: list[tuple[str, Reason]], language: str = "en") -> str:
    """Return the report of finished runs, in "en" or "ko"."""
    texts = report_texts(language)
    lines = [texts("comparison.title"), ""]
    for sentence in comparison_sentences(comparison, texts):
        lines += [sentence, ""]
    for path, caption in figures:
        words = texts.say(caption)
        lines += [f"![{words}]({path})", "", words, ""]
    lines += _group_table(comparison, texts) + _run_table(comparison, texts)
    for part in PARTS:
        head, rows = comparison_rows(comparison, texts, part)
        if not rows:
            continue
        shown = [[cell if isinstance(cell, (str, int)) else number(cell) for cell in row] for row in rows]
        lines += [texts(f"comparison.part.{part}"), "", *table(head, shown)]
        if part == "measures":
            lines += [texts("comparison.measures.note"), ""]
        if part == "predictions":
            lines += [texts("comparison.predictions.note"), ""]
        if any(str(row[0]).endswith(" *") for row in rows):
            lines += [texts("comparison.stands.note"), ""]
    return "\n".join(lines).rstrip() + "\n"


def comparison_sentences(comparison: dict[str, Any], texts: Texts) -> list[str]:
    """Return what was found, the answer first."""
    boot = comparison["bootstrap"]
    about = texts(
        "comparison.about",
        runs=counted(texts, len(comparison["runs"]), "run"),
        queries=counted(texts, comparison["n_queries"], "query"),
        source_videos=counted(texts, comparison["n_source_videos"], "source_video"),
        level=f"{100 * boot['level']:g}",
        draws=f"{boot['draws']:,}",
    )
    sentences = []
    if not comparison["paired"]:
        sentences.append(texts("comparison.splits", n=len(comparison["runs"])))
    elif not comparison["metrics"]["available"]:
        sentences.append(texts("comparison.no_metrics", reason=foreign(texts.say(comparison["metrics"]["reason"]))))
    sentences += _ranking(comparison, texts)
    if comparison["paired"]:
        sentences += [*_seeds(comparison, texts), *_effects(comparison, texts), *_moved(comparison, texts)]
        sentences.append(_differs(comparison, texts))
    return [*sentences, about]


def _said(comparison: dict[str, Any], name: str, texts: Texts) -> str:
    """Return a group's name and how many runs it has."""
    group = next(group for group in comparison["groups"] if group["name"] == name)
    return texts("comparison.group", group=foreign(name), runs=counted(texts, len(group["runs"]), "run"))


def _ranking(comparison: dict[str, Any], texts: Texts) -> list[str]:
    ranking = comparison["ranking"]
    if ranking is None:
        return []
    leader, *others = ranking["order"]
    open_ones = [one for one in others if one["group"] in ranking["contenders"]]
    nearest = (open_ones or others)[0]
    behind = nearest["behind"]
    least = behind["verdict"]["minimum_detectable"]
    first = _said(comparison, leader["group"], texts)
    sentences = [
        texts(
            f"comparison.{ranking['verdict']}{'' if behind['seed_share'] is not None else '.single'}",
            first=first,
            second=_said(comparison, nearest["group"], texts),
            metric=ranking["metric"],
            mean=f"{leader['mean']:.2f}",
            effect=interval_text(behind["difference"], texts),
            margin=f"{behind['verdict']['margin']:g}",
            least="" if least is None else texts("comparison.least", least=f"{least:.1f}"),
        )
    ]
    rest = [_said(comparison, one["group"], texts) for one in open_ones[1:]]
    if rest:
        sentences.append(texts("comparison.contenders", first=first, others=", ".join(rest)))
    below = [one for one in others if one["group"] not in ranking["contenders"] and one is not nearest]
    if below:
        told = [
            texts(
                "comparison.below.one",
                group=_said(comparison, one["group"], texts),
                effect=interval_text(one["behind"]["difference"], texts),
            )
            for one in below
        ]
        sentences.append(texts("comparison.below", first=first, others=", ".join(told)))
    share = behind["seed_share"]
    if share is not None:
        names = {"first": first, "second": _said(comparison, nearest["group"], texts)}
        sentences.append(texts("comparison.seeds.share", share=percent(share), **names))
    return sentences


def _seeds(comparison: dict[str, Any], texts: Texts) -> list[str]:
    several = [group["name"] for group in comparison["groups"] if len(group["runs"]) > 1]
    single = [group["name"] for group in comparison["groups"] if len(group["runs"]) == 1]
    sentences = []
    if several:
        groups = ", ".join(_said(comparison, name, texts) for name in several)
        ranking = comparison["ranking"]
        if ranking is None:
            sentences.append(texts("comparison.seeds.plain", groups=groups))
        else:
            runs = {one["group"]: list(one["runs"].values()) for one in ranking["order"]}
            spreads = ", ".join(
                texts(
                    "comparison.seeds.spread",
                    group=_said(comparison, name, texts),
                    points=f"{max(runs[name]) - min(runs[name]):.2f}",
                )
                for name in several
            )
            sentences.append(texts("comparison.seeds.in", groups=groups, metric=ranking["metric"], spreads=spreads))
    if single:
        groups = ", ".join(_said(comparison, name, texts) for name in single)
        sentences.append(texts("comparison.seeds.out", groups=groups))
    return sentences


def _effects(comparison: dict[str, Any], texts: Texts) -> list[str]:
    """Return for each way to be without audio what the audio is worth to each group, and where that differs."""
    sentences = []
    for row in comparison["measures"]:
        without = row["measure"].removeprefix(_EFFECTS)
        if not row["measure"].startswith(_EFFECTS) or len(row["values"]) < 2 or f"audio.way.{without}" not in texts:
            continue
        values = [
            texts(
                "comparison.effect.value",
                group=_said(comparison, one["group"], texts),
                effect=interval_text(one["interval"], texts),
            )
            for one in row["values"]
        ]
        apart = [
            texts(
                "comparison.effect.apart",
                first=_said(comparison, one["first"], texts),
                second=_said(comparison, one["second"], texts),
                effect=interval_text(one["difference"], texts),
            )
            for one in row["differences"]
            if one["significant"]
        ]
        sentences.append(
            texts(
                "comparison.effect",
                without=texts(f"audio.way.{without}"),
                score="AP",
                values=", ".join(values),
                differs=" ".join(apart) or texts("comparison.effect.none"),
            )
        )
    return sentences


def _moved(comparison: dict[str, Any], texts: Texts) -> list[str]:
    """Return how often predictions of two groups differ, beside how often those of two seeds do."""
    sides: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for one in comparison["predictions"]:
        sides[one["first"] == one["second"]].append(one)
    if not all(sides.values()):
        return []
    pairs = {side: sum(one["n_pairs"] for one in given) for side, given in sides.items()}
    shares = {
        side: sum(one["n_pairs"] * one["first_window_changed"]["estimate"] for one in given) / pairs[side]
        for side, given in sides.items()
    }
    shown = {"between": percent(shares[False] / 100), "within": percent(shares[True] / 100)}
    return [texts("comparison.moved", pairs=pairs[False], pairs_within=pairs[True], **shown)]


def _differs(comparison: dict[str, Any], texts: Texts) -> str:
    differing = list(dict.fromkeys(key for group in comparison["groups"] for key in group["options"]))
    if not differing:
        return texts("comparison.differs.none")
    return texts("comparison.differs", options=", ".join(map(inline, differing)))


def _group_table(comparison: dict[str, Any], texts: Texts) -> list[str]:
    ranking = comparison["ranking"]
    if ranking is None:
        return []
    rows = []
    for one in ranking["order"]:
        runs, interval = list(one["runs"].values()), one["interval"]
        low, high = (number(interval[side], 2) for side in ("low", "high"))
        spread = texts("range", low=number(min(runs), 2), high=number(max(runs), 2))
        rows.append(
            [
                _said(comparison, one["group"], texts),
                number(one["mean"], 2),
                texts("range", low=low, high=high),
                spread if len(runs) > 1 else texts("comparison.one_run"),
                percent(one["best_share"]),
            ]
        )
    head = heads(texts, "comparison.groups", "group", "mean", "interval", "runs", "best")
    title = texts("comparison.groups.title", metric=ranking["metric"])
    return [title, "", *table(head, rows), texts("comparison.groups.note"), ""]


def _run_table(comparison: dict[str, Any], texts: Texts) -> list[str]:
    ranking = comparison["ranking"]
    values = {name: value for one in ranking["order"] for name, value in one["runs"].items()} if ranking else {}
    rows = [
        [
            inline(run["name"]),
            foreign(run["group"]),
            "-" if run["seed"] is None else str(run["seed"]),
            "-" if run["epoch"] is None else str(run["epoch"]),
            inline(f"{run['checkpoint_folder']}/{run['checkpoint']}"),
            run["num_layers"],
            *([number(values[run["name"]], 2)] if ranking else []),
        ]
        for run in comparison["runs"]
    ]
    head = heads(texts, "comparison.runs", "run", "group", "seed", "epoch", "checkpoint", "layers")
    head += [ranking["metric"]] if ranking else []
    return [texts("comparison.runs.title"), "", *table(head, rows)]


def comparison_rows(comparison: dict[str, Any], texts: Texts, part: str) -> tuple[list[str], list[list[Any]]]:
    """Return the head and rows of one of the PARTS: a row per quantity and pair of groups.

    Numbers are unrounded, None where there is none.
    """
    names = ("what", "first", "second", "first_value", "second_value", "difference", "low", "high", "n")
    if part == "predictions":
        return heads(texts, "comparison", *names), _prediction_rows(comparison, texts)
    rows: list[list[Any]] = []
    for row in comparison["metrics"]["rows"] if part == "metrics" else comparison[part]:
        values = {one["group"]: one["mean"] for one in row["values"]}
        for one in row["differences"]:
            sides = [one["first"], one["second"]]
            mark = " *" if one.get("significant") else ""
            rows.append(
                [
                    _what(row, texts) + mark,
                    *(_said(comparison, side, texts) for side in sides),
                    *(values.get(side) for side in sides),
                    *_numbers(one["difference"]),
                ]
            )
    return heads(texts, "comparison", *names), rows


def _prediction_rows(comparison: dict[str, Any], texts: Texts) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for one in comparison["predictions"]:
        sides = [_said(comparison, one[side], texts) for side in ("first", "second")]
        for name in ("first_window_changed", "first_window_iou", "top_clip_changed"):
            rows.append([name, *sides, None, None, *_numbers(one[name])])
    return rows


def _what(row: dict[str, Any], texts: Texts) -> str:
    if "layer" in row:
        key = f"compared.{row['kind']}_{row['figure']}"
        if key in texts:
            return texts(key, layer=row["layer"])
        return texts(f"compared.other_{row['figure']}", layer=row["layer"], kind=foreign(row["kind"].replace("_", " ")))
    if "slice" in row:
        return texts("comparison.slice", metric=row["metric"], slice=foreign(row["slice"]))
    return str(row["metric"] if "metric" in row else row["measure"])


def _numbers(interval: dict[str, Any] | None) -> list[Any]:
    return [None] * 4 if interval is None else [interval[key] for key in ("estimate", "low", "high", "n")]
