"""What an installation brings: modules, commands, data, types; checked against the checkout without installing it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import qd_detr

ROOT = Path(__file__).resolve().parents[1]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = METADATA["project"], METADATA["tool"]["setuptools"]
COMMANDS = PROJECT["scripts"]


def test_every_module_beside_the_package_is_installed():
    assert sorted(SETUPTOOLS["py-modules"]) == sorted(path.stem for path in ROOT.glob("*.py"))


def test_every_folder_with_code_is_a_package_that_is_found():
    # Without namespaces, setuptools finds the folders with an __init__.py below others that have one.
    assert SETUPTOOLS["packages"]["find"] == {"include": ["qd_detr*"], "namespaces": False}
    folders = {path.parent for path in (ROOT / "qd_detr").rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []
    assert {folder.parent for folder in folders} <= folders | {ROOT}


def test_the_demo_and_the_mark_of_a_typed_package_are_installed():
    package = ROOT / "qd_detr"
    installed = {path for pattern in SETUPTOOLS["package-data"]["qd_detr"] for path in package.glob(pattern)}
    data = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data
    assert data <= installed
    assert package / "py.typed" in installed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_function_of_an_installed_module_and_takes_version(command, capsys):
    module, function = COMMANDS[command].split(":")
    assert module in SETUPTOOLS["py-modules"] or module.startswith("qd_detr.")
    main = getattr(importlib.import_module(module), function)
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.strip().endswith(qd_detr.__version__)


def test_the_version_stands_in_one_place_and_reads_as_one():
    assert "version" in PROJECT["dynamic"]
    assert SETUPTOOLS["dynamic"]["version"]["attr"] == "qd_detr.gates.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", qd_detr.__version__)
    for place in ("CITATION.cff", "CHANGELOG.md"):
        assert qd_detr.__version__ in (ROOT / place).read_text(encoding="utf-8"), place


def test_python_3_11_is_the_oldest_and_the_running_one_is_declared():
    assert PROJECT["requires-python"] == ">=3.11"
    declared = {
        c.removeprefix("Programming Language :: Python :: ") for c in PROJECT["classifiers"] if ":: Python :: 3." in c
    }
    assert "3.11" in declared
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in declared
    assert METADATA["tool"]["mypy"]["python_version"] == "3.11"
    assert METADATA["tool"]["ruff"]["target-version"] == "py311"


def test_requirements_and_metadata_name_the_same_packages():
    def names(lines: list[str]) -> set[str]:
        return {
            re.split(r"[=<>~!\[;]", line)[0].strip().lower() for line in lines if line.strip() and line[0] not in "#-"
        }

    pinned = names((ROOT / "requirements.txt").read_text().splitlines())
    assert names(PROJECT["dependencies"]) == pinned
    development = names((ROOT / "requirements-dev.txt").read_text().splitlines())
    for extra in PROJECT["optional-dependencies"].values():
        assert names(extra) <= development


def test_the_files_that_the_metadata_names_are_there():
    assert (ROOT / PROJECT["readme"]).is_file()
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])
    assert "Typing :: Typed" in PROJECT["classifiers"]


@pytest.mark.parametrize("script", ["run_gate_analysis.py", "legacy_model_guide.py"])
def test_the_scripts_run_from_any_working_directory_of_a_checkout(tmp_path, script):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"{script} {qd_detr.__version__}"), done.stderr
    assert list(tmp_path.iterdir()) == []
