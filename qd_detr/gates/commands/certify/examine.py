"""From a request to a certificate: every question asked in turn, each answer computed from this file and this model."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch

from qd_detr.gates import __version__
from qd_detr.gates.commands.certify import claims
from qd_detr.gates.commands.certify.inputs import requested_samples
from qd_detr.gates.commands.certify.request import Certificate, CertificateRequest
from qd_detr.gates.commands.certify.saved_trial import try_readings
from qd_detr.gates.commands.certify.subject import Subject
from qd_detr.gates.commands.certify.trials import try_on_random_inputs, try_on_samples
from qd_detr.gates.commands.certify.weights import account_for_keys, prove_weights
from qd_detr.gates.data.samples import Samples, check_samples
from qd_detr.gates.errors import CheckpointError, first_few
from qd_detr.gates.gating import EXCHANGEABLE
from qd_detr.gates.model.families import FAMILIES
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.runs.saved import find_saved, saved_order
from qd_detr.gates.runs.told_apart import told_by_predictions
from qd_detr.gates.weights.checkpoint import (
    Checkpoint,
    file_sha256,
    pick_device,
    read_checkpoint,
    recognised,
    settings_of,
)
from qd_detr.gates.weights.options import Settings, read_options_file
from qd_detr.gates.weights.recognition import Recognition

_NAMES_SHOWN = 8


def examine(request: CertificateRequest) -> Certificate:
    """Return everything that can be found out about a checkpoint.

    Raises:
        RequestError: the request is wrong: a file that is not there or cannot be read as what it should be. What is
            wrong with a checkpoint that can be read is no error here but a failed check.
        RunError: a forward gave NaN or Inf.
    """
    device = pick_device(request.device)
    checkpoint = read_checkpoint(request.model_path)
    config = None if request.config_path is None else read_options_file(request.config_path)
    certificate = Certificate(request)
    _about(certificate, checkpoint, device)
    try:
        recognition = recognised(checkpoint, config, asked=request.family)
    except CheckpointError as error:
        certificate.answer("family", False, "unusable", reason=str(error))
        return certificate
    subject = Subject(request, checkpoint, config, device, certificate, recognition)
    try:
        questions = _questions(subject)
        if questions:
            _ambiguous(subject, questions)
            return subject.certificate
        settings = _settings_as(subject, recognition)
        samples = requested_samples(request, settings)  # whatever is wrong with the data is told before anything runs
        subject.recognition = recognition = _told_by_predictions(subject, samples)
        settings = _settings_as(subject, recognition)
    except CheckpointError as error:
        subject.certificate.answer("settings", False, "unusable", reason=str(error))
        return subject.certificate
    _family(subject, settings)
    _settings(subject, settings)
    if not _keys(subject, settings):
        return subject.certificate
    model = subject.build(settings)
    _tensors(subject, model)
    _structure(subject, model, settings)
    if samples is None:
        try_on_random_inputs(subject, model, settings)
    else:
        try_on_samples(subject, model, settings, samples)
    return subject.certificate


def _settings_as(subject: Subject, recognition: Recognition) -> Settings:
    """Return the settings with which a checkpoint is examined, once it has been recognised."""
    return settings_of(subject.checkpoint, recognition, subject.config, gating_type=subject.request.gating_type)


def _told_by_predictions(subject: Subject, samples: Samples | None) -> Recognition:
    """Return what the checkpoint is once its saved predictions have been asked, where there is data."""
    if samples is None:
        return subject.recognition
    return told_by_predictions(
        subject.checkpoint,
        lambda family: settings_of(subject.checkpoint, replace(subject.recognition, asked=family), subject.config),
        subject.recognition,
        samples.queries,
        lambda queries: check_samples(queries, samples.folders, samples.spec),
        subject.build,
    )


def _family(subject: Subject, settings: Settings) -> None:
    """Say what family the checkpoint is of, and what shows it; a choice without evidence is no pass."""
    found = subject.recognition
    saved, _ = find_saved(subject.request.model_path, settings.options["dset_name"])
    still_open = "open" if saved is None or subject.request.data_path is not None else "open_saved"
    subject.certificate.answer(
        "family",
        found.certain,
        None if found.certain else still_open,
        [one.sentence for one in found.evidence],
        found.facts,
        family=found.family,
        like=FAMILIES[found.family].like,
        candidates=", ".join(found.candidates),
        saved="" if saved is None else saved.path.name,
    )


def _about(certificate: Certificate, checkpoint: Checkpoint, device: torch.device) -> None:
    path = certificate.request.model_path
    certificate.facts["checkpoint"] = {
        "path": str(path.resolve()),
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
        "format": checkpoint.format,
        "epoch": checkpoint.epoch,
    }
    certificate.facts["made_with"] = {
        "toolkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": str(device),
    }


def _questions(subject: Subject) -> list[str]:
    """Return what nothing answers. A gating type that only the flag states is how the model was trained."""
    questions = claims.open_questions(subject.checkpoint, subject.config, FAMILIES[subject.recognition.family])
    asked = subject.request.gating_type
    if asked in EXCHANGEABLE and "gating_type" in questions:
        subject.config = {**(subject.config or {}), "gating_type": asked}
        questions = claims.open_questions(subject.checkpoint, subject.config, FAMILIES[subject.recognition.family])
    return questions


def _settings(subject: Subject, settings: Settings) -> None:
    origins = list(settings.origins.values())
    facts = {
        "trained_gating_type": settings.trained_gating_type,
        "run_gating_type": settings.architecture.gating_type,
        "options": {
            name: {"value": value, "origin": settings.origins[name]} for name, value in settings.options.items()
        },
        "disagreements": settings.disagreements,
        "architecture": asdict(settings.architecture),
    }
    conflicts = claims.conflicts(subject.checkpoint, subject.config, FAMILIES[subject.recognition.family])
    changed = facts["trained_gating_type"] != facts["run_gating_type"]
    subject.certificate.answer(
        "settings",
        not changed and not conflicts,
        "changed" if changed else "conflict" if conflicts else None,
        settings.disagreements,
        facts,
        what="; ".join(conflicts),
        from_weights=origins.count("weights"),
        from_options=sum(origin not in ("weights", "default") for origin in origins),
        defaults=origins.count("default"),
    )


def _keys(subject: Subject, settings: Settings) -> bool:
    """Account for every key; return whether the model can be built from them."""
    account = account_for_keys(subject.checkpoint.weights, settings.architecture)
    facts = {
        **asdict(account),
        "groups": {name: {"tensors": t, "numbers": n} for name, (t, n) in account.groups.items()},
    }
    kinds = ("missing", "unexpected", "misshapen", "not_numbers", "not_finite")
    subject.certificate.answer(
        "keys",
        account.complete,
        None,
        [f"{kind.replace('_', ' ')}: {first_few(facts[kind], _NAMES_SHOWN)}" for kind in kinds if facts[kind]],
        facts,
        numbers=sum(numbers for _, numbers in account.groups.values()),
        **{f"n_{kind}": len(facts[kind]) for kind in kinds},
    )
    return account.complete


def _tensors(subject: Subject, model: QDDETR) -> None:
    """Compare the model's tensors with the file's, which is read anew."""
    proof = prove_weights(read_checkpoint(subject.request.model_path).weights, model)
    differing = [tensor for tensor in proof.tensors if not tensor.equal]
    subject.certificate.answer(
        "tensors",
        proof.equal,
        "widened" if proof.equal and proof.widened else None,
        [f"{tensor.key}: {tensor.difference}" for tensor in differing[:_NAMES_SHOWN]],
        {
            "compared": len(proof.tensors),
            "equal": len(proof.tensors) - len(differing),
            "file_sha256": proof.file_sha256,
            "model_sha256": proof.model_sha256,
            "model_dtype": proof.model_dtype,
            "widened": proof.widened,
            "each": [{**asdict(tensor), "equal": tensor.equal} for tensor in proof.tensors],
        },
        different=len(differing),
        types=", ".join(f"{count} {name}" for name, count in proof.widened.items()),
    )


def _structure(subject: Subject, model: QDDETR, settings: Settings) -> None:
    faults = claims.structure_faults(model, settings)
    subject.certificate.answer(
        "structure",
        not faults,
        None,
        faults[:_NAMES_SHOWN],
        {"faults": faults},
        n_faults=len(faults),
        built=settings.architecture,
    )


def _ambiguous(subject: Subject, questions: Sequence[str]) -> None:
    """Say what is open, prove what does not depend on it, and hold every reading against saved predictions."""
    readings = claims.readings_of(subject.checkpoint, questions)
    settings = claims.settings_for(subject.checkpoint, subject.config, readings[0], subject.recognition)
    # Weights alone name no feature folders either: what is open is told all the same, and how to name them.
    nameless = not settings.options["v_feat_dirs"] and subject.request.v_feat_dirs is None
    samples = None if nameless else requested_samples(subject.request, settings)
    facts = {"open": list(questions), "readings_that_fit": len(readings)}
    answers = [_answers(name, readings) for name in questions if name in readings[0]]
    numbers = [name for name in questions if name not in readings[0]]
    subject.certificate.answer(
        "settings",
        False,
        "open_number" if numbers else "open",
        answers,
        facts,
        names=", ".join(questions),
        numbers=", ".join(numbers),
    )
    if not _keys(subject, settings):
        return
    _tensors(subject, subject.build(settings))
    for name in ("structure", "reference", "tracking", "samples"):
        subject.certificate.leave_open(name, "open")
    _readings_or_why_not(subject, readings, settings, samples)
    subject.certificate.leave_open("batches", "open")


def _readings_or_why_not(
    subject: Subject, readings: Sequence[claims.Reading], settings: Settings, samples: Samples | None
) -> None:
    saved, reason = find_saved(subject.request.model_path, settings.options["dset_name"])
    order = None if saved is None or samples is None else saved_order(saved, samples)
    if samples is None and subject.request.data_path is not None:
        reason = "no_folders"
    elif samples is None:
        reason = "no_data" if saved is None else "readings_need_data"
    elif saved is not None and order is not None:
        reason = "readings"
        try_readings(subject, readings, samples, saved, order)
    elif saved is not None:
        reason = "other_queries"
    subject.certificate.leave_open("predictions", reason, evaluated=subject.evaluated_on)


def _answers(name: str, readings: Sequence[claims.Reading]) -> str:
    answers = list(dict.fromkeys(str(reading[name]) for reading in readings))
    return f"{name}: {' or '.join([', '.join(answers[:-1]), answers[-1]]) if len(answers) > 1 else answers[0]}"
