from dataclasses import replace
from pathlib import Path

import pytest

from qd_detr.gates.data.feature_layout import FeatureFolders
from qd_detr.gates.data.feature_search import FeatureSources, locate_features
from qd_detr.gates.errors import MissingFileError, RequestError
from tests.test_data_features import SPEC as SHORT

SPEC = replace(SHORT, max_v_l=75, max_q_l=32)


@pytest.fixture
def data(tmp_path):
    """The folder of the annotations, with the four feature folders in it."""
    for name in ("slow", "clip", "text", "audio"):
        (tmp_path / "annotated" / name).mkdir(parents=True)
    return tmp_path / "annotated"


def beside(data):
    return FeatureFolders((data / "slow", data / "clip"), data / "text", data / "audio")


def locate(root, spec=SPEC, **options):
    return locate_features(spec, FeatureSources(root / "val.jsonl", **options))


def test_folders_beside_the_annotations_are_found_by_their_last_component(data):
    assert locate(data) == beside(data)


def test_folders_written_on_windows_or_with_a_trailing_slash_are_found_too(data):
    spec = replace(SPEC, v_feat_dirs=("..\\data\\slow", "D:\\data\\clip\\"), a_feat_dir="/elsewhere/audio//")
    assert locate(data, spec) == beside(data)


def test_a_flag_goes_before_the_root_and_nothing_is_taken_in_the_place_of_either(data, tmp_path):
    root = tmp_path / "root"
    for name in ("slow", "clip", "text"):
        (root / name).mkdir(parents=True)
    with pytest.raises(MissingFileError) as caught:
        locate(data, feature_root=root)
    assert f"--feature_root {root} holds no folder for the audio features" in str(caught.value)
    assert f"there is {data / 'audio'}" in str(caught.value)
    outright = locate(data, feature_root=root, a_feat_dir=data / "text")
    assert outright == FeatureFolders((root / "slow", root / "clip"), root / "text", data / "text")


def test_video_folders_in_another_order_than_the_options_are_refused_by_name(data):
    with pytest.raises(RequestError) as caught:
        locate(data, v_feat_dirs=[data / "clip", data / "slow"])
    assert f"--v_feat_dirs names {data / 'clip'}, {data / 'slow'}" in str(caught.value)
    assert "../data/slow, ../data/clip" in str(caught.value)
    assert locate(data, v_feat_dirs=[data / "slow", data / "clip"]) == beside(data)


def test_the_other_names_of_a_kind_of_features_are_found_too(tmp_path):
    spec = replace(
        SPEC,
        v_feat_dirs=("../f/slowfast_features", "../f/clip_features"),
        t_feat_dir="../f/clip_text_features",
        a_feat_dir="../f/pann_features",
    )
    for i, names in enumerate(
        [("slowfast", "clip", "clip_text", "pann"), ("vid_slowfast", "vid_clip", "txt_clip", "pann")]
    ):
        root = tmp_path / str(i)
        for name in names:
            (root / name).mkdir(parents=True)
        places = [root / name for name in names]
        assert locate(root, spec) == FeatureFolders(tuple(places[:2]), places[2], places[3])


def test_the_data_folder_goes_before_the_path_as_written(data, tmp_path):
    checkpoint = tmp_path / "run" / "model.ckpt"
    (tmp_path / "data" / "late").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    late = replace(SPEC, a_feat_dir="../data/late")
    assert locate(data, late, checkpoint_path=checkpoint).audio.resolve() == (tmp_path / "data" / "late").resolve()
    (data / "late").mkdir()
    assert locate(data, late, checkpoint_path=checkpoint).audio == data / "late"


def test_a_path_as_written_is_taken_from_the_checkpoint_then_from_the_working_directory(data, tmp_path, monkeypatch):
    spec = replace(SPEC, a_feat_dir="feats/deep")
    (tmp_path / "cwd" / "feats" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    assert locate(data, spec, checkpoint_path=tmp_path / "run" / "m.ckpt").audio == Path("feats/deep")
    (tmp_path / "run" / "feats" / "deep").mkdir(parents=True)
    found = locate(data, spec, checkpoint_path=tmp_path / "run" / "m.ckpt").audio
    assert found == tmp_path / "run" / "feats" / "deep"
    absolute = replace(SPEC, a_feat_dir=str(tmp_path / "cwd" / "feats" / "deep"))
    assert locate(data, absolute).audio == tmp_path / "cwd" / "feats" / "deep"


@pytest.mark.parametrize(
    ("flag", "value"),
    [("feature_root", "no"), ("v_feat_dirs", ["slow", "no"]), ("t_feat_dir", "no"), ("a_feat_dir", "no")],
)
def test_a_flag_naming_no_folder_is_an_error_even_where_the_search_would_succeed(data, flag, value):
    value = [data / each for each in value] if isinstance(value, list) else data / value
    with pytest.raises(MissingFileError, match=rf"--{flag} .*no is not a folder"):
        locate(data, **{flag: value})


def test_everything_not_found_is_told_at_once_with_what_was_tried_and_the_flags(data):
    spec = replace(SPEC, v_feat_dirs=("../a/slow", "../a/no_video"), a_feat_dir="../a/no_audio")
    with pytest.raises(MissingFileError) as caught:
        locate(data, spec)
    message = str(caught.value)
    for expected in (str(data / "no_video"), str(data / "no_audio"), "--feature_root", "--v_feat_dirs --a_feat_dir"):
        assert expected in message
    assert "--t_feat_dir" not in message


def test_options_without_folders_need_the_flags(data):
    spec = replace(SPEC, v_feat_dirs=(), t_feat_dir="", a_feat_dir="")
    with pytest.raises(MissingFileError, match="--v_feat_dirs --t_feat_dir --a_feat_dir"):
        locate(data, spec)
    flags = {"v_feat_dirs": [data / "slow", data / "clip"], "t_feat_dir": data / "text", "a_feat_dir": data / "audio"}
    assert locate(data, spec, **flags) == beside(data)


def test_two_video_folders_that_the_search_would_merge_need_to_be_named(data):
    with pytest.raises(RequestError, match=r"rgb/slow and flow/slow .*--v_feat_dirs"):
        locate(data, replace(SPEC, v_feat_dirs=("rgb/slow", "flow/slow")))
    assert locate(data, replace(SPEC, v_feat_dirs=("rgb/slow", "rgb/slow/"))).video == (data / "slow",) * 2
