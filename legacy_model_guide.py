"""Interactive guide, in Korean and English: from a trained checkpoint to its gate analysis, step by step.

Example:
    python legacy_model_guide.py --lang ko

Without a terminal it prints the guide's text and ends.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import qd_detr

_PLACE = str(Path(__file__).resolve().parent / "qd_detr")
if _PLACE not in qd_detr.__path__:  # another qd_detr, the user's own, was imported first: ours stands beside it
    qd_detr.__path__.append(_PLACE)

from qd_detr.gates import __version__
from qd_detr.gates.command_line import Parser, log_to_stderr, program, say
from qd_detr.gates.commands.guide.terminal import Terminal
from qd_detr.gates.commands.guide.texts import CATALOGUES
from qd_detr.gates.wording import LANGUAGES, Texts, language_of_locale


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
        prog=program("legacy_model_guide.py"),
        description="Walk from a trained checkpoint to its gate analysis: finds checkpoints and data near the working "
        "directory, says what they are, runs test and analysis, and shows the commands. Without a terminal it prints "
        "the guide's text.",
        allow_abbrev=False,
    )
    parser.add_argument("--lang", choices=LANGUAGES, help="language (default: from the locale)")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the guide; return 0, or 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    texts = Texts(CATALOGUES, args.lang or language_of_locale())
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        say(texts("plain"), end="")
        return 0
    log_to_stderr()
    try:
        return walk(texts)
    except KeyboardInterrupt:  # not at a question: while something was loading
        say("")
        return 130


def walk(texts: Texts) -> int:
    """Walk through the questions on the terminal; return the exit status."""
    # Here, not above: these take seconds to import, and the guide's text needs none of them.
    import run_gate_analysis
    import test_legacy_model
    from qd_detr.gates.commands.guide.walk import Script, Walk

    test, analysis = (
        Script(module.main, Path(str(module.__file__)), frozenset(module.build_parser()._option_string_actions))
        for module in (test_legacy_model, run_gate_analysis)
    )
    return Walk(Terminal(texts), test, analysis).run()


if __name__ == "__main__":
    sys.exit(main())
