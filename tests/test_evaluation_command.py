"""`python -m qd_detr.gates.evaluation`, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ANNOTATION = {
    "qid": 1,
    "query": "a dog",
    "vid": "v",
    "duration": 20,
    "relevant_windows": [[0, 10]],
    "relevant_clip_ids": [0, 1, 2, 3, 4],
    "saliency_scores": [[4, 4, 4], [3, 3, 3], [2, 2, 2], [1, 1, 1], [0, 0, 0]],
}
PREDICTION = {"qid": 1, "query": "a dog", "vid": "v", "pred_relevant_windows": [[0, 8, 0.9]]}
PREDICTION |= {"pred_saliency_scores": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]}


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "qd_detr.gates.evaluation", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_on(folder, prediction=PREDICTION, annotation=ANNOTATION, *more):
    submission = write_lines(folder / "s.jsonl", prediction)
    annotations = write_lines(folder / "a.jsonl", annotation)
    return run("--submission", submission, "--annotations", annotations, "--output", folder / "m.json", *more)


def refused(done, folder, message):
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert not [path.name for path in folder.iterdir() if "m.json" in path.name]


def test_metrics_file_is_written_in_the_official_layout(tmp_path):
    done = run_on(tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert list(metrics) == [
        "brief",
        "HL-min-Fair",
        "HL-min-Good",
        "HL-min-VeryGood",
        "full",
        "long",
        "middle",
        "short",
    ]
    # IoU 0.8: seven of the ten thresholds.
    assert metrics["brief"]["MR-full-mAP"] == 70.0
    assert metrics["short"]["MR-R1"]["0.8"] == 100.0
    assert metrics["short"]["MR-R1"]["0.85"] == 0.0
    assert metrics["HL-min-Fair"] == {"HL-mAP": 100.0, "HL-Hit1": 100.0}
    assert metrics["brief"]["MR-long-mAP"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "m.json", "s.jsonl"]
    assert "MR-full-mAP" in done.stdout
    assert "70.00" in done.stdout
    assert done.stderr == ""


def test_tvsum_submission_is_evaluated(tmp_path):
    annotation = {"qid": "v1", "query": "a dog", "vid": "v1", "duration": 6, "domain": "BK"}
    annotation["label"] = [[5] * 20, [1] * 20, [1] * 20]
    prediction = {"qid": "v1", "pred_saliency_scores": [0.9, 0.5, 0.1]}
    done = run_on(tmp_path, prediction, annotation, "--dset_name", "tvsum", "--dset_domain", "BK")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == {"brief": {"mAP": 100.0}}


def test_the_command_does_not_import_torch(tmp_path):
    code = "import sys, qd_detr.gates.evaluation.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, check=False).returncode == 0


def test_clip_length_changes_the_number_of_clips(tmp_path):
    # 4 s clips: 20 s hold five, and the sixth relevant clip is past the end.
    annotation = ANNOTATION | {"relevant_clip_ids": [0, 1, 2, 3, 5]}
    refused(run_on(tmp_path, PREDICTION, annotation, "--clip_length_s", "4"), tmp_path, "5 clips of 4 s")


@pytest.mark.parametrize(
    ("prediction", "annotation", "message"),
    [
        (PREDICTION | {"qid": 2}, ANNOTATION, "lacks 1 of 1 annotated qids: 1"),
        (PREDICTION, {key: ANNOTATION[key] for key in ("qid", "query", "vid", "duration")}, "have no labels"),
        (PREDICTION | {"pred_relevant_windows": [[0, 8]]}, ANNOTATION, "expected [start s, end s, score]"),
        (PREDICTION, ANNOTATION | {"relevant_windows": [[10, 0]]}, "'relevant_windows' holds [10, 0]"),
        ([], ANNOTATION, "line 1: expected a JSON object, got list"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_status_2(tmp_path, prediction, annotation, message):
    refused(run_on(tmp_path, prediction, annotation), tmp_path, message)


def test_missing_broken_and_empty_submissions_are_told_apart(tmp_path):
    annotations = write_lines(tmp_path / "a.jsonl", ANNOTATION)
    submission = tmp_path / "s.jsonl"
    arguments = ("--submission", submission, "--annotations", annotations, "--output", tmp_path / "m.json")
    refused(run(*arguments), tmp_path, f"no submission file at {submission}")
    submission.write_text('{"qid": 1,\n', encoding="utf-8")
    refused(run(*arguments), tmp_path, "line 1: is not JSON")
    submission.write_text("\n", encoding="utf-8")
    refused(run(*arguments), tmp_path, "holds no predictions")
    submission.write_bytes(b"\xff\xfe")
    refused(run(*arguments), tmp_path, "is not UTF-8 text")


def test_output_into_a_folder_that_is_not_there_is_refused(tmp_path):
    submission = write_lines(tmp_path / "s.jsonl", PREDICTION)
    annotations = write_lines(tmp_path / "a.jsonl", ANNOTATION)
    done = run("--submission", submission, "--annotations", annotations, "--output", tmp_path / "no" / "m.json")
    refused(done, tmp_path, "there is no folder")
    done = run("--submission", submission, "--annotations", annotations, "--output", tmp_path)
    refused(done, tmp_path, "is a folder")


def test_an_input_is_never_overwritten(tmp_path):
    submission = write_lines(tmp_path / "s.jsonl", PREDICTION)
    annotations = write_lines(tmp_path / "a.jsonl", ANNOTATION)
    before = submission.read_bytes()
    refused(run("--submission", submission, "--annotations", annotations, "--output", submission), tmp_path, "overwr")
    assert submission.read_bytes() == before


def test_a_bad_clip_length_is_a_wrong_request(tmp_path):
    done = run_on(tmp_path, PREDICTION, ANNOTATION, "--clip_length_s", "0")
    assert done.returncode == 2
    assert "not a number of seconds above 0" in done.stderr
