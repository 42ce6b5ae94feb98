"""Slices of the queries on which an effect is reported by itself, as plain definitions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qd_detr.gates.wording import Reason

# (low, high] in seconds: the benchmark's own ranges, so that a slice can be read beside MR-short, -middle and -long.
WINDOW_LENGTHS_S = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, float("inf"))}
FULL_DURATION_S = 150.0

# Whole words, lower case: what is heard, who makes it heard, and what it is heard with. Words that are seen as often
# as heard ("play", "ring", "band", "reporter", "phone") are left out.
SOUND_WORDS = (
    *("talk", "talks", "talked", "talking", "speak", "speaks", "spoke", "speaking", "speech", "speeches"),
    *("say", "says", "said", "saying", "tell", "tells", "told", "telling", "ask", "asks", "asked", "asking"),
    *("discuss", "discusses", "discussed", "discussing", "discussion", "conversation", "conversations"),
    *("chat", "chats", "chatted", "chatting", "converse", "conversing", "argue", "argues", "arguing"),
    *("interview", "interviews", "interviewed", "interviewing", "narrate", "narrates", "narrating", "narration"),
    *("explain", "explains", "explained", "explaining", "describe", "describes", "described", "describing"),
    *("comment", "comments", "commenting", "commentary", "announce", "announces", "announcing", "reporting"),
    *("shout", "shouts", "shouted", "shouting", "yell", "yells", "yelled", "yelling"),
    *("scream", "screams", "screamed", "screaming", "whisper", "whispers", "whispering"),
    *("laugh", "laughs", "laughed", "laughing", "laughter", "cry", "cries", "crying", "cheer", "cheers", "cheering"),
    *("sing", "sings", "sang", "sung", "singing", "singer", "singers", "song", "songs", "rap", "raps", "rapping"),
    *("music", "musical", "musician", "musicians", "melody", "concert", "concerts", "orchestra", "choir"),
    *("instrument", "instruments", "guitar", "guitars", "drum", "drums", "drumming", "piano", "violin", "flute"),
    *("trumpet", "saxophone", "sound", "sounds", "sounding", "noise", "noises", "noisy", "loud", "loudly"),
    *("voice", "voices", "audio", "listen", "listens", "listened", "listening", "hear", "hears", "heard", "hearing"),
    *("microphone", "microphones", "radio", "clap", "claps", "clapped", "clapping"),
    *("applause", "applaud", "applauds", "applauded", "applauding", "whistle", "whistles", "whistling"),
    *("bark", "barks", "barked", "barking", "meow", "meows", "meowing", "chirp", "chirps", "chirping", "roar", "roars"),
    *("siren", "sirens", "alarm", "alarms", "honk", "honks", "honking", "beep", "beeps", "beeping", "thunder"),
    *("explosion", "explosions", "gunfire", "gunshot", "gunshots"),
)
_SOUND_WORDS = frozenset(SOUND_WORDS)
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Slice:
    """Which queries belong (n,), and what they are called."""

    description: Reason
    mask: NDArray[np.bool_]


def sound_words(text: str) -> tuple[str, ...]:
    """Return the words of sound in `text`, in order, lower case."""
    return tuple(word for word in _WORD.findall(text.casefold()) if word in _SOUND_WORDS)


def slices(
    windows_s: Sequence[Sequence[Sequence[float]]] | None, durations_s: Sequence[float], texts: Sequence[str]
) -> dict[str, Slice]:
    """Return the slices by name, each a mask over the n queries; a slice may be empty.

    Args:
        windows_s: per query its annotated [start, end] windows; None without labels, then no slice is made of them.
        durations_s: per query the length of its video.
        texts: per query its sentence.
    """
    n = len(texts)
    if len(durations_s) != n or (windows_s is not None and len(windows_s) != n):
        counts = (None if windows_s is None else len(windows_s), len(durations_s), n)
        raise ValueError(f"windows, durations and texts of {counts} queries; expected the same number of each")
    result: dict[str, Slice] = {}
    if windows_s is not None:
        lengths_s = [[window[1] - window[0] for window in windows] for windows in windows_s]
        for name, (low, high) in WINDOW_LENGTHS_S.items():
            if np.isinf(high):
                description = Reason("slice.window_over", {"low": low})
            else:
                description = Reason("slice.window_between", {"low": low, "high": high})
            has = np.array([any(low < length <= high for length in of_query) for of_query in lengths_s], dtype=bool)
            result[f"window_{name}"] = Slice(description, has)
        counts_of = np.array([len(of_query) for of_query in lengths_s], dtype=np.int64)
        result["windows_1"] = Slice(Reason("slice.windows_1"), counts_of == 1)
        result["windows_2"] = Slice(Reason("slice.windows_2"), counts_of == 2)
        result["windows_3_or_more"] = Slice(Reason("slice.windows_3"), counts_of >= 3)
    durations = np.asarray(durations_s, dtype=np.float64)
    full = {"length": FULL_DURATION_S}
    result["video_full"] = Slice(Reason("slice.video_full", full), durations >= FULL_DURATION_S)
    result["video_shorter"] = Slice(Reason("slice.video_shorter", full), durations < FULL_DURATION_S)
    heard = np.array([bool(sound_words(text)) for text in texts], dtype=bool)
    result["sound_words"] = Slice(Reason("slice.sound_words", {"n": len(SOUND_WORDS)}), heard)
    result["no_sound_words"] = Slice(Reason("slice.no_sound_words"), ~heard)
    return result
