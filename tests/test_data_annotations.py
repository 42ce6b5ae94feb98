import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qd_detr.gates.data.annotations import Query, file_name_problem, read_annotations, select_queries
from qd_detr.gates.errors import DataError, MissingFileError, RequestError

SHARED = Path(__file__).resolve().parents[2] / "shared"


def record(qid=1, **changes):
    return {"qid": qid, "query": "a dog barks", "vid": f"v{qid}_0.0_150.0", "duration": 150} | changes


def labels(**changes):
    return {
        "relevant_windows": [[4, 8]],
        "relevant_clip_ids": [2, 3],
        "saliency_scores": [[1, 2, 3], [0, 4, 4]],
    } | changes


def write_lines(path, *records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def refusal(path, **options):
    with pytest.raises(DataError) as caught:
        read_annotations(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_labelled_line_becomes_a_query_with_all_its_fields(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", record(7, **labels()))
    assert read_annotations(path) == [
        Query(
            qid=7,
            query="a dog barks",
            vid="v7_0.0_150.0",
            duration_s=150.0,
            line=1,
            relevant_windows=((4.0, 8.0),),
            relevant_clip_ids=(2, 3),
            saliency_scores=((1, 2, 3), (0, 4, 4)),
        )
    ]
    assert read_annotations(path)[0].labelled


def test_windows_alone_are_labels_and_null_or_empty_ones_are_none(tmp_path):
    changes = [{}, labels(relevant_windows=None), labels(relevant_windows=[]), labels(saliency_scores=None), labels()]
    path = write_lines(tmp_path / "a.jsonl", *[record(qid, **change) for qid, change in enumerate(changes)])
    assert [query.labelled for query in read_annotations(path)] == [False, False, False, True, True]
    assert [query.has_saliency for query in read_annotations(path)] == [False, True, True, False, True]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_content_and_not_the_suffix_decides_between_lines_and_a_list(tmp_path, suffix):
    records = [record(1), record("two")]
    lines = write_lines(tmp_path / f"lines{suffix}", *records)
    listed = tmp_path / f"list{suffix}"
    listed.write_text(json.dumps(records, indent=2))
    for path in (lines, listed):
        assert [(query.qid, query.line) for query in read_annotations(path)] == [(1, 1), ("two", 2)]


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_change_nothing_but_the_line_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    first, second = (json.dumps(record(qid)).encode() for qid in (1, 2))
    path.write_bytes(b"\xef\xbb\xbf\r\n" + first + b"\r\n  \r\n" + second)
    assert [(query.qid, query.line) for query in read_annotations(path)] == [(1, 2), (2, 4)]


def test_a_unicode_line_separator_inside_a_query_does_not_end_the_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record(1, query="one\u2028two\u0085three"), ensure_ascii=False), encoding="utf-8")
    assert read_annotations(path)[0].query == "one\u2028two\u0085three"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"qid": True}, "'qid' is True"),
        ({"qid": 1.5}, "'qid' is 1.5"),
        ({"qid": ""}, "'qid' '' is empty"),
        ({"qid": "../7"}, "leaves its folder"),
        ({"query": 5}, "'query' is 5"),
        ({"query": "half \ud800 pair"}, "lone surrogates"),
        ({"vid": ""}, "'vid' '' is empty"),
        ({"vid": 12}, "'vid' is 12"),
        ({"vid": "/etc/passwd"}, "absolute path"),
        ({"vid": "a/../../b"}, "leaves its folder"),
        ({"vid": "a\u0000b"}, "control character"),
        ({"vid": "..\\b"}, "backslash"),
        ({"duration": True}, "'duration' is True"),
        ({"duration": "150"}, "'duration' is '150'"),
        ({"duration": 0}, "'duration' is 0"),
        ({"duration": float("nan")}, "'duration' is nan"),
        ({"duration": float("inf")}, "'duration' is inf"),
        ({"duration": 10**400}, "'duration' is 1000"),
        ({"relevant_windows": [[8, 4]]}, "[8, 4]"),
        ({"relevant_windows": [[4, 4]]}, "[4, 4]"),
        ({"relevant_windows": [[-2, 4]]}, "[-2, 4]"),
        ({"relevant_windows": [[0, 4, 8]]}, "[0, 4, 8]"),
        ({"relevant_windows": [[0, True]]}, "[0, True]"),
        ({"relevant_windows": [0, 4]}, "'relevant_windows' holds 0"),
        ({"relevant_windows": "0-4"}, "'relevant_windows' is '0-4'"),
        ({"relevant_clip_ids": [-1]}, "'relevant_clip_ids' holds -1"),
        ({"relevant_clip_ids": [1.0]}, "'relevant_clip_ids' holds 1.0"),
        ({"relevant_clip_ids": [3, 2, 3]}, "clip 3 more than once"),
        ({"saliency_scores": [[1, 2]]}, "'saliency_scores' holds [1, 2]"),
        ({"saliency_scores": [[1, 2, 5]]}, "[1, 2, 5]"),
        ({"saliency_scores": [[1, 2, None]]}, "[1, 2, None]"),
        ({"relevant_clip_ids": [1], "saliency_scores": []}, "0 entries for 1 relevant_clip_ids"),
        ({"domain": 3}, "'domain' is 3"),
    ],
)
def test_an_unusable_field_is_refused_with_its_line_its_name_and_what_it_is(tmp_path, changes, expected):
    message = refusal(write_lines(tmp_path / "a.jsonl", record(100), record(7) | changes))
    assert "line 2: " in message
    assert expected in message
    assert "correct that line" in message


@pytest.mark.parametrize("name", ["qid", "query", "vid", "duration"])
def test_each_required_field_is_missed_by_name(tmp_path, name):
    incomplete = record(2)
    del incomplete[name]
    assert f"line 2: lacks '{name}'" in refusal(write_lines(tmp_path / "a.jsonl", record(1), incomplete))


def test_an_end_past_the_video_and_a_name_in_a_subfolder_are_let_through(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", record(1, vid="part1/a..b", relevant_windows=[[140, 152.5]]))
    (query,) = read_annotations(path)
    assert (query.vid, query.relevant_windows) == ("part1/a..b", ((140.0, 152.5),))


def test_broken_json_is_named_by_its_line_in_both_layouts(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(record(1)) + '\n\n{"qid": 2,\n')
    assert "line 3: is not JSON" in refusal(lines)
    listed = tmp_path / "a.json"
    listed.write_text('[{"qid": 1},\n {"qid": 2,}\n]')
    assert "line 2: is not JSON" in refusal(listed)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"a":' * 100_000, '{"qid": ' + "1" * 5000 + "}", "3", '"text"', "null"]
)
def test_json_that_is_no_annotation_or_breaks_the_parser_is_refused_in_a_sentence(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    assert len(refusal(path)) < 500


def test_many_bad_lines_are_counted_and_three_of_them_shown(tmp_path):
    message = refusal(write_lines(tmp_path / "a.jsonl", record(1), *[record(qid, duration=-1) for qid in range(2, 7)]))
    assert "5 of 6 lines" in message
    assert "line 2: " in message
    assert "line 4: " in message
    assert "line 5: " not in message
    assert ", ...; correct" in message


def test_qids_equal_as_text_are_duplicates_and_both_lines_are_named(tmp_path):
    message = refusal(write_lines(tmp_path / "a.jsonl", record(1), record(2), record("1")))
    assert "line 3: 'qid' '1' is already on line 1" in message


@pytest.mark.parametrize("content", ["", "\n \n", "[]", " [ ] "])
def test_a_file_without_annotations_is_refused(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert "holds no annotations" in refusal(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(record(1)).encode("utf-16"))
    assert "not UTF-8" in refusal(path)


def test_a_missing_file_and_a_folder_are_wrong_requests(tmp_path):
    with pytest.raises(MissingFileError, match="--data_path"):
        read_annotations(tmp_path / "no.jsonl")
    with pytest.raises(RequestError, match="is a folder"):
        read_annotations(tmp_path)
    with pytest.raises(RequestError, match="ego4d"):
        read_annotations(write_lines(tmp_path / "a.jsonl", record(1)), dset_name="ego4d")


def test_tvsum_keeps_the_lines_of_its_domain_with_their_rater_labels(tmp_path):
    raters = [[1, 5] * 10, [2, 3] * 10]
    path = write_lines(
        tmp_path / "tvsum.jsonl",
        record("a", domain="BK", label=raters),
        record("b", domain="VT", label=raters),
        record("c", domain="BK"),
    )
    kept = read_annotations(path, "tvsum", "BK")
    assert [query.qid for query in kept] == ["a", "c"]
    assert kept[0].rater_labels.shape == (2, 20)
    assert kept[0].rater_labels[1, :2].tolist() == [2.0, 3.0]
    assert [query.labelled for query in kept] == [True, False]
    assert len(read_annotations(path, "tvsum")) == 3
    assert read_annotations(path)[0].rater_labels is None
    assert "domains there: BK, VT" in refusal(path, dset_name="tvsum", dset_domain="GA")


@pytest.mark.parametrize("label", [[[1] * 19], [[0] * 20], [[1] * 20, [1] * 21], [["1"] * 20], [], 5, [[6] * 20]])
def test_rater_labels_of_another_shape_or_range_are_refused(tmp_path, label):
    assert "'label'" in refusal(write_lines(tmp_path / "t.jsonl", record("a", label=label)), dset_name="tvsum")


def queries_of(*qids):
    return [Query(qid, "q", f"v{qid}", 10.0, line) for line, qid in enumerate(qids, start=1)]


def test_selected_ids_are_compared_as_text_and_kept_in_annotation_order():
    queries = queries_of(0, "b", 12, "3")
    assert [query.qid for query in select_queries(queries, ["3", 12, "0", "0"])] == [0, 12, "3"]
    assert [query.qid for query in select_queries(queries, ["3", 12, "0"], max_samples=2)] == [0, 12]
    assert [query.qid for query in select_queries(queries, max_samples=9)] == [0, "b", 12, "3"]


def test_unknown_ids_are_named_with_some_that_are_there():
    with pytest.raises(RequestError, match=r"2 of 3 ids .*: x, 07; ids that are there: 7, 8"):
        select_queries(queries_of(7, 8), ["x", "7", "07"])


def test_selecting_nothing_is_a_wrong_request():
    for asked in ({"max_samples": 0}, {"max_samples": -1}, {"analyze_samples": []}):
        with pytest.raises(RequestError):
            select_queries(queries_of(1), **asked)


@given(st.text(alphabet="ab./\\ \n", max_size=8))
def test_an_accepted_name_never_leaves_its_folder(name):
    if file_name_problem(name) is not None:
        return
    resolved = Path("/root_folder/inner", f"{name}.npz").resolve()
    assert resolved.is_relative_to("/root_folder/inner")


@given(st.permutations(range(6)), st.integers(1, 7), st.integers(0, 2**32))
def test_a_selection_equals_a_plain_filter_of_the_list(qids, max_samples, seed):
    asked = random.Random(seed).sample(qids, 3)
    chosen = select_queries(queries_of(*qids), asked, max_samples)
    assert [query.qid for query in chosen] == [qid for qid in qids if qid in asked][:max_samples]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared, which a clone does not have")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("metrics/highlight_val_release.jsonl", 1550),
        ("qvhighlights_sample/highlight_train_sample.jsonl", 960),
        ("qvhighlights_sample/highlight_val_sample.jsonl", 96),
    ],
)
def test_real_annotations_load_completely_and_are_labelled(name, count):
    queries = read_annotations(SHARED / name)
    assert len(queries) == count
    assert all(query.labelled for query in queries)
