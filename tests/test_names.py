"""File names of samples: safe, distinct, and the same whatever order the samples come in."""

import re

from hypothesis import given
from hypothesis import strategies as st

from qd_detr.gates.results.names import MAX_PLAIN, file_names

SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
ODD = [
    "../../x",
    "a" * 300,
    "A" * 300,
    "Case",
    "case",
    "a/b",
    "a_b",
    "\ud800",
    "\udfff",
    "",
    ".",
    "..",
    ".hidden",
    1,
    "1",
    "CON",
    "con",
    "é",
    "e\u0301",
    "한국어",
    "a b",
    "a\nb",
    "a\0b",
    -1,
    "-1",
    0,
    "straße",
    "STRASSE",
    "x" * 80,
    "x" * 81,
    "a.",
]
IDS = st.lists(
    st.one_of(st.sampled_from(ODD), st.integers(), st.text(max_size=90), st.text("aA./_", max_size=4)), max_size=12
)


def assert_safe_and_distinct(names):
    assert all(SAFE.fullmatch(name) and len(name) <= MAX_PLAIN + 25 for name in names.values())
    assert len({name.casefold() for name in names.values()}) == len(names)


def test_odd_ids_get_safe_and_distinct_names():
    names = file_names(ODD)
    assert list(names) == ODD
    assert_safe_and_distinct(names)


def test_plain_ids_stand_as_they_are_and_others_carry_eight_digits_of_their_hash():
    names = file_names(["5364", 7835, "a.b-c_D", "x" * 80, "../../x", "Case", "case"])
    assert names["5364"] == "5364"
    assert names[7835] == "7835"
    assert names["a.b-c_D"] == "a.b-c_D"
    assert names["x" * 80] == "x" * 80
    # From `printf ../../x | sha256sum`, and so on.
    assert names["../../x"] == "x_9cdf6a50"
    assert names["Case"] == "Case_15f86e24"
    assert names["case"] == "case_bbfcd416"


def test_reserved_names_of_windows_are_only_ever_part_of_a_name():
    # "CON" stands, as promised: no file is called CON or CON.x, only gate_analysis_CON.png, CON_details.json, ...
    assert file_names(["CON", "nul"]) == {"CON": "CON", "nul": "nul"}


@given(IDS, st.randoms())
def test_names_are_safe_distinct_and_independent_of_order(ids, random):
    names = file_names(ids)
    assert_safe_and_distinct(names)
    shuffled = list(ids)
    random.shuffle(shuffled)
    assert file_names(shuffled) == names


def test_a_plain_id_that_looks_like_anothers_hashed_name_keeps_its_own():
    hashed = file_names(["../../x"])["../../x"]
    names = file_names(["../../x", hashed, hashed.upper()])
    assert_safe_and_distinct(names)
