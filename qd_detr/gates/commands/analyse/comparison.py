"""Two finished runs side by side."""

from __future__ import annotations

from pathlib import Path

from qd_detr.gates import __version__
from qd_detr.gates.analysis.run_comparison import compare_runs
from qd_detr.gates.errors import RequestError
from qd_detr.gates.figures.style import save_figure
from qd_detr.gates.files import read_text
from qd_detr.gates.results.drawing_findings import comparison_figure
from qd_detr.gates.results.explorer import EXPLORER_FILE, RunTexts, page_of, texts_of_page
from qd_detr.gates.results.report.comparison import comparison_rows, comparison_text
from qd_detr.gates.results.report.wording import in_english, report_texts
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.results.writing import csv_text
from qd_detr.gates.wording import Reason


def compare(first: Path, second: Path, output_dir: Path, *, seed: int, figure_format: str, lang: str = "en") -> Path:
    """Compare two finished runs and publish COMPARISON_REPORT.md, comparison.json, comparison.csv; return the report.

    Where both trees hold an explorer.html, one with the two runs side by side is published too.

    Raises:
        RequestError: an unfinished or damaged tree, runs on different data, or an output folder that is one of them.
    """
    if output_dir.resolve() in (first.resolve(), second.resolve()):
        raise RequestError(f"--output_dir {output_dir} is one of the runs to compare; give another folder")
    comparison = compare_runs(first, second, seed=seed)
    with ResultsTree(output_dir) as tree:
        figures = []
        figure = comparison_figure(comparison)
        if figure is not None:
            name = f"run_comparison.{figure_format}"
            save_figure(figure, tree.path(name))
            figures.append((name, Reason("figures.comparison")))
        texts = [found for run in (first, second) if (found := _explorer_texts(run))]
        if len(texts) == 2:
            tree.write_text(EXPLORER_FILE, page_of(texts))
        tree.write_json("comparison.json", in_english(comparison))
        tree.write_text("comparison.csv", csv_text(*comparison_rows(comparison, report_texts("en"))))
        tree.write_text("COMPARISON_REPORT.md", comparison_text(comparison, figures, lang))
        tree.publish(
            {
                "format": "qd_detr-gates comparison/1",
                "toolkit_version": __version__,
                "runs": [str(first.resolve()), str(second.resolve())],
                "seed": seed,
                "lang": lang,
            }
        )
    return output_dir / "COMPARISON_REPORT.md"


def _explorer_texts(run: Path) -> RunTexts | None:
    page = run / EXPLORER_FILE
    try:
        return texts_of_page(read_text(page)) if page.is_file() else None
    except (OSError, ValueError):
        return None  # damaged, or somebody else's: the comparison does without its texts
