"""Every error message of the package has an entry in docs/troubleshooting.md, and every entry a message."""

import ast
import re

import pytest

from tests.documents import ROOT, read

PAGE = "docs/troubleshooting.md"
BASES = {
    "RequestError",
    "MissingFileError",
    "CheckpointError",
    "DataError",
    "RunError",
    "_Problem",
    "LineProblem",
    "ArgumentTypeError",
}
# What users call by themselves: there, Python's own errors are part of what they read.
CALLED_BY_USERS = (
    "fusion.py",
    "weights/foreign_calls.py",
    "tracking/recorder.py",
    "results/analyzer.py",
    "monitor/live.py",
    "analysis/samples.py",
)
PLAIN = {"ValueError", "TypeError", "RuntimeError", "KeyError"}
GAP = "\0"


SOURCES = sorted([*(ROOT / "qd_detr").rglob("*.py"), *ROOT.glob("*.py")])


def template(node: ast.expr) -> str:
    """Return the literal text of an expression, GAP for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return GAP


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def family() -> set[str]:
    """Return the error classes of the package: the known ones and every class derived from them."""
    bases = set(BASES)
    for path in (ROOT / "qd_detr").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and {getattr(base, "id", "") for base in node.bases} & BASES:
                bases.add(node.name)
    return bases


FAMILY = family()


def messages_of(path) -> list[tuple[str, str]]:
    """Return (place, template) of every error that a module makes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    relative = path.relative_to(ROOT).as_posix().removeprefix("qd_detr/gates/")
    wanted = FAMILY | (PLAIN if relative in CALLED_BY_USERS else set())
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = []
    for call in (
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node) in wanted and node.args
    ):
        text = template(call.args[0])
        if text.strip(GAP + " "):
            found.append((f"{relative}:{call.lineno}", text))
            continue
        # Built elsewhere in the module: by what the message's own expression calls, else by functions named for it.
        called = [name_of(node) for node in ast.walk(call.args[0]) if isinstance(node, ast.Call)]
        builders = [functions[name] for name in called if name in functions]
        builders = builders or [function for name, function in functions.items() if re.search("_messages?$", name)]
        for function in builders:
            texts = [template(node) for node in ast.walk(function) if isinstance(node, ast.JoinedStr)]
            found.append((f"{relative}:{function.lineno}", GAP.join(texts)))
    return found


MESSAGES = [message for path in SOURCES for message in messages_of(path)]


def phrases() -> list[str]:
    return [
        phrase
        for line in read(PAGE).splitlines()
        if line.startswith("Says: ")
        for phrase in re.findall(r"`([^`]+)`", line)
    ]


def says(text: str, phrase: str) -> bool:
    """Return whether a message holds a phrase; "…" stands for anything, "|" for a choice of phrases."""
    plain = text.replace(GAP, "…")
    return any(
        re.search(".*?".join(re.escape(part) for part in one.split("…")), plain, re.DOTALL) for one in phrase.split("|")
    )


def test_messages_are_found():
    assert len(MESSAGES) > 150
    assert any(text.startswith("no checkpoint") for _, text in MESSAGES)


@pytest.mark.parametrize(("place", "text"), MESSAGES, ids=[place for place, _ in MESSAGES])
def test_message_has_an_entry(place, text):
    known = phrases()
    assert any(says(text, phrase) for phrase in known), (
        f"{place} says {text.replace(GAP, '…')!r}; add a key phrase of it to a 'Says:' line of {PAGE}, or an entry of its own"
    )


@pytest.mark.parametrize("phrase", phrases())
def test_phrase_is_still_said(phrase):
    letters = re.sub(r"[^a-zA-Z]", "", phrase)
    assert len(letters) >= 5, f"{phrase!r} is too short to find a message by"
    assert any(says(text, phrase) for _, text in MESSAGES), f"no message says {phrase!r} any more; mend {PAGE}"


def test_no_phrase_fits_half_of_all_messages():
    for phrase in phrases():
        fitting = sum(says(text, phrase) for _, text in MESSAGES)
        assert fitting <= 12, f"{phrase!r} fits {fitting} messages; make it longer"
