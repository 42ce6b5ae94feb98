"""The documentation: its commands and code run as they stand, its links lead somewhere, its flags exist."""

import contextlib
import importlib
import io
import json
import re
import shlex
import shutil
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch

import legacy_model_guide
import qd_detr
import run_gate_analysis
import test_gate_analysis
import test_legacy_model
from legacy_model_adapter import load_legacy_model_with_gate_tracking
from qd_detr.gates import planted
from qd_detr.gates.commands.selfcheck import tiny
from qd_detr.gates.commands.selfcheck.foreign import ForeignModel
from qd_detr.gates.data.feature_layout import FeatureSpec
from qd_detr.gates.data.feature_search import FeatureSources
from qd_detr.gates.data.samples import open_samples
from qd_detr.gates.evaluation import __main__ as evaluation
from qd_detr.gates.monitor import __main__ as monitor_command
from qd_detr.gates.train import __main__ as train
from qd_detr.gates.weights.checkpoint import FORMAT, read_checkpoint, resolve
from tests.documents import PAGES, ROOT, Block, blocks_of, read

GUIDES = ("README.md", "GATE_ANALYSIS_README.md")
FULL_RUN = "README.md"  # whose first analysis is run with its figures; the others without, they take most of the time
SCRIPTS = {
    "run_gate_analysis.py": run_gate_analysis,
    "test_legacy_model.py": test_legacy_model,
    "legacy_model_guide.py": legacy_model_guide,
    "test_gate_analysis.py": test_gate_analysis,
    "qd_detr.gates.evaluation": evaluation,
    "qd_detr.gates.monitor": monitor_command,
    "qd_detr.gates.train": train,
    "qd_detr.gates.planted": planted,
}
NOT_RUN = {
    "source ": "changes the shell",
    "python3 -m venv": "makes an environment; CI runs it as it stands",
    "python -m pip": "installs; CI does it before anything else",
    ".venv/bin/python": "the README's two commands; CI runs them as they stand",
    "torchrun ": "needs processes of its own; tests/test_run_shards.py sets what it sets",
    "sbatch ": "needs a SLURM cluster; tests/test_run_shards.py sets what it sets",
    "python test_gate_analysis.py --comprehensive": "takes minutes; --quick goes the same way",
}
# torchrun, sbatch, ruff, and a flag that users mistype
NOT_OURS = {"--nproc_per_node", "--nproc", "--array", "--wrap", "--check", "--model"}


# -- a working directory in which the names that the pages use are there ------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Tiny checkpoints, planted data and finished runs, under the names of the pages."""
    folder = tmp_path_factory.mktemp("documentation") / "here"
    planted.generate(folder, seed=0, n_train=6, n_val=6)
    shutil.copy(folder / planted.VAL_FILE, folder / "highlight_val.jsonl")
    shutil.copy(folder / planted.TRAIN_FILE, folder / "highlight_train.jsonl")
    for gating_type in ("global", "clipwise", "elementwise"):
        tiny.write_checkpoint(folder / gating_type, gating_type)
    shutil.copy(folder / "clipwise" / "model_best.ckpt", folder / "model_best.ckpt")
    (folder / "options").mkdir()
    shutil.copy(folder / "clipwise" / "opt.json", folder / "options")
    content = torch.load(folder / "model_best.ckpt", weights_only=False)
    (folder / "new_model").mkdir()
    torch.save({"format": FORMAT, **content}, folder / "new_model" / "model_best.ckpt")
    (folder / "watched").mkdir()
    for epoch in (4, 9):
        shutil.copy(folder / "new_model" / "model_best.ckpt", folder / "watched" / f"model_e{epoch:04d}.ckpt")
    for gating_type in ("global", "clipwise"):
        argv = [
            "--legacy_model",
            "--model_path",
            str(folder / gating_type / "model_best.ckpt"),
            "--quiet",
            "--no_figures",
        ]
        argv += [
            "--data_path",
            str(folder / "highlight_val.jsonl"),
            "--output_dir",
            str(folder / f"results_{gating_type}"),
        ]
        assert run_gate_analysis.main(argv) == 0
    shutil.copy(folder / "results_clipwise" / "predictions.jsonl", folder)
    shutil.copy(folder / "results_clipwise" / "predictions.jsonl", folder / "with_audio.jsonl")
    shutil.copy(folder / "results_global" / "predictions.jsonl", folder / "without_audio.jsonl")
    return folder


@pytest.fixture
def here(template, tmp_path, monkeypatch) -> Path:
    """A working directory of a test's own."""
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


def own_batches() -> list:
    """Return batches as QD-DETR's own loaders yield them, for the stand-in of a user's model."""
    meta = [{"qid": 7}, {"qid": 8}]
    return [(meta, {"video": torch.randn(2, 5, 16), "audio": torch.randn(2, 5, 16)})]


def names_for_python(here: Path) -> dict:
    """Return what a Python block finds defined: what the text around it says is there."""
    model = load_legacy_model_with_gate_tracking("model_best.ckpt", device="cpu")
    settings = resolve(read_checkpoint("model_best.ckpt"))
    spec = FeatureSpec.from_options(settings.options, settings.architecture)
    samples = open_samples(spec, FeatureSources(here / "highlight_val.jsonl", here / "model_best.ckpt"))
    batches = [batch for _, batch in samples.in_batches([[0, 1, 2], [3, 4]]).read_batches()]
    singles = [batch for _, batch in samples.in_batches([[4], [5]]).read_batches()]
    # A recording to look at, for the blocks that begin after one.
    model.avigate_fusion.enable_gate_tracking()
    model.avigate_fusion.set_current_sample_id(batches[0]["qid"])
    with torch.no_grad():
        model(batches[0])
    return {
        "__name__": "documentation",
        "model": model,
        "my_model": ForeignModel(16, 2, 2).eval(),
        "dataloader": batches,
        "loader": own_batches(),
        "val_dataloader": batches,
        "one_sample": singles[0],
        "failed_batches": {batch["qid"][0]: batch for batch in singles},
        "epoch": 5,
        "validate": lambda model: {"MR-full-mAP": 33.0} if model(batches[0]) else {},
    }


# -- running blocks -----------------------------------------------------------------------------------------------------


def commands_of(block: Block) -> list[str]:
    """Return a shell block's commands: lines joined, comments dropped, loops unrolled."""
    text = re.sub(r"\\\n\s*", "", block.text)
    loop = re.compile(r"for (\w+) in ([^;\n]+); do\n(.*?)\ndone", re.DOTALL)
    while found := loop.search(text):
        name, values, body = found.groups()
        unrolled = "\n".join(body.replace(f"${name}", value) for value in values.split())
        text = text[: found.start()] + unrolled + text[found.end() :]
    commands = [part.strip() for line in text.splitlines() for part in re.sub(r"(^|\s)#.*", "", line).split("&&")]
    return [command for command in commands if command]


def reason_not_to_run(command: str) -> str | None:
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), None)


def run_command(command: str, *, figures: bool) -> str:
    """Run one command line in this process and return what it printed; it has to exit with 0."""
    program, *argv = shlex.split(command)
    assert program == "python", f"{command!r} is no Python command; give NOT_RUN a reason for it"
    name = argv.pop(0)
    if name == "-m":
        name = argv.pop(0)
    if name == "run_gate_analysis.py" and not figures:
        argv.append("--no_figures")
    if name == "qd_detr.gates.train":
        small = {**planted.TRAINING_OPTIONS, "n_epoch": 1, "bsz": 3, "save_every": 1}
        for option, value in small.items():
            argv += [f"--{option}"] if value is True else [f"--{option}", str(value)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = SCRIPTS[name].main(argv)
    assert status == 0, f"{command!r} ended with {status}"
    return printed.getvalue()


BLOCKS = [block for page in GUIDES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language in ("bash", "")]
PYTHON = [block for block in BLOCKS if block.language == "python"]
# What these print stands in the README; and the self-check is the same on both pages.
SHOWN = ("python test_gate_analysis.py", "python run_gate_analysis.py --demo")
PRINTED: dict[str, str] = {}


def test_every_block_is_known():
    assert {block.language for block in BLOCKS} <= {"bash", "", "python", "json", "text"}
    assert len(SHELL) > 15
    assert len(PYTHON) > 10


@pytest.mark.parametrize("block", SHELL, ids=[block.name for block in SHELL])
def test_commands_run_as_they_stand(block, here):
    commands = commands_of(block)
    assert commands
    if "--interventions interventions.json" in block.text:
        given = [b for b in BLOCKS if b.page == block.page and b.language == "json" and b.line < block.line][-1]
        (here / "interventions.json").write_text(given.text, encoding="utf-8")
    if "--checkpoints results/clipwise" in block.text:
        shutil.copytree(here / "watched", here / "results" / "clipwise")
    first = next(b for b in SHELL if b.page == FULL_RUN and "--legacy_model" in b.text)
    for command in commands:
        if reason_not_to_run(command) is None and command not in PRINTED:
            printed = run_command(command, figures=block == first)
            if command.startswith(SHOWN):
                PRINTED[command] = printed
    if block == first:
        report = (here / "gate_analysis_results" / "ANALYSIS_REPORT.md").read_text(encoding="utf-8")
        for figure in re.findall(r"!\[[^]]*\]\(([^)]+)\)", report):
            assert (here / "gate_analysis_results" / figure).stat().st_size > 1000


@pytest.mark.parametrize("block", PYTHON, ids=[block.name for block in PYTHON])
@pytest.mark.filterwarnings("ignore")
def test_python_runs_as_it_stands(block, here):
    code = compile("\n" * block.line + block.text, block.page, "exec")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, names_for_python(here))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=lambda block: block.name)
def test_json_is_json(block):
    assert json.loads(block.text)


@pytest.mark.parametrize("start", SHOWN)
def test_the_readme_shows_what_is_printed(start, here):
    of_readme = [block for block in BLOCKS if block.page == "README.md"]
    place = next(i for i, block in enumerate(of_readme) if block.language == "bash" and block.text.startswith(start))
    (command,) = commands_of(of_readme[place])
    printed = PRINTED.get(command) or run_command(command, figures=False)

    def without_numbers(text: str) -> list[str]:
        # Times are the machine's; the last digit of a figure may be, too. Names of metrics keep theirs.
        return re.sub(r"(?<![@\w.])[+-]?[\d,]+(\.\d+)?", "N", text).strip().splitlines()

    assert without_numbers(of_readme[place + 1].text) == without_numbers(printed)


def test_ci_finds_its_two_commands():
    text = read("README.md")
    for mark in ("demo-command", "test-command"):
        (inside,) = re.findall(rf"<!-- {mark} -->\n(.*?)<!-- end -->", text, re.DOTALL)
        assert re.findall(r"(?m)^    (\S.*)$", inside), f"nothing to run between the marks of {mark}"


# -- flags --------------------------------------------------------------------------------------------------------------


def flags_of(parser: ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")} - {"--help"}


PARSERS = {name: module.build_parser() for name, module in SCRIPTS.items()}


@pytest.mark.parametrize("name", PARSERS)
def test_the_guide_names_every_flag(name):
    text = read("GATE_ANALYSIS_README.md")
    missing = [flag for flag in flags_of(PARSERS[name]) if not re.search(rf"{flag}(?![\w-])", text)]
    assert not missing, f"GATE_ANALYSIS_README.md does not name {sorted(missing)} of {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_pages_name_are_there(page):
    known = set().union(*map(flags_of, PARSERS.values())) | NOT_OURS
    # `--…` stands for any flag in the entries on error messages.
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_]*", page.read_text(encoding="utf-8")))
    assert named <= known, f"{page.name} names {sorted(named - known)}, which no command takes"


# -- links, marks of other places, metadata -----------------------------------------------------------------------------


def slugs(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    found = set()
    for heading in re.findall(r"(?m)^#+ (.+)$", prose):
        found.add(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"(?<!`)\]\(([^)\s]+)\)", text):
        assert "://" not in target, f"{page.name} links to {target}; the documentation stands by itself"
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in slugs(place.read_text(encoding="utf-8")), f"{page.name} links to {target}; no such heading"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CITATION.cff"], ids=lambda page: page.name)
def test_pages_name_no_machine(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:work|root|home|tmp|Users|mnt)/|https?://|\bpypi\b|huggingface", text)


def test_the_sign_is_never_said_to_mean_anything():
    for name in GUIDES:
        text = read(name)
        assert re.search(r"sign alone means nothing|부호만으로는 아무것도 알 수 없습니다", text)


def test_citation_and_changelog_are_of_this_version():
    citation = read("CITATION.cff")
    keys = dict(re.findall(r"(?m)^([a-z-]+):\s*(.*)$", citation))
    assert {"cff-version", "message", "title", "authors", "version", "license", "type"} <= keys.keys()
    assert keys["cff-version"] == "1.2.0"
    assert keys["version"] == qd_detr.__version__
    assert keys["license"] == "MIT"
    assert "\t" not in citation
    changelog = read("CHANGELOG.md")
    assert "## [Unreleased]" in changelog
    assert qd_detr.__version__ in changelog


def test_every_command_is_a_module_that_can_be_run():
    for name in SCRIPTS:
        if name.endswith(".py"):
            assert (ROOT / name).is_file()
        else:
            assert importlib.util.find_spec(name) is not None
