"""A validation pass: the other text of a query that is alone in its batch, and gates recorded under true ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qd_detr.gates import planted
from qd_detr.gates.data.batches import collate
from qd_detr.gates.data.features import Features
from qd_detr.gates.monitor import GateMonitor
from qd_detr.gates.train.loop import Training
from qd_detr.gates.train.targets import collate_targets
from qd_detr.gates.train.validation import validate
from tests.training.small_runs import (
    flags,
    prepare,
)


@pytest.fixture
def training(dataset, tmp_path) -> Training:
    return prepare(flags(dataset, tmp_path / "run"))


def saliency_by_hand(training: Training) -> float:
    """Return the mean saliency loss of single queries, each beside itself with the next query's text in a batch of two."""
    split, losses = training.val_split, []
    model = training.model.eval()
    for position, query in enumerate(split.queries):
        own = split.samples.reader.read(query)
        following = split.samples.reader.read(split.queries[(position + 1) % len(split.queries)])
        batch = collate([(query, own), (query, Features(own.video, own.audio, following.text))])
        with torch.no_grad():
            projected = model.project(*(batch[f"src_{name}"] for name in ("txt", "txt_mask", "vid", "vid_mask", "aud")))
            fused = model.fusion(projected.video, projected.audio, projected.vid_mask)
            outputs = model.decode(fused, projected, training_extras=True)
        first = {name: outputs[name][:1] for name in outputs if name != "aux_outputs"}
        first["aux_outputs"] = [{name: layer[name][:1] for name in layer} for layer in outputs["aux_outputs"]]
        item = split.targets(position, np.random.default_rng([training.options["seed"], 0, position]))
        losses.append(training.criterion(first, collate_targets([item], own.video.shape[0]))["loss_saliency"].item())
    return float(np.mean(losses))


def test_a_query_alone_in_its_batch_is_judged_by_the_next_querys_text(training):
    options = {**training.options, "eval_bsz": 1}
    found = validate(training.model, training.criterion, training.val_split, options)
    assert found.losses["loss_saliency"] == pytest.approx(saliency_by_hand(training), abs=1e-4)
    terms = sum(value for name, value in found.losses.items() if name.startswith("loss_") and name != "loss_overall")
    assert found.losses["loss_overall"] == pytest.approx(terms, abs=1e-4)


def test_a_split_of_one_query_can_be_validated(dataset, tmp_path):
    (tmp_path / "one.jsonl").write_text((dataset / planted.VAL_FILE).read_text().splitlines()[0])
    training = prepare([*flags(dataset, tmp_path / "run"), "--eval_path", str(tmp_path / "one.jsonl")])
    found = validate(training.model, training.criterion, training.val_split, training.options)
    assert np.isfinite(found.losses["loss_overall"])


def test_a_validation_that_is_recorded_has_each_sample_under_its_qid(training):
    fusion, split = training.model.avigate_fusion, training.val_split
    untracked = validate(training.model, training.criterion, split, training.options)
    fusion.enable_gate_tracking()
    fusion.set_current_sample_id("mine")
    tracked = validate(training.model, training.criterion, split, training.options)
    assert (tracked.lines, tracked.losses) == (untracked.lines, untracked.losses)
    assert fusion.current_sample_id == "mine"
    clips = {query.qid: count for query, count in zip(split.queries, split.samples.clip_counts, strict=True)}
    assert {qid: entry["layer_info"][0]["sequence_length"] for qid, entry in fusion.gate_history.items()} == clips


def test_an_unrecorded_validation_leaves_the_id_that_was_set(training):
    fusion = training.model.avigate_fusion
    fusion.set_current_sample_id(["a", "b"])
    validate(training.model, training.criterion, training.val_split, training.options)
    assert fusion.current_sample_id == ["a", "b"]
    assert not fusion.gate_history


def test_a_monitor_around_a_validation_sees_the_qids(training, tmp_path, monkeypatch):
    written = []
    monitor = GateMonitor(training.model, tmp_path / "watched", tensorboard=False, strict=True)
    monkeypatch.setattr(monitor._writer, "write", lambda epoch, analysis, metrics: written.append(analysis))
    with monitor.epoch(0):
        validate(training.model, training.criterion, training.val_split, training.options)
    assert sorted(row.sample_id for row in written[0].rows) == [query.qid for query in training.val_split.queries]
    assert training.model.avigate_fusion.current_sample_id is None
