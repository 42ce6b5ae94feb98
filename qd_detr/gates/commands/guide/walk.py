"""The walkthrough: questions in order, each of which can be gone back to, and what is run for the answers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qd_detr.gates.commands.certify import claims
from qd_detr.gates.commands.certify.inputs import requested_samples
from qd_detr.gates.commands.certify.request import CertificateRequest
from qd_detr.gates.commands.guide.finding import Found, look_around
from qd_detr.gates.commands.guide.terminal import Back, Leave, Terminal
from qd_detr.gates.data.annotations import read_annotations
from qd_detr.gates.errors import MissingFileError, RequestError
from qd_detr.gates.gating import gating_named
from qd_detr.gates.model.families import FAMILIES
from qd_detr.gates.results.tree import ResultsTree
from qd_detr.gates.runs.interventions.conditions import AUDIO_MODES
from qd_detr.gates.weights.checkpoint import Checkpoint, read_checkpoint, recognised, resolve
from qd_detr.gates.weights.options import DEFAULTS, Settings, read_options_file

SUGGESTED_SAMPLES = 50
_OUTPUT = "gate_analysis_results"
# What can be run beside what is run by default, as the guide offers it; the last leaves that out and goes with no other.
_EXTRAS = {
    "plain": (),
    "audio": ("--audio", *AUDIO_MODES),
    "ablate": ("--ablate",),
    "timeline": ("--timeline",),
    "none": ("--no_effects",),
}


@dataclass(frozen=True)
class Script:
    """A command that the guide runs in its own process: its `main`, its file, and the flags it knows."""

    main: Callable[[Sequence[str]], int]
    file: Path
    flags: frozenset[str]


@dataclass
class Walk:
    """What has been answered so far. Each `_ask_...` asks one thing; it returns False if there was nothing to ask."""

    terminal: Terminal
    test: Script
    analysis: Script
    folder: Path = field(default_factory=lambda: Path("."))
    found: Found | None = None
    model_path: Path = Path()
    checkpoint: Checkpoint | None = None
    config_path: Path | None = None
    settings: Settings | None = None
    data_path: Path = Path()
    queries: int = 0
    feature_root: Path | None = None
    max_samples: int | None = None
    extras: tuple[str, ...] = ()
    output_dir: Path = Path(_OUTPUT)
    ran: bool = False

    def run(self) -> int:
        """Walk through to the end; return the exit status."""
        say = self.terminal.say
        say("welcome")
        say("keys")
        if self.terminal.completes_paths:
            say("keys.paths")
        self.terminal.gap()
        steps = [
            self._ask_model,
            self._ask_config,
            self._ask_data,
            self._ask_root,
            self._ask_test,
            self._ask_samples,
            self._ask_extras,
            self._ask_output,
            self._ask_analysis,
        ]
        asked: list[int] = []
        place = 0
        try:
            while place < len(steps):
                try:
                    if steps[place]():
                        asked.append(place)
                    place += 1
                except Back:
                    if asked:
                        place = asked.pop()
                    else:
                        say("first")
        except Leave as leave:
            say("quit" if self.ran else "quit.early")
            return leave.status
        self.terminal.gap()
        say("done")
        return 0

    # -- the questions -----------------------------------------------------------------------------------------------

    def _ask_model(self) -> bool:
        terminal = self.terminal
        if self.found is None:
            terminal.say("looking", folder=self.folder.resolve())
            self.found = look_around(self.folder)
            if self.found.cut_short:
                terminal.say("looked_short", folders=self.found.folders)
            terminal.gap()
        offered = self.found.checkpoints
        terminal.say("models.found" if offered else "models.none")
        if offered:
            terminal.table([self._checkpoint_row(path) for path in offered])
        while True:
            path = terminal.choose_path("models.ask", offered)
            try:
                self.checkpoint = read_checkpoint(path)
                questions = self._open_questions(None)
                self.settings = None if questions else self._resolved(None)
            except RequestError as error:
                terminal.say("models.unusable", reason=_one_line(error))
                continue
            self.model_path, self.config_path = path, None
            break
        terminal.gap()
        if self.settings is not None:
            self._explain(self.settings)
        else:
            readings = claims.readings_of(self.checkpoint, questions)
            terminal.say("about.title")
            listed = all(name in readings[0] for name in questions)
            text = "about.open" if listed else "about.open_number"
            terminal.say(text, "  ", count=len(readings), names=", ".join(questions))
        return True

    def _checkpoint_row(self, path: Path) -> tuple[str, str, str]:
        beside = "models.beside" if (path.parent / "opt.json").is_file() else "models.not_beside"
        return str(path), _size(path), self.terminal.texts(beside)

    def _open_questions(self, config_path: Path | None) -> list[str]:
        assert self.checkpoint is not None
        config = None if config_path is None else read_options_file(config_path)
        family = FAMILIES[recognised(self.checkpoint, config).family]
        return claims.open_questions(self.checkpoint, config, family)

    def _resolved(self, config_path: Path | None) -> Settings:
        assert self.checkpoint is not None
        return resolve(self.checkpoint, config_path=config_path)

    def _explain(self, settings: Settings) -> None:
        """Say in plain words what the checkpoint is."""
        terminal, sizes, origins = self.terminal, settings.architecture, settings.origins
        assert self.checkpoint is not None

        def origin(name: str) -> str:
            return terminal.texts(f"origin.{origins[name]}")

        gating = settings.trained_gating_type
        meaning = terminal.texts(
            f"about.gating.{gating_named(gating).form}",
            clip=settings.options["clip_length"],
            hidden_dim=sizes.hidden_dim,
        )
        terminal.say("about.title")
        terminal.say(
            "about.gating",
            "  ",
            gating=gating,
            layers=sizes.fusion_layers,
            origin=origin("gating_type"),
            meaning=meaning,
        )
        terminal.say(
            "about.sizes",
            "  ",
            hidden_dim=sizes.hidden_dim,
            enc=sizes.enc_layers,
            dec=sizes.dec_layers,
            slots=sizes.num_queries,
            video=sizes.video_dim,
            audio=sizes.audio_dim,
            text=sizes.text_dim,
        )
        terminal.say(
            "about.heads",
            "  ",
            heads=sizes.n_heads,
            origin=origin("nheads"),
            fusion_heads=sizes.fusion_n_heads,
            fusion_origin=origin("fusion_n_heads"),
        )
        if self.checkpoint.epoch is not None:
            terminal.say("about.epoch", "  ", epoch=self.checkpoint.epoch)
        if self.checkpoint.own:
            terminal.say("about.own", "  ")
        for sentence in settings.disagreements:
            terminal.say("about.disagreement", "  ", what=sentence)
        terminal.gap()

    def _ask_config(self) -> bool:
        """Ask for an options file where none says what the weights do not show."""
        assert self.checkpoint is not None
        if self.settings is not None and self.config_path is None:
            return False
        while True:
            answer = self.terminal.ask_path("config.ask", "-")
            self.config_path = None if answer == "-" else Path(answer)
            self.settings = None
            if self.config_path is None:
                return True
            try:
                if not self._open_questions(self.config_path):
                    self.settings = self._resolved(self.config_path)
                    self.terminal.gap()
                    self._explain(self.settings)
                return True
            except RequestError as error:
                self.terminal.say("config.unusable", reason=_one_line(error))

    def _ask_data(self) -> bool:
        terminal = self.terminal
        assert self.found is not None
        offered = self.found.data
        terminal.say("data.found" if offered else "data.none")
        if offered:
            terminal.table([(str(path), _size(path)) for path in offered])
        while True:
            path = terminal.choose_path("data.ask", offered)
            options = self.settings.options if self.settings else DEFAULTS
            try:
                queries = read_annotations(path, options["dset_name"], options["dset_domain"])
            except RequestError as error:
                terminal.say("data.unusable", reason=_one_line(error))
                continue
            break
        self.data_path, self.queries, self.feature_root = path, len(queries), None
        videos = len({query.vid for query in queries})
        terminal.say(
            "data.about", "  ", queries=len(queries), videos=videos, labelled=sum(query.labelled for query in queries)
        )
        return True

    def _ask_root(self) -> bool:
        """Ask where the features are, if they are not where they can be found."""
        terminal = self.terminal
        if self.settings is None:
            return False
        asked = False
        while True:
            request = CertificateRequest(
                self.model_path, config_path=self.config_path, data_path=self.data_path, feature_root=self.feature_root
            )
            try:
                samples = requested_samples(request, self.settings)
            except MissingFileError as error:
                terminal.say("root.needed", reason=_one_line(error))
            except RequestError as error:
                terminal.say("data.unusable", reason=_one_line(error))
            else:
                assert samples is not None
                video = " + ".join(str(folder) for folder in samples.folders.video)
                terminal.say("root.about", "  ", video=video, text=samples.folders.text, audio=samples.folders.audio)
                terminal.gap()
                return asked
            asked = True
            self.feature_root = Path(terminal.ask_path("root.ask"))

    def _ask_test(self) -> bool:
        terminal = self.terminal
        terminal.say("test.about")
        argv = [*self._model_flags(), "--data_path", str(self.data_path), *self._feature_flags()]
        argv += self._language_flags(self.test)
        self._show(self.test, argv)
        if terminal.agree("test.ask"):
            status = self._run(self.test, argv)
            terminal.gap()
            terminal.say({0: "test.passed", 2: "test.refused", 130: "interrupted"}.get(status, "test.failed"))
        terminal.gap()
        return True

    def _ask_samples(self) -> bool:
        terminal = self.terminal
        suggested = str(SUGGESTED_SAMPLES) if self.queries > SUGGESTED_SAMPLES else "all"
        while True:
            answer = terminal.ask("samples.ask", suggested, suggested=suggested).lower()
            if answer in ("all", "전부"):
                self.max_samples = None
                return True
            if answer.isdecimal() and 1 <= int(answer) <= self.queries:
                self.max_samples = int(answer)
                return True
            terminal.say("samples.wrong", answer=answer, count=self.queries)

    def _ask_extras(self) -> bool:
        """Ask what is to be run beside the model as it is."""
        terminal = self.terminal
        terminal.say("extras.about")
        terminal.table([(terminal.texts(f"extras.{name}"),) for name in _EXTRAS])
        while True:
            chosen = dict.fromkeys(terminal.ask("extras.ask", "1").replace(",", " ").split())
            if all(one.isdecimal() and 1 <= int(one) <= len(_EXTRAS) for one in chosen):
                flags = [list(_EXTRAS.values())[int(one) - 1] for one in chosen]
                if _EXTRAS["none"] not in flags or len(flags) == 1:
                    self.extras = tuple(flag for each in flags for flag in each)
                    return True
            terminal.say("extras.wrong", count=len(_EXTRAS))

    def _ask_output(self) -> bool:
        while True:
            answer = Path(self.terminal.ask_path("output.ask", _OUTPUT, suggested=_OUTPUT))
            try:
                ResultsTree(answer).check()
            except RequestError as error:
                self.terminal.say("output.unusable", reason=_one_line(error))
                continue
            self.output_dir = answer
            return True

    def _ask_analysis(self) -> bool:
        terminal = self.terminal
        assert self.checkpoint is not None
        argv = [] if self.checkpoint.own else ["--legacy_model"]
        argv += [*self._model_flags(), "--data_path", str(self.data_path), *self._feature_flags()]
        if self.max_samples is not None:
            argv += ["--max_samples", str(self.max_samples)]
        argv += [*self.extras, "--output_dir", str(self.output_dir), *self._language_flags(self.analysis)]
        self._show(self.analysis, argv)
        if terminal.agree("analysis.ask"):
            status = self._run(self.analysis, argv)
            terminal.gap()
            if status == 0:
                terminal.say("analysis.passed", report=self.output_dir / "ANALYSIS_REPORT.md")
                terminal.say("analysis.reading")
            else:
                terminal.say("interrupted" if status == 130 else "analysis.failed")
        return True

    # -- the commands ------------------------------------------------------------------------------------------------

    def _model_flags(self) -> list[str]:
        flags = ["--model_path", str(self.model_path)]
        return flags if self.config_path is None else [*flags, "--config_path", str(self.config_path)]

    def _feature_flags(self) -> list[str]:
        return [] if self.feature_root is None else ["--feature_root", str(self.feature_root)]

    def _language_flags(self, script: Script) -> list[str]:
        language = self.terminal.texts.language
        return ["--lang", language] if language != "en" and "--lang" in script.flags else []

    def _show(self, script: Script, argv: Sequence[str]) -> None:
        """Show the command, in one piece so that it can be copied."""
        self.ran = True
        self.terminal.say("command")
        self.terminal.write("  " + shlex.join(["python", _from_here(script.file), *argv]))

    def _run(self, script: Script, argv: Sequence[str]) -> int:
        """Run a command in this process; a wrong request or a Ctrl-C ends the command, not the guide."""
        self.terminal.gap()
        try:
            return script.main(argv)
        except SystemExit as stop:  # argparse
            return stop.code if isinstance(stop.code, int) else 1
        except KeyboardInterrupt:
            return 130


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _from_here(file: Path) -> str:
    """Return a script's path as it would be typed in the working directory."""
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
