"""What is asked of a certificate, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qd_detr.gates.data.feature_search import FeatureSources

REPORT_NAME = "compatibility_report.json"
PASSED, FAILED, NOT_CHECKED = "passed", "failed", "not checked"
# The checks, in the order in which they are made.
CHECKS = (
    "family",
    "settings",
    "keys",
    "tensors",
    "structure",
    "reference",
    "tracking",
    "samples",
    "batches",
    "predictions",
)


@dataclass(frozen=True)
class CertificateRequest:
    """What the user asked for; field for field the flags of `test_legacy_model.py`."""

    model_path: Path
    gating_type: str | None = None
    family: str | None = None
    config_path: Path | None = None
    data_path: Path | None = None
    feature_root: Path | None = None
    v_feat_dirs: tuple[Path, ...] | None = None
    t_feat_dir: Path | None = None
    a_feat_dir: Path | None = None
    skip_missing: bool = False
    device: str = "auto"
    output_dir: Path = Path(".")
    quiet: bool = False

    @property
    def sources(self) -> FeatureSources | None:
        """Where to look for the data; None if no annotation file is named."""
        if self.data_path is None:
            return None
        return FeatureSources(
            self.data_path, self.model_path, self.feature_root, self.v_feat_dirs, self.t_feat_dir, self.a_feat_dir
        )


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: one of `CHECKS`. outcome: "passed", "failed" or "not checked".
        text: the key of its sentence in the catalogues. values: for the sentence's placeholders.
        details: what does not fit in a sentence, a line each.
    """

    name: str
    outcome: str
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)
    details: tuple[str, ...] = ()


@dataclass
class Certificate:
    """Everything found out about a checkpoint.

    Attributes:
        facts: JSON-ready, by the names of compatibility_report.json.
    """

    request: CertificateRequest
    checks: list[Check] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """True if the checkpoint is usable and nothing that was checked failed."""
        return bool(self.checks) and all(check.outcome != FAILED for check in self.checks)

    @property
    def ambiguous(self) -> bool:
        """True if the weights fit more than one model and nothing decides."""
        return any(check.text in ("family.open", "settings.open", "settings.conflict") for check in self.checks)

    def answer(
        self,
        name: str,
        passed: bool,
        variant: str | None = None,
        details: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Append the answer to one question; facts go into the report file and, with `more`, into its sentence."""
        if facts is not None:
            self.facts["data" if name == "samples" else name] = facts
        outcome = PASSED if passed else FAILED
        values = {**(facts or {}), **more}
        self.checks.append(Check(name, outcome, f"{name}.{variant or outcome}", values, tuple(details)))

    def leave_open(self, name: str, why: str, **values: Any) -> None:
        """Append that a question was not asked, and why."""
        self.checks.append(Check(name, NOT_CHECKED, f"{name}.{why}", values))
