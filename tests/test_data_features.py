import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qd_detr.gates.data.annotations import Query, read_annotations
from qd_detr.gates.data.feature_search import FeatureSources
from qd_detr.gates.data.features import (
    FeatureFolders,
    FeatureReader,
    FeatureSpec,
    MissingFeaturesError,
    check_features,
    locate_features,
    normalize_rows,
    write_missing_list,
)
from qd_detr.gates.errors import DataError, RequestError

SHARED = Path(__file__).resolve().parents[2] / "shared"
SAMPLE = SHARED / "qvhighlights_sample"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared, which a clone does not have")

# Two video folders of 3 and 2 columns, audio of 2, text of 4; two endpoint columns on video and audio.
SPEC = FeatureSpec(
    dset_name="hl",
    v_feat_dirs=("../data/slow", "../data/clip"),
    t_feat_dir="../data/text/",
    a_feat_dir="../data/audio",
    max_v_l=6,
    max_q_l=4,
    normalize_video=True,
    normalize_text=True,
    temporal_endpoints=True,
    video_dim=7,
    audio_dim=4,
    text_dim=4,
)


def query_of(qid, vid):
    return Query(qid, "a dog barks", vid, 150.0, 1)


QUERIES = [query_of(1, "x"), query_of("two", "y"), query_of(3, "x")]


def fill(rows, columns, seed=0):
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 3).astype(np.float16)


@pytest.fixture
def data(tmp_path):
    """A data folder: video x has 5 clips and y 4, every text 3 tokens."""
    for vid, clips in (("x", 5), ("y", 4)):
        for folder, columns in (("slow", 3), ("clip", 2)):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.savez_compressed(tmp_path / folder / f"{vid}.npz", features=fill(clips, columns, seed=clips))
        (tmp_path / "audio").mkdir(exist_ok=True)
        np.save(tmp_path / "audio" / f"{vid}.npy", fill(clips, 2))
    (tmp_path / "text").mkdir()
    for seed, query in enumerate(QUERIES):
        pooled = np.zeros(4)
        np.savez(tmp_path / "text" / f"qid{query.qid}.npz", last_hidden_state=fill(3, 4, seed), pooler_output=pooled)
    return tmp_path


def folders_in(root):
    return FeatureFolders((root / "slow", root / "clip"), root / "text", root / "audio")


def reader_in(root, spec=SPEC, queries=QUERIES):
    folders = folders_in(root)
    return FeatureReader(folders, spec, check_features(queries, folders, spec))


def refusal(root, spec=SPEC, queries=QUERIES, **options):
    with pytest.raises(DataError) as caught:
        check_features(queries, folders_in(root), spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the check ---


def test_the_index_counts_clips_tokens_and_bytes(data):
    index = check_features(QUERIES, folders_in(data), SPEC)
    assert index.queries == QUERIES
    assert (index.clip_counts, index.token_counts, index.missing) == ([5, 4, 5], [3, 3, 3], [])
    assert (index.length_mismatches, index.video_length_mismatches) == (0, 0)
    assert set(index.file_sizes) == {
        *(f"{name}.npz" for name in ("slow/x", "slow/y", "clip/x", "clip/y")),
        *("audio/x.npy", "audio/y.npy"),
        *(f"text/qid{query.qid}.npz" for query in QUERIES),
    }
    assert index.file_sizes["audio/x.npy"] == os.path.getsize(data / "audio" / "x.npy")


def test_counts_are_cut_to_the_options_and_to_the_shorter_and_mismatches_are_counted_per_video(data):
    np.savez(data / "slow" / "x.npz", features=fill(9, 3))
    np.savez(data / "clip" / "x.npz", features=fill(7, 2))  # both 6 after max_v_l: not a mismatch
    np.save(data / "audio" / "x.npy", fill(5, 2))
    np.savez(data / "clip" / "y.npz", features=fill(3, 2))
    np.save(data / "audio" / "y.npy", fill(3, 2))
    np.savez(data / "text" / "qid1.npz", last_hidden_state=fill(30, 4))
    index = check_features(QUERIES, folders_in(data), SPEC)
    assert (index.clip_counts, index.token_counts) == ([5, 3, 5], [4, 3, 3])
    assert (index.length_mismatches, index.video_length_mismatches) == (1, 1)
    index = check_features(QUERIES, folders_in(data), replace(SPEC, max_v_l=3))
    assert (index.length_mismatches, index.video_length_mismatches) == (0, 0)


def test_missing_files_are_counted_by_video_and_listed_by_query(data):
    (data / "audio" / "x.npy").unlink()
    (data / "text" / "qid3.npz").unlink()
    with pytest.raises(MissingFeaturesError) as caught:
        check_features(QUERIES, folders_in(data), SPEC)
    assert str(caught.value) == (
        f"features missing for 1 of 2 videos in {data}/audio: x.npy (the folder holds 1 file, as y.npy); "
        f"features missing for 1 of 3 queries in {data}/text: qid3.npz (the folder holds 2 files, "
        "as qid1.npz, qidtwo.npz); "
        "give the folder with --a_feat_dir --t_feat_dir, or leave them out with --skip_missing "
        "(--missing_list FILE writes all)"
    )
    expected = [(1, data / "audio/x.npy"), (3, data / "text/qid3.npz"), (3, data / "audio/x.npy")]
    assert caught.value.missing == expected
    index = check_features(QUERIES, folders_in(data), SPEC, skip_missing=True)
    assert ([query.qid for query in index.queries], index.clip_counts, index.missing) == (["two"], [4], expected)


def test_skipping_leaves_out_the_missing_but_not_the_damaged(data):
    (data / "audio" / "x.npy").unlink()
    (data / "slow" / "x.npz").write_bytes(b"of no matter: its queries are left out")
    assert len(check_features(QUERIES, folders_in(data), SPEC, skip_missing=True).queries) == 1
    (data / "slow" / "y.npz").write_bytes(b"not a zip")
    assert "1 of 1 videos" in refusal(data, skip_missing=True)


def test_skipping_everything_is_an_error(data):
    for path in (data / "audio").iterdir():
        path.unlink()
    with pytest.raises(MissingFeaturesError, match="leaves none") as caught:
        check_features(QUERIES, folders_in(data), SPEC, skip_missing=True)
    assert len(caught.value.missing) == 3


def rewrite(content):
    return lambda path: path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-5])


def savez(**arrays):
    return lambda path: np.savez(path, **arrays)


def save(array):
    return lambda path: np.save(path, array, allow_pickle=True)


def make_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("slow/y.npz", cut_short, "cannot be read: y.npz"),
        ("slow/y.npz", rewrite(b""), "cannot be read: y.npz"),
        ("slow/y.npz", make_folder, "y.npz (not a file)"),
        ("slow/y.npz", savez(a=fill(4, 3), b=fill(1, 1)), "lack the array 'features': y.npz (has a, b)"),
        ("slow/y.npz", savez(features=fill(4, 3)[None]), "y.npz (shape (1, 4, 3), float16)"),
        ("slow/y.npz", savez(features=fill(0, 3)), "hold no rows: y.npz (shape (0, 3))"),
        ("slow/y.npz", savez(features=np.array([[None] * 3])), "y.npz (shape (1, 3), object)"),
        ("slow/y.npz", savez(features=np.ones((4, 3), complex)), "y.npz (shape (4, 3), complex128)"),
        (
            "slow/y.npz",
            savez(features=fill(4, 2)),
            "takes 5 columns (7 with the 2 temporal endpoints): y has 2 + 2 = 4;",
        ),
        ("audio/y.npy", cut_short, "y.npy (cut short, 11 of 16 bytes)"),
        ("audio/y.npy", rewrite(b"\x93NUMPY\x01\x00\xff\xff{'descr'"), "cannot be read: y.npy"),
        ("audio/y.npy", rewrite(b"\x93NUMPY\x09\x00"), "version"),
        ("audio/y.npy", rewrite(b"\x93NUMPY\x01\x00\x04\x00(((\n"), "cannot be read: y.npy"),
        ("audio/y.npy", rewrite(b"\x93NUMPY\x01\x00\x0d\x00if 1:\n  2\n 3\n"), "cannot be read: y.npy"),
        ("audio/y.npy", save(fill(4, 2).astype(object)), "y.npy (shape (4, 2), object)"),
        ("audio/y.npy", save(fill(4, 9)), "takes 2 columns (4 with the 2 temporal endpoints): y has 9;"),
        ("audio/y.npy", save(fill(4, 2)[0]), "y.npy (shape (2,), float16)"),
        ("text/qidtwo.npz", savez(last_hidden_state=fill(3, 5)), "takes 4 columns: two has 5; give"),
        ("text/qidtwo.npz", savez(last_hidden_state=fill(0, 4)), "hold no rows: qidtwo.npz (shape (0, 4))"),
        ("text/qidtwo.npz", savez(last_hidden_state=np.ones((2, 3, 4))), "shape (2, 3, 4)"),
        ("text/qidtwo.npz", savez(token=fill(3, 4)), "lack the array 'last_hidden_state': qidtwo.npz (has token)"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_file_that_cannot_be_used_is_named_with_what_it_holds(data, name, damage, expected):
    damage(data / name)
    message = refusal(data)
    assert expected in message
    assert f"1 of {3 if name.startswith('text') else 2} " in message
    assert str(data / name.split("/")[0]) in message


def test_faults_of_a_kind_are_gathered_and_kinds_are_told_together(data):
    queries = [query_of(qid, f"v{qid}") for qid in range(5)]
    for query in queries:
        for folder, columns in (("slow", 3), ("clip", 2)):
            np.savez(data / folder / f"{query.vid}.npz", features=fill(4, columns))
        np.save(data / "audio" / f"{query.vid}.npy", fill(4, 3))
        np.savez(data / "text" / f"qid{query.qid}.npz", feats=fill(3, 4))
    message = refusal(data, queries=queries)
    assert "features of 5 of 5 queries" in message
    assert "qid2.npz (has feats), ...;" in message
    assert "audio features of 5 of 5 videos" in message
    assert "qid3" not in message


def test_the_check_reads_no_data(data):
    damaged = data / "audio" / "y.npy"
    values = np.load(damaged)
    values[2, 1] = np.nan
    np.save(damaged, values)
    assert len(check_features(QUERIES, folders_in(data), SPEC).queries) == 3


@pytest.mark.parametrize("vid", ["../x", "/etc/x", "a/../../x"])
def test_a_query_made_by_hand_cannot_leave_the_folders_either(data, vid):
    assert "it has to name a feature file" in refusal(data, queries=[query_of(1, vid)])


def test_no_queries_are_an_error(data):
    assert "no queries" in refusal(data, queries=[])


def test_files_of_folders_with_one_name_keep_their_own_sizes(data):
    (data / "rgb").mkdir()
    (data / "flow").mkdir()
    (data / "slow").rename(data / "rgb" / "feats")
    (data / "clip").rename(data / "flow" / "feats")
    folders = replace(folders_in(data), video=(data / "rgb" / "feats", data / "flow" / "feats"))
    sizes = check_features(QUERIES, folders, SPEC).file_sizes
    assert sizes["rgb/feats/x.npz"] == os.path.getsize(data / "rgb" / "feats" / "x.npz")
    assert sizes["flow/feats/x.npz"] == os.path.getsize(data / "flow" / "feats" / "x.npz")


def test_the_missing_list_is_a_line_for_each_file_and_leaves_nothing_else_behind(tmp_path):
    path = tmp_path / "missing.txt"
    path.write_text("old")
    write_missing_list([(1, Path("a/x.npy")), ("two", Path("b/y.npz"))], path)
    assert path.read_text() == "1\ta/x.npy\ntwo\tb/y.npz\n"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "folder").mkdir()
    for unusable in (tmp_path / "folder", tmp_path / "no" / "list"):
        with pytest.raises(RequestError, match="--missing_list"):
            write_missing_list([], unusable)
    assert set(tmp_path.iterdir()) == {path, tmp_path / "folder"}


# --- the reader ---


def slow_normalize(rows):
    return [[value / (math.sqrt(sum(v * v for v in row)) + 1e-5) for value in row] for row in rows]


def test_features_follow_the_legacy_steps(data):
    np.savez(data / "clip" / "x.npz", features=fill(8, 2))
    np.savez(data / "slow" / "x.npz", features=fill(4, 3))
    features = reader_in(data).read(QUERIES[0])
    slow = slow_normalize(fill(4, 3).astype(float).tolist())
    clip = slow_normalize(fill(8, 2)[:4].astype(float).tolist())
    audio = slow_normalize(fill(5, 2)[:4].astype(float).tolist())
    ends = [[0.0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1.0]]
    np.testing.assert_allclose(features.video, [a + b + e for a, b, e in zip(slow, clip, ends, strict=True)], rtol=1e-5)
    np.testing.assert_allclose(features.audio, [a + e for a, e in zip(audio, ends, strict=True)], rtol=1e-5)
    np.testing.assert_allclose(features.text, slow_normalize(fill(3, 4).astype(float).tolist()), rtol=1e-5)
    assert {array.dtype for array in (features.video, features.audio, features.text)} == {np.dtype(np.float32)}


def test_switches_turn_normalisation_and_endpoints_off(data):
    spec = replace(
        SPEC, normalize_video=False, normalize_text=False, temporal_endpoints=False, video_dim=5, audio_dim=2
    )
    features = reader_in(data, spec).read(QUERIES[0])
    np.testing.assert_array_equal(features.video, np.concatenate([fill(5, 3, 5), fill(5, 2, 5)], axis=1))
    np.testing.assert_array_equal(features.audio, fill(5, 2))
    np.testing.assert_array_equal(features.text, fill(3, 4))


def test_video_and_text_are_cut_to_the_options(data):
    features = reader_in(data, replace(SPEC, max_v_l=2, max_q_l=1)).read(QUERIES[0])
    assert (features.video.shape, features.audio.shape, features.text.shape) == ((2, 7), (2, 4), (1, 4))
    assert features.video[:, -2:].tolist() == [[0.0, 0.5], [0.5, 1.0]]


def test_a_leading_batch_axis_of_the_text_is_dropped_before_the_cut(data):
    np.savez(data / "text" / "qid1.npz", last_hidden_state=fill(3, 4)[None])
    spec = replace(SPEC, max_q_l=2, normalize_text=False)
    np.testing.assert_array_equal(reader_in(data, spec).read(QUERIES[0]).text, fill(3, 4)[:2])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("slow/x.npz", lambda path, rows: np.savez(path, features=rows)),
        ("audio/x.npy", lambda path, rows: np.save(path, rows)),
        ("text/qid1.npz", lambda path, rows: np.savez(path, last_hidden_state=rows)),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.filterwarnings("error")
def test_a_value_that_is_not_finite_is_refused_with_its_file_and_place(data, name, write, value):
    columns = {"slow": 3, "audio": 2, "text": 4}[name.split("/")[0]]
    rows = np.ones((5, columns))
    rows[2, 1] = value
    write(data / name, rows)
    with pytest.raises(DataError, match=rf"{name} holds .* at row 2, column 1"):
        reader_in(data).read(QUERIES[0])


def test_a_value_in_a_clip_that_is_cut_off_does_no_harm(data):
    rows = np.ones((6, 3))
    rows[5] = np.nan  # audio has 5 clips
    np.savez(data / "slow" / "x.npz", features=rows)
    assert np.isfinite(reader_in(data).read(QUERIES[0]).video).all()


def test_damage_that_no_header_shows_is_refused_when_the_file_is_read(data):
    path = data / "slow" / "x.npz"
    np.savez(path, features=np.ones((5000, 3), np.float32))  # longer than what zipfile reads with the header
    content = bytearray(path.read_bytes())
    content[content.rindex(np.float32(1).tobytes())] ^= 1  # the checksum of the zip tells
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"slow/x.npz cannot be read"):
        reader_in(data).read(QUERIES[0])


def still_usable(root):
    """Whether the first query can be read; anything but a DataError fails the test that asks."""
    try:
        reader_in(root, queries=QUERIES[:1]).read(QUERIES[0])
    except DataError:
        return False
    return True


@pytest.mark.filterwarnings("ignore")  # some damage looks to NumPy like a file of Python 2
@pytest.mark.parametrize("name", ["slow/x.npz", "audio/x.npy"])
def test_a_wrong_byte_anywhere_gives_an_error_of_ours_or_does_no_harm(data, name):
    path = data / name
    whole = path.read_bytes()
    usable = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x58]) + whole[place + 1 :])
        usable.append(still_usable(data))
    assert not all(usable)
    path.write_bytes(whole)
    assert still_usable(data)


def test_files_that_change_after_the_check_are_refused(data):
    reader = reader_in(data)
    np.save(data / "audio" / "x.npy", fill(3, 2))
    (data / "text" / "qidtwo.npz").unlink()
    np.savez(data / "text" / "qid3.npz", last_hidden_state=fill(2, 4))
    with pytest.raises(DataError, match="3 rows, where 5 were found"):
        reader.read(QUERIES[0])
    with pytest.raises(DataError, match=r"qidtwo.npz cannot be read \(No such file"):
        reader.read(QUERIES[1])
    np.save(data / "audio" / "x.npy", fill(5, 2))
    with pytest.raises(DataError, match=r"qid3.npz .* 2 rows, where 3 were found"):
        reader.read(QUERIES[2])
    with pytest.raises(KeyError, match="99"):
        reader.read(query_of(99, "x"))


def test_queries_share_the_last_few_videos_and_cannot_change_them(data):
    queries = [query_of(qid, f"v{qid}") for qid in range(9)]
    for query in queries:
        for folder, columns in (("slow", 3), ("clip", 2)):
            np.savez(data / folder / f"{query.vid}.npz", features=fill(4, columns))
        np.save(data / "audio" / f"{query.vid}.npy", fill(4, 2))
        np.savez(data / "text" / f"qid{query.qid}.npz", last_hidden_state=fill(3, 4))
    reader = reader_in(data, queries=queries)
    first = [reader.read(query) for query in queries[:8]]
    assert all(reader.read(query).video is known.video for query, known in zip(queries[:8], first, strict=True))
    reader.read(queries[1])
    reader.read(queries[0])
    reader.read(queries[8])  # the ninth: the one unused for longest, now 2, goes
    assert reader.read(queries[0]).video is first[0].video
    assert reader.read(queries[2]).video is not first[2].video
    with pytest.raises(ValueError, match="read-only"):
        first[0].video[0, 0] = 0


def test_linked_files_are_read_and_a_dead_link_is_a_missing_file(data):
    (data / "store").mkdir()
    (data / "audio" / "x.npy").rename(data / "store" / "x.npy")
    (data / "audio" / "x.npy").symlink_to(data / "store" / "x.npy")
    assert reader_in(data).read(QUERIES[0]).audio.shape == (5, 4)
    (data / "store" / "x.npy").unlink()
    assert "features missing for 1 of 2 videos" in refusal(data)


def test_tvsum_joins_two_streams_before_normalising_and_leaves_the_text_as_it_is(tmp_path):
    for folder in ("video", "text", "audio"):
        (tmp_path / folder).mkdir()
    rgb, opt, audio, token = [[3.0], [0.0]], [[4.0], [2.0], [1.0]], [[0.0, 5.0], [1.0, 0.0]], [[9.0, 1.0, 2.0]]
    np.save(tmp_path / "video" / "a_rgb.npy", np.array(rgb))
    np.save(tmp_path / "video" / "a_opt.npy", np.array(opt))
    np.save(tmp_path / "audio" / "a.npy", np.array(audio))
    np.savez(tmp_path / "text" / "q.npz", token=np.array(token))
    spec = replace(SPEC, dset_name="tvsum", v_feat_dirs=("video",), temporal_endpoints=False)
    spec = replace(spec, video_dim=2, audio_dim=2, text_dim=3)
    folders = FeatureFolders((tmp_path / "video",), tmp_path / "text", tmp_path / "audio")
    query = query_of("q", "a")
    index = check_features([query], folders, spec)
    assert (index.clip_counts, index.video_length_mismatches, index.length_mismatches) == ([2], 1, 0)
    features = FeatureReader(folders, spec, index).read(query)
    np.testing.assert_allclose(features.video, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-5)
    np.testing.assert_allclose(features.audio, [[0.0, 1.0], [1.0, 0.0]], rtol=2e-5)
    assert features.text.tolist() == token
    (tmp_path / "video" / "a_opt.npy").unlink()
    with pytest.raises(MissingFeaturesError, match=r"1 of 1 videos in .*video: a_opt.npy"):
        check_features([query], folders, spec)


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=16), min_size=3, max_size=3), min_size=1, max_size=5))
def test_each_row_is_normalised_alone_and_a_zero_row_stays_zero(rows):
    whole = normalize_rows(np.array(rows, dtype=np.float16))
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, slow_normalize(rows), rtol=1e-5, atol=1e-7)
    for row, normalized in zip(rows, whole, strict=True):
        np.testing.assert_array_equal(normalize_rows(np.array([row], dtype=np.float16))[0], normalized)


# --- the sample, and what the legacy code made of it ---


def sample_spec():
    options = json.loads((SHARED / "legacy" / "clipwise" / "opt.json").read_text())
    sizes = SimpleNamespace(
        video_dim=options["v_feat_dim"] + 2, audio_dim=options["a_feat_dim"], text_dim=options["t_feat_dim"]
    )
    return FeatureSpec.from_options({"dset_domain": None, **options}, sizes)


@needs_shared
def test_the_sample_is_found_checked_and_read():
    data_path = SAMPLE / "highlight_val_sample.jsonl"
    queries, spec = read_annotations(data_path), sample_spec()
    folders = locate_features(spec, FeatureSources(data_path))
    index = check_features(queries, folders, spec)
    assert (len(index.queries), len(index.file_sizes)) == (96, 96 + 3 * len({query.vid for query in queries}))
    assert sum(clips < 75 for clips in index.clip_counts) == 24
    reader = FeatureReader(folders, spec, index)
    for query, clips in zip(index.queries, index.clip_counts, strict=True):
        assert reader.read(query).video.shape == (clips, 66)


@needs_shared
def test_features_equal_the_recorded_legacy_inputs_to_the_bit():
    recorded = np.load(SHARED / "legacy" / "clipwise" / "losses_one_batch.npz")
    data_path, spec = SAMPLE / "highlight_train_sample.jsonl", sample_spec()
    by_qid = {query.qid: query for query in read_annotations(data_path)}
    queries = [by_qid[qid] for qid in (9370, 8849, 8362, 7297, 2571, 3163)]
    folders = locate_features(spec, FeatureSources(data_path))
    reader = FeatureReader(folders, spec, check_features(queries, folders, spec))
    for place, query in enumerate(queries):
        features = reader.read(query)
        for name, array in (("vid", features.video), ("aud", features.audio), ("txt", features.text)):
            length = int(recorded[f"in_src_{name}_mask"][place].sum())
            np.testing.assert_array_equal(array, recorded[f"in_src_{name}"][place, :length])
