"""Submission files: one prediction per query, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qd_detr.gates.errors import DataError, MissingFileError, RequestError
from qd_detr.gates.files import parse_json, read_text

_WINDOW = "[start s, end s, score]"


def read_submission(path: str | Path) -> list[dict[str, Any]]:
    """Return the predictions of a submission file, one JSON object a line, in file order; blank lines are skipped.

    Raises:
        MissingFileError: The file is not there.
        RequestError: It is a folder, or cannot be read.
        DataError: A line that is no JSON object (the first one), or no line at all.
    """
    path = Path(path)
    try:
        text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")  # no raw one stands inside a JSON string
    except FileNotFoundError:
        raise MissingFileError(f"no submission file at {path}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"submission {path} cannot be read ({why}); give a readable file") from None
    predictions = []
    # Not splitlines(): it also cuts at U+2028 and its like, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prediction = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: is not JSON ({error}); expected one object a line") from None
        if not isinstance(prediction, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, got {type(prediction).__name__}")
        predictions.append(prediction)
    if not predictions:
        raise DataError(f"{path} holds no predictions; expected one JSON object a line")
    return predictions


def prediction_qid(prediction: Mapping[str, Any]) -> int | str:
    """Return the prediction's qid, or raise DataError."""
    qid = prediction.get("qid")
    if isinstance(qid, bool) or not isinstance(qid, int | str):
        raise DataError(f"a prediction's 'qid' is {qid!r}, expected an integer or a string")
    return qid


def predicted_windows(prediction: Mapping[str, Any]) -> np.ndarray:
    """Return the predicted windows (P, 3): start s, end s, score, in submission order; P may be 0.

    A window without length is let through and overlaps nothing; one that ends before it starts is an error.
    """
    where = f"prediction of qid {prediction['qid']}: 'pred_relevant_windows'"
    given = prediction.get("pred_relevant_windows")
    if not isinstance(given, list | tuple | np.ndarray):
        raise DataError(f"{where} is {_kind(given)}, expected a list of {_WINDOW}")
    if not len(given):
        return np.zeros((0, 3))
    windows = _numbers(given)
    if windows is None or windows.ndim != 2 or windows.shape[1] != 3:
        bad = next((window for window in given if not _is_row_of(window, 3)), given[0])
        raise DataError(f"{where} holds {bad!r:.60}, expected {_WINDOW} of finite numbers")
    reversed_rows = windows[:, 1] < windows[:, 0]
    if reversed_rows.any():
        bad = given[int(np.argmax(reversed_rows))]
        raise DataError(f"{where} holds {bad!r:.60}, which ends before it starts; expected {_WINDOW}")
    return windows


def predicted_saliency(prediction: Mapping[str, Any]) -> np.ndarray:
    """Return the predicted saliency (P,), a score per clip, at least one."""
    where = f"prediction of qid {prediction['qid']}: 'pred_saliency_scores'"
    given = prediction.get("pred_saliency_scores")
    if not isinstance(given, list | tuple | np.ndarray):
        raise DataError(f"{where} is {_kind(given)}, expected a list of one score per clip")
    saliency = _numbers(given)
    if saliency is None or saliency.ndim != 1 or not len(saliency):
        raise DataError(f"{where} is {given!r:.60}, expected at least one score, all finite numbers")
    return saliency


def _numbers(given: Any) -> np.ndarray | None:
    """Return `given` as float64, or None if it is ragged or holds anything but finite numbers."""
    try:
        values = np.array(given)
    except ValueError:
        return None
    # Text, null and true must not turn into numbers on the way.
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        return None
    return values.astype(np.float64)


def _is_row_of(row: Any, length: int) -> bool:
    values = _numbers(row) if isinstance(row, list | tuple | np.ndarray) else None
    return values is not None and values.shape == (length,)


def _kind(given: object) -> str:
    return "not there" if given is None else f"{given!r:.60}"
