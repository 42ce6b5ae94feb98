"""Imports of the package run one way, as docs/architecture.md says."""

import ast
from pathlib import Path

import pytest

from tests.documents import ROOT, blocks_of

PAGE = "docs/architecture.md"
PACKAGE = ROOT / "qd_detr" / "gates"
NEVER_TORCH = ("figures", "evaluation", "analysis", "errors", "wording")


def block(language: str) -> list[str]:
    (text,) = [found.text for found in blocks_of(PAGE) if found.language == language]
    return [line for line in text.splitlines() if line.strip()]


def layers() -> dict[str, int]:
    """Return the place of every name in the order."""
    names = [name for line in block("layers") for name in line[16:].split()]
    assert len(set(names)) == len(names)
    return {name: place for place, name in enumerate(names)}


def module_of(path: Path) -> str:
    """Return a module's name below the package; the package itself is `gates`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "gates"


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def owner(module: str, order: dict[str, int]) -> str | None:
    parts = module.split(".")
    return next((name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in order), None)


def imports_of(path: Path) -> list[tuple[int, str, bool]]:
    """Return (line, imported name, whether it stands inside a function) of every import."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        late = getattr(node, "col_offset", 0) > 0
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} is a relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}", late) for alias in node.names]
    return found


def inside(imported: str) -> str | None:
    """Return the module of the package that an import loads, None for one of somebody else's."""
    if not f"{imported}.".startswith("qd_detr.gates."):
        assert imported.split(".")[0] != "qd_detr", f"{imported}: the rest of qd_detr may be the user's own"
        return None
    name = imported.removeprefix("qd_detr.gates.")
    while name not in MODULES:
        if "." not in name:
            return "gates"
        name = name.rpartition(".")[0]
    return name


def test_every_module_has_a_layer():
    order = layers()
    strangers = [module for module in MODULES if owner(module, order) is None]
    assert not strangers, f"{strangers} are in no layer; give each its place in {PAGE}"
    unused = [name for name in order if name not in MODULES]
    assert not unused, f"{unused} are no modules any more; take them out of {PAGE}"


def test_imports_run_one_way():
    order = layers()
    allowed = {tuple(part.strip() for part in line.split("  ")[0].split("->")) for line in block("late")}
    used, wrong = set(), []
    for module, path in MODULES.items():
        own = owner(module, order)
        for line, imported, late in imports_of(path):
            target = inside(imported)
            if target is None or own is None:
                continue
            other = owner(target, order)
            if other is None or order[other] <= order[own]:
                continue
            if late and (module, target) in allowed:
                used.add((module, target))
            else:
                wrong.append(f"{path.relative_to(ROOT)}:{line} ({own}) imports {target} ({other})")
    assert not wrong, "imports against the order of docs/architecture.md:\n" + "\n".join(wrong)
    assert used == allowed, f"no longer there, take out of the page: {allowed - used}"


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {
        module: {
            target
            for _, imported, late in imports_of(path)
            if not late and (target := inside(imported)) not in (None, module)
        }
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle of imports: {' -> '.join([*above, module])}"
        if module not in done:
            for target in graph[module] - {"gates"}:
                visit(target, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("name", NEVER_TORCH)
def test_the_analysis_side_does_without_torch(name):
    for module, path in MODULES.items():
        if module.split(".")[0] == name:
            assert not [line for line, imported, _ in imports_of(path) if imported.split(".")[0] == "torch"], path


def test_nothing_in_the_package_imports_a_script():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    for path in MODULES.values():
        assert not {imported.split(".")[0] for _, imported, _ in imports_of(path)} & scripts, path


def test_no_file_touches_the_import_path():
    scripts = list(ROOT.glob("*.py"))
    assert not [path for path in [*MODULES.values(), *scripts] if "sys.path" in path.read_text(encoding="utf-8")]
