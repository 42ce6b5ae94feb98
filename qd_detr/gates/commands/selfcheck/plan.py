"""Which checks the quick and the comprehensive self-check make, in which order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qd_detr.gates.commands.selfcheck import checks
from qd_detr.gates.commands.selfcheck.bench import Bench
from qd_detr.gates.commands.selfcheck.ledger import Ledger
from qd_detr.gates.gating import GATING_TYPES

QUICK_SAMPLES = 4
_INTERVENTIONS_FLAG = "--ablate"


def quick(bench: Bench, ledger: Ledger) -> None:
    """Make a few checks that leave a small results tree to look at in `bench.root/results/clipwise`."""
    if not _made_data(bench, ledger):
        return
    ledger.check("adapter keeps every tensor", partial(checks.weights_survive, bench, "clipwise"))
    ledger.check("tracking changes no output", partial(checks.tracking_changes_nothing, bench, "clipwise"))
    ledger.check("analysis writes its tree", partial(checks.analysis_makes_a_tree, bench, "clipwise", QUICK_SAMPLES))
    ledger.check("statistics are those of the raw gates", partial(checks.statistics_match_raw_gates, bench, "clipwise"))
    ledger.check("details are complete", partial(checks.details_are_complete, bench))


def comprehensive(bench: Bench, ledger: Ledger) -> list[str]:
    """Make every check; return what was left out, and why."""
    if not _made_data(bench, ledger):
        return []
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
    others: list[tuple[str, Callable[[Bench], str]]] = [
        ("global read as clipwise gets no certificate", checks.wrong_reading_is_refused),
        ("comparison is drawn", checks.comparison_is_drawn),
        ("details are complete", checks.details_are_complete),
        ("batch size does not matter", checks.batch_size_does_not_matter),
        ("legacy batches repeat saved predictions", checks.legacy_batches_repeat_predictions),
        ("own loop over two epochs", checks.own_loop_over_epochs),
        ("foreign model is adapted in place", checks.foreign_model_is_adapted),
        ("killed run continues", checks.killed_run_continues),
    ]
    left_out = []
    if _INTERVENTIONS_FLAG in bench.commands.analyse_flags:
        others.append(("interventions run", checks.interventions_run))
    else:
        left_out.append(f"interventions: run_gate_analysis.py has no {_INTERVENTIONS_FLAG} here")
    for name, check in others:
        ledger.check(name, partial(check, bench))
    _refusals(bench, ledger)
    ledger.check("a refused run spares earlier results", partial(checks.refused_run_spares_results, bench))
    return left_out


def _made_data(bench: Bench, ledger: Ledger) -> bool:
    def make() -> str:
        bench.make_data()
        return f"in {bench.root}"

    return ledger.check("planted data are made", make)


def _refusals(bench: Bench, ledger: Ledger) -> None:
    requests: list[tuple[str, list[str], str]] = []

    def make() -> str:
        requests.extend(checks.bad_requests(bench))
        return f"{len(requests)}"

    ledger.check("bad requests are made", make)
    for what, argv, told in requests:
        ledger.check(f"refused: {what}", partial(checks.request_is_refused, bench, argv, told))
