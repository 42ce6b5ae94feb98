"""Whole runs: the variance partition, dead gates and GateStatistics against slow versions that keep every value."""

from __future__ import annotations

import json
import random as pyrandom
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qd_detr.gates.analysis.statistics import DeadGates, GateStatistics, SampleRow, ValueStatistics, VariancePartition
from qd_detr.gates.gating import SHIFT, Gate
from tests.fusion_facts import facts

TANH = (-1.0, 1.0)
LEGACY = Path(__file__).parents[2] / "shared" / "legacy"
LAYERS, CHANNELS = 3, 4
SHAPES = {"global": (1, 1), "clipwise": (None, 1), "elementwise": (None, CHANNELS)}


def random_gates(rng: np.random.Generator, clips: int, channels: int, spread: float = 0.7) -> np.ndarray:
    return np.tanh(rng.normal() + spread * rng.normal(size=(LAYERS, clips, channels))).astype(np.float32)  # (A, n, C)


def random_sample(rng: np.random.Generator, gating_type: str) -> dict[str, list[np.ndarray]]:
    clips = int(rng.integers(1, 7))
    gate_clips, channels = SHAPES[gating_type]
    gate_clips = gate_clips or clips
    return {
        "attention_gates": list(random_gates(rng, gate_clips, channels)),
        "ffn_gates": list(random_gates(rng, gate_clips, channels)),
        "attention_injection": list(rng.exponential(size=(LAYERS, clips)).astype(np.float32)),
        "ffn_injection": list(rng.exponential(size=(LAYERS, clips)).astype(np.float32)),
        "attention_cosine": list(rng.uniform(-1, 1, size=(LAYERS, clips)).astype(np.float32)),
        "ffn_cosine": list(rng.uniform(-1, 1, size=(LAYERS, clips)).astype(np.float32)),
    }


def added(statistics: GateStatistics, sample_id: object, sample: dict[str, list[np.ndarray]]) -> SampleRow:
    parts = [
        {kind: np.stack(sample[f"{kind}_{name}"]) for kind in ("attention", "ffn") if f"{kind}_{name}" in sample}
        for name in ("gates", "injection", "cosine")
    ]
    return statistics.add(sample_id, parts[0], injection=parts[1], cosine=parts[2])


def fed(gating_type: str, samples: list[dict[str, list[np.ndarray]]]) -> GateStatistics:
    result = GateStatistics(facts(gating_type, LAYERS, CHANNELS))
    for sample_id, sample in enumerate(samples):
        added(result, sample_id, sample)
    return result


def slow_partition(samples: list[np.ndarray]) -> dict[str, float]:
    """Replace every value by the mean of ever smaller groups; each part is the variance that a step adds."""
    wide = [sample.astype(np.float64) for sample in samples]
    everything = np.concatenate(wide, axis=1)  # (A, all clips, C)
    levels = [np.full(everything.shape, everything.mean())]
    levels.append(np.broadcast_to(everything.mean(axis=(1, 2), keepdims=True), everything.shape))
    levels.append(np.broadcast_to(everything.mean(axis=1, keepdims=True), everything.shape))
    levels.append(np.concatenate([np.broadcast_to(s.mean(axis=1, keepdims=True), s.shape) for s in wide], axis=1))
    levels.append(everything)
    names = ("layers", "channels", "videos", "clips")
    return {
        name: float(np.mean((finer - coarser) ** 2))
        for name, coarser, finer in zip(names, levels[:-1], levels[1:], strict=True)
    }


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 6), min_size=1, max_size=8), st.sampled_from([1, CHANNELS]))
def test_the_parts_equal_a_slow_partition_and_sum_to_the_variance(seed, clips, channels):
    rng = np.random.default_rng(seed)
    samples = [random_gates(rng, n, channels) for n in clips]
    partition = VariancePartition(LAYERS, channels, TANH)
    for sample in samples:
        partition.add(sample)
    readout = partition.readout()
    assert readout["parts"] == pytest.approx(slow_partition(samples), rel=1e-10, abs=1e-15)
    assert readout["total_variance"] == pytest.approx(
        np.var(np.concatenate(samples, axis=1).astype(np.float64)), abs=1e-14
    )
    assert sum(readout["parts"].values()) == pytest.approx(readout["total_variance"], rel=1e-14)
    for layer_idx in range(LAYERS):
        layer = [sample[layer_idx : layer_idx + 1] for sample in samples]
        assert readout["layers"][str(layer_idx)]["parts"] == pytest.approx(slow_partition(layer), rel=1e-10, abs=1e-15)
    if channels == 1:
        assert readout["parts"]["channels"] == 0.0


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from([1.0, 1e-3, 1e-6]))
def test_partitions_merge_in_any_order(seed, count, spread):
    rng = np.random.default_rng(seed)
    samples = [
        (
            -0.9
            + spread * rng.uniform(0, 0.1, size=(LAYERS, int(rng.integers(1, 6)), CHANNELS))
            + spread * rng.uniform(0, 0.1)
        )
        for _ in range(count)
    ]
    whole = VariancePartition(LAYERS, CHANNELS, TANH)
    parts = []
    for sample in samples:
        whole.add(sample)
        parts.append(VariancePartition(LAYERS, CHANNELS, TANH))
        parts[-1].add(sample)
    pyrandom.Random(seed).shuffle(parts)
    while len(parts) > 1:
        parts.append(parts.pop(0).merge(parts.pop(0)))
    got, expected = parts[0].readout(), whole.readout()
    assert got["parts"] == pytest.approx(expected["parts"], rel=1e-12, abs=1e-30)
    assert got["verdict"] == expected["verdict"]
    assert parts[0].samples == count


@pytest.mark.parametrize(
    ("video_spread", "clip_spread", "verdict"),
    [(0.001, 0.001, "constant"), (0.0, 0.0, "constant"), (0.2, 0.02, "video-level"), (0.02, 0.2, "clip-level")],
)
def test_the_verdict_names_what_the_gate_follows(video_spread, clip_spread, verdict):
    rng = np.random.default_rng(1)
    offset = rng.uniform(-0.3, 0.3, size=(LAYERS, 1, CHANNELS))  # channels differ, and that is no variation over time
    partition = VariancePartition(LAYERS, CHANNELS, TANH)
    assert partition.verdict is None
    for _ in range(200):
        partition.add(
            offset
            + video_spread * rng.uniform(-1, 1, (LAYERS, 1, CHANNELS))
            + clip_spread * rng.uniform(-1, 1, (LAYERS, 5, CHANNELS))
        )
    assert partition.verdict == verdict
    assert all(layer["verdict"] == verdict for layer in partition.readout()["layers"].values())


def test_a_constant_gate_of_unknown_range_is_constant():
    partition = VariancePartition(1, 1, None)
    for value in (40.0, 40.0001, 40.0):
        partition.add(np.full((1, 3, 1), value))
    assert partition.verdict == "constant"
    partition.add(np.full((1, 3, 1), 90.0))
    assert partition.verdict == "video-level"


def test_dead_gates_are_those_without_spread_over_all_samples():
    dead = DeadGates(2, 3)
    base = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    dead.add(base, base)
    assert dead.readout()["dead_count"] is None  # one sample says nothing
    moved = base + np.array([[0, 0, 0.1], [0, 2e-6, 5e-7]])
    dead.add(moved, moved)
    readout = dead.readout()
    assert (readout["gates"], readout["dead_count"], readout["dead_share"]) == (6, 4, 4 / 6)
    assert readout["layers"]["0"]["dead_channels"] == [0, 1]
    assert readout["layers"]["1"]["dead_channels"] == [0, 2]
    other = DeadGates(2, 3)
    other.add(base + 1, base + 1)
    assert dead.merge(other).readout()["dead_count"] == 0


@pytest.mark.parametrize("gating_type", SHAPES)
def test_a_run_equals_numpy_on_all_values(gating_type):
    rng = np.random.default_rng(5)
    samples = [random_sample(rng, gating_type) for _ in range(30)]
    readout = fed(gating_type, samples).readout()
    assert (readout["total_samples"], readout["gating_type"], readout["num_layers"]) == (30, gating_type, LAYERS)
    for kind in ("attention", "ffn"):
        for layer_idx in [None, *range(LAYERS)]:
            wanted = range(LAYERS) if layer_idx is None else [layer_idx]
            entry = readout[f"{kind}_gates"] if layer_idx is None else readout["layer_statistics"][str(layer_idx)][kind]
            for name, part in (
                (f"{kind}_gates", entry),
                (f"{kind}_injection", entry["injection"]),
                (f"{kind}_cosine", entry["cosine"]),
            ):
                values = np.concatenate([s[name][layer].ravel() for s in samples for layer in wanted]).astype(
                    np.float64
                )
                assert part["count"] == values.size
                assert part["mean"] == pytest.approx(values.mean(), rel=1e-12, abs=1e-16)
                assert part["std"] == pytest.approx(values.std(), rel=1e-12)
                assert part["magnitude"]["mean"] == pytest.approx(np.abs(values).mean(), rel=1e-12)
                assert (part["min"], part["max"]) == (values.min(), values.max())
                assert part["median"] == pytest.approx(np.median(values), rel=1e-3, abs=1e-4)
            assert entry["variance"]["total_variance"] == pytest.approx(entry["std"] ** 2, rel=1e-12)
            assert entry["dead"]["dead_count"] == 0
            if gating_type == "global":
                assert entry["variance"]["parts"]["clips"] == 0.0
    layer = readout["layer_statistics"]["1"]
    for kind in ("attention", "ffn"):
        assert layer[f"{kind}_mean"] == layer[kind]["mean"]
        assert layer[f"{kind}_std"] == layer[kind]["std"]
        assert layer[f"{kind}_injection_mean"] == layer[kind]["injection"]["mean"]


@pytest.mark.parametrize("gating_type", SHAPES)
def test_the_row_of_a_sample_holds_its_own_figures(gating_type):
    sample = random_sample(np.random.default_rng(8), gating_type)
    row = added(GateStatistics(facts(gating_type, LAYERS, CHANNELS)), "val_7", sample)
    assert row.sample_id == "val_7"
    for kind, gate_rows in row.gates.items():
        for layer_idx, gate_row in enumerate(gate_rows):
            values = sample[f"{kind}_gates"][layer_idx].astype(np.float64)
            assert gate_row.layer_idx == layer_idx
            assert gate_row[1:6] == pytest.approx(
                (values.mean(), values.std(), values.min(), values.max(), np.abs(values).mean()), rel=1e-12, abs=1e-15
            )
            assert gate_row.injection_mean == pytest.approx(sample[f"{kind}_injection"][layer_idx].mean(), rel=1e-6)
            assert gate_row.cosine_mean == pytest.approx(sample[f"{kind}_cosine"][layer_idx].mean(), rel=1e-5, abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(SHAPES)), st.integers(2, 6))
def test_runs_merge_in_any_order(seed, gating_type, count):
    rng = np.random.default_rng(seed)
    samples = [random_sample(rng, gating_type) for _ in range(count)]
    parts = [fed(gating_type, [sample]) for sample in samples]
    pyrandom.Random(seed).shuffle(parts)
    while len(parts) > 1:
        parts.append(parts.pop(0).merge(parts.pop(0)))
    got, expected = parts[0].readout(), fed(gating_type, samples).readout()
    assert_close(got, expected)


def assert_close(got: object, expected: object, key: str = "") -> None:
    """Counts, bins and extremes equal; floating figures within 1e-12."""
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for name in expected:
            assert_close(got[name], expected[name], name)
    elif isinstance(expected, float) and key not in ("min", "max"):
        assert got == pytest.approx(expected, rel=1e-12, abs=1e-24)
    else:
        assert got == expected


def test_the_same_order_gives_the_same_bytes_and_plain_json():
    rng = np.random.default_rng(2)
    samples = [random_sample(rng, "elementwise") for _ in range(10)]
    texts = [json.dumps(fed("elementwise", samples).readout(), allow_nan=False) for _ in range(2)]
    assert texts[0] == texts[1]
    assert json.loads(texts[0]) == fed("elementwise", samples).readout()  # plain types: the round trip changes nothing


def test_nothing_added_reads_out_as_none_and_injection_may_be_absent():
    empty = GateStatistics(facts("clipwise", 2, 8))
    assert json.loads(json.dumps(empty.readout(), allow_nan=False))["attention_gates"]["mean"] is None
    row = empty.add(0, {"attention": np.zeros((2, 3, 1), np.float32), "ffn": np.zeros((2, 3, 1), np.float32)})
    assert row.gates["attention"][0].injection_mean is None
    readout = json.loads(json.dumps(empty.readout(), allow_nan=False))
    assert readout["ffn_gates"]["injection"] is None
    assert readout["layer_statistics"]["0"]["ffn_injection_mean"] is None
    assert readout["attention_gates"]["variance"]["shares"]["clips"] is None
    assert readout["attention_gates"]["variance"]["verdict"] == "constant"


def test_a_leading_batch_axis_of_one_is_dropped():
    sample = random_sample(np.random.default_rng(4), "elementwise")
    batched = {name: [array[None] for array in arrays] for name, arrays in sample.items()}
    assert fed("elementwise", [sample]).readout() == fed("elementwise", [batched]).readout()


def broken_samples() -> dict[str, tuple[dict[str, list[np.ndarray]], str]]:
    def changed(name: str, value: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
        return {**random_sample(np.random.default_rng(6), "elementwise"), name: value}

    good = random_sample(np.random.default_rng(6), "elementwise")
    clips = good["ffn_gates"][0].shape[0]
    nan = [array.copy() for array in good["ffn_gates"]]
    nan[2][0, 1] = np.nan
    return {
        "too few layers": (changed("ffn_gates", good["ffn_gates"][:2]), "ffn gate of 2 layers, expected 3"),
        "two samples": (changed("ffn_gates", [np.stack([a, a]) for a in good["ffn_gates"]]), "one by one"),
        "wrong channels": (changed("ffn_gates", [a[:, :2] for a in good["ffn_gates"]]), r"shape \(clips, 4\)"),
        "not finite": (changed("ffn_gates", nan), "sample 'x', layer 2, ffn gate: expected finite"),
        "out of range": (
            changed("ffn_gates", [a + 2 for a in good["ffn_gates"]]),
            r"layer 0, ffn gate: expected within",
        ),
        "other clips": (changed("ffn_injection", [np.zeros(clips + 1, np.float32)] * 3), f"expected {clips}"),
        "negative ratio": (changed("ffn_injection", [np.full(clips, -1, np.float32)] * 3), "ratio of norms"),
        "cosine of 2": (changed("ffn_cosine", [np.full(clips, 2, np.float32)] * 3), "ffn cosine: expected within"),
    }


@pytest.mark.parametrize("what", broken_samples())
def test_a_broken_sample_is_refused_by_name_and_changes_nothing(what):
    sample, message = broken_samples()[what]
    statistics = fed("elementwise", [random_sample(np.random.default_rng(1), "elementwise")])
    before = statistics.readout()
    with pytest.raises(ValueError, match=message) as caught:
        added(statistics, "x", sample)
    assert "sample 'x'" in str(caught.value)
    assert statistics.readout() == before


def test_a_fusion_may_have_one_gate_or_three_each_with_a_range_of_its_own():
    third = Gate("shift", SHIFT, "shift", "shift", value_range=(-3.0, 3.0))
    two = facts("clipwise", LAYERS, CHANNELS).gates
    for gates in (two[:1], (*two, third)):
        statistics = GateStatistics(replace(facts("clipwise", LAYERS, CHANNELS), gates=gates))
        values = {gate.kind: np.full((LAYERS, 4, 1), gate.value_range[1] * 0.9, np.float32) for gate in gates}
        row = statistics.add("a", values)
        readout = statistics.readout()
        kinds = [gate.kind for gate in gates]
        assert list(row.gates) == kinds
        assert [key for key in readout if key.endswith("_gates")] == [gate.gates_key for gate in gates]
        for gate in gates:
            assert readout[gate.gates_key]["mean"] == pytest.approx(0.9 * gate.value_range[1], rel=1e-6)
            assert readout["layer_statistics"]["1"][f"{gate.kind}_max"] == values[gate.kind].max()
        assert readout["value_range"] == [-gates[-1].value_range[1], gates[-1].value_range[1]]
        with pytest.raises(ValueError, match=f"gates other, expected {', '.join(kinds)}"):
            statistics.add("b", {"other": values["attention"]})


def test_statistics_of_different_models_do_not_merge():
    with pytest.raises(ValueError, match="num_layers"):
        GateStatistics(facts("global", 2, 8)).merge(GateStatistics(facts("global", 3, 8)))
    with pytest.raises(ValueError, match="gating_type"):
        GateStatistics(facts("sigmoid", 2, 8))


def test_the_streams_of_a_run_serve_the_figures():
    samples = [random_sample(np.random.default_rng(seed), "clipwise") for seed in range(5)]
    run = fed("clipwise", samples)
    overall = run.streams("attention")
    assert isinstance(overall, ValueStatistics)
    layers = sum(run.streams("attention", layer_idx).histogram(20)[0] for layer_idx in range(LAYERS))
    assert overall.histogram(20)[0].tolist() == layers.tolist()


@pytest.mark.skipif(not LEGACY.is_dir(), reason=f"needs the legacy recordings in {LEGACY}")
@pytest.mark.parametrize("gating_type", SHAPES)
def test_the_gates_of_the_legacy_models_give_what_numpy_gives(gating_type):
    with np.load(LEGACY / gating_type / "gates_batch1.npz") as recorded:
        gates = {name: recorded[name] for name in recorded.files if "_gate_" in name}
    samples = sorted({name.split("_")[0] for name in gates})
    num_layers = sum(name.startswith(f"{samples[0]}_attention_gate_") for name in gates)
    run = GateStatistics(facts(gating_type, num_layers, 256))
    for sample in samples:
        run.add(
            sample,
            {
                kind: np.stack([gates[f"{sample}_{kind}_gate_{layer_idx}"] for layer_idx in range(num_layers)])
                for kind in ("attention", "ffn")
            },
        )
    readout = run.readout()
    for layer_idx in range(num_layers):
        for kind in ("attention", "ffn"):
            arrays = [gates[f"{sample}_{kind}_gate_{layer_idx}"].astype(np.float64) for sample in samples]
            values = np.concatenate([array.ravel() for array in arrays])
            entry = readout["layer_statistics"][str(layer_idx)][kind]
            for part, expected in ((entry, values), (entry["magnitude"], np.abs(values))):
                assert part["mean"] == pytest.approx(expected.mean(), rel=1e-11)
                assert part["std"] == pytest.approx(expected.std(), rel=1e-11)
                assert (part["min"], part["max"]) == (expected.min(), expected.max())
                assert part["median"] == pytest.approx(np.median(expected), abs=1e-4)
                for percent, figure in part["percentiles"].items():
                    assert figure == pytest.approx(np.percentile(expected, int(percent)), abs=1e-4)
            assert entry["share_near_zero"] == np.mean(np.abs(values) < 0.05)
            assert entry["share_saturated"] == np.mean(np.abs(values) > 0.95)
            assert entry["variance"]["parts"] == pytest.approx(slow_partition(arrays), rel=1e-9, abs=1e-15)
