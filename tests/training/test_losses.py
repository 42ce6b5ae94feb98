"""The losses against the legacy run's own numbers, and against slow versions written out by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.train.losses import Criterion, saliency_loss
from qd_detr.gates.train.matching import CostWeights, generalized_iou, match, matching_costs
from qd_detr.gates.train.targets import QueryTargets, Targets, collate_targets, query_targets
from qd_detr.gates.weights.checkpoint import build_model, read_checkpoint, resolve

LEGACY = Path(__file__).parents[3] / "shared" / "legacy" / "clipwise"
needs_legacy = pytest.mark.skipif(not LEGACY.is_dir(), reason=f"needs the legacy recordings in {LEGACY}")


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(LEGACY / "losses_one_batch.npz") as archive:
        return dict(archive)


def recorded_targets(recorded: dict[str, np.ndarray]) -> Targets:
    labels = recorded["target_saliency_all_labels"]
    pairs = np.stack([recorded["target_saliency_pos_labels"], recorded["target_saliency_neg_labels"]], axis=-1)
    items = [QueryTargets(recorded[f"target_spans_{b}"], labels[b], pairs[b]) for b in range(len(labels))]
    return collate_targets(items, labels.shape[1])


def differences(losses: dict[str, torch.Tensor], recorded: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: abs(value.item() - float(recorded[f"loss_{name}"])) for name, value in losses.items()}


@needs_legacy
def test_losses_of_the_recorded_outputs_equal_the_legacy_losses(recorded):
    outputs = {key[4:]: torch.from_numpy(value) for key, value in recorded.items() if key.startswith("out_")}
    outputs["video_mask"] = torch.from_numpy(recorded["in_src_vid_mask"])
    found = differences(Criterion()(outputs, recorded_targets(recorded)), recorded)
    assert set(found) == {"loss_span", "loss_giou", "loss_label", "class_error", "loss_saliency"}
    assert max(found.values()) < 1e-5, found


@needs_legacy
def test_losses_of_the_recorded_inputs_in_a_legacy_batch_equal_every_legacy_loss(recorded):
    checkpoint = read_checkpoint(LEGACY / "model_best.ckpt")
    model = build_model(checkpoint, resolve(checkpoint))
    inputs = {key[3:]: torch.from_numpy(value) for key, value in recorded.items() if key.startswith("in_")}
    inputs.pop("src_aud_mask")
    with torch.no_grad():
        projected = model.project(**inputs)
        fused = model.fusion.fuse(projected.video, projected.audio, projected.vid_mask)
        outputs = model.decode(fused, projected, legacy_batch_mask=True, training_extras=True)
        found = differences(Criterion()(outputs, recorded_targets(recorded)), recorded)
    assert {f"loss_{name}" for name in found} == {key for key in recorded if key.startswith("loss_")}
    assert max(found.values()) < 1e-5, found


def test_generalized_iou_of_spans_worked_out_by_hand():
    # [0.0, 0.4] with [0.2, 0.6]: 0.2 / 0.6; with [0.6, 0.8]: 0 - 0.2 / 0.8; with itself: 1.
    first = torch.tensor([0.2, 0.4])
    others = torch.tensor([[0.4, 0.4], [0.7, 0.2], [0.2, 0.4]])
    torch.testing.assert_close(generalized_iou(first, others), torch.tensor([1 / 3, -0.25, 1.0]))


def test_matching_finds_the_cheapest_of_all_assignments():
    torch.manual_seed(0)
    slots, counts = 5, [1, 3, 2, 0]
    logits, spans = torch.randn(4, slots, 2), torch.rand(4, slots, 2) * 0.8 + 0.1
    target = torch.rand(4, 3, 2) * 0.8 + 0.1
    weights = CostWeights(10, 1, 4)
    costs = matching_costs(logits, spans, target, weights)
    matches = match(costs, counts)
    for n, count in enumerate(counts):
        mine = matches.set_idx == n
        assert mine.sum() == count
        found = costs[n, matches.slot[mine], matches.span[mine]].sum().item()
        cheapest = min(
            (sum(costs[n, q, m].item() for m, q in enumerate(chosen)))
            for chosen in itertools.permutations(range(slots), count)
        )
        assert math.isclose(found, cheapest, abs_tol=1e-5)
    by_hand = (
        10 * (spans[1, 2] - target[1, 0]).abs().sum()
        - generalized_iou(spans[1, 2], target[1, 0])
        - 4 * logits[1, 2].softmax(-1)[0]
    )
    torch.testing.assert_close(costs[1, 2, 0], by_hand)


def slow_saliency_loss(scores, scores_neg, mask, labels, pairs, margin):
    """The formulas of the legacy model's training section, sample by sample and rank by rank."""
    batch, length = len(scores), len(scores[0])
    a = sum(max(0.0, margin + scores[b][w] - scores[b][s]) for b in range(batch) for s, w in pairs[b])
    a *= 2 / (batch * len(pairs[0]))
    c = n = 0.0
    for r in range(1, 12):
        terms = []
        for b in range(batch):
            u = [scores[b][t] if mask[b][t] else -1e3 for t in range(length)]
            u += [scores_neg[b][t] if mask[b][t] else -1e3 for t in range(length)]
            u = [x / 0.5 for x in u]
            top = max(u)
            whole = math.log(sum(math.exp(x - top) for x in u) + 1e-6)
            positive = [t for t in range(length) if labels[b][t] >= r]
            terms.append(-sum(u[t] - top - whole for t in positive if mask[b][t]) / (len(positive) + 1e-6))
        c += sum(terms) / batch / 12
    for b in range(batch):
        n += sum(-math.log(1 - 1 / (1 + math.exp(-scores_neg[b][t]))) for t in range(length) if mask[b][t]) / batch
    return a + c + n


def test_saliency_loss_equals_its_formulas_written_out():
    rng = np.random.default_rng(3)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], np.float32)
    labels = np.array([[0, 3, 12, 0, 1], [0, 0, 0, 0, 0], [7, 7, 0, 11, 0]], np.float32)
    pairs = np.array([[[2, 4], [1, 0]], [[1, 0], [2, 1]], [[3, 0], [3, 2]]])
    scores, scores_neg = rng.normal(size=(2, 3, 5)).astype(np.float32)
    targets = Targets(torch.zeros(3, 0, 2), (0, 0, 0), torch.from_numpy(labels), torch.from_numpy(pairs))
    got = saliency_loss(
        torch.from_numpy(scores), torch.from_numpy(scores_neg), torch.from_numpy(mask), targets, margin=0.2
    )
    want = slow_saliency_loss(scores.tolist(), scores_neg.tolist(), mask, labels, pairs.tolist(), 0.2)
    assert got.item() == pytest.approx(want, abs=1e-5)


def test_a_pair_that_a_sample_does_not_have_adds_nothing():
    scores = torch.tensor([[0.3, 0.1], [0.2, 0.9]])
    mask, labels = torch.ones(2, 2), torch.zeros(2, 2)
    none, one = torch.full((1, 2), -1), torch.tensor([[0, 1]])

    def margin_part(pairs: torch.Tensor) -> float:
        targets = Targets(torch.zeros(2, 0, 2), (0, 0), labels, pairs)
        return saliency_loss(scores, scores, mask, targets, 0.2).item()

    both_absent = margin_part(torch.stack([none, none]))
    assert margin_part(torch.stack([none, one])) - both_absent == pytest.approx(2 / 2 * (0.2 + 0.9 - 0.2), abs=1e-6)


def test_saliency_loss_of_a_very_confident_model_stays_finite():
    targets = Targets(torch.zeros(1, 0, 2), (0,), torch.tensor([[12.0, 0.0]]), torch.tensor([[[0, 1], [0, 1]]]))
    scores = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    loss = saliency_loss(scores, scores, torch.ones(1, 2), targets, 0.2)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def labelled_query(**changes: object) -> Query:
    fields: dict[str, object] = {
        "qid": 7,
        "query": "A kettle begins to whistle.",
        "vid": "kitchen",
        "duration_s": 20.0,
        "line": 1,
        "relevant_windows": ((4.0, 8.0), (12.0, 14.0)),
        "relevant_clip_ids": (2, 3, 6),
        "saliency_scores": ((1, 2, 3), (4, 4, 4), (0, 1, 0)),
    }
    return Query(**{**fields, **changes})  # type: ignore[arg-type]


def test_targets_of_a_query_worked_out_by_hand():
    targets = query_targets(labelled_query(), 10, 2.0, 5, np.random.default_rng(0))
    np.testing.assert_allclose(targets.span_cxw, [[0.3, 0.2], [0.65, 0.1]], atol=1e-7)
    assert targets.labels.tolist() == [0, 0, 6, 12, 0, 0, 1, 0, 0, 0]
    assert targets.pairs[0].tolist() == [3, 6]
    assert targets.pairs[1, 0] in (2, 3, 6)
    assert targets.pairs[1, 1] in (0, 1, 4, 5, 7, 8, 9)


def test_targets_of_a_shorter_video_drop_its_missing_clips_and_keep_the_windows_unclamped():
    targets = query_targets(labelled_query(), 5, 2.0, 5, np.random.default_rng(0))
    np.testing.assert_allclose(targets.span_cxw, [[0.6, 0.4], [1.3, 0.2]], atol=1e-6)
    assert targets.labels.tolist() == [0, 0, 6, 12, 0]
    assert targets.pairs[0].tolist() == [3, 2]


def test_targets_without_an_irrelevant_clip_repeat_the_first_pair():
    query = labelled_query(relevant_clip_ids=(0, 1, 2))
    assert query_targets(query, 3, 2.0, 5, np.random.default_rng(0)).pairs.tolist() == [[1, 2], [1, 2]]


def test_targets_without_any_relevant_clip_have_no_pair():
    query = labelled_query(relevant_clip_ids=(7, 8, 9))
    assert query_targets(query, 3, 2.0, 5, np.random.default_rng(0)).pairs.tolist() == [[-1, -1], [-1, -1]]


def test_more_windows_than_the_limit_are_chosen_at_random_without_repeats():
    windows = tuple((float(t), float(t + 2)) for t in range(0, 20, 2))
    query = labelled_query(relevant_windows=windows)
    chosen = [query_targets(query, 10, 2.0, 4, np.random.default_rng(seed)).span_cxw for seed in range(20)]
    assert all(len({tuple(span) for span in spans.tolist()}) == 4 for spans in chosen)
    assert len({tuple(spans[:, 0].tolist()) for spans in chosen}) > 1


def test_tvsum_targets_are_labels_of_0_to_12_and_the_best_and_worst_clip():
    ratings = np.ones((4, 20))
    ratings[1], ratings[2, :10] = 5, 3
    query = labelled_query(relevant_windows=None, relevant_clip_ids=None, saliency_scores=None, rater_labels=ratings)
    targets = query_targets(query, 4, 2.0, 5, np.random.default_rng(0))
    np.testing.assert_allclose(targets.labels, [0, 12, 3, 0], atol=1e-6)
    assert targets.pairs.tolist() == [[1, 0]]
    assert len(targets.span_cxw) == 0


def test_tvsum_trains_on_saliency_alone():
    ratings = np.ones((3, 20))
    ratings[1] = 5
    query = labelled_query(relevant_windows=None, relevant_clip_ids=None, saliency_scores=None, rater_labels=ratings)
    targets = collate_targets([query_targets(query, 3, 2.0, 5, np.random.default_rng(0))], 3)
    scores = torch.zeros(1, 3)
    outputs = {"saliency_scores": scores, "saliency_scores_neg": scores, "video_mask": torch.ones(1, 3)}
    criterion = Criterion(moments=False)
    losses = criterion(outputs, targets)
    assert list(losses) == ["loss_saliency"]
    assert criterion.total(criterion.weighted(losses)).item() == losses["loss_saliency"].item()


def test_total_weighs_each_term_of_each_layer_and_leaves_the_class_error_out():
    names = ["loss_span", "loss_giou", "loss_label", "class_error", "loss_saliency", "loss_span_0", "loss_label_0"]
    losses = {name: torch.tensor(10.0**i) for i, name in enumerate(names)}
    want = 10 * 1 + 1 * 10 + 4 * 100 + 1 * 1e4 + 10 * 1e5 + 4 * 1e6
    assert Criterion().total(Criterion().weighted(losses)).item() == want


@needs_legacy
def test_the_loss_trains_the_same_parameters_as_in_the_legacy_run(recorded):
    checkpoint = read_checkpoint(LEGACY / "model_best.ckpt")
    model = build_model(checkpoint, resolve(checkpoint))
    inputs = {key[3:]: torch.from_numpy(value) for key, value in recorded.items() if key.startswith("in_")}
    criterion = Criterion()
    criterion.total(criterion.weighted(criterion(model.train()(inputs), recorded_targets(recorded)))).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # The legacy optimizer holds moments of all 192 parameters but these three.
    assert unused == {
        "txt_position_embed.position_embeddings.weight",
        "txt_position_embed.LayerNorm.weight",
        "txt_position_embed.LayerNorm.bias",
    }
