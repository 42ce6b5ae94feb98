"""Interventions as plain data, what they come to at each gate, and what they do to a gate."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.video_names import source_video
from qd_detr.gates.errors import MissingFileError, RequestError
from qd_detr.gates.fusion import GateSite
from qd_detr.gates.gating import ATTENTION, FFN, SHIFT, FusionFacts, Gate
from qd_detr.gates.runs.interventions.binding import BatchFacts, bind
from qd_detr.gates.runs.interventions.conditions import alike, conditions_of, standard_sweep
from qd_detr.gates.runs.interventions.edits import Edit, Intervention, parse_interventions, read_interventions, to_plain
from qd_detr.gates.runs.interventions.partners import fitted_rows, other_videos, shift_of
from qd_detr.gates.runs.interventions.plans import needs_recorded, plan_of
from qd_detr.gates.runs.interventions.recorded import RecordedGates
from qd_detr.gates.tracking.entries import SampleGates
from tests.fusion_facts import facts as fusion_facts
from tests.intervention_cases import GATING_TYPES, samples_of, small_data, small_model

EXAMPLE = [{"name": "no audio in layer 0", "op": "scale", "value": 0, "layers": [0], "kinds": ["attention"]}]


def one(op, value=None, layers=None, kinds=None, seed=None):
    return Intervention("x", (Edit(op, value, layers, kinds, seed),))


# -- the file ------------------------------------------------------------------------------------------------------------


def test_the_issues_example_is_read_as_it_stands(tmp_path):
    path = tmp_path / "interventions.json"
    path.write_text(json.dumps(EXAMPLE))
    assert read_interventions(path, fusion_facts()) == [
        Intervention("no audio in layer 0", (Edit("scale", 0.0, (0,), ("attention",)),))
    ]


def test_several_edits_under_one_name_keep_their_order():
    data = [{"name": "two", "edits": [{"op": "clamp", "value": [0, 1]}, {"op": "swap", "layers": [1], "seed": 3}]}]
    (found,) = parse_interventions(data, fusion_facts(num_layers=2))
    assert found.edits == (Edit("clamp", (0.0, 1.0)), Edit("swap", None, (1,), None, 3))


numbers = st.floats(-1, 1)
layer_lists = st.none() | st.sets(st.integers(0, 3), min_size=1).map(lambda s: tuple(sorted(s)))
kind_lists = st.sampled_from([None, ("attention",), ("ffn",), ("attention", "ffn")])
edits = st.one_of(
    st.builds(Edit, st.just("scale"), st.floats(-3, 3), layer_lists, kind_lists),
    st.builds(Edit, st.just("set"), numbers, layer_lists, kind_lists),
    st.builds(Edit, st.just("clamp"), st.tuples(numbers, numbers).map(sorted).map(tuple), layer_lists, kind_lists),
    st.builds(Edit, st.just("mean"), st.sampled_from(["sample", "dataset"]), layer_lists, kind_lists),
    st.builds(Edit, st.sampled_from(["shuffle", "swap"]), st.none(), layer_lists, kind_lists, st.integers(0, 9)),
)
edit_lists = st.lists(edits, min_size=1, max_size=4).map(tuple)


@settings(deadline=None)
@given(st.lists(edit_lists, min_size=1, max_size=4))
def test_what_is_saved_is_read_back_as_the_same(lists):
    interventions = [Intervention(f"number {i}", edits) for i, edits in enumerate(lists)]
    assert (
        parse_interventions(json.loads(json.dumps(to_plain(interventions))), fusion_facts(num_layers=4))
        == interventions
    )


def test_the_standard_sweep_is_saved_and_read_back_as_the_same():
    sweep = standard_sweep(fusion_facts(num_layers=3))
    assert parse_interventions(json.loads(json.dumps(to_plain(sweep))), fusion_facts(num_layers=3)) == sweep


def test_a_seed_left_out_is_written_down_where_chance_enters():
    (found,) = parse_interventions([{"name": "x", "op": "shuffle"}], fusion_facts(num_layers=1))
    assert to_plain([found]) == [{"name": "x", "op": "shuffle", "seed": 0}]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("scale", "expected an object"),
        ({"op": "scale", "value": 0}, "name None"),
        ({"name": " ", "op": "scale", "value": 0}, "not empty"),
        ({"name": "baseline", "op": "scale", "value": 0}, "names the run without any"),
        ({"name": "x"}, "op None; expected one of scale, set"),
        ({"name": "x", "op": "zero"}, "op 'zero'"),
        ({"name": "x", "op": "scale"}, "value None; scale takes a finite number"),
        ({"name": "x", "op": "scale", "value": True}, "finite number"),
        ({"name": "x", "op": "scale", "value": float("nan")}, "finite number"),
        ({"name": "x", "op": "scale", "value": 10**400}, "finite number"),
        ({"name": "x", "op": "set", "value": 1.5}, r"sets gates to 1.5, outside of their range \[-1, 1\]"),
        ({"name": "x", "op": "clamp", "value": [1, 0]}, "low <= high"),
        ({"name": "x", "op": "clamp", "value": 0.5}, r"clamp takes \[low, high\]"),
        ({"name": "x", "op": "clamp", "value": [2, 3]}, "outside of the gates' range"),
        ({"name": "x", "op": "mean"}, 'mean takes "sample" or "dataset"'),
        ({"name": "x", "op": "shuffle", "value": 1}, "shuffle takes none"),
        ({"name": "x", "op": "shuffle", "seed": -1}, "whole number of 0 or more"),
        ({"name": "x", "op": "scale", "value": 0, "seed": 1}, "leaves nothing to chance"),
        ({"name": "x", "op": "scale", "value": 0, "layers": [2]}, "names layer 2; the model has 2"),
        ({"name": "x", "op": "scale", "value": 0, "layers": []}, "list of whole numbers"),
        ({"name": "x", "op": "scale", "value": 0, "layers": [0.5]}, "list of whole numbers"),
        ({"name": "x", "op": "scale", "value": 0, "kinds": ["audio"]}, "attention and ffn"),
        ({"name": "x", "op": "scale", "value": 0, "layer": 0}, "unknown keys: layer"),
        ({"name": "x", "edits": []}, "at least one"),
        ({"name": "x", "edits": [{"op": "scale", "value": 0}], "op": "set"}, "op beside edits"),
        ({"name": "x", "edits": [{"name": "y", "op": "scale", "value": 0}]}, "unknown keys: name"),
    ],
)
def test_a_malformed_intervention_is_refused_by_what_is_wrong_with_it(item, message):
    with pytest.raises(RequestError, match=message):
        parse_interventions([item], fusion_facts(num_layers=2))


def test_a_name_twice_no_list_no_json_and_no_file_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"intervention 2 \('no audio in layer 0'\) has the name of an earlier one"):
        parse_interventions(EXAMPLE * 2, fusion_facts(num_layers=2))
    for data in ({}, [], None):
        with pytest.raises(RequestError, match="expected a list"):
            parse_interventions(data, fusion_facts(num_layers=2))
    path = tmp_path / "bad.json"
    path.write_text("[{")
    with pytest.raises(RequestError, match="is not JSON"):
        read_interventions(path, fusion_facts())
    with pytest.raises(MissingFileError, match="no interventions file"):
        read_interventions(tmp_path / "none.json", fusion_facts())


def test_scale_may_lead_out_of_the_range_and_set_may_where_none_is_known():
    parse_interventions([{"name": "x", "op": "scale", "value": 7}], fusion_facts(num_layers=1))
    parse_interventions([{"name": "x", "op": "set", "value": 7}], fusion_facts(num_layers=1, value_range=None))


# -- what they come to ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nothing",
    [one("scale", 1.0), one("clamp", (-1.0, 1.0)), Intervention("x", (Edit("scale", 2.0), Edit("scale", 0.5)))],
)
def test_what_changes_nothing_has_an_empty_plan(nothing):
    assert plan_of(nothing, fusion_facts("clipwise", 2)) == {}


def test_a_global_gate_has_no_clips_to_shuffle_or_to_average():
    for nothing in (one("shuffle", seed=1), one("mean", "sample")):
        assert plan_of(nothing, fusion_facts("global", 2)) == {}
        assert len(plan_of(nothing, fusion_facts("clipwise", 2))) == 4


def test_different_ways_to_switch_a_gate_off_are_one():
    off = plan_of(one("set", 0.0), fusion_facts("clipwise", 2))
    same = [
        one("scale", 0.0),
        one("clamp", (0.0, 0.0), (0, 1), ("attention", "ffn")),
        Intervention("x", (Edit("shuffle", seed=4), Edit("scale", 0.0), Edit("scale", 3.0))),
    ]
    assert plan_of(same[0], fusion_facts("clipwise", 2)) == plan_of(same[2], fusion_facts("clipwise", 2)) == off
    assert plan_of(same[1], fusion_facts("clipwise", 2)) != off  # a clamp to a point is not looked into


def test_the_standard_sweep_runs_15_of_its_17_conditions_at_four_layers():
    conditions = conditions_of(standard_sweep(fusion_facts(num_layers=4)))
    assert len(conditions) == 17
    assert alike(conditions, fusion_facts("clipwise", 4)) == {
        "attention gates x 0": "all attention gates off",
        "attention gates x 1": "baseline",
    }


def test_only_what_takes_the_gates_of_others_needs_them_recorded():
    assert needs_recorded(plan_of(one("swap", seed=0), fusion_facts("global", 1)))
    assert needs_recorded(plan_of(one("mean", "dataset"), fusion_facts("global", 1)))
    assert not needs_recorded(plan_of(one("mean", "sample"), fusion_facts("clipwise", 1)))
    swapped_then_set = Intervention("x", (Edit("swap", seed=0), Edit("set", 0.5)))
    assert not needs_recorded(plan_of(swapped_then_set, fusion_facts("clipwise", 1)))


def test_one_name_for_two_conditions_is_refused_and_the_same_twice_counts_once():
    sweep = standard_sweep(fusion_facts(num_layers=1))
    assert conditions_of([*sweep, *sweep]) == conditions_of(sweep)
    with pytest.raises(RequestError, match="two different conditions are called 'all FFN gates off'"):
        conditions_of([*sweep, Intervention("all FFN gates off", (Edit("set", 0.5),))])
    with pytest.raises(RequestError, match="--audio loud"):
        conditions_of((), ["loud"])


# -- what they do to a gate ----------------------------------------------------------------------------------------------


def facts(lengths, total):
    mask = torch.zeros(len(lengths), total)
    for b, n in enumerate(lengths):
        mask[b, :n] = 1
    return BatchFacts([f"q{b}" for b in range(len(lengths))], [f"v{b}" for b in range(len(lengths))], mask)


def run_edit(intervention, gate, batch, recorded=None, site=(0, "attention"), gating_type="clipwise"):
    edit = bind(plan_of(intervention, fusion_facts(gating_type, 2)), batch, recorded)
    return edit(GateSite(*site), gate)


def test_scale_set_and_clamp_do_as_they_say_and_leave_other_gates_alone():
    gate = torch.tensor([[[0.5], [-0.25], [0.0]]])
    batch = facts([3], 3)
    assert run_edit(one("scale", -2.0), gate, batch).flatten().tolist() == [-1.0, 0.5, -0.0]
    assert run_edit(one("set", 0.75), gate, batch).flatten().tolist() == [0.75] * 3
    assert run_edit(one("clamp", (-0.125, 0.25)), gate, batch).flatten().tolist() == [0.25, -0.125, 0.0]
    assert run_edit(one("set", 0.75, layers=(1,)), gate, batch) is gate
    assert run_edit(one("set", 0.75, kinds=("ffn",)), gate, batch) is gate


def test_the_mean_of_a_sample_is_over_its_real_clips_per_channel():
    gate = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [-9.0, 9.0]], [[0.0, 1.0], [0.0, 0.5], [0.75, 0.0]]])
    mean = run_edit(one("mean", "sample"), gate, facts([2, 3], 3), gating_type="elementwise")
    assert mean[0].tolist() == [[0.75, 0.25]] * 3
    assert mean[1].tolist() == [[0.25, 0.5]] * 3


def test_a_shuffle_moves_real_clips_only_and_all_gates_of_a_sample_alike():
    gate = torch.arange(40.0).reshape(1, 20, 2)
    batch = facts([17], 20)
    shuffled = run_edit(one("shuffle", seed=1), gate, batch)
    assert shuffled[0, 17:].tolist() == gate[0, 17:].tolist()
    assert sorted(shuffled[0, :17].tolist()) == gate[0, :17].tolist() != shuffled[0, :17].tolist()
    again = run_edit(one("shuffle", seed=1), gate + 100, batch, site=(1, "ffn"))
    assert torch.equal(again - 100, shuffled)
    assert not torch.equal(run_edit(one("shuffle", seed=2), gate, batch), shuffled)


def entry(*arrays, kinds=("attention", "ffn")):
    gates = {kind: np.stack(arrays)[:, None].astype(np.float32) for kind in kinds}
    return SampleGates(gates, np.ones((1, arrays[0].shape[0]), bool), "clipwise", 1)


def test_dataset_mean_and_swap_take_recorded_gates():
    queries = [Query(q, "a", vid, 10.0, q) for q, vid in ((1, "a"), (2, "a"), (3, "b"))]
    history = {1: entry(np.array([[0.0], [0.5]])), 2: entry(np.array([[1.0], [0.5]])), 3: entry(np.array([[-1.0]] * 4))}
    recorded = RecordedGates(history, queries)
    gate = torch.zeros(2, 4, 1)
    batch = BatchFacts([1, 3], ["a", "b"], torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1.0]]))
    assert run_edit(one("mean", "dataset"), gate, batch, recorded).unique().tolist() == [
        -0.25
    ]  # (0 + .5 + 1 + .5 - 4) / 8
    swapped = run_edit(one("swap", seed=0), gate, batch, recorded)
    assert swapped[0, :, 0].tolist() == [-1.0, -1.0, -1.0, 0.0]  # of the three real clips; padding is left
    assert swapped[1, :, 0].tolist() == [0.0, 0.5, 0.0, 0.5]  # of video a's first sample, repeated
    with pytest.raises(ValueError, match="record a run without interventions first"):
        run_edit(one("swap", seed=0), gate, batch)
    with pytest.raises(KeyError, match="no gates of sample 4"):
        RecordedGates(history, [*queries, Query(4, "a", "c", 10.0, 4)])


@settings(deadline=None)
@given(edit_lists.filter(lambda found: all(e.op != "swap" and e.value != "dataset" for e in found)))
def test_a_plan_gives_what_its_edits_give_one_after_another(found):
    gate = torch.linspace(-0.9, 0.9, 12).reshape(2, 3, 2)
    batch = facts([3, 2], 3)
    expected = gate
    for edit in found:
        if edit.kinds in (None, ("attention",), ("attention", "ffn")) and (edit.layers is None or 1 in edit.layers):
            expected = run_edit(Intervention("x", (Edit(edit.op, edit.value, None, None, edit.seed),)), expected, batch)
    edit_at_once = bind(plan_of(Intervention("x", found), fusion_facts("elementwise", 4)), batch)
    given_at_once = edit_at_once(GateSite(1, "attention"), gate)
    real = batch.vid_mask.bool()
    torch.testing.assert_close(given_at_once[real], expected[real], rtol=1e-5, atol=1e-6)


# -- chance --------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 99))
def test_every_video_is_exchanged_once_and_with_another_source_wherever_that_is_possible(sizes, seed):
    vids = [f"s{i}_{j}.0_{j + 1}.0" for i, size in enumerate(sizes) for j in range(size)]
    if len(vids) < 2:
        with pytest.raises(RequestError, match="at least two videos"):
            other_videos(vids, seed)
        return
    partner = other_videos(vids[::-1] * 2, seed)
    assert partner == other_videos(vids, seed)
    assert sorted(partner) == sorted(partner.values()) == sorted(vids)
    assert all(a != b for a, b in partner.items())
    same_source = sum(source_video(a) == source_video(b) for a, b in partner.items())
    assert same_source == max(0, 2 * max(sizes) - len(vids))


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(0, 50))
def test_audio_is_turned_by_at_least_a_quarter_either_way(n, seed):
    shift = shift_of(n, seed, "video")
    assert (n == 1 and shift == 0) or min(shift, n - shift) >= n / 4


def test_rows_are_cut_or_repeated_from_the_start():
    assert fitted_rows(3, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert fitted_rows(5, 2).tolist() == [0, 1]


# -- no trace ------------------------------------------------------------------------------------------------------------


def outputs_of(model, batch):
    with torch.no_grad():
        return {key: value.numpy().tobytes() for key, value in model(batch).items()}


@pytest.mark.parametrize("gating_type", GATING_TYPES)
def test_after_50_random_interventions_some_raising_outputs_are_as_before_to_the_bit(gating_type):
    model = small_model(gating_type)
    index, reader = small_data()
    _, batch = next(samples_of(index, reader).read_batches())
    before, state = outputs_of(model, batch), copy.deepcopy(model.state_dict())
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    rng = np.random.default_rng(5)
    info = BatchFacts(batch["qid"], batch["vid"], batch["src_vid_mask"])
    raised = changed = 0
    for i in range(50):
        op = ("scale", "set", "clamp", "mean", "shuffle", "swap")[i % 6]
        value = {"scale": 2 * rng.normal(), "set": rng.uniform(-1, 1), "clamp": (-0.1, 0.2), "mean": "sample"}.get(op)
        seed = i if op in ("shuffle", "swap") else None
        intervention = one(op, value, layers=(int(rng.integers(2)),), seed=seed)
        try:  # swap raises: nothing is recorded
            with torch.no_grad():
                edited = model(batch, gate_edit=bind(plan_of(intervention, fusion_facts(gating_type, 2)), info))
            changed += edited["saliency_scores"].numpy().tobytes() != before["saliency_scores"]
        except ValueError:
            raised += 1
    assert raised == 8
    assert changed >= 20
    assert outputs_of(model, batch) == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not model.fusion.track_gates


# -- other gates than the two ---------------------------------------------------------------------------------------------


def film_facts():
    """A fusion whose FFN step has the factor 1 + g with |g| < 0.3, and whose third gate is a shift with no off value."""
    gates = (
        replace(ATTENTION, value_range=(0.0, 1.0)),
        replace(FFN, value_range=(-0.3, 0.3), off=-1.0),
        Gate("shift", SHIFT, "shift", "shift", off=None),
    )
    return FusionFacts("global", "global", 1, 16, gates)


def test_the_standard_sweep_switches_each_gate_off_at_its_own_value():
    plain = to_plain(standard_sweep(film_facts()))
    off = {item["name"]: (item["op"], item["value"], item["kinds"]) for item in plain if item["name"].endswith("off")}
    assert off == {
        "layer 0 attention gate off": ("scale", 0.0, ["attention"]),
        "layer 0 FFN gate off": ("set", -1.0, ["ffn"]),
        "all attention gates off": ("scale", 0.0, ["attention"]),
        "all FFN gates off": ("set", -1.0, ["ffn"]),
    }
    assert parse_interventions(plain, film_facts()) == standard_sweep(film_facts())  # a saved sweep may be run again
    one_gate = replace(film_facts(), gates=film_facts().gates[:1])
    assert {kind for item in to_plain(standard_sweep(one_gate)) for kind in item["kinds"]} == {"attention"}


def test_each_gate_is_held_to_its_own_range_and_only_gates_there_are_can_be_named():
    def item(**changes):
        return [{"name": "x", "op": "set", "value": 0.5, "kinds": ["attention"], **changes}]

    parse_interventions(item(), film_facts())
    with pytest.raises(RequestError, match=r"outside of their range \[-0.3, 0.3\]"):
        parse_interventions(item(kinds=["ffn"]), film_facts())
    with pytest.raises(RequestError, match="expected a list of attention and ffn and shift"):
        parse_interventions(item(kinds=["other"]), film_facts())
    (found,) = parse_interventions([{"name": "x", "op": "scale", "value": 2}], film_facts())
    assert list(plan_of(found, film_facts())) == [(0, "attention"), (0, "ffn"), (0, "shift")]
