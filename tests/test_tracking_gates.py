"""What the tracking API of a fusion records, under which ids, and that watching changes nothing."""

import copy
import io
import itertools
import json
import os
import pickle
import re
import warnings
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qd_detr.gates.fusion import AVIGATEFusionCustom
from qd_detr.gates.tracking.entries import SampleGates
from qd_detr.gates.tracking.history import GateHistory

pytestmark = pytest.mark.usefixtures("one_thread")
GATING = pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
D = 16


@pytest.fixture
def fusion(tiny_model):
    return tiny_model("clipwise").fusion


def inputs(batch=3, clips=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, batch, clips, D, generator=generator).to(dtype))


PREFIX = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
HOLES = torch.tensor([[0.0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 0]])


def run(fusion, ids, mask=None, seed=0, batch=3, **tracking):
    """Track one forward under `ids` and return the history."""
    fusion.enable_gate_tracking(**tracking)
    fusion.set_current_sample_id(ids)
    with torch.no_grad():
        fusion(*inputs(batch, seed=seed), mask)
    return fusion.gate_history


# -- outputs ---------------------------------------------------------------------------------------------------------


@GATING
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tracking_never_changes_an_output_to_the_bit(tiny_model, gating_type, dtype):
    fusion = tiny_model(gating_type).fusion.to(dtype)
    video, audio = inputs(dtype=dtype)
    for mask, grad, train in itertools.product((None, PREFIX, HOLES.bool()), (False, True), (False, True)):
        fusion.train(train)
        outputs, gradients = [], []
        for tracking in (None, False, True):
            fusion.disable_gate_tracking()
            if tracking is not None:
                fusion.enable_gate_tracking(injection=tracking)
            fusion.set_current_sample_id(["a", "b", "c"])
            v = video.clone().requires_grad_(grad)
            with torch.set_grad_enabled(grad):
                out = fusion(v, audio, mask)
                if grad:
                    out.float().square().sum().backward()
                    gradients.append(v.grad)
            outputs.append(out.detach())
        assert all(torch.equal(outputs[0], other) for other in outputs[1:])
        assert all(torch.equal(gradients[0], other) for other in gradients[1:])
        assert len(fusion.gate_history) == 3
    with torch.inference_mode():
        assert torch.equal(fusion(video, audio, HOLES.bool()), outputs[0])


def test_the_model_gives_the_same_bits_tracked_and_untracked(tiny_model, tiny_batch):
    model = tiny_model("elementwise")
    with torch.no_grad():
        plain = model(tiny_batch())
        model.avigate_fusion.enable_gate_tracking(injection=True)
        model.avigate_fusion.set_current_sample_id("x")
        tracked = model(tiny_batch())
    assert plain.keys() == tracked.keys()
    assert all(torch.equal(plain[key], tracked[key]) for key in plain)


# -- ids -------------------------------------------------------------------------------------------------------------


@GATING
def test_one_id_holds_the_whole_batch(tiny_model, gating_type):
    history = run(tiny_model(gating_type).fusion, "whole", PREFIX)
    shape = {"global": (3, 1, 1), "clipwise": (3, 5, 1), "elementwise": (3, 5, D)}[gating_type]
    assert list(history) == ["whole"]
    entry = history["whole"]
    for key in ("attention_gates", "ffn_gates"):
        assert [array.shape for array in entry[key]] == [shape, shape]
        assert all(array.dtype == np.float32 for array in entry[key])
    assert entry["layer_info"] == [
        {"layer_idx": i, "gating_type": gating_type, "sequence_length": 5, "batch_size": 3, "hidden_dim": D}
        for i in (0, 1)
    ]
    np.testing.assert_array_equal(entry["valid_lengths"], [5, 3, 4])


@GATING
@pytest.mark.parametrize("mask", [PREFIX, HOLES])
def test_a_list_of_ids_cuts_every_sample_to_its_real_clips(tiny_model, gating_type, mask):
    fusion = tiny_model(gating_type).fusion
    whole = run(fusion, "whole", mask, injection=True)["whole"]
    history = run(fusion, [7, "7", 0], mask, injection=True)
    assert list(history) == [7, "7", 0]
    for b, entry in enumerate(history.values()):
        real = mask[b].bool().numpy()
        for key in ("attention_gates", "ffn_gates"):
            for layer in (0, 1):
                want = whole[key][layer][b : b + 1]
                want = want if gating_type == "global" else want[:, real]
                np.testing.assert_array_equal(entry[key][layer], want)
        for key in ("attention_injection", "ffn_injection", "attention_cosine", "ffn_cosine"):
            np.testing.assert_array_equal(entry[key][1], whole[key][1][b : b + 1, real])
        assert entry["layer_info"][1]["sequence_length"] == real.sum()
        assert entry["layer_info"][1]["batch_size"] == 1
        assert entry["valid_clips"].all()


@pytest.mark.parametrize("gating_type", ["clipwise", "elementwise"])
def test_padding_enters_no_statistic(tiny_model, gating_type):
    fusion = tiny_model(gating_type).fusion
    entry = run(fusion, "batch", HOLES)["batch"]
    real = entry["attention_gates"][0][HOLES.bool().numpy()]
    stats = fusion.get_gate_statistics("batch")["batch"]["attention_stats"][0]
    assert stats["mean"] == pytest.approx(real.astype(float).mean())
    assert stats["std"] == pytest.approx(real.astype(float).std())  # ddof 0
    assert stats["max"] == real.max()
    assert stats["percentiles"]["25"] == pytest.approx(np.percentile(real.astype(float), 25))
    assert stats["shape"] == [3, 5, 1 if gating_type == "clipwise" else D]
    np.testing.assert_array_equal(entry.values_of("attention", 0), real)
    assert [s["attention_gates"][0].shape[1] for s in entry.samples()] == [3, 5, 1]


def test_without_an_id_samples_are_counted_from_enable_with_one_warning(fusion):
    fusion.enable_gate_tracking()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        for batch in (2, 1, 3):
            fusion(*inputs(batch))
    assert list(fusion.gate_history) == [f"sample_{i}" for i in range(6)]
    assert len([w for w in caught if "set_current_sample_id" in str(w.message)]) == 1
    fusion.enable_gate_tracking()
    with pytest.warns(UserWarning, match="no sample id"), torch.no_grad():
        fusion(*inputs(1))
    assert list(fusion.gate_history) == ["sample_0"]


def test_zero_is_an_id_like_any_other_and_ids_are_sticky(fusion):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = run(fusion, 0)
        first = history[0]["attention_gates"][0].copy()
        with torch.no_grad():
            fusion(*inputs(seed=1))
    assert list(fusion.gate_history) == [0]
    assert not np.array_equal(fusion.gate_history[0]["attention_gates"][0], first)  # the later forward replaces
    assert fusion.current_sample_id == 0
    fusion.set_current_sample_id("0")
    with torch.no_grad():
        fusion(*inputs(seed=2))
    assert list(fusion.gate_history) == [0, "0"]


@pytest.mark.parametrize(
    ("given_id", "kept"),
    [
        (np.int64(3), 3),
        (torch.tensor(4), 4),
        (torch.tensor([4, 5, 6]), [4, 5, 6]),
        (np.array(["a", "b", "c"]), ["a", "b", "c"]),
        (("a", 1, "1"), ["a", 1, "1"]),
        ([torch.tensor(1), np.int32(2), "x"], [1, 2, "x"]),
        (None, None),
    ],
)
def test_ids_become_plain_ints_and_texts(fusion, given_id, kept):
    fusion.set_current_sample_id(given_id)
    assert fusion.current_sample_id == kept
    assert all(type(one) in (int, str) for one in (kept if isinstance(kept, list) else [kept]) if one is not None)


@pytest.mark.parametrize("bad", [1.5, True, b"abc", {"a"}, [1.0], [None], [["a"]], torch.tensor(1.5), object()])
def test_other_kinds_of_ids_are_refused_and_the_id_before_stays(fusion, bad):
    fusion.set_current_sample_id("before")
    with pytest.raises(TypeError, match="int or a str"):
        fusion.set_current_sample_id(bad)
    assert fusion.current_sample_id == "before"


def test_an_id_twice_in_a_batch_is_refused(fusion):
    with pytest.raises(ValueError, match=r"more than once: a$"):
        fusion.set_current_sample_id(["a", "b", "a"])


def test_a_list_of_the_wrong_length_is_refused_before_anything_is_computed(fusion):
    fusion.enable_gate_tracking()
    fusion.set_current_sample_id(["a", "b"])
    ran = []
    fusion.fusion_layers[0].register_forward_pre_hook(lambda module, args: ran.append(1))
    with pytest.raises(ValueError, match="2 sample ids are set, but the batch has 3"):
        fusion(*inputs(3))
    assert not ran
    assert len(fusion.gate_history) == 0
    fusion.disable_gate_tracking()
    fusion(*inputs(3))  # untracked, ids do not matter


# -- on and off ------------------------------------------------------------------------------------------------------


def test_enable_begins_anew_and_disable_keeps_the_history(fusion):
    history = run(fusion, "a")
    assert fusion.track_gates
    fusion.disable_gate_tracking()
    assert not fusion.track_gates
    with torch.no_grad():
        fusion(*inputs())
    fusion.set_current_sample_id("b")
    with torch.no_grad():
        fusion(*inputs())
    assert list(fusion.gate_history) == ["a"]
    assert fusion.gate_history is history
    fusion.enable_gate_tracking()
    assert len(fusion.gate_history) == 0
    assert list(history) == ["a"]  # what a script still holds stays


def test_a_forward_that_fails_records_nothing(fusion):
    fusion.enable_gate_tracking()
    fusion.set_current_sample_id("a")
    handle = fusion.fusion_layers[1].register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fusion(*inputs())
    handle.remove()
    assert len(fusion.gate_history) == 0


def test_scripts_may_assign_track_gates_and_gate_history(fusion):
    def forward():
        with torch.no_grad():
            fusion(*inputs())

    fusion.track_gates = True  # never enabled: begins with the history there is, which is empty
    fusion.set_current_sample_id("a")
    forward()
    fusion.track_gates = False
    fusion.set_current_sample_id("b")
    forward()
    assert list(fusion.gate_history) == ["a"]
    fusion.track_gates = True
    forward()
    kept = dict(fusion.gate_history)
    assert list(kept) == ["a", "b"]
    fusion.gate_history = {}
    assert len(fusion.gate_history) == 0
    assert fusion.track_gates
    fusion.set_current_sample_id("c")
    forward()
    assert list(fusion.gate_history) == ["c"]
    fusion.track_gates = False
    fusion.gate_history = {}
    forward()
    assert len(fusion.gate_history) == 0
    fusion.gate_history = kept
    assert_same_entries(fusion.gate_history["b"], kept["b"])


def test_while_a_recording_goes_on_the_fusions_own_tracking_rests(fusion):
    history = run(fusion, "mine")
    found = {}
    with torch.no_grad(), fusion.recording(found.__setitem__, measure=False) as recording:
        recording.set_sample_id(["a", "b", "c"])
        fusion(*inputs(seed=1), PREFIX)
        assert "attention_injection" not in found["a"]
        with fusion.recording(None):
            assert not fusion.is_recorded
            fusion.set_current_sample_id("nobody's")
            fusion(*inputs())
        assert fusion.current_sample_id == ["a", "b", "c"]
    assert list(found) == ["a", "b", "c"]
    assert list(history) == ["mine"]
    assert fusion.current_sample_id == "mine"
    assert fusion.is_recorded
    expected = run(fusion, ["a", "b", "c"], PREFIX, seed=1)
    np.testing.assert_array_equal(found["b"]["ffn_gates"][1], expected["b"]["ffn_gates"][1])


def test_a_recording_beside_never_raises_into_the_forward_and_stops_at_its_first_failure(fusion):
    seen = []

    def failing(sample_id, entry):
        seen.append(sample_id)
        raise OSError("no room")

    fusion.enable_gate_tracking()
    with torch.no_grad(), fusion.recording(failing, beside=True) as recording:
        fusion.set_current_sample_id("a")
        fusion(*inputs())
        fusion(*inputs())
    assert seen == ["a"]
    assert str(recording.failure) == "no room"
    assert list(fusion.gate_history) == ["a"]
    with torch.no_grad(), fusion.recording(failing) as recording:
        recording.set_sample_id("a")
        with pytest.raises(OSError, match="no room"):
            fusion(*inputs())
    assert fusion.track_gates


def test_an_entry_reads_as_a_dict_of_stacked_arrays(fusion):
    entry = run(fusion, ["a", "b", "c"], PREFIX)["b"]
    assert list(entry) == [
        "attention_gates",
        "ffn_gates",
        "attention_injection",
        "ffn_injection",
        "attention_cosine",
        "ffn_cosine",
        "layer_info",
        "valid_clips",
        "valid_lengths",
    ]
    assert len(entry) == len(list(entry.items())) == 9
    assert entry.gates["ffn"].shape == (2, 1, 3, 1)
    assert entry["ffn_gates"] is entry.gates["ffn"]
    assert entry.injection["ffn"].shape == (2, 1, 3)
    assert "ffn_shift_gates" not in entry
    assert entry.get("other") is None
    with pytest.raises(KeyError):
        entry["gates"]


def test_unknown_ids_and_empty_histories_are_told_plainly(fusion, tmp_path):
    calls = [
        fusion.get_gate_statistics,
        fusion.print_gate_summary,
        lambda one=None: fusion.save_gate_analysis(tmp_path / "out", one),
    ]
    for call in calls:
        with pytest.raises(KeyError, match="nothing has been recorded yet"):
            call()
        with pytest.raises(KeyError, match="nothing has been recorded yet"):
            call("x")
    run(fusion, ["a", 2, "c", "d"][:3])
    for call in [*calls, lambda one: fusion.gate_history[one], lambda one: fusion.compare_samples_gates([one])]:
        with pytest.raises(KeyError, match=re.escape("no gates of sample 'x'; there are 3: 'a', 2, 'c'")):
            call("x")
    with pytest.raises(KeyError):
        fusion.gate_history["2"]
    with pytest.raises(ValueError, match="at least one"):
        fusion.compare_samples_gates([])
    assert not (tmp_path / "out").exists()


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gates_of_other_precisions_become_float32(tiny_model, dtype):
    fusion = tiny_model("clipwise").fusion.to(dtype)
    seen = []
    fusion.fusion_layers[0].gating_function.register_forward_hook(
        lambda module, args, gates: seen.append(gates[0].clone())
    )
    fusion.enable_gate_tracking(injection=True)
    fusion.set_current_sample_id("x")
    with torch.no_grad():
        fusion(*inputs(dtype=dtype))
    entry = fusion.gate_history["x"]
    for key in ("attention_gates", "ffn_gates", "attention_injection", "ffn_cosine"):
        assert all(array.dtype == np.float32 for array in entry[key])
    np.testing.assert_array_equal(entry["attention_gates"][0], seen[0].float().numpy())


def test_history_outlives_changes_of_the_weights_in_place(fusion):
    history = run(fusion, "x", injection=True)
    before = copy.deepcopy(dict(history.items()))
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.mul_(3.0)
        fusion.set_current_sample_id("y")
        fusion(*inputs(seed=3))
    for key in ("attention_gates", "ffn_gates", "attention_injection"):
        for a, b in zip(history["x"][key], before["x"][key], strict=True):
            np.testing.assert_array_equal(a, b)


@GATING
def test_editing_a_recorded_array_does_not_reach_the_gradients(tiny_model, gating_type):
    fusion = tiny_model(gating_type).fusion
    gradients = []
    for spoil in (False, True):
        fusion.zero_grad()
        fusion.enable_gate_tracking(injection=True)
        fusion.set_current_sample_id("x")
        out = fusion(*inputs())
        if spoil:
            for key in ("attention_gates", "ffn_gates", "attention_injection"):
                for array in fusion.gate_history["x"][key]:
                    array[:] = 100.0
        out.sum().backward()
        gradients.append([p.grad.clone() for p in fusion.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_injection_of_nothing_into_nothing_is_zero():
    from qd_detr.gates.fusion import injection_of

    gate = torch.tensor([[[0.5], [0.5], [0.0], [-2.0]]])
    # Less their means over channels (3, -3, 4, -4), of length 5 sqrt 2, and (0, 0, 5, -5), as long; their product is 40.
    branch = torch.tensor([[[5.0, -1.0, 6.0, -2.0]]]).expand(1, 4, 4)
    there = [7.0, 7.0, 12.0, 2.0]
    residual = torch.tensor([[[3.0] * 4, there, [0.0] * 4, there]])
    injection, cosine = injection_of(gate, branch, residual)
    assert injection.tolist() == [[float("inf"), 0.5, 0.0, 2.0]]
    assert cosine[0].tolist() == pytest.approx([0.0, 0.8, 0.0, -0.8])
    wide, wide_cosine = injection_of(gate.expand(1, 4, 4), branch, residual)
    torch.testing.assert_close(wide, injection)
    torch.testing.assert_close(wide_cosine, cosine)


def test_statistics_summary_and_comparison_say_what_was_recorded(fusion, capsys):
    history = run(fusion, ["a", "b", 3], PREFIX)
    stats = fusion.get_gate_statistics()
    assert list(stats) == ["a", "b", 3]
    json.dumps({str(key): value for key, value in stats.items()}, allow_nan=False)
    assert set(stats["a"]) == {"attention_stats", "ffn_stats", "layer_info"}
    for one in stats["b"]["ffn_stats"]:
        assert {"mean", "std", "min", "max", "median", "percentiles", "shape"} <= set(one)
    gate = history["b"]["ffn_gates"][1].astype(float)
    assert stats["b"]["ffn_stats"][1]["median"] == pytest.approx(np.median(gate))
    assert list(fusion.get_gate_statistics(3)) == [3]
    fusion.print_gate_summary("b")
    printed = capsys.readouterr().out
    assert f"{gate.mean():.4f}" in printed
    assert printed.count("\n") == 1 + 2 * 2
    means = fusion.compare_samples_gates(["b", 3])
    assert means["b"]["ffn_means"][1] == pytest.approx(gate.mean())
    assert list(means) == ["b", 3]
    assert set(means[3]) == {"att_means", "ffn_means"}


def test_files_of_the_tracking_api_are_written_where_asked(fusion, tmp_path):
    run(fusion, ["a", "../x", 0])
    fusion.save_gate_analysis(tmp_path / "one", "a")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["gate_analysis_a.png", "gate_statistics_a.json"]
    fusion.save_gate_analysis(tmp_path / "all")
    files = sorted(p.name for p in (tmp_path / "all").iterdir())
    assert len(files) == 4
    assert {"gate_analysis_0.png", "gate_analysis_a.png", "gate_statistics_all.json"} < set(files)
    written = json.loads((tmp_path / "all" / "gate_statistics_all.json").read_text(encoding="utf-8"))
    assert list(written) == ["a", "../x", "0"]
    fusion.compare_samples_gates(["a", 0], tmp_path / "compared")
    assert (tmp_path / "compared" / "gate_comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_a_number_and_the_same_text_and_broken_unicode_keep_their_own_statistics(fusion, tmp_path):
    run(fusion, [1, "1", "half \ud800"])
    fusion.save_gate_analysis(tmp_path)
    written = json.loads((tmp_path / "gate_statistics_all.json").read_text(encoding="utf-8"))
    assert len(written) == 3
    assert "half \ud800" in written
    assert len(list(tmp_path.glob("*.png"))) == 3


# -- the history -----------------------------------------------------------------------------------------------------


def assert_same_entries(a, b):
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], np.ndarray):
            np.testing.assert_array_equal(a[key], b[key])
            assert a[key].dtype == b[key].dtype
        else:
            assert a[key] == b[key]


@GATING
@pytest.mark.parametrize("limit", [0, 700])
def test_a_history_on_disk_reads_as_one_in_memory(tiny_model, gating_type, limit):
    fusion = tiny_model(gating_type).fusion
    histories = [GateHistory(), GateHistory(memory_bytes=limit)]
    for history in histories:
        fusion.enable_gate_tracking(injection=True, history=history)
        for step, (ids, mask) in enumerate(
            [(["a", "b", "c"], HOLES), ("whole", PREFIX), (["b", 5, "\ud800"], None), ("whole", HOLES)]
        ):
            fusion.set_current_sample_id(ids)
            with torch.no_grad():
                fusion(*inputs(seed=step), mask)
        del history["a"]
    memory, disk = histories
    assert disk.bytes_in_memory <= limit < memory.bytes_in_memory
    assert list(memory) == list(disk) == ["b", "c", "whole", 5, "\ud800"]
    copies = [pickle.loads(pickle.dumps(disk)), copy.deepcopy(disk), copy.copy(disk)]
    for history in (disk, *copies):
        assert len(history) == 5
        assert "a" not in history
        for key, entry in memory.items():
            assert_same_entries(history[key], entry)
    with pytest.raises(KeyError, match="there are 5"):
        disk["a"]
    with pytest.raises(KeyError, match="there are 5"):
        del disk["a"]
    disk.clear()
    assert len(disk) == 0
    assert list(copies[0]) == list(memory)


def test_a_sample_without_a_real_clip_survives_the_disk(tiny_model):
    mask = torch.tensor([[0.0] * 5, [1, 0, 0, 0, 0], [1] * 5])
    for gating_type, shape in (("clipwise", (1, 0, 1)), ("global", (1, 1, 1))):
        history = run(tiny_model(gating_type).fusion, ["none", "some", "all"], mask, history=GateHistory(0))
        assert history["none"]["attention_gates"][1].shape == shape
        assert history["some"]["valid_lengths"].tolist() == [1]


def test_the_folder_of_a_history_goes_with_it(fusion):
    history = run(fusion, ["a", "b", "c"], history=GateHistory(0))
    folder = history._shards().directory
    assert folder.is_dir()
    fusion.enable_gate_tracking()
    del history
    assert not folder.exists()


def test_a_copied_or_pickled_model_holds_its_own_history(tiny_model, tiny_batch):
    model = tiny_model()
    model.avigate_fusion.enable_gate_tracking(history=GateHistory(0))
    model.avigate_fusion.set_current_sample_id(["a", "b", "c"])
    with torch.no_grad():
        model(tiny_batch())
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
    for other in copies:
        assert other.avigate_fusion is other.fusion
        assert other.avigate_fusion.track_gates
        for key, entry in model.avigate_fusion.gate_history.items():
            assert_same_entries(other.avigate_fusion.gate_history[key], entry)
        other.avigate_fusion.set_current_sample_id("new")
        with torch.no_grad():
            other(tiny_batch())
        assert "new" in other.avigate_fusion.gate_history
        assert "new" not in model.avigate_fusion.gate_history


def test_a_copy_taken_with_gates_still_on_their_way_holds_them_too(fusion):
    history = run(fusion, "a")
    recorder, entry = fusion._own, history["a"]

    def arrive() -> None:  # what a GPU's copy does when somebody reads
        recorder.sink("late", entry)

    recorder._pending = arrive
    other = copy.deepcopy(fusion)
    assert list(other.gate_history) == list(fusion.gate_history) == ["a", "late"]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["set", "delete", "commit"]), st.sampled_from(["a", "b", 0, "0", 1]), st.integers(0, 5)
        ),
        max_size=20,
    ),
    limit=st.sampled_from([0, 30, 10_000]),
)
def test_a_history_is_a_dict_whatever_is_done_to_it(steps, limit):
    history, plain = GateHistory(limit), {}
    for what, key, number in steps:
        if what == "set":
            gates = {kind: np.full((1, 1, number, 1), number, np.float32) for kind in ("attention", "ffn")}
            entry = SampleGates(gates, np.ones((1, number), bool), "clipwise", 1)
            history[key] = plain[key] = entry
        elif what == "delete" and key in plain:
            del history[key], plain[key]
        elif what == "commit":
            history.commit([i for i in plain if i == key], {})
    assert list(history) == list(plain)
    for key, entry in plain.items():
        assert_same_entries(history[key], entry)
    assert history.bytes_in_memory <= limit or limit == 10_000


# -- construction ----------------------------------------------------------------------------------------------------


def test_a_fusion_of_impossible_sizes_is_refused_by_name():
    for arguments, message in (
        ((8, 16, 16), "vid_dim and aud_dim must equal hidden_dim"),
        ((16, 8, 16), "aud_dim=8"),
        ((16, 16, 16, 3), "multiple of n_heads"),
        ((16, 16, 16, 2, 0), "num_layers"),
        ((16, 16, 16, 2, 1, "sigmoid"), "global, clipwise, elementwise"),
    ):
        with pytest.raises(ValueError, match=message):
            AVIGATEFusionCustom(*arguments)


def test_inputs_of_another_shape_are_refused(fusion):
    video, audio = inputs()
    for bad in ((video[0], audio[0]), (video, audio[:, :4]), (video[..., :8], audio[..., :8])):
        with pytest.raises(ValueError, match="must both be"):
            fusion(*bad)
    with pytest.raises(ValueError, match="video_mask must be"):
        fusion(video, audio, PREFIX[:, :4])
    with pytest.raises(ValueError, match="elementwise"):
        fusion.switch_gating_type("elementwise")


def test_a_gating_function_states_its_own_range(fusion):
    assert fusion.gate_range == (-1.0, 1.0)
    fusion.fusion_layers[1].gating_function.value_range = (0.0, 2.0)
    assert fusion.gate_range == (-1.0, 2.0)
    fusion.fusion_layers[0].gating_function.value_range = None
    assert fusion.gate_range is None
    run(fusion, "a")
    assert fusion.get_gate_statistics("a")["a"]["attention_stats"][0]["share_saturated"] is None


def test_hooks_on_a_layer_see_a_tensor_and_may_replace_it(fusion):
    seen = []
    fusion.fusion_layers[0].register_forward_hook(lambda module, args, out: seen.append(out.shape) or out * 0)
    out = run(fusion, "a")["a"]["attention_gates"][1]
    assert seen == [(3, 5, D)]
    assert out.shape == (3, 5, 1)


def test_hooks_on_any_module_see_what_it_computed_and_gradients_flow(tiny_model, tiny_batch):
    model = tiny_model("elementwise")
    with torch.no_grad():
        plain = model(tiny_batch())
    kept = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda m, args, out, name=name: kept.update({name: (args[0], out, out.clone())})
            )
            module.register_full_backward_hook(lambda m, before, after: None)
    watched = model(tiny_batch())
    assert all(torch.equal(plain[key], watched[key]) for key in plain)
    for name in (
        "fusion.fusion_layers.1.ffn2.0",
        "fusion.fusion_layers.0.gating_function.mlp_mha.0",
        "input_vid_proj.0.net.1",
    ):
        assert name in kept
    assert all(torch.equal(out, as_computed) for _, out, as_computed in kept.values())
    watched["saliency_scores"].sum().backward()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_neither_removes_nor_overwrites_what_its_parent_spilled():
    def entry(value):
        gates = dict.fromkeys(("attention", "ffn"), np.full((1, 1, 3, 1), value, np.float32))
        return SampleGates(gates, np.ones((1, 3), bool), "clipwise", 16)

    history = GateHistory(0)
    history["parent"] = entry(1)
    child = os.fork()
    if child == 0:
        history["child"] = entry(2)
        own = (history["parent"].gates["ffn"] == 1).all() and (history["child"].gates["ffn"] == 2).all()
        weakref.finalize._exitfunc()  # what the interpreter does at its end
        os._exit(0 if own else 1)
    assert os.waitpid(child, 0)[1] == 0
    history["later"] = entry(3)
    assert [float(history[one].gates["attention"].max()) for one in ("parent", "later")] == [1, 3]
