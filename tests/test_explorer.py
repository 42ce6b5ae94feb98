"""explorer.html without a browser: what is in it, and what is not."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from gate_analysis_utils import GateAnalyzer
from qd_detr.gates.fusion import AVIGATEFusionCustom
from qd_detr.gates.results.explorer import texts_of_page
from qd_detr.gates.results.explorer.page import SCRIPTS
from run_gate_analysis import main
from tests.explorer_run import make_findings, write
from tests.tiny_run import make_tiny_run

FOLDER = Path(__file__).resolve().parents[1] / "qd_detr/gates/results/explorer"
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a\u2028b\u2029c\u0000d",
    "\u202eevil \u2066bidi",
    "%DATA% %SCRIPT% ]]> <!-- & &amp;",
    "\"quoted\", 'single' `tick` ${1}",
)

FORBIDDEN = (
    *("eval(", "new Function", "innerHTML", "insertAdjacentHTML", "document.write", "import(", "</script"),
    *("fetch(", "XMLHttpRequest", "WebSocket", "data:", "url("),
    *("event.key ", "event.key)"),  # the letter that an input method makes of a key; keys go by their place
)


def unpacked(page: Path) -> tuple[dict, np.ndarray]:
    """Return a page's facts and its values one after another, by another way than the page's own."""
    facts, planes = (zlib.decompress(base64.b64decode(text)) for text in texts_of_page(page.read_text("utf-8")))
    low, high = np.frombuffer(planes, np.uint8).reshape(2, -1).astype(np.uint16)
    return json.loads(facts), (low | high << 8).view(np.float16)


def blocks(page: Path) -> tuple[dict, list[np.ndarray]]:
    facts, values = unpacked(page)
    sizes = [sample["n_clips"] for sample in facts["samples"]]
    ends = np.cumsum([n * len(facts["series"]) for n in sizes])
    parts = np.split(values, ends[:-1])
    return facts, [part.reshape(len(facts["series"]), n) for part, n in zip(parts, sizes, strict=True)]


@pytest.mark.parametrize("gating_type", ["global", "clipwise", "elementwise"])
def test_the_series_are_the_recorded_gates_to_float16(tmp_path, gating_type):
    findings = make_findings(7, gating_type=gating_type, layers=2, clips=20)
    facts, found = blocks(write(tmp_path, findings)[0])
    at = {(one["name"], one["layer"]): i for i, one in enumerate(facts["series"])}
    for context, block in zip(findings.contexts, found, strict=True):
        entry = findings.history[context.sample_id]
        for layer in range(2):
            gate = np.asarray(entry["attention_gates"][layer])[0]
            injection = np.asarray(entry["attention_injection"][layer])[0]
            np.testing.assert_array_equal(block[at["attention_injection", layer]], injection.astype(np.float16))
            contribution = findings.contributions[context.sample_id][layer].astype(np.float16)
            np.testing.assert_array_equal(block[at["attention_contribution", layer]], contribution)
            if gating_type == "elementwise":
                magnitude = np.abs(gate.astype(np.float64)).mean(axis=1).astype(np.float16)
                np.testing.assert_array_equal(block[at["attention_magnitude", layer]], magnitude)
                is_open = (np.abs(gate) >= 0.05).mean(axis=1).astype(np.float16)
                np.testing.assert_array_equal(block[at["attention_open", layer]], is_open)
            else:
                shown = block[at["attention_gate", layer]]
                np.testing.assert_array_equal(shown, np.broadcast_to(gate[:, 0].astype(np.float16), shown.shape))
        predicted = block[at["predicted_saliency", None]]
        assert predicted.astype(float).tolist() == context.line["pred_saliency_scores"]


def test_columns_hold_what_samples_csv_holds(tmp_path):
    findings = make_findings(12, layers=1, clips=20)
    page, table = write(tmp_path, findings)
    columns = {column["name"]: column["values"] for column in unpacked(page)[0]["columns"]}
    assert list(columns)[: len(table.head)] == table.head
    for i, name in enumerate(table.head):
        cells = [row[i] for row in table.rows]
        if name in ("id", "vid", "query", "file_name"):
            assert columns[name] == [str(cell) for cell in cells]
        elif name.startswith(("layer", "ap", "audio_effect")):
            assert columns[name] == [float(cell) for cell in cells]


def test_a_page_that_no_string_of_a_run_can_leave(tmp_path):
    texts = [*HOSTILE, "<b>" * 350_000]
    findings = make_findings(len(texts), clips=20, layers=1, ids=texts, texts=texts, vids=texts)
    page = write(tmp_path, findings)[0].read_text("utf-8")
    assert "alert" not in page
    assert "onerror" not in page
    assert page.count("</script") == 3  # two texts of data and the page's own script
    facts = unpacked(tmp_path / "explorer.html")[0]
    assert [column["values"] for column in facts["columns"] if column["name"] == "query"] == [texts]


def test_the_policy_lets_nothing_in_and_names_the_pages_own_script_and_style(tmp_path):
    page = write(tmp_path, make_findings(3, clips=20, layers=1))[0].read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    assert rules["default-src"] == ["'none'"]
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        inline = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert rules[directive] == [f"'sha256-{digest}'"]
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "media-src", "base-uri", "form-action"}
    assert (rules["img-src"], rules["media-src"]) == (["blob:"], ["blob:", "file:"])


def test_the_pages_own_files_ask_for_nothing_and_need_no_build():
    source = {
        path.name: path.read_text("utf-8") for path in FOLDER.iterdir() if path.suffix in (".js", ".css", ".html")
    }
    assert {f"{name}.js" for name in SCRIPTS} == {name for name in source if name.endswith(".js")}
    for name, text in source.items():
        for forbidden in FORBIDDEN:
            if (name, forbidden) != ("page.html", "</script"):
                assert forbidden not in text, (name, forbidden)
        addresses = set(re.findall(r"https?://[^\"'`$\s]*", text))
        assert addresses <= {"https://www.youtube.com/watch?v=", "http://www.w3.org/2000/svg"}, name


def test_every_text_is_there_in_both_languages_with_the_same_places_to_fill():
    text = (FOLDER / "texts.js").read_text("utf-8")
    english, korean = (re.search(rf"  {lang}: {{\n(.*?)\n  }},", text, re.S)[1] for lang in ("en", "ko"))
    pairs = [dict(re.findall(r'^    (\w+): "(.*)",$', part, re.M)) for part in (english, korean)]
    assert list(pairs[0]) == list(pairs[1])
    assert len(pairs[0]) == english.count("\n") + 1
    for key, sentence in pairs[0].items():
        assert set(re.findall(r"{\w+}", sentence)) == set(re.findall(r"{\w+}", pairs[1][key])), key
    used = set().union(*(re.findall(r'say\(\s*"(\w+)"', path.read_text("utf-8")) for path in FOLDER.glob("*.js")))
    used |= set(re.findall(r'data-(?:text|label)="(\w+)"', (FOLDER / "page.html").read_text("utf-8")))
    assert used <= set(pairs[0])


def test_a_run_writes_it_but_for_no_explorer_and_a_comparison_holds_both_runs(tmp_path):
    tiny = make_tiny_run(tmp_path / "t", n_queries=6)
    first, second, both = (tmp_path / name for name in ("first", "second", "both"))
    assert main(tiny.argv("--no_figures", "--ablate", output=first)) == 0
    facts = unpacked(first / "explorer.html")[0]
    assert {"baseline", "all attention gates off"} <= {condition["name"] for condition in facts["conditions"]}
    lines = [json.loads(line) for line in (first / "predictions.jsonl").read_text().splitlines()]
    words = facts["condition_words"]
    assert set(words["ko"]) == {condition["name"] for condition in facts["conditions"]}
    assert (words["en"]["baseline"], words["ko"]["all attention gates off"]) == (
        "the model as it is",
        "모든 attention 게이트 끔",
    )
    assert facts["conditions"][0]["first"] == [line["pred_relevant_windows"][0] for line in lines]
    assert [sample["predicted"] for sample in facts["samples"]] == [line["pred_relevant_windows"] for line in lines]
    report = (first / "ANALYSIS_REPORT.md").read_text("utf-8")
    assert all(f"- {sentence}" in report.replace("**", "") for sentence in facts["findings"]["en"])
    assert main(tiny.argv("--no_figures", "--lang", "ko", output=second)) == 0
    assert unpacked(second / "explorer.html")[0]["lang"] == "ko"
    assert main(["--compare_runs", str(first), str(second), "--output_dir", str(both), "--quiet"]) == 0
    page = (both / "explorer.html").read_text("utf-8")
    for number, tree in enumerate((first, second)):
        for part, text in zip(("facts", "planes"), texts_of_page((tree / "explorer.html").read_text()), strict=True):
            assert f'<script type="text/plain" id="run{number}-{part}">{text}</script>' in page
    assert main(tiny.argv("--no_figures", "--no_explorer", output=second)) == 0
    assert not (second / "explorer.html").exists()
    assert main(["--compare_runs", str(first), str(second), "--output_dir", str(both), "--quiet"]) == 0
    assert not (both / "explorer.html").exists()


def test_gates_of_a_users_own_loop_have_a_page_too_batches_under_one_id_as_well(tmp_path, tiny_batch):
    batch = tiny_batch()
    fusion = AVIGATEFusionCustom(16, 16, 16, n_heads=2, num_layers=2, gating_type="clipwise").eval()
    fusion.enable_gate_tracking()
    video = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    fusion.set_current_sample_id("batch")
    fusion(video, video, batch["src_vid_mask"], batch["src_vid_mask"])
    fusion.set_current_sample_id(["alone"])
    fusion(video[:1], video[:1])
    GateAnalyzer(fusion).analyze_all_samples(tmp_path / "out", figures=False)
    facts, found = blocks(tmp_path / "out/explorer.html")
    ids = next(column["values"] for column in facts["columns"] if column["name"] == "id")
    assert ids == ["batch[0]", "batch[1]", "batch[2]", "alone"]
    assert [block.shape[1] for block in found] == [5, 3, 4, 5]
    place = [one["name"] for one in facts["series"]].index("attention_gate")
    np.testing.assert_allclose(found[3][place].astype(float), found[0][place].astype(float), atol=1e-3)
