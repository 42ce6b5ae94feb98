"""Which checks the quick and the comprehensive self-check make, in which order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qd_detr.gates.commands.selfcheck import checks
from qd_detr.gates.commands.selfcheck.bench import Bench
from qd_detr.gates.commands.selfcheck.ledger import Ledger
from qd_detr.gates.gating import GATING_TYPES

QUICK_SAMPLES = 4


def quick(bench: Bench, ledger: Ledger) -> None:
    """Make a few checks that leave a small results tree to look at in `bench.root/results/clipwise`."""
    if not _made_data(bench, ledger):
        return
    ledger.check("adapter keeps every tensor", partial(checks.weights_survive, bench, "clipwise"))
    ledger.check("tracking changes no output", partial(checks.tracking_changes_nothing, bench, "clipwise"))
    ledger.check("analysis writes its tree", partial(checks.analysis_makes_a_tree, bench, "clipwise", QUICK_SAMPLES))
    ledger.check("statistics are those of the raw gates", partial(checks.statistics_match_raw_gates, bench, "clipwise"))
    ledger.check("details are complete", partial(checks.details_are_complete, bench))


def comprehensive(bench: Bench, ledger: Ledger) -> None:
    """Make the quick checks and the certificate for every gating type, and what depends most on the machine."""
    if not _made_data(bench, ledger):
        return
    per_type: list[tuple[str, Callable[[Bench, str], str]]] = [
        ("adapter keeps every tensor", checks.weights_survive),
        ("tracking changes no output", checks.tracking_changes_nothing),
        ("analysis writes its tree", partial(checks.analysis_makes_a_tree, samples=QUICK_SAMPLES)),
        ("statistics are those of the raw gates", checks.statistics_match_raw_gates),
        ("gates set by hand are found", checks.known_gates_are_found),
        ("certificate is given", checks.certificate_is_given),
    ]
    for gating_type in GATING_TYPES:
        for name, function in per_type:
            ledger.check(f"{gating_type}: {name}", partial(function, bench, gating_type))
    ledger.check("details are complete", partial(checks.details_are_complete, bench))
    ledger.check("foreign model is adapted in place", partial(checks.foreign_model_is_adapted, bench))
    ledger.check("killed run continues", partial(checks.killed_run_continues, bench))


def _made_data(bench: Bench, ledger: Ledger) -> bool:
    def make() -> str:
        bench.make_data()
        return f"in {bench.root}"

    return ledger.check("planted data are made", make)
