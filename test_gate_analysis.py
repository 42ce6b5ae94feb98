"""Self-check of the toolkit, without any model or data of yours: a tiny model with random weights, and planted data.

Examples:
    python test_gate_analysis.py --quick
    python test_gate_analysis.py --comprehensive --output_dir ./self_check

(A command, not a test of the project: pytest collects from tests/ only.)
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import qd_detr

_PLACE = str(Path(__file__).resolve().parent / "qd_detr")
if _PLACE not in qd_detr.__path__:  # another qd_detr, the user's own, was imported first: ours stands beside it
    qd_detr.__path__.append(_PLACE)

from qd_detr.gates import __version__
from qd_detr.gates.command_line import Parser, program, say
from qd_detr.gates.commands.selfcheck.ledger import CheckResult, Ledger

if TYPE_CHECKING:
    from qd_detr.gates.commands.selfcheck.bench import Commands


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
        prog=program("test_gate_analysis.py"),
        description="Check that the toolkit works here, on a tiny model with random weights and planted data. "
        "Exit status: 0 every check passed, 1 some failed, 2 the request was wrong.",
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--quick", action="store_true", help="a few checks in seconds, and a small results tree to look at"
    )
    which.add_argument(
        "--comprehensive", action="store_true", help="every gating type, certificate, a killed run; a minute"
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="D",
        help="new or empty folder for what is made, kept (default: a temporary one; kept after --quick or a failure)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def commands() -> Commands:
    """Return the scripts beside this one, as the checks run them."""
    import legacy_model_adapter
    import run_gate_analysis
    import test_legacy_model
    from qd_detr.gates.commands.selfcheck.bench import Commands

    return Commands(
        analyse=run_gate_analysis.main,
        certify=test_legacy_model.main,
        analyse_script=Path(run_gate_analysis.__file__),
        load=legacy_model_adapter.load_legacy_model_with_gate_tracking,
        adapt=legacy_model_adapter.adapt_legacy_model,
    )


def prepared_folder(asked: Path | None) -> Path:
    """Return an empty folder to work in: the one asked for, or a temporary one.

    Raises:
        ValueError: it cannot be made, or is not empty.
    """
    if asked is None:
        return Path(tempfile.mkdtemp(prefix="gate_self_check_"))
    try:
        asked.mkdir(parents=True, exist_ok=True)
        empty = not any(asked.iterdir())
    except OSError as error:
        raise ValueError(
            f"--output_dir {asked} cannot be used ({error.strerror}); name a new or empty folder"
        ) from None
    if not empty:
        raise ValueError(f"--output_dir {asked} is not empty; name a new or empty folder")
    return asked


def told(result: CheckResult) -> str:
    """Return a check's line."""
    mark = "pass" if result.passed else "FAIL"
    detail = f" - {result.detail}" if result.detail else ""
    return f"[{mark}] {result.name} ({result.seconds:.1f} s){detail}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 every check passed, 1 some failed, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    # The commands' own warnings are part of what they are checked for; they do not belong between the results.
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        folder = prepared_folder(args.output_dir)
    except ValueError as error:
        say(f"error: {error}", sys.stderr)
        return 2
    from qd_detr.gates.commands.selfcheck.bench import Bench, one_thread  # torch: not for --help
    from qd_detr.gates.commands.selfcheck.plan import comprehensive, quick

    say("Self-check on a tiny model with random weights: it shows that the tools work, nothing about any real model.")
    began = time.perf_counter()
    ledger = Ledger(tell=lambda result: say(told(result)))
    try:
        bench = Bench(folder, commands())
        with one_thread():
            if args.quick:
                quick(bench, ledger)
            else:
                comprehensive(bench, ledger)
    except KeyboardInterrupt:
        say(f"interrupted after {len(ledger.results)} checks; what was made is in {folder}", sys.stderr)
        return 130
    failed = len(ledger.failed)
    passed = len(ledger.results) - failed
    say(f"{passed} of {len(ledger.results)} checks passed, {failed} failed, in {time.perf_counter() - began:.0f} s")
    if args.quick or failed or args.output_dir is not None:
        report = folder / "results" / "clipwise" / "ANALYSIS_REPORT.md"
        say(f"To look at: {report if report.is_file() else folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
