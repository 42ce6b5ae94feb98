"""Is this checkpoint usable, and is the model loaded from it unchanged? A certificate, computed on the spot.

Example:
    python test_legacy_model.py --model_path model_best.ckpt --data_path highlight_val.jsonl

(A command, not a test of the project: pytest collects from tests/ only.)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import qd_detr

_PLACE = str(Path(__file__).resolve().parent / "qd_detr")
if _PLACE not in qd_detr.__path__:  # another qd_detr, the user's own, was imported first: ours stands beside it
    qd_detr.__path__.append(_PLACE)

from qd_detr.gates import __version__
from qd_detr.gates.command_line import Parser, check_not_swapped, exit_status, log_to_stderr, program, request_of, say
from qd_detr.gates.errors import check_checkpoint_is_there
from qd_detr.gates.gating import GATING_TYPES
from qd_detr.gates.wording import LANGUAGES, Texts

if TYPE_CHECKING:
    from qd_detr.gates.commands.certify.request import CertificateRequest


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
        prog=program("test_legacy_model.py"),
        description="Examine a checkpoint: can it be analysed, and is the loaded model the file's, to the bit? "
        "Exit status: 0 usable and exact, 1 examined and not, 2 the request was wrong.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_path", type=Path, required=True, help="checkpoint, .ckpt or .pth")
    add("--gating_type", choices=GATING_TYPES, help="how it was trained, where no options say so (default: as trained)")
    add(
        "--family",
        metavar="NAME",
        help="the family of gated models it is of, where nothing tells (default: as recognised)",
    )
    add("--use_avigate_custom", action="store_true", help="of old command lines; accepted and ignored")
    add("--config_path", type=Path, metavar="F", help="options file, if not in the checkpoint or opt.json beside it")
    add(
        "--data_path",
        type=Path,
        help="annotations, .jsonl or .json: examine it on real samples too, and against "
        "predictions saved beside the checkpoint",
    )
    add("--feature_root", type=Path, metavar="R", help="features are in R/<last component of the options' folders>")
    add("--v_feat_dirs", type=Path, nargs="+", metavar="D", help="video feature folders, in the options' order")
    add("--t_feat_dir", type=Path, metavar="D", help="text feature folder")
    add("--a_feat_dir", type=Path, metavar="D", help="audio feature folder")
    add("--skip_missing", action="store_true", help="leave out queries whose features are missing")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add(
        "--output_dir",
        type=Path,
        default=Path("."),
        metavar="D",
        help="folder for compatibility_report.json (default: the working directory)",
    )
    add("--quiet", action="store_true", help="no progress bar, nothing on the terminal but errors")
    add("--lang", choices=LANGUAGES, default="en", help="language of what the terminal shows (default: en)")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def request_from(args: argparse.Namespace) -> CertificateRequest:
    """Return the request that parsed flags make."""
    from qd_detr.gates.commands.certify.request import CertificateRequest  # torch: not for --help

    return request_of(CertificateRequest, args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 usable and exact, 1 examined and not, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    log_to_stderr()
    return exit_status(lambda: certify(args), interrupted="interrupted; nothing was written")


def certify(args: argparse.Namespace) -> int:
    """Examine the checkpoint, write the report and show it; return 0 usable and exact, 1 not."""
    check_not_swapped(args.model_path, args.data_path)
    check_checkpoint_is_there(args.model_path)
    from qd_detr.gates.commands.certify.examine import examine
    from qd_detr.gates.commands.certify.report import certificate_text, check_writable, write_report
    from qd_detr.gates.commands.certify.texts import CATALOGUES

    check_writable(args.output_dir)
    certificate = examine(request_from(args))
    path = write_report(certificate)
    if not args.quiet:
        say(certificate_text(certificate, args.lang))
        say(Texts(CATALOGUES, args.lang)("report", path=path))
    return 0 if certificate.exact else 1


if __name__ == "__main__":
    sys.exit(main())
