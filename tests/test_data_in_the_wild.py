"""Data as other people lay it out: taken for what it is, or refused by one line that names the thing and the remedy."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch

import test_legacy_model as certificate_command
from qd_detr.gates.evaluation.tvsum import youtube_average_precision
from qd_detr.gates.weights.scalars import PlainDtype, plain_number
from run_gate_analysis import main
from tests.test_run_requests import refused
from tests.tiny_run import TinyRun, make_tiny_run


@pytest.fixture
def tiny(tmp_path) -> TinyRun:
    return make_tiny_run(tmp_path / "data of others", n_queries=4)


def analysed(tiny: TinyRun, *flags: object) -> str:
    """Run the analysis, which has to succeed; return its report."""
    assert main(tiny.argv("--no_figures", *map(str, flags))) == 0
    return (tiny.folder / "out" / "ANALYSIS_REPORT.md").read_text(encoding="utf-8")


def result(tiny: TinyRun, name: str):
    return json.loads((tiny.folder / "out" / name).read_text(encoding="utf-8"))


# --- labels ---


def test_windows_alone_give_moment_metrics_and_alignment_and_the_missing_ones_are_said(tiny):
    for query in tiny.queries:
        del query["saliency_scores"], query["relevant_clip_ids"]
    tiny.rewrite()
    report = analysed(tiny)
    metrics = result(tiny, "metrics.json")
    assert list(metrics) == ["brief", "full", "long", "middle", "short"]
    assert all(name.startswith("MR-") for name in metrics["brief"])
    assert result(tiny, "alignment.json")["annotation"]["applies"]
    assert "Highlight metrics are missing: 4 of 4 queries have windows and no saliency scores." in report


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"duration": 1.5, "relevant_clip_ids": [], "saliency_scores": []}, "1.5 s hold no clip of 2 s"),
        ({"relevant_clip_ids": [1, 12]}, "relevant clip 12 lies past the end of the video, which has 12 clips"),
    ],
)
def test_faults_of_labels_are_found_before_the_first_forward(tiny, capsys, changes, said):
    tiny.queries[0] |= changes
    tiny.rewrite()
    forwards = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda module, given: forwards.append(module))
    try:
        refused(tiny, capsys, tiny.argv(), "qid 100", said)
    finally:
        hook.remove()
    assert not forwards


def test_youtube_highlights_are_judged_by_the_ap_over_all_clips():
    # Ranked: clips 2, 0, 1 with labels 1, 0, 1. Recall rises at ranks 1 and 3:
    # 1/2 * (1 + 1) / 2 + 1/2 * (1/2 + 2/3) / 2 = 1/2 + 7/24.
    ap = youtube_average_precision([np.array([0.5, 0.2, 0.9])], [np.array([[0.0], [1.0], [1.0]])])
    assert ap.shape == (1, 1)
    assert ap[0, 0] == pytest.approx(1 / 2 + 7 / 24)
    assert youtube_average_precision([np.array([0.5])], [np.array([[-1.0]])])[0, 0] == 0


# --- folders and files ---


def data_of(tiny: TinyRun, name: str):
    return tiny.data.parent / name


def copied(tiny: TinyRun, old: str, new: str):
    """Move a feature folder to another name beside it; return its place."""
    return data_of(tiny, old).rename(data_of(tiny, new))


def test_a_named_folder_without_the_features_is_refused_and_the_message_says_where_they_are(tiny, capsys):
    empty = tiny.folder / "empty"
    empty.mkdir()
    argv = tiny.argv("--a_feat_dir", str(empty))
    refused(tiny, capsys, argv, f"in {empty}", "the folder is empty", f"are in {data_of(tiny, 'pann')}", "--a_feat_dir")


def test_a_feature_root_without_the_folders_is_refused_and_the_message_says_where_they_are(tiny, capsys):
    root = tiny.folder / "root"
    root.mkdir()
    argv = tiny.argv("--feature_root", str(root))
    refused(tiny, capsys, argv, f"--feature_root {root} holds no folder", f"there is {data_of(tiny, 'slowfast')}")


def test_the_message_looks_into_the_folder(tiny, capsys):
    data_of(tiny, "pann").joinpath("v0_0.0_150.0.npy").rename(data_of(tiny, "pann") / "v0_0.0_150.0.pt")
    refused(tiny, capsys, tiny.argv(), "v0_0.0_150.0.pt is there, v0_0.0_150.0.npy was expected")


def test_npz_and_npy_are_read_for_every_feature_and_text_without_its_prefix(tiny):
    analysed(tiny)
    before = result(tiny, "overall_statistics.json")
    for name, key in (("slowfast", "features"), ("text", "last_hidden_state")):
        for path in list(data_of(tiny, name).iterdir()):
            with np.load(path) as archive:
                np.save(path.with_name(f"{path.stem.removeprefix('qid')}.npy"), archive[key])
            path.unlink()
    for path in list(data_of(tiny, "pann").iterdir()):
        np.savez(path.with_suffix(".npz"), features=np.asfortranarray(np.load(path)))
        path.unlink()
    analysed(tiny)
    assert result(tiny, "overall_statistics.json") == before


def test_the_folder_names_of_lighthouse_are_found(tiny):
    copied(tiny, "slowfast", "vid_slowfast")
    copied(tiny, "pann", "pann_features")
    analysed(tiny)


def test_audio_of_0_clips_is_covered_by_skip_missing(tiny, capsys):
    np.save(data_of(tiny, "pann") / "v0_0.0_150.0.npy", np.zeros((0, 5), np.float32))
    refused(tiny, capsys, tiny.argv(), "hold no rows: v0_0.0_150.0.npy", "--skip_missing")
    analysed(tiny, "--skip_missing")
    assert len(result(tiny, "overall_statistics.json")["layer_statistics"]) == 2
    assert result(tiny, "run_config.json")["annotations"]["analysed"] == 3


def test_a_file_that_is_an_array_in_front_and_an_archive_behind_is_read_as_it_was_checked(tiny):
    analysed(tiny)
    before = result(tiny, "overall_statistics.json")
    path = data_of(tiny, "text") / "qid100.npz"
    archive = path.read_bytes()
    np.save(path.with_suffix(".npy"), np.zeros((3, 4), np.float32))
    path.write_bytes(path.with_suffix(".npy").read_bytes() + archive)
    path.with_suffix(".npy").unlink()
    analysed(tiny)
    assert result(tiny, "overall_statistics.json") == before


def test_an_archive_that_holds_an_array_twice_is_refused(tiny, capsys):
    path = data_of(tiny, "text") / "qid100.npz"
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("last_hidden_state.npy", archive.read("last_hidden_state.npy"))
    refused(tiny, capsys, tiny.argv(), "qid100.npz", "holds last_hidden_state more than once")


def test_an_archive_whose_other_array_is_damaged_is_refused_though_its_own_is_whole(tiny, capsys):
    path = data_of(tiny, "text") / "qid100.npz"
    with np.load(path) as held:
        np.savez(path, **held, zzz=np.arange(3.0))
    analysed(tiny)  # another array beside it is nobody's fault
    content = path.read_bytes()
    path.write_bytes(content.replace(np.arange(3.0).tobytes(), np.arange(3.0)[::-1].tobytes()))
    capsys.readouterr()
    assert main(tiny.argv("--no_figures")) == 2
    assert "qid100.npz" in (told := capsys.readouterr().err)
    assert "Bad CRC-32 for file 'zzz.npy'" in told


def test_a_row_whose_norm_overflows_is_named(tiny, capsys):
    path = data_of(tiny, "pann") / "v0_0.0_150.0.npy"
    rows = np.load(path)
    rows[3, 0] = 1e20
    np.save(path, rows)
    before = capsys.readouterr()
    assert not before.err
    assert main(tiny.argv("--no_figures")) == 2
    assert "v0_0.0_150.0.npy holds 1e+20 at row 3" in capsys.readouterr().err


# --- clips and seconds ---


def test_features_of_1_s_on_a_model_of_2_s_are_refused(tiny, capsys):
    for query in tiny.queries:
        query["duration"] /= 2
        query["relevant_clip_ids"], query["saliency_scores"] = [1], [[3, 4, 2]]
        query["relevant_windows"] = [[2, 4]]
    tiny.rewrite()
    refused(tiny, capsys, tiny.argv(), "2 times the clips", "v0_0.0_150.0 (12 clips for 12 s)", "clip_length 1")


def test_a_cut_at_max_v_l_is_counted_named_and_windows_beyond_it_told_apart(tiny):
    first = tiny.queries[0]
    for folder, columns in (("slowfast", 6), ("pann", 5)):
        rows = np.random.default_rng(1).normal(size=(20, columns)).astype(np.float32)
        for path in data_of(tiny, folder).glob("v0_*"):
            np.savez(path, features=rows) if path.suffix == ".npz" else np.save(path, rows)
    first |= {"duration": 40, "relevant_windows": [[30, 34]], "relevant_clip_ids": [15, 16]}
    tiny.rewrite()
    report = analysed(tiny)
    coverage = result(tiny, "audit.json")["coverage"]
    assert coverage["cut"] == ["v0_0.0_150.0 (24 of 40 s)"]
    assert (coverage["windows"], coverage["windows_beyond"], coverage["queries_beyond"]) == (4, 1, [100])
    assert "Of 1 video the model sees the first max_v_l clips alone" in report
    assert "1 of 4 annotated windows begin after what the model saw" in report


def test_max_v_l_of_minus_1_cuts_nothing(tiny, tmp_path):
    content = torch.load(tiny.checkpoint, weights_only=False)
    content["opt"].max_v_l = -1
    torch.save(content, tiny.checkpoint)
    for folder, columns in (("slowfast", 6), ("pann", 5)):
        rows = np.random.default_rng(1).normal(size=(90, columns)).astype(np.float32)
        for path in data_of(tiny, folder).glob("v0_*"):
            np.savez(path, features=rows) if path.suffix == ".npz" else np.save(path, rows)
    tiny.queries[0] |= {"duration": 180, "relevant_windows": [[170, 174]], "relevant_clip_ids": [85, 86]}
    tiny.rewrite()
    analysed(tiny)
    assert result(tiny, "audit.json")["coverage"]["cut"] == []
    assert result(tiny, "individual_samples/100_details.json")["layer_analysis"][0]["attention_gate"]["shape"] == [
        1,
        90,
        1,
    ]
    argv = ["--model_path", str(tiny.checkpoint), "--output_dir", str(tmp_path / "certificate"), "--device", "cpu"]
    assert certificate_command.main(argv) == 0


@pytest.mark.parametrize("name", ["charades", "tacos", "activitynet"])
def test_annotations_of_neighbouring_benchmarks_have_windows_and_ids_as_text(tiny, name):
    """As their jsonl files are written: qid as text, windows in fractions of a second, no saliency."""
    content = torch.load(tiny.checkpoint, weights_only=False)
    content["opt"].dset_name = name
    torch.save(content, tiny.checkpoint)
    for query in tiny.queries:
        del query["saliency_scores"], query["relevant_clip_ids"]
        query |= {"qid": str(query["qid"]), "duration": query["duration"] - 0.41, "relevant_windows": [[1.7, 6.93]]}
    tiny.rewrite()
    report = analysed(tiny)
    metrics = result(tiny, "metrics.json")
    assert metrics["brief"]["MR-full-mAP"] is not None
    assert all(name.startswith("MR-") for name in metrics["brief"])
    assert "Highlight metrics are missing" in report


def test_one_short_audio_file_does_not_cut_a_video_silently(tiny, caplog):
    path = data_of(tiny, "pann") / "v0_0.0_150.0.npy"
    np.save(path, np.load(path)[:4])
    report = analysed(tiny)
    assert "v0_0.0_150.0 (4 clips of audio, 12 of video)" in caplog.text
    assert "(4 clips of audio, 12 of video)" in report


def test_where_every_moment_lies_beyond_what_was_seen_the_report_says_why_nothing_can_be_said(tiny):
    for query in tiny.queries:
        query |= {"duration": 400, "relevant_windows": [[300, 320]], "relevant_clip_ids": [150]}
        query["saliency_scores"] = [[3, 4, 2]]
        for folder, columns in (("slowfast", 6), ("pann", 5)):
            rows = np.random.default_rng(query["qid"]).normal(size=(200, columns)).astype(np.float32)
            for path in data_of(tiny, folder).glob(f"{query['vid']}.*"):
                np.savez(path, features=rows) if path.suffix == ".npz" else np.save(path, rows)
    tiny.rewrite()
    assert "nothing can be said, in no sample" in analysed(tiny)


def test_legacy_windows_are_rounded_to_2_s_whatever_the_options_say(tiny):
    content = torch.load(tiny.checkpoint, weights_only=False)
    content["opt"].clip_length = 1
    torch.save(content, tiny.checkpoint)
    for query in tiny.queries:
        query["duration"] /= 2
        query |= {"relevant_windows": [[2, 4]], "relevant_clip_ids": [2, 3]}
    tiny.rewrite()
    analysed(tiny)
    lines = (tiny.folder / "out" / "predictions.jsonl").read_text().splitlines()
    times = [time for line in lines for window in json.loads(line)["pred_relevant_windows"] for time in window[:2]]
    assert all(time % 2 == 0 for time in times)
    assert max(times) > 0


# --- checkpoints ---


def saved_again(tiny: TinyRun, change) -> None:
    """Write the checkpoint anew, after `change` was made to its content."""
    content = torch.load(tiny.checkpoint, weights_only=False)
    torch.save(change(content) or content, tiny.checkpoint)


def as_averaged_model(content):
    weights = {f"module.{key}": value for key, value in content["model"].items()}
    content["model"] = {"n_averaged": torch.tensor(5), **weights}


def as_lightning(content):
    weights = {f"model.{key}": value for key, value in content["model"].items()}
    return {"state_dict": weights, "opt": content["opt"], "pytorch-lightning_version": "2.4"}


def with_numpy_scalars(content):
    opt = content["opt"]
    opt.nms_thd, opt.max_q_l, opt.no_norm_vfeat = np.float64(-1), np.int64(8), np.bool_(False)
    content["best_score"] = np.float32(33.25)


@pytest.mark.parametrize("change", [as_averaged_model, as_lightning, with_numpy_scalars])
def test_checkpoints_of_other_tools_load_as_they_are(tiny, change):
    analysed(tiny)
    before = result(tiny, "overall_statistics.json")
    saved_again(tiny, change)
    analysed(tiny, "--use_avigate_custom")
    assert result(tiny, "overall_statistics.json") == before


def test_a_state_dict_with_more_than_the_model_is_refused_by_the_name_of_what_is_more(tiny, capsys):
    def with_criterion(content):
        content = as_lightning(content)
        content["state_dict"]["criterion.empty_weight"] = torch.ones(2)
        return content

    saved_again(tiny, with_criterion)
    refused(tiny, capsys, tiny.argv(), "'model.'", "criterion.empty_weight")


def test_numpy_arrays_and_objects_in_a_checkpoint_are_still_refused(tiny, capsys):
    def with_array(content):
        content["history"] = np.arange(3)

    saved_again(tiny, with_array)
    refused(tiny, capsys, tiny.argv(), "was refused")
    with pytest.raises(ValueError, match="only plain numbers"):
        PlainDtype("O8")
    with pytest.raises(ValueError, match="do not fit"):
        plain_number(PlainDtype("f8"), b"1234")
    number = PlainDtype("f4")
    number.__setstate__((3, ">", None))
    assert plain_number(number, np.array(2.5, ">f4").tobytes()) == 2.5


def test_an_empty_opt_json_beside_a_checkpoint_with_its_options_is_a_warning(tiny, caplog):
    (tiny.checkpoint.parent / "opt.json").write_text("")
    analysed(tiny)
    assert "the options in the checkpoint are taken alone" in caplog.text


def test_a_zip_around_a_checkpoint_is_named_with_what_is_inside(tiny, capsys):
    packed = tiny.folder / "model_best.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(tiny.checkpoint, "model_best.ckpt")
    argv = tiny.argv()
    argv[argv.index("--model_path") + 1] = str(packed)
    refused(tiny, capsys, argv, "is a zip with model_best.ckpt inside", "unpack it")
