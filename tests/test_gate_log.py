"""run_gate_analysis.py --gate_log as a user runs it: gates that other code wrote down, without a model."""

import json
import re

import numpy as np
import pytest

from run_gate_analysis import main

RNG = np.random.default_rng(5)
SHAPES = {"global": lambda n: (1, 1), "clipwise": lambda n: (n, 1), "elementwise": lambda n: (n, 3)}
CLIPS = {7: 4, "eight": 1, 9: 6}


def gates_of(form):
    """Return {qid: {kind: (2 layers, n, C)}} of three queries, rounded as a log would."""
    return {
        qid: {kind: RNG.uniform(-3, 5, (2, *SHAPES[form](n))).round(4) for kind in ("attention", "ffn")}
        for qid, n in CLIPS.items()
    }


def lines_by_layer(gates):
    """A line per layer and query, layer after layer, with a leading batch axis of 1."""
    return [
        {"qid": qid, "layer": layer, **{f"{kind}_gate": g[layer][None].tolist() for kind, g in of_query.items()}}
        for layer in range(2)
        for qid, of_query in gates.items()
    ]


def lines_by_query(gates):
    """A line per query: every gate a list by layer, (L) or (L, D) each, other keys beside them."""
    return [
        {
            "qid": qid,
            "vid": "v",
            **{f"{k}_gates": [(x if x.shape[1] > 1 else x[:, 0]).tolist() for x in g] for k, g in of_query.items()},
        }
        for qid, of_query in gates.items()
    ]


def lines_of_layers(gates):
    """A line per query with a list of layers, under the short names."""
    return [
        {
            "qid": qid,
            "layers": [{"att_gate": of["attention"][i].tolist(), "ffn_gate": of["ffn"][i].tolist()} for i in (0, 1)],
        }
        for qid, of in gates.items()
    ]


@pytest.fixture
def log(tmp_path):
    def write(lines):
        path = tmp_path / "gates.jsonl"
        path.write_text("".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in lines), "utf-8")
        return path

    return write


def analysed(path, *flags, figures=False):
    out = path.parent / "out"
    argv = ["--gate_log", path, "--output_dir", out, "--quiet", *flags, *([] if figures else ["--no_figures"])]
    assert main([str(one) for one in argv]) == 0
    return out


def result(out, name):
    return json.loads((out / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", SHAPES)
def test_every_way_of_writing_a_log_gives_the_statistics_of_its_gates(log, form):
    gates = gates_of(form)
    first = result(analysed(log(lines_by_layer(gates))), "overall_statistics.json")
    assert (first["gating_type"], first["num_layers"], first["total_samples"]) == (form, 2, 3)
    assert first["hidden_dim"] == (3 if form == "elementwise" else None)
    assert first["value_range"] is None
    for layer in range(2):
        for kind in ("attention", "ffn"):
            values = np.concatenate([of_query[kind][layer].ravel() for of_query in gates.values()])
            entry = first["layer_statistics"][str(layer)]
            assert entry[f"{kind}_mean"] == pytest.approx(values.mean(), rel=1e-5)
            assert entry[f"{kind}_std"] == pytest.approx(values.std(), rel=1e-5)
    for write in (lines_by_query, lines_of_layers):
        assert result(analysed(log(write(gates))), "overall_statistics.json") == first


def test_tables_figures_raw_gates_and_report_are_written_without_a_model(log):
    gates = gates_of("clipwise")
    for layer, of_query in enumerate(gates.values()):
        of_query["ffn_shift"] = of_query["ffn"] / (layer + 2)
    lines = lines_by_layer(gates)
    for line in lines:
        line["ffn_shift"] = line.pop("ffn_shift_gate")
    out = analysed(log(lines), "--save_raw_data", "--compare_samples", 7, 9, figures=True)
    header, *rows = (out / "samples.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["7", "eight", "9"]
    assert "layer1_ffn_shift_mean" in header
    assert "injection" not in header
    raw = np.load(out / "raw_data" / "9_layer1_att.npy")
    np.testing.assert_allclose(raw, gates[9]["attention"][1][None], rtol=1e-6)
    assert {path.name for path in out.rglob("*.png")} >= {
        "overall_statistics.png",
        "gate_comparison.png",
        "gate_analysis_eight.png",
    }
    report = (out / "ANALYSIS_REPORT.md").read_text(encoding="utf-8")
    assert "Gates read from a log" in report
    assert "clipwise gating, 2 layers, hidden size not told, gates in a range the gating function does not" in report
    assert result(out, "run_config.json")["gate_log"]["sha256"]


def test_annotations_bring_the_moments(log, tmp_path):
    """Gates that are 1 in the annotated clips and 0 elsewhere: inside minus outside is 1."""
    inside = np.array([0, 0, 1, 1, 0, 0, 0, 0])
    queries = [
        {"qid": qid, "query": "a bell", "vid": f"v{qid}", "duration": 16, "relevant_windows": [[4, 8]]}
        for qid in range(8)
    ]
    data = tmp_path / "val.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in queries))
    lines = [{"qid": qid, "attention_gates": [inside.tolist()], "ffn_gates": [inside.tolist()]} for qid in range(8)]
    out = analysed(log(lines), "--data_path", data)
    (series, *_) = result(out, "alignment.json")["annotation"]["series"]
    assert series["inside_minus_outside"]["effect"] == pytest.approx(1)
    assert "a bell" in (out / "samples.csv").read_text()


GOOD = {"qid": 1, "attention_gates": [[0.5], [0.1]], "ffn_gates": [[0.2], [0.3]]}
DAMAGED = [
    ([], "holds no gates"),
    (["{\n"], "line 1: is not JSON"),
    ([GOOD, "[1, 2]\n"], r"line 2: is \[1, 2\]; expected an object"),
    ([GOOD, {**GOOD, "qid": None}], "line 2: 'qid' is null"),
    ([GOOD, GOOD], "line 2: layer 0 of qid 1 is there already"),
    ([GOOD, {**GOOD, "qid": "1"}], "line 2: 'qid' '1' is 1 in record 1"),
    ([{"qid": 1, "note": 2}], r"line 1: no gates among its keys \(qid, note\)"),
    (['{"qid": 1, "layer": 0, "attention_gate": NaN}\n'], "'attention_gate' holds nan"),
    (['{"qid": 1, "layer": 0, "attention_gate": 1e99}\n'], r"'attention_gate' holds 1e\+99"),
    ([{"qid": 1, "layer": 0, "attention_gate": [[1, 2], [3]]}], "is no even list of numbers"),
    ([{"qid": 1, "layer": 0, "attention_gate": [True, 0.5]}], "holds something else than numbers"),
    ([{"qid": 1, "layer": 0, "attention_gate": ["0.5"]}], "holds something else than numbers"),
    ([{"qid": 1, "layer": 0, "attention_gate": 10**400}], "holds"),
    ([{"qid": 1, "layer": 0, "attention_gate": []}], "'attention_gate' is empty"),
    ([{"qid": 1, "layer": 0, "attention_gate": [[[1]], [[2]]]}], "is a batch of 2"),
    ([{"qid": 1, "layer": -1, "attention_gate": 1}], "'layer' is -1"),
    ([{"qid": 1, "layer": 1, "attention_gate": 1}], "has the layers 1; expected all from 0"),
    ([{"qid": 1, "attention_gates": [0.5] * 75}], "write its number as 'layer'"),
    ([{**GOOD, "ffn_gates": [[0.2]]}], "its gates are of 1 and 2 layers"),
    ([{**GOOD, "att_gates": [1, 2]}], "'attention_gates' and 'att_gates' both hold attention gates"),
    ([GOOD, {"qid": 2, "attention_gates": [1, 2]}], "qid 2: does not have the gates attention, ffn"),
    ([GOOD, {"qid": 2, "attention_gates": [1], "ffn_gates": [1]}], "qid 2: has the layers 0; expected 0, 1"),
    ([{**GOOD, "ffn_gates": [[0.2, 0.1], [0.3, 0.1]]}], "qid 1: its gates differ in shape"),
    (["[" * 5000 + "\n"], "nested too deeply"),
]


@pytest.mark.parametrize(("lines", "said"), DAMAGED)
def test_a_damaged_log_is_one_clear_error_and_nothing_is_left_behind(log, capsys, lines, said):
    path = log(lines)
    assert main(["--gate_log", str(path), "--output_dir", str(path.parent / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert re.search(said, line)
    assert not (path.parent / "out").exists()


def test_what_needs_a_model_is_refused(log, tmp_path, capsys):
    path = str(log([GOOD]))
    asked = {
        ("--ablate", "--timeline"): "leave --ablate, --timeline out",
        ("--analyze_samples", "5"): "1 of 1 ids of --analyze_samples are not among the 1 queries",
        ("--compare_samples", "5"): "--compare_samples: 5 not among",
        ("--max_samples", "0"): "--max_samples is 0",
    }
    for flags, said in asked.items():
        assert main(["--gate_log", path, "--output_dir", str(tmp_path / "out"), *flags]) == 2
        assert said in capsys.readouterr().err
    assert main(["--gate_log", str(tmp_path / "nothing.jsonl")]) == 2
    assert "no gate log at" in capsys.readouterr().err
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps({"qid": 1, "query": "q", "vid": "v", "duration": 4}) + "\n")
    clips = str(log([{"qid": 1, "layer": 0, "attention_gate": [0.1, 0.2, 0.3]}]))
    assert main(["--gate_log", clips, "--data_path", str(short), "--output_dir", str(tmp_path / "out")]) == 2
    assert "has gates for 3 clips of 2 s and lasts 4 s" in capsys.readouterr().err
    other = str(log([{"qid": 2, "layer": 0, "attention_gate": 1}]))
    assert main(["--gate_log", other, "--data_path", str(short), "--output_dir", str(tmp_path / "out")]) == 2
    assert "1 of 1 queries" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
