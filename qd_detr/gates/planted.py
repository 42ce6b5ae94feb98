"""`python -m qd_detr.gates.planted`: a small audio-visual dataset in which it is known when listening helps.

Every video shows an event that its sentence names. What its sound is worth is planted:

- useful: the picture shows the event twice, alike; only the sound tells which of the two is meant.
- misleading: the picture shows it once; the sound of it comes at another time (another scene's sound was dubbed on).
- irrelevant: the picture shows it once; the sound is of other events, at any time (music over the pictures).

With `both_heard` the sound of a useful video is heard at both places, louder at the one that is meant. No threshold on how
loud a place is parts the two (AUC 0.92), they have to be compared. Without it one place is enough: a model that only rules
out the place without the sound makes no mistake, whatever it hears at the other.

A model that adds picture and sound up cannot serve all three. But dubbed sound has a timbre of its own, in every clip,
by which a gate can tell it from live sound. `truth.json` says which video is what, and when.

Sentences, words and features are invented here; nothing is taken from any dataset. The same seed gives the same files,
to the byte: patterns are rows of a Hadamard matrix, noise is NumPy's.

Letters: n clips of a video, T tokens, D feature columns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qd_detr.gates import __version__
from qd_detr.gates.command_line import Parser, exit_status, program, say
from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.files import read_json

AUDIO_KINDS = ("useful", "misleading", "irrelevant")
CLIP_LENGTH_S = 2
V_FEAT_DIRS = ("slowfast_features", "clip_features")
T_FEAT_DIR, A_FEAT_DIR = "clip_text_features", "pann_features"
TRAIN_FILE, VAL_FILE, TRUTH_FILE = "highlight_train_planted.jsonl", "highlight_val_planted.jsonl", "truth.json"

D = 16  # columns of every feature
_CLIPS = (24, 36)  # shortest and longest video
_EVENT_CLIPS = (3, 8)  # shortest and longest event
_EVENT_STRENGTH, _TIMBRE_STRENGTH, _NOISE = 1.6, 1.0, 0.18
# With `both_heard`: the mean of the two places' strengths, evenly between these, and how far each lies from it.
_BOTH_STRENGTHS, _LOUDER_BY = (0.3, 1.3), 0.3
_HALF = np.float16

# An event: the noun that carries its meaning, and ways to tell of it.
_EVENTS = {
    "kettle": ("The kettle on the stove starts to boil over.", "Someone leaves a kettle steaming by the window."),
    "goat": ("A goat wanders across the courtyard.", "The old goat climbs on top of the cart."),
    "drum": ("A street player warms up on his drum.", "Two friends carry a drum up the stairs."),
    "ferry": ("The ferry leaves the pier at dusk.", "A small ferry turns around in the harbour."),
    "sewing": ("She goes back to her sewing by lamplight.", "The sewing lies on the table and is taken up again."),
    "skater": ("A skater crosses the empty square.", "The skater falls, laughs and gets up."),
    "hail": ("Hail comes down on the greenhouse roof.", "They run for the porch as hail begins."),
    "anvil": ("A smith bends a hot bar over the anvil.", "The apprentice cleans the anvil after work."),
}
_VAL_QID, _TRAIN_QID = 50001, 10001

FloatArray = npt.NDArray[np.float64]

# Options with which `python -m qd_detr.gates.train` learns what is planted in a few minutes on two cores.
TRAINING_OPTIONS: dict[str, Any] = {
    "use_avigate_custom": True,
    "gating_type": "clipwise",
    "fusion_layers": 2,
    "fusion_n_heads": 4,
    "hidden_dim": 64,
    "nheads": 4,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 128,
    "num_queries": 5,
    "input_dropout": 0.1,
    "dropout": 0.1,
    "lr": 1e-3,
    "lr_drop": 40,
    "bsz": 32,
    "n_epoch": 50,
    "max_v_l": 36,
}


@dataclass(frozen=True)
class PlantedVideo:
    """What is true of one video and its sentence. Windows are (start, end) in seconds.

    Attributes:
        audio: "useful", "misleading" or "irrelevant".
        window: the moment that is meant. lookalike: the other time at which the picture shows the same, if useful.
        listen: when the sound tells the moment, if useful. misleads: when the sound of the event comes wrongly.
    """

    qid: int
    vid: str
    split: str
    event: str
    audio: str
    clips: int
    window: tuple[int, int]
    lookalike: tuple[int, int] | None
    listen: tuple[int, int] | None
    misleads: tuple[int, int] | None


def generate(
    directory: str | Path, seed: int = 0, n_train: int = 480, n_val: int = 96, *, both_heard: bool = False
) -> list[PlantedVideo]:
    """Write the dataset into `directory`, which is made, and return what is planted in it, training split first.

    Of each split a third of the videos has audio of each kind. The folder appears whole or not at all.

    Args:
        directory: new or empty. seed: the same seed gives the same files. n_train, n_val: how many videos.
        both_heard: useful sound is heard at both places, louder at the one that is meant.

    Raises:
        RequestError: the directory is there and not empty, or the counts are below 3.
        RunError: it cannot be written.
    """
    directory = Path(directory)
    if n_train < len(AUDIO_KINDS) or n_val < len(AUDIO_KINDS):
        raise RequestError(
            f"{n_train} training and {n_val} validation videos were asked for; expected 3 or more of each"
        )
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise RequestError(f"{directory} is there already; name a new folder")
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)  # a folder of this name that is there is not ours, and stays
        try:
            videos = _write_all(partial, seed, n_train, n_val, both_heard)
            if directory.is_dir():
                directory.rmdir()
            os.replace(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise RunError(f"{directory} cannot be written ({error.strerror})") from None
    return videos


def read_truth(directory: str | Path) -> dict[int, PlantedVideo]:
    """Return what is planted in a generated dataset, by qid."""
    content = read_json(Path(directory) / TRUTH_FILE)
    videos: dict[int, PlantedVideo] = {}
    for fields in content["videos"]:
        times = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        videos[fields["qid"]] = PlantedVideo(**{**fields, **times})
    return videos


def _write_all(directory: Path, seed: int, n_train: int, n_val: int, both_heard: bool) -> list[PlantedVideo]:
    for folder in (*V_FEAT_DIRS, T_FEAT_DIR, A_FEAT_DIR):
        (directory / folder).mkdir()
    patterns = _Patterns(np.random.default_rng([seed, 0]))
    videos = []
    for split, count, first_qid, file, stream in (
        ("train", n_train, _TRAIN_QID, TRAIN_FILE, 1),
        ("val", n_val, _VAL_QID, VAL_FILE, 2),
    ):
        lines = []
        for i in range(count):
            # A generator of its own for each video: more videos leave the first ones as they are.
            rng = np.random.default_rng([seed, stream, i])
            video = _plan(rng, first_qid + i, split, AUDIO_KINDS[i % len(AUDIO_KINDS)])
            lines.append(_write_video(directory, rng, patterns, video, both_heard))
            videos.append(video)
        (directory / file).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    head: dict[str, Any] = {"seed": seed, "clip_length_s": CLIP_LENGTH_S}
    if both_heard:
        head["both_heard"] = True
    truth = head | {"videos": [asdict(video) for video in videos]}
    (directory / TRUTH_FILE).write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return videos


class _Patterns:
    """What each event looks, sounds and reads like: orthonormal rows (events, D), and the two timbres (D,) of sound."""

    def __init__(self, rng: np.random.Generator) -> None:
        rows = _hadamard_rows()
        names = list(_EVENTS)
        self.looks = {folder: dict(zip(names, rng.permutation(rows), strict=False)) for folder in V_FEAT_DIRS}
        sounds = rng.permutation(rows)
        self.sounds = dict(zip(names, sounds, strict=False))
        self.live, self.dubbed = sounds[len(names)], sounds[len(names) + 1]
        self.reads = dict(zip(names, rng.permutation(rows), strict=False))
        words = sorted(
            {word for sentences in _EVENTS.values() for sentence in sentences for word in words_of(sentence)}
        )
        self.words = {word: rng.normal(0, 0.25, D) for word in words}


def _hadamard_rows() -> FloatArray:
    """Return the D - 1 rows of a Hadamard matrix but the constant one, each of length 1."""
    matrix = np.ones((1, 1))
    while len(matrix) < D:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix[1:] / np.sqrt(D)


def words_of(sentence: str) -> list[str]:
    """Return the sentence's words, in lower case and without marks."""
    return sentence.lower().replace(",", "").replace(".", "").split()


def _plan(rng: np.random.Generator, qid: int, split: str, audio: str) -> PlantedVideo:
    """Return a video with its event at one place and, but for irrelevant sound, a rival of equal length at another."""
    clips = int(rng.integers(_CLIPS[0], _CLIPS[1] + 1))
    length = int(rng.integers(_EVENT_CLIPS[0], _EVENT_CLIPS[1] + 1))
    # Two places that do not touch: where the first begins, and how much later the second.
    first = int(rng.integers(0, clips - 2 * length))
    second = int(rng.integers(first + length + 1, clips - length + 1))
    places = [(start * CLIP_LENGTH_S, (start + length) * CLIP_LENGTH_S) for start in (first, second)]
    meant, rival = places if rng.integers(2) else places[::-1]
    return PlantedVideo(
        qid=qid,
        vid=f"planted_{split}_{qid}",
        split=split,
        event=list(_EVENTS)[int(rng.integers(len(_EVENTS)))],
        audio=audio,
        clips=clips,
        window=meant,
        lookalike=rival if audio == "useful" else None,
        listen=meant if audio == "useful" else None,
        misleads=rival if audio == "misleading" else None,
    )


def _write_video(
    directory: Path, rng: np.random.Generator, patterns: _Patterns, video: PlantedVideo, both_heard: bool
) -> dict[str, Any]:
    """Write the features of a video and its sentence, and return its annotation."""
    shown = [place for place in (video.window, video.lookalike) if place is not None]
    for folder in V_FEAT_DIRS:
        features = rng.normal(0, _NOISE, (video.clips, D))
        for place in shown:
            _add(features, place, patterns.looks[folder][video.event])
        np.savez(directory / folder / f"{video.vid}.npz", features=features.astype(_HALF))
    np.save(directory / A_FEAT_DIR / f"{video.vid}.npy", _sound(rng, patterns, video, both_heard).astype(_HALF))

    sentence = _EVENTS[video.event][int(rng.integers(len(_EVENTS[video.event])))]
    tokens = [patterns.reads[word] if word == video.event else patterns.words[word] for word in words_of(sentence)]
    text = np.stack(tokens) + rng.normal(0, 0.05, (len(tokens), D))  # (T, D)
    np.savez(directory / T_FEAT_DIR / f"qid{video.qid}.npz", last_hidden_state=text.astype(_HALF))

    relevant = list(range(video.window[0] // CLIP_LENGTH_S, video.window[1] // CLIP_LENGTH_S))
    return {
        "qid": video.qid,
        "query": sentence,
        "duration": video.clips * CLIP_LENGTH_S,
        "vid": video.vid,
        "relevant_windows": [list(video.window)],
        "relevant_clip_ids": relevant,
        "saliency_scores": rng.integers(2, 5, (len(relevant), 3)).tolist(),
    }


def _sound(rng: np.random.Generator, patterns: _Patterns, video: PlantedVideo, both_heard: bool) -> FloatArray:
    """Return the sound (n, D): its timbre in every clip, and sounds of events."""
    sound = rng.normal(0, _NOISE, (video.clips, D))
    timbre = patterns.live if video.audio == "useful" else patterns.dubbed
    sound += _TIMBRE_STRENGTH * timbre
    place = video.listen or video.misleads
    if both_heard and video.lookalike is not None:
        strength = rng.uniform(*_BOTH_STRENGTHS)
        _add(sound, video.window, patterns.sounds[video.event], strength + _LOUDER_BY)
        _add(sound, video.lookalike, patterns.sounds[video.event], strength - _LOUDER_BY)
    elif place is not None:
        _add(sound, place, patterns.sounds[video.event])
    if video.audio != "useful":
        # Dubbed sound is full of events that nobody sees: letting it in costs, heard or not.
        for _ in range(4):
            event = list(_EVENTS)[int(rng.integers(len(_EVENTS)))]
            length = int(rng.integers(_EVENT_CLIPS[0], _EVENT_CLIPS[1] + 1))
            start = int(rng.integers(0, video.clips - length + 1))
            _add(sound, (start * CLIP_LENGTH_S, (start + length) * CLIP_LENGTH_S), patterns.sounds[event])
    return sound


def _add(features: FloatArray, place: tuple[int, int], pattern: FloatArray, strength: float = _EVENT_STRENGTH) -> None:
    """Add an event's pattern to the clips of a place given in seconds."""
    features[place[0] // CLIP_LENGTH_S : place[1] // CLIP_LENGTH_S] += strength * pattern


def training_flags(directory: str | Path) -> list[str]:
    """Return the flags with which `python -m qd_detr.gates.train` learns a dataset generated in `directory`."""
    directory = Path(directory)
    flags = ["--train_path", str(directory / TRAIN_FILE), "--eval_path", str(directory / VAL_FILE)]
    flags += ["--v_feat_dirs", *(str(directory / folder) for folder in V_FEAT_DIRS)]
    flags += ["--t_feat_dir", str(directory / T_FEAT_DIR), "--a_feat_dir", str(directory / A_FEAT_DIR)]
    for name, value in TRAINING_OPTIONS.items():
        flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return flags


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
        prog=program("python -m qd_detr.gates.planted"),
        description="Write a small audio-visual dataset in which it is known for which videos audio helps, and when.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--output", required=True, help="folder to write, new or empty")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (default: %(default)s)")
    parser.add_argument("--n_train", type=int, default=480, help="training videos (default: %(default)s)")
    parser.add_argument("--n_val", type=int, default=96, help="validation videos (default: %(default)s)")
    parser.add_argument(
        "--both_heard",
        action="store_true",
        help="useful sound is heard at both places, louder at the one that is meant",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 done, 1 it could not be written, 2 the request was wrong."""
    args = build_parser().parse_args(argv)
    return exit_status(lambda: _generate(args))


def _generate(args: argparse.Namespace) -> None:
    if args.seed < 0:
        raise RequestError(f"--seed is {args.seed}; expected 0 or more")
    videos = generate(args.output, args.seed, args.n_train, args.n_val, both_heard=args.both_heard)
    say(f"{args.output}: {len(videos)} videos; train with")
    say("python -m qd_detr.gates.train " + " ".join(training_flags(args.output)))


if __name__ == "__main__":
    sys.exit(main())
