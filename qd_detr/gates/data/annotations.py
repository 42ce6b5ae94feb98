"""Annotation files: one `Query` per line, checked once so that nothing later needs to ask again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qd_detr.gates.data.datasets import Dataset, Ratings, dataset_of
from qd_detr.gates.data.json_lines import LineProblem, records_of
from qd_detr.gates.errors import DataError, MissingFileError, RequestError, first_few

# How much of an unusable value a message shows.
_SHOWN_CHARS = 60
# Twelve days. What is longer is a mistake, and times beyond float32 would come back as NaN.
_SECONDS_MAX = 1e6
_CLIPS_MAX = 10**6
# File systems take 255 bytes a component; prefix and suffix are still to come.
_NAME_BYTES_MAX = 240
_NAME_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Query:
    """One sentence about one video, with its labels where the split has them.

    `relevant_windows` are (start, end) in seconds; `relevant_clip_ids` count clips from 0, and
    `saliency_scores` holds three annotators' scores, 0..4, for each of those clips. `rater_labels` is the
    `label` of data sets with ratings, (clips, raters). `line` is the 1-based line, or position in a JSON list.
    """

    qid: int | str
    query: str
    vid: str
    duration_s: float
    line: int
    relevant_windows: tuple[tuple[float, float], ...] | None = None
    relevant_clip_ids: tuple[int, ...] | None = None
    saliency_scores: tuple[tuple[float, float, float], ...] | None = None
    domain: str | None = None
    rater_labels: npt.NDArray[np.float64] | None = field(default=None, compare=False)

    @property
    def labelled(self) -> bool:
        """True with at least one window, or with ratings: there is something to judge predictions by."""
        return self.rater_labels is not None or bool(self.relevant_windows)

    @property
    def has_saliency(self) -> bool:
        """True if its saliency can be judged: with scored clips, or with ratings."""
        return self.rater_labels is not None or (
            self.relevant_clip_ids is not None and self.saliency_scores is not None
        )


def read_annotations(path: str | Path, dset_name: str = "hl", dset_domain: str | None = None) -> list[Query]:
    """Return the queries of an annotation file, in file order.

    The file is one JSON object a line, or one JSON list of objects: its content decides, not its
    suffix. Blank lines are skipped. Of a data set with ratings, `dset_domain` keeps the lines of that domain.

    Raises:
        MissingFileError: The file is not there.
        RequestError: It is a folder or not readable, or `dset_name` is no known data set.
        DataError: Lines that cannot be used (how many, and the first three), or none at all.
    """
    path = Path(path)
    dataset = dataset_of(dset_name)
    check_annotations_are_there(path)
    try:
        return _read_queries(path, dataset, dset_domain)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}); give a readable file with --data_path") from None


def check_annotations_are_there(path: Path) -> None:
    """Raise what is wrong with the annotations' path, as a command can say it before anything else is loaded.

    Raises:
        MissingFileError: nothing is there. RequestError: a folder.
    """
    if not path.exists():
        raise MissingFileError(f"no annotation file at {path}; give its path with --data_path")
    if path.is_dir():
        raise RequestError(f"{path} is a folder; --data_path takes the annotation file itself")


def _read_queries(path: Path, dataset: Dataset, dset_domain: str | None) -> list[Query]:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise RequestError(f"{path} is no plain file; it is read twice, so a pipe or a device will not do")
    # The lines one by one: a file of 100,000 is never held as text.
    with open(path, encoding="utf-8-sig") as file:
        unit, records = records_of(file, path)
        return _checked(records, unit, path, dataset, dset_domain)


def _checked(
    records: Iterator[tuple[int, Any]], unit: str, path: Path, dataset: Dataset, dset_domain: str | None
) -> list[Query]:
    """Return the queries of (number, record) pairs, or raise one DataError for all that is wrong with them."""
    queries: list[Query] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    total = 0
    for number, record in records:
        total += 1
        try:
            query = _parse_query(record, number, dataset)
            # As text: the qid names a feature file and a result, where 1 and "1" are one name.
            first = seen.setdefault(str(query.qid), number)
            if first != number:
                raise LineProblem(f"'qid' {query.qid!r} is already on {unit} {first}; a qid may be there once")
            queries.append(query)
        except LineProblem as problem:
            problems.append(f"{unit} {number}: {problem}")
    if problems:
        few = first_few(problems)
        if len(problems) == 1:
            raise DataError(f"{path}, {few}; correct that {unit} or take it out")
        raise DataError(f"{path}: {len(problems)} of {total} {unit}s cannot be used: {few}; correct or take them out")
    if not queries:
        raise DataError(f"{path} holds no annotations; expected one JSON object a line, or a JSON list of them")
    if dataset.ratings is not None and dset_domain is not None:
        return _of_domain(queries, dset_domain, path)
    return queries


def select_queries(
    queries: Sequence[Query],
    analyze_samples: Sequence[int | str] | None = None,
    max_samples: int | None = None,
) -> list[Query]:
    """Return the asked queries in annotation order: those of `analyze_samples`, then the first `max_samples`.

    Ids are compared as text. None asks for all.

    Raises:
        RequestError: An unknown id, an empty list of ids, or `max_samples` below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise RequestError(f"--max_samples is {max_samples}; expected 1 or more, or leave it out for all samples")
    chosen = list(queries)
    if analyze_samples is not None:
        if isinstance(analyze_samples, (str, int)):  # one id is no list of its letters
            analyze_samples = [analyze_samples]
        asked = list(dict.fromkeys(str(sample) for sample in analyze_samples))
        if not asked:
            raise RequestError("--analyze_samples names no sample; give ids, or leave it out for all samples")
        known = {str(query.qid) for query in queries}
        unknown = [sample for sample in asked if sample not in known]
        if unknown:
            there = first_few([query.qid for query in queries])
            raise RequestError(
                f"{len(unknown)} of {len(asked)} ids of --analyze_samples are not among the {len(queries)} "
                f"annotations: {first_few(unknown)}; ids that are there: {there}"
                + ("; ids are given with spaces between them, without commas" if "," in "".join(unknown) else "")
            )
        wanted = set(asked)
        chosen = [query for query in queries if str(query.qid) in wanted]
    return chosen[:max_samples]


def file_name_problem(name: str) -> str | None:
    """Return why `name` cannot be part of a feature file's name inside its folder, or None if it can."""
    if not name.strip():
        return "is empty"
    if any(ord(char) < 32 or ord(char) == 127 for char in name):
        return "holds a control character"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith("/"):
        return "is an absolute path"
    if ".." in name.split("/"):
        return "leaves its folder by '..'"
    if len(name) > _NAME_CHARS_MAX or any(
        len(part.encode("utf-8", "replace")) > _NAME_BYTES_MAX for part in name.split("/")
    ):
        return "is longer than a file name can be"
    return None


def _parse_query(record: Any, line: int, dataset: Dataset) -> Query:
    """Return the checked query, or raise a LineProblem with the first thing that is wrong with it."""
    if isinstance(record, LineProblem):
        raise record
    if not isinstance(record, dict):
        raise LineProblem(f"is {_show(record)}, expected an object with qid, query, vid and duration")
    absent = [name for name in ("qid", "query", "vid", "duration") if name not in record]
    if absent:
        raise LineProblem(f"lacks {', '.join(map(repr, absent))}; each one needs qid, query, vid and duration")
    duration_s = _number(record["duration"])
    if duration_s is None or not 0 < duration_s <= _SECONDS_MAX:
        raise _wrong("duration", record["duration"], f"a finite number of seconds above 0, at most {_SECONDS_MAX:g}")
    windows = _windows(record.get("relevant_windows"))
    clip_ids = _clip_ids(record.get("relevant_clip_ids"))
    scores = _saliency(record.get("saliency_scores"))
    if clip_ids is not None and scores is not None and len(clip_ids) != len(scores):
        raise LineProblem(f"'saliency_scores' has {len(scores)} entries for {len(clip_ids)} relevant_clip_ids")
    domain = record.get("domain")
    if domain is not None and not isinstance(domain, str):
        raise _wrong("domain", domain, "a string")
    return Query(
        qid=_qid(record["qid"]),
        query=_text("query", record["query"]),
        vid=_file_name("vid", record["vid"]),
        duration_s=duration_s,
        line=line,
        relevant_windows=windows,
        relevant_clip_ids=clip_ids,
        saliency_scores=scores,
        domain=domain,
        rater_labels=None if dataset.ratings is None else _rater_labels(record.get("label"), dataset.ratings),
    )


def _show(value: object) -> str:
    """Return the value as a message shows it."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "..."


def _wrong(name: str, value: object, expected: str) -> LineProblem:
    return LineProblem(f"'{name}' is {_show(value)}, expected {expected}")


def _number(value: object) -> float | None:
    """Return a finite number as float; None for anything else, True and False among it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # JSON may escape half a surrogate pair; no file could be written with it
        raise _wrong(name, value, "text without lone surrogates") from None
    return value


def _file_name(name: str, value: object) -> str:
    text = _text(name, value)
    problem = file_name_problem(text)
    if problem is not None:
        raise LineProblem(f"'{name}' {_show(text)} {problem}, expected the name of a feature file in its folder")
    return text


def _qid(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool):
        if len(str(value)) > _NAME_BYTES_MAX:
            raise LineProblem(f"'qid' {_show(value)} is longer than a file name can be")
        return value
    if isinstance(value, str):
        return _file_name("qid", value)
    raise _wrong("qid", value, "an integer or a string")


def _windows(value: object) -> tuple[tuple[float, float], ...] | None:
    """Return the windows in seconds. An end past the video's is let through: the metrics do not mind."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise _wrong("relevant_windows", value, "a list of [start, end] in seconds")
    windows = []
    for window in value:
        pair = [_number(time) for time in window] if isinstance(window, list) else []
        if len(pair) != 2 or pair[0] is None or pair[1] is None or not 0 <= pair[0] < pair[1] <= _SECONDS_MAX:
            raise LineProblem(
                f"'relevant_windows' holds {_show(window)}, expected [start, end] s with 0 <= start < end"
            )
        windows.append((pair[0], pair[1]))
    return tuple(windows)


def _clip_ids(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise _wrong("relevant_clip_ids", value, "a list of clip indices from 0")
    for clip_idx in value:
        if isinstance(clip_idx, bool) or not isinstance(clip_idx, int) or not 0 <= clip_idx < _CLIPS_MAX:
            raise LineProblem(f"'relevant_clip_ids' holds {_show(clip_idx)}, expected clip indices from 0")
    if len(set(value)) != len(value):
        twice = next(clip_idx for clip_idx, times in Counter(value).items() if times > 1)
        raise LineProblem(f"'relevant_clip_ids' holds clip {twice} more than once, expected each clip once")
    return tuple(value)


def _saliency(value: object) -> tuple[tuple[float, float, float], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise _wrong("saliency_scores", value, "a list of three scores per relevant clip")
    for scores in value:
        numbers = [_number(score) for score in scores] if isinstance(scores, list) else []
        if len(numbers) != 3 or any(number is None or not 0 <= number <= 4 for number in numbers):
            raise LineProblem(f"'saliency_scores' holds {_show(scores)}, expected three scores of 0 to 4")
    return tuple((scores[0], scores[1], scores[2]) for scores in value)


def _rater_labels(value: object, ratings: Ratings) -> npt.NDArray[np.float64] | None:
    """Return the ratings, (clips, raters), read-only."""
    if value is None:
        return None
    raters = ratings.raters
    expected = f"{raters or 'as many'} scores of {ratings.low:g} to {ratings.high:g} per clip"
    if not isinstance(value, list) or not value:
        raise _wrong("label", value, f"a list of {expected}")
    for clip in value:
        numbers = [_number(score) for score in clip] if isinstance(clip, list) else []
        raters = raters or len(numbers) or None
        in_range = all(number is not None and ratings.low <= number <= ratings.high for number in numbers)
        if len(numbers) != raters or not in_range:
            raise LineProblem(f"'label' holds {_show(clip)}, expected {expected}")
    labels = np.array(value, dtype=np.float64)  # (clips, raters)
    labels.setflags(write=False)
    return labels


def _of_domain(queries: Sequence[Query], dset_domain: str, path: Path) -> list[Query]:
    kept = [query for query in queries if query.domain == dset_domain]
    if not kept:
        there = sorted({query.domain for query in queries if query.domain is not None})
        raise DataError(
            f"none of the {len(queries)} annotations in {path} is of the domain {dset_domain!r} that the options "
            f"name; domains there: {', '.join(there) or 'none'}; give the file of that domain with --data_path"
        )
    return kept
