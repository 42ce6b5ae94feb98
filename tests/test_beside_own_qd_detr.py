"""The toolkit in one process with a user's own package `qd_detr`: beside it, installed, and copied into its checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.documents import ROOT
from tests.own_qd_detr import MODULES, make_own_checkout

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))

TOOLKIT_FIRST = "from gate_analysis_utils import GateAnalyzer\nfrom legacy_model_adapter import adapt_legacy_model\n"
OWN_FIRST = "from qd_detr.inference import evaluate\nfrom qd_detr.train import train\n"
# What a user does: train, adapt, watch a loop as QD-DETR's loops really look, analyse, save.
USE = """
import importlib, io, json, pickle, sys
import torch
from qd_detr.config import Options
from qd_detr.data import loader

model = train()
before = evaluate(model)
assert adapt_legacy_model(model) is model
fusion = model.avigate_fusion
fusion.enable_gate_tracking()
with torch.no_grad():
    for meta, inputs in loader(Options):
        fusion.set_current_sample_id([m["qid"] for m in meta])
        outputs = model(**inputs)
GateAnalyzer(fusion).analyze_all_samples("analysis")
copy = pickle.loads(pickle.dumps(model))
buffer = io.BytesIO()
torch.save(model, buffer)
found = {name: importlib.import_module(f"qd_detr.{name}").__file__ for name in OWN}
print(json.dumps({
    "before": before, "after": evaluate(model), "copy": evaluate(copy), "ids": list(fusion.gate_history),
    "modules": found, "keys": sorted(model.state_dict()), "class": type(model).__module__,
}))
"""


def run(folder: Path, code: str, *path: Path) -> dict:
    """Run a user's script that stands in `folder`; return what it prints last, as JSON."""
    script = folder / "their_script.py"
    script.write_text(f"OWN = {[*MODULES][1:]!r}\n" + textwrap.dedent(code), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_use(found: dict, own: Path, folder: Path) -> None:
    assert found["before"] == pytest.approx(found["after"], abs=1e-5)
    assert found["copy"] == found["after"]
    assert found["ids"] == [0, 1, 10, 11, 20, 21]
    assert {Path(file).parent for file in found["modules"].values()} == {own / "qd_detr"}
    assert found["class"] == "qd_detr.model"
    assert not [key for key in found["keys"] if "avigate_fusion" in key]
    assert (folder / "analysis" / "ANALYSIS_REPORT.md").is_file()
    assert len(list((folder / "analysis" / "individual_samples").glob("gate_analysis_*.png"))) == 6


@pytest.mark.parametrize("order", ["own first", "toolkit first"])
@pytest.mark.parametrize("found_first", ["own", "toolkit"])
def test_beside_a_checkout_in_either_import_order(tmp_path, order, found_first):
    own = make_own_checkout(tmp_path / "theirs")
    imports = [OWN_FIRST, TOOLKIT_FIRST] if order == "own first" else [TOOLKIT_FIRST, OWN_FIRST]
    if found_first == "own":  # a script in their checkout, this one on the path
        check_use(run(own, "".join(imports) + USE, ROOT), own, own)
    else:  # a script elsewhere, this checkout before theirs
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        check_use(run(elsewhere, "".join(imports) + USE, ROOT, own), own, elsewhere)


def test_a_path_that_grows_after_the_toolkit_was_imported_is_followed(tmp_path):
    own = make_own_checkout(tmp_path / "theirs")
    code = TOOLKIT_FIRST + f"import sys\nsys.path.insert(0, {str(own)!r})\n" + OWN_FIRST + USE
    check_use(run(tmp_path, code, ROOT), own, tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What an installation lays into site-packages: the modules and the package, without the rest of the checkout."""
    site = tmp_path_factory.mktemp("site-packages")
    for name in SCRIPTS:
        shutil.copy(ROOT / name, site)
    shutil.copytree(ROOT / "qd_detr", site / "qd_detr", ignore=shutil.ignore_patterns("__pycache__"))
    return site


@pytest.mark.parametrize("order", ["own first", "toolkit first"])
def test_installed_beside_a_checkout_in_either_import_order(tmp_path, installed, order):
    own = make_own_checkout(tmp_path / "theirs")
    imports = [OWN_FIRST, TOOLKIT_FIRST] if order == "own first" else [TOOLKIT_FIRST, OWN_FIRST]
    check_use(run(own, "".join(imports) + USE, installed), own, own)


@pytest.mark.parametrize("module", [*[name.removesuffix(".py") for name in SCRIPTS]])
def test_every_installed_module_finds_the_package_behind_a_foreign_one(tmp_path, installed, module):
    own = make_own_checkout(tmp_path / "theirs")
    code = f"import qd_detr.model, {module}, json, qd_detr.gates\nprint(json.dumps({{'at': qd_detr.gates.__file__}}))"
    assert run(own, code, installed)["at"] == str(installed / "qd_detr" / "gates" / "__init__.py")


def test_dropped_into_a_checkout_theirs_trains_as_before_with_tracking_built_in(tmp_path):
    own = make_own_checkout(tmp_path / "theirs")
    train = (
        OWN_FIRST
        + "import json\nmodel = train()\nprint(json.dumps({'out': evaluate(model), 'keys': list(model.state_dict())}))"
    )
    before = run(own, train)
    theirs = {path.name: path.read_bytes() for path in (own / "qd_detr").glob("*.py")}
    for name in SCRIPTS:
        shutil.copy(ROOT / name, own)
    shutil.copy(ROOT / "qd_detr" / "avigate_custom.py", own / "qd_detr")
    shutil.copytree(ROOT / "qd_detr" / "gates", own / "qd_detr" / "gates", ignore=shutil.ignore_patterns("__pycache__"))
    changed = [name for name, text in theirs.items() if (own / "qd_detr" / name).read_bytes() != text]
    assert changed == ["avigate_custom.py"]
    after = run(own, train)
    assert after["keys"] == before["keys"]
    assert after["out"] == pytest.approx(before["out"], rel=1e-3)
    use = USE.replace(
        "assert adapt_legacy_model(model) is model\nfusion = model.avigate_fusion", "fusion = model.fusion"
    )
    check_use(
        run(
            own,
            TOOLKIT_FIRST + OWN_FIRST + use,
        ),
        own,
        own,
    )
    version = subprocess.run(
        [sys.executable, "run_gate_analysis.py", "--version"], cwd=own, capture_output=True, text=True, check=False
    )
    assert (version.returncode, version.stderr) == (0, "")
