"""Finished runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qd_detr.gates import __version__
from qd_detr.gates.analysis.run_comparison import compare_runs
from qd_detr.gates.analysis.verdicts import MARGIN_POINTS
from qd_detr.gates.errors import RequestError
from qd_detr.gates.figures.style import save_figure
from qd_detr.gates.files import read_text
from qd_detr.gates.results.drawing_findings import comparison_figure
from qd_detr.gates.results.explorer import EXPLORER_FILE, RunTexts, page_of, texts_of_page
from qd_detr.gates.results.report.comparison import PARTS, comparison_rows, comparison_sentences, comparison_text
from qd_detr.gates.results.report.wording import in_english, report_texts
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.writing import csv_text
from qd_detr.gates.wording import Reason


def compare(
    runs: Sequence[str | Path],
    output_dir: Path,
    *,
    seed: int,
    figure_format: str,
    margin: float = MARGIN_POINTS,
    slices: Sequence[str] = (),
    lang: str = "en",
) -> tuple[Path, list[str]]:
    """Compare finished runs and publish COMPARISON_REPORT.md, comparison.json, comparison.csv.

    Where there are two, and both trees hold an explorer.html, one with the two runs side by side is published too.

    Args:
        runs: results folders; NAME=FOLDER puts a run into the group of that name.
        output_dir: where to. seed: of the resampling. margin: percent points within which a difference counts as none.
        slices: "NAME=FILE" of qids. figure_format: of the figure. lang: of the report.

    Returns:
        The report's path, and what was found in sentences.

    Raises:
        RequestError: an unfinished or damaged tree, runs on different data, or an output folder that is one of them.
    """
    places = [_named(str(run)) for run in runs]
    folders = [folder for _, folder in places]
    if output_dir.resolve() in [folder.resolve() for folder in folders]:
        raise RequestError(f"--output_dir {output_dir} is one of the runs to compare; give another folder")
    comparison = compare_runs(folders, named=[name for name, _ in places], seed=seed, margin=margin, slices=slices)
    with ResultsTree(output_dir) as tree:
        figures = []
        figure = comparison_figure(comparison, lang)
        if figure is not None:
            name = f"run_comparison.{figure_format}"
            save_figure(figure, tree.path(name))
            figures.append((name, Reason("figures.comparison", {"metric": comparison["ranking"]["metric"]})))
        texts = [found for folder in folders if (found := _explorer_texts(folder))] if len(folders) == 2 else []
        if len(texts) == 2 and comparison["paired"]:
            tree.write_text(EXPLORER_FILE, page_of(texts))
        tree.write_json("comparison.json", in_english(comparison))
        tables = [comparison_rows(comparison, report_texts("en"), part) for part in PARTS]
        tree.write_text("comparison.csv", csv_text(tables[0][0], [row for _, rows in tables for row in rows]))
        tree.write_text("COMPARISON_REPORT.md", comparison_text(comparison, figures, lang))
        tree.publish(
            {
                "format": "qd_detr-gates comparison/2",
                "toolkit_version": __version__,
                "runs": [str(folder.resolve()) for folder in folders],
                "seed": seed,
                "margin": margin,
                "lang": lang,
            }
        )
    answer = comparison_sentences(comparison, report_texts(lang))[0].replace("**", "")
    return output_dir / "COMPARISON_REPORT.md", [answer]


def _named(run: str) -> tuple[str | None, Path]:
    name, equals, folder = run.partition("=")
    return (name, Path(folder)) if equals and name and folder and not Path(run).exists() else (None, Path(run))


def _explorer_texts(run: Path) -> RunTexts | None:
    page = run / EXPLORER_FILE
    try:
        return texts_of_page(read_text(page)) if page.is_file() else None
    except (OSError, ValueError):
        return None  # damaged, or somebody else's: the comparison does without its texts
