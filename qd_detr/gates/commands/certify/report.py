"""A certificate on the terminal, and as compatibility_report.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from qd_detr.gates.commands.certify.claims import AROUND, INVISIBLE
from qd_detr.gates.commands.certify.request import FAILED, NOT_CHECKED, REPORT_NAME, Certificate, Check
from qd_detr.gates.commands.certify.texts import CATALOGUES
from qd_detr.gates.errors import RequestError
from qd_detr.gates.files import obstacle_to_writing, to_json, write_whole
from qd_detr.gates.gating import EXCHANGEABLE
from qd_detr.gates.wording import Texts, display_width, padded, wrapped

FORMAT = "qd_detr-gates compatibility/1"
# The settings worth a line on the terminal; the report file has all of them.
_SHOWN = (
    "gating_type",
    "nheads",
    "fusion_n_heads",
    "use_txt_pos",
    "hidden_dim",
    "fusion_layers",
    "enc_layers",
    "dec_layers",
    "num_queries",
    "max_v_l",
    "max_q_l",
    "clip_length",
    "eval_bsz",
)
# Worth telling when nothing states them: they change what is computed. Those of training alone do not.
_TOLD_AS_DEFAULT = (
    *INVISIBLE,
    *AROUND,
    "dset_domain",
    "position_embedding",
    "pre_norm",
    "nms_thd",
    "max_before_nms",
    "max_after_nms",
)
_READINGS_SHOWN = 6
_INDENT = "    "


def sentence(check: Check, texts: Texts) -> str:
    """Return a check's answer in words."""
    values = dict(check.values)
    if "inputs" in values:
        values["kind"] = texts(f"kind.{values['inputs']}")
    return texts(check.text, **values)


def certificate_text(certificate: Certificate, language: str = "en", width: int | None = None) -> str:
    """Return what the terminal shows."""
    texts = Texts(CATALOGUES, language)
    width = width or max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    file = certificate.facts["checkpoint"]
    epoch = "" if file["epoch"] is None else texts("epoch", epoch=file["epoch"])
    lines = [
        f"{texts('title')}: {certificate.request.model_path}",
        _INDENT + texts("file", mb=f"{file['bytes'] / 1e6:.1f}", sha256=file["sha256"], epoch=epoch),
        *_settings_lines(certificate, texts, width),
        "",
    ]
    outcomes = max(display_width(texts(f"outcome.{name}")) for name in ("passed", "failed", NOT_CHECKED))
    names = max(display_width(texts(f"name.{check.name}")) for check in certificate.checks)
    hang = " " * (outcomes + names + 5)
    for check in certificate.checks:
        mark = padded(f"[{texts(f'outcome.{check.outcome}')}]", outcomes + 2)
        head = f"{mark} {padded(texts(f'name.{check.name}'), names)}  "
        lines.append(wrapped(head + sentence(check, texts), width, hang))
        lines += [wrapped(f"{hang}- {detail}", width, hang + "  ") for detail in check.details]
    lines += [*_readings_lines(certificate, texts, width), "", verdict(certificate, texts)]
    return "\n".join(lines)


def verdict(certificate: Certificate, texts: Texts) -> str:
    """Return the certificate's last word."""
    if certificate.exact:
        return texts("verdict.exact")
    if certificate.ambiguous:
        return texts("verdict.ambiguous")
    failed = sum(check.outcome == FAILED for check in certificate.checks)
    made = sum(check.outcome != NOT_CHECKED for check in certificate.checks)
    return texts("verdict.failed", failed=failed, made=made)


def _settings_lines(certificate: Certificate, texts: Texts, width: int) -> list[str]:
    options = certificate.facts.get("settings", {}).get("options")
    if not options:
        return []
    rows = [(name, str(options[name]["value"]), texts(f"origin.{options[name]['origin']}")) for name in _SHOWN]
    names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = ["", texts("origins")]
    lines += [f"{_INDENT}{padded(name, names)}  {padded(value, values)}  {origin}" for name, value, origin in rows]
    stated_nowhere = [name for name in _TOLD_AS_DEFAULT if options[name]["origin"] == "default" and name not in _SHOWN]
    if stated_nowhere:
        told = texts("also_default", names=", ".join(stated_nowhere))
        lines.append(wrapped(_INDENT + told, width, _INDENT))
    return lines


def _readings_lines(certificate: Certificate, texts: Texts, width: int) -> list[str]:
    readings = certificate.facts.get("readings", [])
    lines: list[str] = []
    if readings:
        lines = ["", texts("readings", queries=readings[0]["queries"])]
        for found in readings[:_READINGS_SHOWN]:
            told = ", ".join(f"{name} = {value}" for name, value in found["reading"].items())
            distance = found["mean_saliency_distance"]
            lines.append(
                _INDENT
                + texts(
                    "reading",
                    agree=found["agree"],
                    queries=found["queries"],
                    reading=told,
                    distance="-" if distance is None else f"{distance:.2g}",
                )
            )
        if len(readings) > _READINGS_SHOWN:
            lines.append(_INDENT + texts("readings.more", count=len(readings) - _READINGS_SHOWN))
    open_names = certificate.facts.get("settings", {}).get("open")
    if open_names:
        example = json.dumps(_example(open_names, readings))
        lines += ["", wrapped(texts("decide", example=example), width)]
        if open_names == ["gating_type"]:
            lines.append(texts("decide.gating"))
    return lines


def _example(open_names: list[str], readings: list[dict[str, Any]]) -> dict[str, Any]:
    """Return options that would decide: those of the one reading that repeats every saved prediction, if there is one."""
    whole = [found["reading"] for found in readings if found["agree"] == found["queries"]]
    if len(whole) == 1 and set(whole[0]) == set(open_names):
        return whole[0]
    made_up = {"gating_type": EXCHANGEABLE[-1], "nheads": 8, "fusion_n_heads": 4}
    return {name: made_up.get(name, 1.5) for name in open_names}


def report_json(certificate: Certificate) -> dict[str, Any]:
    """Return what compatibility_report.json holds; its sentences are in English."""
    texts = Texts(CATALOGUES, "en")
    plain = {
        name: [str(v) for v in value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for name, value in vars(certificate.request).items()
    }
    return {
        "format": FORMAT,
        "verdict": "exact" if certificate.exact else "ambiguous" if certificate.ambiguous else "not exact",
        "sentence": verdict(certificate, texts),
        "checks": [
            {
                "name": check.name,
                "outcome": check.outcome,
                "sentence": sentence(check, texts),
                "details": list(check.details),
            }
            for check in certificate.checks
        ],
        "request": plain,
        **certificate.facts,
    }


def check_writable(output_dir: Path) -> None:
    """Raise RequestError if no report could be written there; writes nothing."""
    problem = obstacle_to_writing(output_dir)
    if problem is None and (output_dir / REPORT_NAME).is_dir():
        problem = f"{output_dir / REPORT_NAME} is a folder"
    if problem:
        raise RequestError(f"{REPORT_NAME} cannot be written to {output_dir}: {problem}; give another --output_dir")


def write_report(certificate: Certificate) -> Path:
    """Write compatibility_report.json, whole or not at all; return where it is.

    Raises:
        RequestError: it cannot be written there.
    """
    output_dir = certificate.request.output_dir
    path = output_dir / REPORT_NAME
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_json(report_json(certificate)))
    except OSError as error:
        raise RequestError(f"{path} cannot be written ({error.strerror}); give another --output_dir") from None
    return path
