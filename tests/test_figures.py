"""The figures over all samples, and the groups, scales and texts behind them."""

from __future__ import annotations

import base64
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from qd_detr.gates.figures import clustering, style, svg_fonts, text
from qd_detr.gates.figures.alignment import AlignmentData, plot_alignment
from qd_detr.gates.figures.clustering import ClusteringData, NoGroups, ProfileGroups, cluster_profiles, plot_clustering
from qd_detr.gates.figures.comparison import ComparisonData, plot_comparison
from qd_detr.gates.figures.distributions import (
    GateDistribution,
    LayerSummary,
    OverallData,
    plot_layer_distributions,
    plot_overall,
    rebin,
)
from qd_detr.gates.figures.effects import Effect, EffectsData, plot_effects
from qd_detr.gates.figures.patterns import PatternData, order_rows, plot_activation_patterns
from qd_detr.gates.figures.sample import plot_sample
from qd_detr.gates.figures.style import FIGURE_DPI, FigureScale, round_up, save_figure, signed
from qd_detr.gates.figures.texts import EN, KO
from qd_detr.gates.figures.trends import DoseData, EvolutionData, Panel, Series, plot_dose_curve, plot_evolution
from qd_detr.gates.figures.wording import warn_of_missing_font
from qd_detr.gates.gating import GATES, SHIFT, Gate
from tests.figure_references import assert_like_reference
from tests.test_figures_sample import assert_texts_stand_free, make_sample


def overall(n_layers: int = 2, injection: bool = True) -> OverallData:
    rng = np.random.default_rng(0)
    edges = np.linspace(-1, 1, 2001)

    def gate(middle: float) -> GateDistribution:
        values = np.tanh(rng.normal(middle, 0.4, (500, n_layers)))
        counts = np.stack([np.histogram(column, edges)[0] for column in values.T])
        return GateDistribution(edges, counts, LayerSummary.of_values(values))

    let_in = np.abs(rng.normal(0.6, 0.1, (50, n_layers)))
    gates = {"attention": gate(-1.8), "ffn": gate(0.5)}
    points = dict.fromkeys(gates, let_in)
    return OverallData("clipwise", 50, gates, 20, points, points if injection else {})


def patterns(n: int, n_layers: int = 2) -> PatternData:
    rng = np.random.default_rng(1)
    gates = np.tanh(rng.normal(0, 1, (n, n_layers)))
    return PatternData(
        [f"val_{i}" for i in range(n)],
        "clipwise",
        dict.fromkeys(("attention", "ffn"), gates),
        injection={"attention": np.abs(gates)},
    )


def alignment(n_layers: int) -> AlignmentData:
    line = np.tile(np.linspace(0, 1, 5), (n_layers, 1))
    null = np.stack([line - 0.1, line + 0.1])
    return AlignmentData(
        "attention", "magnitude", np.arange(-2, 3) * 2.0, line, null, line, null, line[:, 0], null[:, :, 0], 3, 4
    )


def groups() -> ProfileGroups:
    rng = np.random.default_rng(0)
    found = cluster_profiles(np.concatenate([rng.normal(-0.9, 0.03, (12, 4)), rng.normal(0.5, 0.03, (30, 4))]))
    assert isinstance(found, ProfileGroups)
    return found


def every_figure() -> dict[str, Figure]:
    series = [
        Series("a", [0, 5, 10], [1, 2, np.nan], [0, 1, np.nan], [2, 3, np.nan]),
        Series("b", [0], [1], [0], [2], 1),
    ]
    effects = [
        Effect("without audio", -2.3, -3.2, -1.4, 155, "all"),
        Effect("silent", np.nan, np.nan, np.nan, 0, "all"),
    ]
    features = [(kind, layer) for kind in ("attention", "ffn") for layer in range(2)]
    timeline = np.random.default_rng(2).normal(0, 0.1, (2, 12))
    return {
        "overall": plot_overall(overall()),
        "overall_1": plot_overall(overall(1, injection=False)),
        "layers": plot_layer_distributions(overall(4)),
        "layers_12": plot_layer_distributions(overall(12)),
        "patterns_1": plot_activation_patterns(patterns(1, 1)),
        "patterns_40": plot_activation_patterns(patterns(40, 4)),
        "patterns_1550": plot_activation_patterns(patterns(1550, 12)),
        "clusters": plot_clustering(ClusteringData(groups(), features, "injection", "clipwise", 9)),
        "comparison_8": plot_comparison(ComparisonData([make_sample("clipwise", i, 4) for i in range(8)])),
        "comparison_1": plot_comparison(ComparisonData([make_sample("global", 0, 1)])),
        "comparison_3": plot_comparison(ComparisonData([make_sample("elementwise", i, 12) for i in range(3)])),
        "evolution": plot_evolution(EvolutionData([[Panel("Gate", "gate", series)]] * 2, "n = 3 samples.")),
        "dose": plot_dose_curve(DoseData([Panel("mAP", "%", series[:1])] * 4, "factor", "n = 3 samples.", "Dose", 1.0)),
        "effects": plot_effects(
            EffectsData(effects, "difference in mAP (points)", "n in the column.", "Effects", better="better")
        ),
        "alignment_1": plot_alignment(alignment(1)),
        "alignment_12": plot_alignment(alignment(12)),
        "patterns_groups": plot_activation_patterns(replace(patterns(42, 2), groups=groups().labels)),
        "sample_global": plot_sample(make_sample("global", 1, 4), dpi=FIGURE_DPI),
        "sample_clipwise": plot_sample(make_sample("clipwise", 1, 2, contributions=timeline), dpi=FIGURE_DPI),
        "sample_elementwise": plot_sample(make_sample("elementwise", 1, 1), dpi=FIGURE_DPI),
    }


def test_every_figure_is_drawn_without_a_warning_and_nothing_is_clipped(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in every_figure().items():
            assert_like_reference(name, figure)
            width, height = figure.bbox.size
            # The tight box holds all that is drawn; ink outside the page would be cut off in the file.
            box = figure.get_tightbbox(figure.canvas.get_renderer())  # type: ignore[attr-defined]
            dpi = figure.dpi
            assert min(box.x0 * dpi, box.y0 * dpi, width - box.x1 * dpi, height - box.y1 * dpi) >= -1, name
            words = [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]
            assert any("n = " in w or w == "n" for w in words), name
            assert not any("suppress" in w.lower() or "added" in w.lower() for w in words), name
            path = save_figure(figure, tmp_path / f"{name}.png")
            with Image.open(path) as image:
                assert image.mode == "RGB"
                assert abs(image.size[0] - width) <= 1
                assert abs(image.size[1] - height) <= 1
            assert not figure.axes, "save_figure closes"


def test_a_figure_that_changed_is_told_from_its_reference() -> None:
    drawn = plot_overall(overall())
    assert_like_reference("overall", drawn)
    recoloured, emptied = plot_overall(overall()), plot_overall(overall())
    for artist in recoloured.findobj(PathCollection):
        artist.set_color("red")
    emptied.axes[-1].clear()
    for figure in (recoloured, emptied):
        with pytest.raises(AssertionError, match="differs by"):
            assert_like_reference("overall", figure)
    with pytest.raises(AssertionError, match="instead of"):
        assert_like_reference("overall_1", drawn)


def test_figures_need_neither_pyplot_nor_torch_nor_scikit_learn() -> None:
    import subprocess

    code = (
        "import sys; from qd_detr.gates.figures import clustering, comparison, distributions, patterns, sample_pool, trends;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib.pyplot', 'sklearn')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])


def test_users_matplotlib_settings_change_no_figure_and_are_left_alone(tmp_path: Path) -> None:
    save_figure(plot_overall(overall()), tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9}):
        save_figure(plot_overall(overall()), tmp_path / "b.png")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of png, pdf, svg"):
        save_figure(Figure(), tmp_path / "a.jpg")


def test_scale_is_symmetric_about_zero_whatever_the_gates_range() -> None:
    assert FigureScale.for_gates((-1, 1)).gate_limit == 1
    assert FigureScale.for_gates((0, 2)).gate_limit == 2
    assert FigureScale.for_gates(None, (-0.2, 3.4)).gate_limit == 4
    assert FigureScale(2).gate_norm(0) == 0.5
    with pytest.raises(ValueError, match="data_range"):
        FigureScale.for_gates(None)
    with pytest.raises(ValueError, match="above 0"):
        FigureScale(0)


def test_numbers_are_written_with_a_real_minus_and_without_minus_zero() -> None:
    assert signed(-0.945) in ("−0.94", "−0.95")
    assert signed(-0.0004) == "0.00"
    assert signed(0.25) == "+0.25"
    assert signed(float("nan")) == "n/a"
    assert [round_up(x) for x in (0.62, 1.0, 1.2, 0, 97)] == [0.8, 1.0, 1.5, 1.0, 100.0]


def test_rebinning_keeps_every_count() -> None:
    fine = np.linspace(-1, 1, 2001)
    counts = np.random.default_rng(0).integers(0, 9, (3, 2000))
    edges, coarse = rebin(fine, counts, np.linspace(-1, 1, 51))
    assert coarse.shape == (3, 50)
    assert np.array_equal(coarse.sum(axis=1), counts.sum(axis=1))
    assert np.array_equal(coarse[:, 0], counts[:, :40].sum(axis=1))
    kept, same = rebin(fine[:11], counts[:, :10], edges)
    assert len(kept) == 11
    assert np.array_equal(same, counts[:, :10])


@pytest.mark.parametrize("n_bins", [8, 9])
def test_magnitudes_are_folded_from_signed_bins(n_bins: int) -> None:
    values = np.array([-0.95, -0.52, -0.05, 0.05, 0.52, 0.52])
    edges = np.linspace(-1, 1, n_bins + 1)
    gate = GateDistribution(edges, np.histogram(values, edges)[0][None], LayerSummary.of_values(values[:, None]))
    folded, counts = gate.magnitudes(1.0)
    assert folded[0] == 0
    assert counts.sum() == 6
    expected = np.histogram(np.abs(values), folded)[0]
    assert np.array_equal(counts[0], expected)
    lopsided = GateDistribution(np.linspace(0, 1, 5), np.ones((1, 4)), gate.summary)
    with pytest.raises(ValueError, match="not symmetric"):
        lopsided.magnitudes(1.0)


def test_summary_leaves_out_what_is_not_finite() -> None:
    summary = LayerSummary.of_values([[1.0, np.nan], [3.0, np.nan], [np.inf, np.nan]])
    assert summary.column("mean")[0] == 2
    assert summary.column("median")[0] == 2
    assert np.isnan(summary.column("mean")[1])


def test_rows_of_patterns_are_ordered_by_audio_let_in_not_by_sign() -> None:
    gates = {"attention": [[0.1], [-0.95], [0.5]], "ffn": [[0.0]] * 3}
    data = PatternData(["a", "b", "c"], "clipwise", gates)
    order, words = order_rows(data)
    assert list(order) == [1, 2, 0]
    assert words == "magnitude"
    injected = PatternData(["a", "b", "c"], "clipwise", gates, injection={"attention": [[9], [1], [2]]})
    order, words = order_rows(injected)
    assert list(order) == [0, 2, 1]
    assert words == "injection"
    grouped = replace(injected, groups=np.array([0, 1, 1]))  # the mean of 1 and 2 is below 9: group 0 comes first
    assert list(order_rows(grouped)[0]) == [0, 2, 1]
    grouped = replace(injected, groups=np.array([0, 0, 1]))  # 2 is below the mean of 9 and 1
    assert list(order_rows(grouped)[0]) == [0, 1, 2]


def test_patterns_of_many_samples_average_neighbours_and_leave_none_out() -> None:
    figure = plot_activation_patterns(patterns(1550, 3))
    image = next(axes.images[0] for axes in figure.axes if axes.images)
    shown = np.asarray(image.get_array())
    assert shown.shape[0] == 775
    assert np.isclose(shown.mean(), np.mean(patterns(1550, 3).injection["attention"]))


def test_clustering_finds_planted_groups_and_names_the_largest_first() -> None:
    found = groups()
    assert found.n_groups == 2
    assert list(found.sizes) == [30, 12]
    assert set(found.labels[:12]) == {1}
    assert set(found.labels[12:]) == {0}
    assert np.allclose(found.centres[0], 0.5, atol=0.05)
    assert found.silhouette == max(found.silhouettes.values()) > 0.8
    again = groups()
    assert np.array_equal(again.labels, found.labels)


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (np.zeros((5, 2)), "groups.samples"),
        (np.full((20, 2), 0.3) + 1e-9 * np.arange(20)[:, None], "groups.distinct"),
        (np.full((20, 2), np.nan), "groups.not_finite"),
        (np.random.default_rng(0).normal(size=(150, 12)), "groups.silhouette"),
    ],
)
def test_clustering_says_why_there_are_no_groups(features: np.ndarray, reason: str) -> None:
    found = cluster_profiles(features)
    assert isinstance(found, NoGroups)
    assert found.reason.key == reason


def test_clustering_without_scikit_learn_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    found = clustering.cluster_profiles(np.zeros((50, 2)))
    assert isinstance(found, NoGroups)
    assert found.reason.key == "groups.library"


def test_a_comparison_takes_one_to_eight_samples_of_one_kind() -> None:
    with pytest.raises(ValueError, match="1 to 8 samples, got 9"):
        plot_comparison(ComparisonData([make_sample("global", i) for i in range(9)]))
    with pytest.raises(ValueError, match="one gating type"):
        plot_comparison(ComparisonData([make_sample("global"), make_sample("clipwise")]))


def test_an_effect_is_filled_only_where_its_interval_leaves_zero_out() -> None:
    effects = [Effect("clear", -2, -3, -1, 10), Effect("unclear", 0.5, -1, 2, 10)]
    figure = plot_effects(EffectsData(effects, "difference", "n = 10.", "Effects"))
    faces = [line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "s"]
    assert faces == [style.ATTENTION_COLOUR, "white"]


def test_wrapped_lines_fit_and_keep_every_word() -> None:
    words = "A woman in a very long dress explains how to cook a traditional soup while the audience applauds"
    lines = text.wrap(words, 2.5, 9.5, "bold", max_lines=9)
    assert " ".join(lines) == words
    assert all(text.text_width_in(line, 9.5, "bold") <= 2.5 for line in lines)
    cut = text.wrap(words, 2.5, 9.5, "bold", max_lines=2)
    assert len(cut) == 2
    assert cut[-1].endswith("…")
    assert text.text_width_in(cut[-1], 9.5, "bold") <= 2.5
    assert (
        "".join(text.wrap("가나다라마바사아자차카타파하" * 3, 1.0, 9, max_lines=20))
        == "가나다라마바사아자차카타파하" * 3
    )


@pytest.fixture
def with_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Let the machine have the fonts whose names begin so, and no others."""
    everything = text.installed_fonts()

    def only(beginning: str) -> None:
        chosen = [entry for entry in everything if entry.name.startswith(beginning)]
        monkeypatch.setattr(text, "installed_fonts", lambda: chosen)
        text.forget_fonts()

    yield only
    monkeypatch.undo()
    text.forget_fonts()


def test_characters_without_a_font_become_one_mark_and_controls_vanish(with_fonts: Callable[[str], None]) -> None:
    with_fonts("DejaVu")
    assert text.printable("빨간 옷을 입은 여자") == text.MISSING
    assert text.printable("a\tred\n옷 b\u200bc") == f"a red {text.MISSING} bc"
    assert text.families_for("옷") == [text.BASE_FONT]
    assert text.lacking("a옷") == {"옷"}


def test_a_font_is_found_by_its_glyphs_whatever_its_name(
    with_fonts: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # DejaVu Sans Display, which has 47 characters, stands in for a base font that lacks a script.
    monkeypatch.setattr(text, "BASE_FONT", "DejaVu Sans Display")
    with_fonts("DejaVu")
    # The sans serif of ordinary width with the most characters, before serif and monospaced ones.
    widest = text.families_for("abc")[1]
    assert widest in {"DejaVu Sans", "DejaVu Sans Condensed"}
    assert text.families_for("aé") == ["DejaVu Sans Display", widest]
    with_fonts("DejaVu Sans Mono")
    assert text.families_for("é") == ["DejaVu Sans Display", "DejaVu Sans Mono"]
    assert text.printable("é") == "é"


def test_without_a_font_for_the_language_figures_are_english_and_say_so(
    with_fonts: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with_fonts("DejaVu")
    note = warn_of_missing_font("ko")
    assert "no installed font has Korean" in note
    assert [record.getMessage() for record in caplog.records] == [note]
    figure = plot_sample(make_sample("clipwise"), FigureScale(language="ko"))
    shown = [found.get_text() for found in figure.findobj(Text)]
    assert "Moments" in shown
    assert any(line and note.startswith(line) for line in shown)
    assert warn_of_missing_font("en") == ""


def test_a_font_installed_after_matplotlib_listed_the_fonts_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    manager = font_manager.fontManager
    path = next(entry.fname for entry in manager.ttflist if entry.name == "DejaVu Serif")
    copy = tmp_path / "NewlyInstalled.ttf"
    copy.write_bytes(Path(path).read_bytes())
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    gone = replace(manager.ttflist[0], fname=str(tmp_path / "removed.ttf"))
    monkeypatch.setattr(manager, "ttflist", [gone])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda folders=None: [str(broken), str(copy)])
    assert [entry.fname for entry in text.installed_fonts()] == [str(copy)]


@pytest.mark.parametrize(
    "taken", [{"attention": "attention"}, {"attention": "attention", "ffn": "ffn", "shift": "ffn"}]
)
def test_figures_show_as_many_gates_as_a_fusion_has(taken: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A fusion with one gate, and one whose third is a shift."""
    monkeypatch.setitem(GATES, "shift", Gate("shift", SHIFT, "shift", "shift"))

    def chosen(of_both: Mapping[str, Any]) -> dict[str, Any]:
        return {kind: of_both[source] for kind, source in taken.items()}

    titles = [GATES[kind].title for kind in taken]
    two = overall()
    data = replace(two, gates=chosen(two.gates), injection=chosen(two.injection), magnitude=chosen(two.magnitude))
    injected = [f"Injection of the {GATES[kind].label} gate" for kind in taken]
    for plot, expected in ((plot_overall, injected), (plot_layer_distributions, titles)):
        figure = plot(data)
        assert [t for axes in figure.axes if (t := axes.get_title(loc="left")) in expected] == expected
        assert all(0 < axes.get_position().x0 < axes.get_position().x1 < 1 for axes in figure.axes)
        assert_texts_stand_free(figure, monkeypatch)
    rows = PatternData(["a", "b"], "clipwise", dict.fromkeys(taken, np.zeros((2, 2))))
    assert len(plot_activation_patterns(rows).axes) == len(taken) + 1  # one colour bar for the quantity
    for gating_type in ("global", "clipwise", "elementwise"):
        sample = make_sample(gating_type)
        sample = replace(sample, values=chosen(sample.values), injection=chosen(sample.injection))
        for figure in (plot_sample(sample), plot_comparison(ComparisonData([sample, sample]))):
            shown = "\n".join(text.get_text() for text in figure.findobj(Text))
            assert all(title in shown for title in titles)
            assert ("FFN gate" in shown) == ("ffn" in taken)
            assert_texts_stand_free(figure, monkeypatch)


def test_text_is_drawn_as_matplotlib_draws_it_to_the_pixel(tmp_path: Path) -> None:
    with style.house_style():
        figure = style.new_figure(1.2, 3.0)
        axes = figure.add_axes((0.2, 0.3, 0.7, 0.5))
        axes.set_ylabel("rotated")
        axes.plot([0.1, 0.237], [0.4, 0.9])
        for place in range(40):  # at forty places within a pixel, twice each: drawn, and taken from what is kept
            for line in ("-0.53 (0.81)", "AVAT fi 1,550"):
                figure.text(
                    0.01 + place / 1033, 0.9 - place / 731, line, size=6 + place % 3, weight=(400, 700)[place % 2]
                )
        figure.canvas.draw()
        drawn = np.array(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
        plain = FigureCanvasAgg(figure)
        plain.draw()
        assert np.array_equal(drawn, np.asarray(plain.buffer_rgba()))
        path = style.save_figure(figure, tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(path).convert("RGBA")), drawn)


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_text_of_a_vector_figure_stays_text_and_brings_its_fonts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(svg_fonts, "TTFont", lambda path, **how: [opened.append(path), TTFont(path, **how)][1])
    path = save_figure(
        plot_effects(EffectsData([Effect("silence & <mean>", -2, -3, -1)], "change", "n = 9.", "Effects")),
        tmp_path / f"a.{suffix}",
    )
    if suffix == "pdf":
        held = path.read_bytes()
        # The bold and the plain face, subsets with a table from glyphs to letters.
        assert held.count(b"/FontFile2") == held.count(b"/ToUnicode") >= 2
        assert b"/Type3" not in held
        return
    held = path.read_text(encoding="utf-8")
    assert ">silence &amp; &lt;mean&gt;</text>" in held
    rules = re.findall(r"@font-face\{font-family:'DejaVu Sans';font-weight:(\d+);.*?base64,([^)]+)\)", held)
    assert [weight for weight, _ in rules] == ["400", "700"]
    assert len(opened) == len(set(opened)) == 2  # a font file is opened once, not for every letter
    plain = TTFont(io.BytesIO(base64.b64decode(rules[0][1]))).getBestCmap()
    assert set(map(ord, "silence & <mean>")) <= set(plain)
    assert len(plain) < 100


def test_a_figure_in_korean_draws_every_word_with_a_font_that_has_it() -> None:
    if text.lacking("가"):
        pytest.skip("no installed font has Hangul")
    korean = FigureScale(language="ko")
    figures = [
        plot_overall(overall(), korean),
        plot_activation_patterns(patterns(12), korean),
        plot_clustering(
            ClusteringData(
                groups(), [("attention", 0), ("attention", 1), ("ffn", 0), ("ffn", 1)], "injection", "clipwise"
            ),
            korean,
        ),
        plot_comparison(ComparisonData([make_sample("clipwise", i) for i in range(2)]), korean),
        plot_alignment(alignment(2), korean),
        plot_sample(make_sample("elementwise"), korean),
    ]
    english = {*EN.values()} - {*KO.values()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        for figure in figures:
            figure.set_dpi(60)
            figure.canvas.draw()
            shown = {found.get_text() for found in figure.findobj(Text)}
            assert not shown & english
            assert any(re.search("[가-힣]", words) for words in shown)
