"""Slices of the queries."""

from __future__ import annotations

import numpy as np
import pytest

from qd_detr.gates.analysis.slices import SOUND_WORDS, slices, sound_words

WINDOWS = [[[0, 10]], [[0, 12], [20, 50]], [[0, 30.5]], [[0, 2], [4, 6], [8, 40]], []]
DURATIONS = [150, 126, 150, 150.0, 90]
TEXTS = [
    "A man TALKS to the camera.",
    "Woman talked-about her drum; loudly",
    "A sidewalk, a talkative crowd and a yellow soundtrack",  # no whole word of the list
    "Người phụ nữ hát",
    "",
]


def members(found, name):
    return np.flatnonzero(found[name].mask).tolist()


def test_slices_by_hand():
    found = slices(WINDOWS, DURATIONS, TEXTS)
    assert {name: members(found, name) for name in found} == {
        "window_short": [0, 3],
        "window_middle": [1],
        "window_long": [2, 3],
        "windows_1": [0, 2],
        "windows_2": [1],
        "windows_3_or_more": [3],
        "video_full": [0, 2, 3],
        "video_shorter": [1, 4],
        "sound_words": [0, 1],
        "no_sound_words": [2, 3, 4],
    }
    assert all(part.description and part.mask.dtype == bool for part in found.values())


def test_sound_words_are_whole_words_in_any_case():
    assert sound_words(TEXTS[1]) == ("talked", "drum", "loudly")
    assert sound_words(TEXTS[2]) == ()
    assert sound_words("He's SINGING, she doesn't.") == ("singing",)
    assert len(set(SOUND_WORDS)) == len(SOUND_WORDS)
    assert all(word == word.casefold() and word.isalpha() for word in SOUND_WORDS)


def test_without_labels_there_are_no_window_slices_and_lengths_must_agree():
    assert not [name for name in slices(None, DURATIONS, TEXTS) if name.startswith("window")]
    assert all(part.mask.shape == (0,) for part in slices([], [], []).values())
    with pytest.raises(ValueError, match="same number"):
        slices(WINDOWS, DURATIONS[:2], TEXTS)
