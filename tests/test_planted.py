"""The planted dataset: what its truth file says is what its features hold, and the same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qd_detr.gates import planted
from qd_detr.gates.analysis.planted_truth import auc, planted_findings, raw_audio_scores
from qd_detr.gates.data.annotations import read_annotations
from qd_detr.gates.errors import RequestError, RunError
from qd_detr.gates.evaluation import evaluate
from qd_detr.gates.train.data import load_splits
from qd_detr.gates.train.options import resolve_options

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("planted") / "data"
    planted.generate(directory, seed=3, n_train=30, n_val=12)
    return directory


def digest(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes_in_another_process_and_another_seed_others(dataset, tmp_path):
    command = [sys.executable, "-m", "qd_detr.gates.planted", "--output", str(tmp_path / "again"), "--seed", "3"]
    command += ["--n_train", "30", "--n_val", "12"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "qd_detr.gates.train --train_path" in done.stdout
    assert digest(tmp_path / "again") == digest(dataset)
    planted.generate(tmp_path / "other", seed=4, n_train=30, n_val=12)
    assert digest(tmp_path / "other") != digest(dataset)


def test_more_videos_leave_the_first_ones_as_they_are(dataset, tmp_path):
    planted.generate(tmp_path / "more", seed=3, n_train=33, n_val=15)
    few, more = digest(dataset), digest(tmp_path / "more")
    features = [name for name in few if name.endswith((".npz", ".npy"))]
    assert len(features) == 4 * 42
    assert all(more[name] == few[name] for name in features)


def test_with_both_heard_the_louder_place_is_meant_and_no_threshold_parts_the_places(tmp_path):
    videos = planted.generate(tmp_path / "both", seed=5, n_train=120, n_val=3, both_heard=True)
    truth = json.loads((tmp_path / "both" / planted.TRUTH_FILE).read_text())
    assert truth["both_heard"] is True
    meant, rival = [], []
    for video in (one for one in videos if one.lookalike):
        sound = np.load(tmp_path / "both" / planted.A_FEAT_DIR / f"{video.vid}.npy").astype(np.float64)
        inside = np.zeros(video.clips, dtype=bool)
        places = [
            slice(*(second // planted.CLIP_LENGTH_S for second in one)) for one in (video.window, video.lookalike)
        ]
        for place in places:
            inside[place] = True
        elsewhere = sound[~inside].mean(axis=0)
        sizes = [np.linalg.norm(sound[place].mean(axis=0) - elsewhere) for place in places]
        meant.append(sizes[0])
        rival.append(sizes[1])
    difference = np.array(meant) - np.array(rival)
    assert len(difference) == 41
    assert (difference > 0.2).all()
    assert 0.85 < auc(meant + rival, [True] * len(meant) + [False] * len(rival)) < 0.96
    assert min(meant) < max(rival) - 0.2


def test_truth_and_annotations_agree_and_every_kind_has_its_third(dataset):
    truth = planted.read_truth(dataset)
    for file, count in ((planted.TRAIN_FILE, 30), (planted.VAL_FILE, 12)):
        queries = read_annotations(dataset / file)
        assert len(queries) == count
        kinds = [truth[query.qid].audio for query in queries]
        assert all(kinds.count(kind) == count // 3 for kind in planted.AUDIO_KINDS)
        for query in queries:
            video = truth[query.qid]
            assert query.relevant_windows == (video.window,)
            assert query.duration_s == video.clips * planted.CLIP_LENGTH_S
            assert video.event in planted.words_of(query.query)
            first, last = query.relevant_clip_ids[0], query.relevant_clip_ids[-1]
            assert (first * planted.CLIP_LENGTH_S, (last + 1) * planted.CLIP_LENGTH_S) == video.window


def test_every_sentence_holds_its_event_once_as_a_word():
    for event, sentences in planted._EVENTS.items():
        for sentence in sentences:
            assert planted.words_of(sentence).count(event) == 1


def events_in(features: np.ndarray, patterns: dict[str, np.ndarray], event: str) -> np.ndarray:
    """Return which clips hold the event, by the projection on its pattern."""
    return features.astype(np.float64) @ patterns[event] > planted._EVENT_STRENGTH / 2


def clips_of(place: tuple[int, int] | None) -> set[int]:
    return set() if place is None else set(range(place[0] // planted.CLIP_LENGTH_S, place[1] // planted.CLIP_LENGTH_S))


def test_the_features_hold_what_the_truth_says(dataset):
    patterns = planted._Patterns(np.random.default_rng([3, 0]))
    for video in planted.read_truth(dataset).values():
        for folder in planted.V_FEAT_DIRS:
            with np.load(dataset / folder / f"{video.vid}.npz") as archive:
                features = archive["features"]
            assert features.shape == (video.clips, planted.D)
            assert features.dtype == np.float16
            seen = set(np.flatnonzero(events_in(features, patterns.looks[folder], video.event)).tolist())
            assert seen == clips_of(video.window) | clips_of(video.lookalike)
        sound = np.load(dataset / planted.A_FEAT_DIR / f"{video.vid}.npy")
        heard = set(np.flatnonzero(events_in(sound, patterns.sounds, video.event)).tolist())
        live = (sound.astype(np.float64) @ (patterns.live - patterns.dubbed)).mean() > 0
        assert live == (video.audio == "useful")
        if video.audio == "useful":
            assert heard == clips_of(video.window) == clips_of(video.listen)
            assert video.misleads is None
        else:
            assert video.listen is None
            assert video.lookalike is None
        if video.audio == "misleading":
            assert clips_of(video.misleads) <= heard
            assert not clips_of(video.misleads) & clips_of(video.window)


def test_without_sound_a_useful_video_leaves_two_places_of_equal_length(dataset):
    useful = [video for video in planted.read_truth(dataset).values() if video.audio == "useful"]
    for video in useful:
        assert video.lookalike is not None
        assert video.window[1] - video.window[0] == video.lookalike[1] - video.lookalike[0]
        assert not clips_of(video.window) & clips_of(video.lookalike)
    meant_first = sum(video.window < (video.lookalike or ()) for video in useful)
    assert 0 < meant_first < len(useful)


def test_the_trainers_options_and_the_metrics_take_the_dataset(dataset):
    needed = {"train_path": str(dataset / planted.TRAIN_FILE), "eval_path": str(dataset / planted.VAL_FILE)}
    needed |= {
        "v_feat_dirs": list(planted.V_FEAT_DIRS),
        "t_feat_dir": planted.T_FEAT_DIR,
        "a_feat_dir": planted.A_FEAT_DIR,
    }
    train, val, spec = load_splits(resolve_options({**needed, **planted.TRAINING_OPTIONS}))
    assert (len(train.queries), len(val.queries)) == (30, 12)
    assert (spec.stored_dim("video"), spec.text_dim) == (2 * planted.D, planted.D)
    perfect = [
        {"qid": q.qid, "pred_relevant_windows": [[*q.relevant_windows[0], 1.0]], "pred_saliency_scores": [0.0]}
        for q in val.queries
    ]
    assert evaluate(perfect, val.queries).metrics["brief"]["MR-full-mAP"] == 100


def test_the_demos_dataset_is_small(tmp_path):
    planted.generate(tmp_path / "data")
    assert sum(path.stat().st_size for path in (tmp_path / "data").rglob("*") if path.is_file()) < 3e6


def test_a_folder_that_is_there_is_refused_and_left_alone(dataset, capsys):
    before = digest(dataset)
    assert planted.main(["--output", str(dataset)]) == 2
    assert "new folder" in capsys.readouterr().err
    assert digest(dataset) == before
    assert [path.name for path in dataset.parent.iterdir()] == [dataset.name]


def test_too_few_videos_are_refused(tmp_path):
    with pytest.raises(RequestError, match="3 or more"):
        planted.generate(tmp_path / "data", n_train=2)


def test_a_dataset_that_cannot_be_finished_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    assert planted.main(["--output", str(tmp_path / "data")]) == 1
    assert not list(tmp_path.iterdir())


def test_the_truth_file_is_json_that_says_how_it_was_made(dataset):
    content = json.loads((dataset / planted.TRUTH_FILE).read_text())
    assert content["seed"] == 3
    assert len(content["videos"]) == 42


def test_a_folder_that_stands_where_the_data_are_made_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / f".data.{os.getpid()}.partial" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(RunError, match="cannot be written"):
        planted.generate(tmp_path / "data", n_train=3, n_val=3)
    assert kept.read_text() == "mine"
    assert not (tmp_path / "data").exists()


def row(qid: int, injection: float) -> SimpleNamespace:
    gates = [SimpleNamespace(injection_mean=injection)]
    return SimpleNamespace(sample_id=qid, gates={"attention": gates})


def test_what_was_planted_is_held_against_share_injection_and_the_raw_audio():
    kinds = {1: "useful", 2: "useful", 3: "misleading", 4: "irrelevant"}
    rows = [row(1, 0.1), row(2, 0.9), row(3, 0.5), row(4, 0.2), row(9, 9.0)]
    audio = {1: [1.0, 0.0], 2: [2.0, 1.0], 3: [0.0, 0.5], 4: [-1.0, 0.5]}
    raw = {qid: np.array(one) for qid, one in audio.items()}
    found = planted_findings(rows, kinds, {1: 0.6, 2: None, 3: 0.1, 4: 0.2}, raw)
    assert (found["n"], found["share_n"]) == (4, 3)
    # useful 0.6 against 0.1 and 0.2; injection 0.1 and 0.9 against 0.5 and 0.2
    assert (found["share_auc"], found["auc"], found["raw_audio_auc"]) == (1.0, 0.5, 1.0)
    # Video 1 by the others: means (2, 1) and (-0.5, 0.5), direction (2.5, 0.5), middle (0.75, 0.75)
    scores = raw_audio_scores(np.array(list(audio.values())), np.array([True, True, False, False]))
    assert scores[0] == pytest.approx(2.5 * 0.25 - 0.5 * 0.75)
    assert found["kinds"]["useful"] == {"n": 2, "share": 0.6, "injection": 0.5}
    without = planted_findings(rows, kinds, None, raw)
    assert (without["share_n"], without["share_auc"], without["kinds"]["useful"]["share"]) == (0, None, None)
    assert planted_findings(rows[1:4], kinds, None, raw)["raw_audio_auc"] is None
