"""The figure of one sample, the writer of many, and the pool of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from qd_detr.gates.figures.sample import SampleFigureWriter, plot_sample
from qd_detr.gates.figures.sample_data import SampleData
from qd_detr.gates.figures.sample_pool import FigureError, write_sample_figures
from qd_detr.gates.figures.style import FigureScale, save_figure

TYPES = ("global", "clipwise", "elementwise")
ROOT = Path(__file__).resolve().parents[1]


def make_sample(gating_type: str, seed: int = 0, n_layers: int = 2, n_clips: int = 12, **changes: Any) -> SampleData:
    rng = np.random.default_rng(seed)
    shape = {"global": (1, 1, 1), "clipwise": (1, n_clips, 1), "elementwise": (1, n_clips, 16)}[gating_type]
    end = 2.0 * n_clips
    of_gates: dict[str, Any] = {
        "attention_gates": [np.tanh(rng.normal(-1.8, 0.4, shape)).astype(np.float32) for _ in range(n_layers)],
        "ffn_gates": [np.tanh(rng.normal(0.5, 0.4, shape)).astype(np.float32) for _ in range(n_layers)],
        "attention_injection": np.abs(rng.normal(0.6, 0.1, (n_layers, n_clips))),
        "ffn_injection": np.abs(rng.normal(0.9, 0.1, (n_layers, n_clips))),
    }
    of_gates |= {name: changes.pop(name) for name in of_gates if name in changes}
    kinds = ("attention", "ffn")
    fields: dict[str, Any] = {
        "sample_id": f"val_{seed}",
        "gating_type": gating_type,
        "values": {kind: of_gates[f"{kind}_gates"] for kind in kinds},
        "injection": {kind: found for kind in kinds if (found := of_gates[f"{kind}_injection"]) is not None},
        "n_clips": n_clips,
        "duration_s": end,
        "query": f"A clerk number {seed} talks to the costumers",
        "vid": "aB_dE5gH7_8_60.0_210.0",
        "true_windows_s": [[0.2 * end, (0.4 + 0.01 * seed) * end]],
        "predicted_windows": [[0.1 * end, 0.4 * end, 0.9], [0.5 * end, 0.9 * end, 0.1]],
        "predicted_saliency": rng.normal(-8, 1, n_clips),
        "annotated_saliency": np.where(np.arange(n_clips) < n_clips / 2, 2.0 + seed % 3, np.nan),
    }
    return SampleData(**fields | changes)


def texts(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_visible())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("gating_type", TYPES)
@pytest.mark.parametrize(("n_layers", "n_clips"), [(1, 1), (4, 12), (12, 3)])
def test_writer_gives_the_pixels_of_plot_sample(tmp_path: Path, gating_type: str, n_layers: int, n_clips: int) -> None:
    scale = FigureScale(1.0, {"attention": 1.5, "ffn": 2.0})
    writer = SampleFigureWriter(scale)
    writer.write(make_sample(gating_type, 7, n_layers, n_clips), tmp_path / "before.png")
    data = make_sample(gating_type, 1, n_layers, n_clips)
    writer.write(data, tmp_path / "a.png")
    save_figure(plot_sample(data, scale), tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_order_of_samples_does_not_matter(tmp_path: Path) -> None:
    full = make_sample("clipwise", 0)
    samples = [
        full,
        make_sample("clipwise", 1, n_clips=30),
        replace(
            full, sample_id="none", true_windows_s=[], predicted_windows=[], annotated_saliency=np.full(12, np.nan)
        ),
        replace(full, sample_id="bare", true_windows_s=None, predicted_saliency=None, query=None, injection={}),
        replace(full, sample_id="long", query="a long query of many words " * 8),
        replace(full, sample_id="one", predicted_windows=[[0, 4, 0.5]], predicted_saliency=np.full(12, 3.0)),
        make_sample("elementwise", 2),
        make_sample("global", 3),
    ]
    writer = SampleFigureWriter()
    for turn, order in enumerate((range(8), (7, 3, 5, 0, 2, 6, 4, 1), (2, 0, 2, 5, 0, 5, 1, 4))):
        for index in order:
            path = writer.write(samples[index], tmp_path / f"{turn}_{index}.png")
            fresh = tmp_path / f"fresh_{index}.png"
            if not fresh.exists():
                SampleFigureWriter().write(samples[index], fresh)
            assert np.array_equal(pixels(path), pixels(fresh)), (turn, index)


def test_a_failed_sample_leaves_nothing_behind_in_the_writer(tmp_path: Path) -> None:
    good = make_sample("clipwise", 1)
    writer = SampleFigureWriter()
    writer.write(make_sample("clipwise", 2), tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"val_3.*clipwise ffn gate of 12 clips cannot have the shape"):
        writer.write(make_sample("clipwise", 3, ffn_gates=[np.zeros((1, 5, 1))] * 2), tmp_path / "y.png")
    writer.write(good, tmp_path / "a.png")
    SampleFigureWriter().write(good, tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    assert not (tmp_path / "y.png").exists()


def drawn_texts(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[Text]:
    """Give the texts that get drawn; an axis also holds labels of ticks outside its limits."""
    drawn: list[Text] = []
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (drawn.append(self), draw(self, renderer))[1])
    figure.canvas.draw()
    monkeypatch.setattr(Text, "draw", draw)
    return [text for text in drawn if text.get_text()]


def assert_texts_stand_free(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    """No text of the figure is clipped or lies over another."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn_texts(figure, monkeypatch)]
    width, height = figure.bbox.size
    assert len(boxes) > 20
    for index, (words, box) in enumerate(boxes):
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0, words
        for other, other_box in boxes[index + 1 :]:
            across = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
            along = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
            # Boxes have room for descenders that no digit uses.
            assert across <= 1 or along <= 3, (words, other)


@pytest.mark.parametrize("gating_type", TYPES)
@pytest.mark.parametrize("n_layers", [1, 4, 12])
def test_nothing_is_clipped_and_no_texts_overlap(
    gating_type: str, n_layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = plot_sample(make_sample(gating_type, n_layers=n_layers, query="word " * 60, n_clips=75))
    assert_texts_stand_free(figure, monkeypatch)


def test_numbers_on_the_figure_are_those_of_the_data() -> None:
    gates = [np.array([-0.96, -0.94, -0.92])[None, :, None], np.array([0.5, 0.5, 0.2])[None, :, None]]
    figure = plot_sample(
        make_sample(
            "clipwise", n_clips=3, attention_gates=gates, attention_injection=[[0.5, 0.6, 0.7], [0.1, 0.2, 0.3]]
        )
    )
    shown = texts(figure)
    assert "−0.94 (−0.96 … −0.92)" in shown
    assert "+0.40 (+0.20 … +0.50)" in shown
    assert "0.60 (0.70)" in shown
    assert "n = 3 clips of 2 s" in shown


def test_a_sign_is_never_read_as_added_or_suppressed() -> None:
    for gating_type in TYPES:
        shown = texts(plot_sample(make_sample(gating_type))).lower()
        assert "suppress" not in shown
        assert "added" not in shown
        assert "the sign of a gate alone means nothing" in shown


def test_a_global_gate_is_one_bar_a_layer_and_is_not_expanded() -> None:
    figure = plot_sample(make_sample("global", n_layers=3, n_clips=75))
    shown = texts(figure)
    assert shown.count("one value for the video") == 2
    axes = next(a for a in figure.axes if a.get_title(loc="left") == "Attention gate")
    assert sum(len(c.get_paths()) for c in axes.collections) == 3


def test_gates_that_are_not_finite_are_counted_and_change_no_other_number() -> None:
    gates = [np.array([np.nan, -0.5, -0.3])[None, :, None], np.full((1, 3, 1), np.nan)]
    shown = texts(plot_sample(make_sample("clipwise", n_clips=3, attention_gates=gates)))
    assert "4 gate values not finite" in shown
    assert "−0.40 (−0.50 … −0.30)" in shown
    assert "n/a" in shown
    for gating_type in ("global", "elementwise"):
        sample = make_sample(gating_type, n_clips=3)
        bad = [np.full_like(np.asarray(gate), np.nan) for gate in sample.values["attention"]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plot_sample(replace(sample, values={**sample.values, "attention": bad})).canvas.draw()


def test_a_query_without_a_font_gives_no_warning_and_a_dollar_is_a_dollar(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_sample(
            make_sample("clipwise", query="price $5_0$ \ud55c\uad6d\uc5b4 \U00013080\n\tnext", vid="비디오")
        )
        figure.canvas.draw()
    assert "$5_0$" in texts(figure)


@pytest.mark.parametrize("suffix", ["pdf", "svg", "png"])
def test_the_same_sample_gives_the_same_bytes_in_every_format(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        SampleFigureWriter().write(make_sample("clipwise"), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_gates_of_a_wrong_shape_are_refused_with_sample_and_layer() -> None:
    with pytest.raises(
        ValueError, match=r"sample val_0, layer 1: a elementwise attention gate|sample val_0, layer 1: a clip"
    ):
        plot_sample(make_sample("clipwise", attention_gates=[np.zeros((1, 12, 1)), np.zeros((1, 12, 2))]))
    with pytest.raises(ValueError, match=r"attention_injection must have the shape \(2, 12\)"):
        plot_sample(make_sample("clipwise", attention_injection=np.zeros((2, 11))))


@pytest.mark.parametrize("workers", [0, 2])
def test_pool_writes_what_the_writer_writes(tmp_path: Path, workers: int) -> None:
    told: list[int] = []
    samples = [make_sample(TYPES[i % 3], i) for i in range(9)]
    n = write_sample_figures(
        ((f"{i}.png", sample) for i, sample in enumerate(samples)), tmp_path, workers=workers, progress=told.append
    )
    assert n == 9
    assert told[-1] == 9
    assert told == sorted(told)
    for i, sample in enumerate(samples):
        SampleFigureWriter().write(sample, tmp_path / "alone.png")
        assert np.array_equal(pixels(tmp_path / f"{i}.png"), pixels(tmp_path / "alone.png"))


@pytest.mark.parametrize("workers", [0, 1])
def test_pool_raises_the_error_with_the_samples_name(tmp_path: Path, workers: int) -> None:
    bad = make_sample("clipwise", 4, predicted_saliency=np.zeros(3))
    with pytest.raises(
        FigureError, match=r"figure of sample val_4: .*predicted_saliency must have the shape"
    ) as caught:
        write_sample_figures(
            ((f"{i}.png", bad if i == 4 else make_sample("clipwise", i)) for i in range(100)), tmp_path, workers=workers
        )
    assert isinstance(caught.value.__cause__, ValueError)


def test_pool_takes_items_only_as_fast_as_it_draws_them(tmp_path: Path) -> None:
    ahead = []

    def items() -> Iterator[tuple[str, SampleData]]:
        for i in range(6):
            ahead.append(i - len(list(tmp_path.iterdir())))
            yield f"{i}.png", make_sample("elementwise", i, n_layers=8, n_clips=150)  # more than a pipe holds

    assert write_sample_figures(items(), tmp_path, workers=1) == 6
    assert max(ahead) <= 2  # one in the worker, one in the pipe


def test_pool_says_so_when_a_worker_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, start = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **more: started.append(start(*args, **more)) or started[-1])

    def items() -> Iterator[tuple[str, SampleData]]:
        for i in range(50):
            if i == 1:
                started[0].kill()
                started[0].wait()
            yield f"{i}.png", make_sample("clipwise", i)

    with pytest.raises(FigureError, match=r"figure of sample val_0: its process ended \(status -9\)"):
        write_sample_figures(items(), tmp_path, workers=1)


def test_an_unguarded_script_can_use_the_pool_and_no_worker_imports_torch(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            print("script runs")
            sys.path.insert(0, {str(ROOT)!r})
            from tests.test_figures_sample import make_sample
            from qd_detr.gates.figures.sample_pool import write_sample_figures
            print(write_sample_figures([("a.png", make_sample("clipwise"))], {str(tmp_path)!r}, workers=2))
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert (done.stdout.split(), done.stderr) == (["script", "runs", "1"], "")
    needless = "any(m in sys.modules for m in ('torch', 'matplotlib.pyplot'))"
    check = f"import sys, qd_detr.gates.figures.sample_pool; sys.exit({needless})"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


def test_contributions_get_a_panel_that_reaches_to_the_samples_own_largest(tmp_path: Path) -> None:
    found = np.zeros((2, 12))
    found[0, 3], found[1, 3], found[1, 7] = 0.25, 0.5, -0.125
    data = make_sample("global", contributions=found)
    shown = texts(plot_sample(data))
    said = "do not sum to the effect"
    assert said not in shown
    assert said in texts(plot_sample(make_sample("global", contributions=found, contributions_complete=False)))
    for text in ("Audio timeline", "+0.250", "+0.375", "+0.500", "\N{MINUS SIGN}0.500"):
        assert text in shown
    assert "Audio timeline" not in texts(plot_sample(make_sample("global")))
    writer = SampleFigureWriter()
    writer.write(make_sample("global", 3, contributions=np.ones((2, 12))), tmp_path / "before.png")
    writer.write(data, tmp_path / "a.png")
    save_figure(plot_sample(data), tmp_path / "b.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    assert "0.000" in texts(plot_sample(make_sample("global", contributions=np.zeros((2, 12)))))
    with pytest.raises(ValueError, match=r"contributions must have the shape \(2, 12\)"):
        plot_sample(make_sample("global", contributions=np.zeros((2, 11))))
