"""Whole training runs, small: what they write, that they continue to the bit, and how they fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qd_detr.gates import planted
from qd_detr.gates.data.batches import plan_batches
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR
from qd_detr.gates.train import __main__ as train
from qd_detr.gates.train import checkpoints, logs
from qd_detr.gates.train.data import epoch_plan, load_splits
from qd_detr.gates.train.loop import Training
from qd_detr.gates.train.losses import Criterion
from qd_detr.gates.train.validation import validate
from qd_detr.gates.weights.checkpoint import FORMAT, build_model, read_checkpoint, resolve
from tests.tiny_run import tiny_options
from tests.training.small_runs import (
    BSZ,
    N_TRAIN,
    N_VAL,
    REPOSITORY,
    SMALL,
    assert_same,
    assert_same_run,
    content,
    flags,
    prepare,
)


def test_a_run_writes_its_files_and_nothing_else(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "best_hl_val_preds.jsonl",
        "best_hl_val_preds_metrics.json",
        "eval.log.txt",
        "model_best.ckpt",
        "model_e0001.ckpt",
        "model_e0003.ckpt",
        "model_latest.ckpt",
        "opt.json",
        "train.log.txt",
    ]
    train_log = (finished / logs.TRAIN_LOG).read_text().splitlines()
    assert [re.findall(r"\[Epoch\] (\d+)", line)[0] for line in train_log] == ["001", "002", "003", "004"]
    eval_log = (finished / logs.EVAL_LOG).read_text().splitlines()
    assert [re.findall(r"\[Epoch\] (\d+)", line)[0] for line in eval_log] == ["001", "003"]
    scores = [json.loads(line.split("[Metrics] ")[1])["brief"]["MR-full-mAP"] for line in eval_log]
    best = json.loads((finished / "best_hl_val_preds_metrics.json").read_text())
    assert best["brief"]["MR-full-mAP"] == max(scores)
    predictions = (finished / "best_hl_val_preds.jsonl").read_text().splitlines()
    assert [json.loads(line)["qid"] for line in predictions] == list(range(50001, 50001 + N_VAL))


def test_the_terms_of_a_log_line_add_up_to_its_loss_overall(finished):
    for name in (logs.TRAIN_LOG, logs.EVAL_LOG):
        for line in (finished / name).read_text().splitlines():
            terms = dict(re.findall(r"(\w+) (-?\d+\.\d{4})", line.split("[Loss] ")[1].split(" [Metrics]")[0]))
            total = float(terms.pop("loss_overall"))
            assert total == pytest.approx(
                sum(float(value) for key, value in terms.items() if key.startswith("loss_")), abs=1e-3
            )


def test_every_checkpoint_is_read_by_the_analysis_and_gives_the_logged_predictions(finished, dataset):
    for name in ("model_latest.ckpt", "model_best.ckpt", "model_e0001.ckpt", "model_e0003.ckpt"):
        checkpoint = read_checkpoint(finished / name)
        assert checkpoint.format == FORMAT
        build_model(checkpoint, resolve(checkpoint))
    checkpoint = read_checkpoint(finished / "model_best.ckpt")
    settings = resolve(checkpoint)
    assert settings.disagreements == []
    assert settings.options["v_feat_dim"] == 2 * planted.D + 2
    model = build_model(checkpoint, settings)
    options = json.loads((finished / "opt.json").read_text())
    assert options["v_feat_dim"] == 2 * planted.D
    assert options["a_feat_dim"] == planted.D + 2
    _, val, _ = load_splits(options)
    lines = validate(model, Criterion(), val, options).lines
    assert [json.dumps(line) for line in lines] == (finished / "best_hl_val_preds.jsonl").read_text().splitlines()


def test_a_run_of_another_process_is_the_same_to_the_bit(finished, dataset, tmp_path):
    command = [sys.executable, "-m", "qd_detr.gates.train", *flags(dataset, tmp_path / "again", save_every=2)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_run(finished, tmp_path / "again")


@pytest.mark.parametrize("moment", ["in the middle of an epoch", "between the log and the checkpoint"])
def test_a_run_killed_and_resumed_equals_one_that_was_not_to_the_bit(finished, dataset, tmp_path, monkeypatch, moment):
    results = tmp_path / "killed"
    steps = 0

    def killed_in_step_8(*args: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 8:  # the second of the three steps of the third epoch
            raise KeyboardInterrupt
        return train_step(*args)

    def killed_at_second_latest(path: Path, values: object) -> None:
        nonlocal steps
        steps += path.name == checkpoints.LATEST
        if steps == 2:
            raise KeyboardInterrupt
        write_checkpoint(path, values)

    train_step, write_checkpoint = Training.train_step, checkpoints.write_checkpoint
    with monkeypatch.context() as patch:
        if moment.startswith("in"):
            patch.setattr(Training, "train_step", killed_in_step_8)
        else:
            patch.setattr(checkpoints, "write_checkpoint", killed_at_second_latest)
        assert train.main(flags(dataset, results, save_every=2)) == 130
    assert content(results / checkpoints.LATEST)["epoch"] == (1 if moment.startswith("in") else 0)
    torch.manual_seed(99)  # what the process draws before it continues must not matter
    np.random.seed(99)
    assert train.main(["--resume", str(results / checkpoints.LATEST), "--device", "cpu", "--quiet"]) == 0
    assert_same_run(finished, results)


def test_a_finished_run_can_be_made_longer(finished, dataset, tmp_path):
    results = tmp_path / "short"
    assert train.main(flags(dataset, results, n_epoch=2, save_every=2)) == 0
    resume = ["--resume", str(results / checkpoints.LATEST), "--device", "cpu", "--quiet"]
    assert train.main([*resume, "--n_epoch", "4"]) == 0
    assert_same_run(finished, results)


def test_how_often_a_run_is_validated_does_not_change_its_weights(finished, dataset, tmp_path):
    assert train.main(flags(dataset, tmp_path / "often", eval_every=1, eval_bsz=1)) == 0
    assert_same(
        content(finished / checkpoints.LATEST)["model"], content(tmp_path / "often" / checkpoints.LATEST)["model"]
    )


def test_another_seed_gives_other_weights(finished, dataset, tmp_path):
    assert train.main(flags(dataset, tmp_path / "other", seed=6)) == 0
    one, other = (content(run / checkpoints.LATEST)["model"] for run in (finished, tmp_path / "other"))
    assert not torch.equal(one["span_embed.layers.0.weight"], other["span_embed.layers.0.weight"])


def test_validation_gives_every_query_its_batch_1_value(dataset, tmp_path):
    # A global gate averages over padding, so that batch mates of other lengths would show.
    training = prepare(flags(dataset, tmp_path / "run", gating_type="global"))
    val, options = training.val_split, training.options
    assert len(set(val.samples.clip_counts)) > 1
    together = validate(training.model, Criterion(), val, options).lines
    alone = validate(training.model, Criterion(), val, {**options, "eval_bsz": 1}).lines
    for a, b in zip(together, alone, strict=True):
        assert [w[:2] for w in a["pred_relevant_windows"]] == [w[:2] for w in b["pred_relevant_windows"]]
        np.testing.assert_allclose(a["pred_saliency_scores"], b["pred_saliency_scores"], atol=2e-3)


def test_training_stops_after_too_many_validations_without_a_better_one(dataset, tmp_path, monkeypatch):
    scores = iter([10.0, 30.0, 20.0, 30.0, 25.0, 99.0])

    def scored(*args: object) -> object:
        return type(validation)(**{**vars(validation), "score": next(scores)})

    monkeypatch.setattr("qd_detr.gates.train.loop.validate", lambda *args: scored(*args))
    options = flags(dataset, tmp_path / "early", n_epoch=20, eval_every=1, max_es_cnt=2)
    training = prepare(options)
    validation = validate(training.model, training.criterion, training.val_split, training.options)
    progress = training.run()
    # The third validation without a better one is one more than the limit of 2.
    assert (progress.epochs_done, progress.best_epoch, progress.best_score) == (5, 1, 30.0)
    assert content(tmp_path / "early" / checkpoints.BEST)["epoch"] == 1


def test_a_diverging_run_stops_and_keeps_its_last_good_checkpoint(dataset, tmp_path, monkeypatch, capsys):
    call = Criterion.__call__
    calls = 0

    def spoiled(self: Criterion, outputs: dict, targets: object) -> dict:
        nonlocal calls
        calls += 1
        losses = call(self, outputs, targets)
        return {**losses, "loss_span": losses["loss_span"] * float("nan")} if calls == 5 else losses

    monkeypatch.setattr(Criterion, "__call__", spoiled)
    results = tmp_path / "nan"
    assert train.main(flags(dataset, results)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "epoch 1 (from 0, as checkpoints count; 2 in train.log.txt)" in error
    assert "of epoch 0" in error
    assert str(results / checkpoints.LATEST) in error
    kept = read_checkpoint(results / checkpoints.LATEST)
    assert kept.epoch == 0
    build_model(kept, resolve(kept))  # refuses weights that are not finite


def test_a_run_with_an_absurd_learning_rate_ends_in_one_line(dataset, tmp_path, capsys):
    assert train.main(flags(dataset, tmp_path / "absurd", lr=1e30)) == 1
    assert "diverged" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_it(tmp_path, monkeypatch):
    path = tmp_path / "model_latest.ckpt"
    checkpoints.write_checkpoint(path, {"epoch": 1})

    def full_disk(values: object, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(checkpoints.RunError, match="No space left"):
        checkpoints.write_checkpoint(path, {"epoch": 2})
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_random_states_survive_a_checkpoint_to_the_bit(tmp_path):
    np.random.standard_normal()  # leaves the second of its pair in the state
    checkpoints.write_checkpoint(tmp_path / "a.ckpt", {"rng": checkpoints.random_state()})
    want = torch.rand(3), np.random.standard_normal(3).tolist(), checkpoints.random.random()
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["rng"]
    checkpoints.restore_random_state(state)
    assert_same(want, (torch.rand(3), np.random.standard_normal(3).tolist(), checkpoints.random.random()))


BAD_REQUESTS = {
    "no gated fusion": (["--use_avigate_custom"], None, "use_avigate_custom"),
    "no annotations": (["--train_path"], ["--train_path", "nowhere.jsonl"], "nowhere.jsonl"),
    "no features": (["--a_feat_dir"], ["--a_feat_dir", "nowhere"], "--a_feat_dir"),
    "too wide features": ([], ["--a_feat_dim", "99"], "99"),
    "heads that do not divide": (["--nheads"], ["--nheads", "5"], "nheads"),
    "a negative rate": (["--lr"], ["--lr", "-1"], "--lr"),
    "a gating type that is none": ([], ["--gating_type", "none"], "gating_type"),
    "a checkpoint that is none": ([], ["--resume", "nowhere.ckpt"], "nowhere.ckpt"),
    "a device that is none": ([], ["--device", "abacus"], "abacus"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_ends_with_2_and_one_line_and_leaves_nothing(name, dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without, more, word = BAD_REQUESTS[name]
    argv = flags(dataset, tmp_path / "run")
    for flag in without:
        at = argv.index(flag)
        del argv[at : at + (1 if flag == "--use_avigate_custom" else 2)]
    try:
        status = train.main([*argv, *(more or [])])
    except SystemExit as exit:
        status = exit.code
    error = capsys.readouterr().err
    assert status == 2
    assert word in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_refused_and_left_alone(finished, dataset, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert train.main(flags(dataset, finished)) == 2
    assert "--resume" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_resuming_as_another_run_is_refused(finished, capsys):
    assert train.main(["--resume", str(finished / checkpoints.LATEST), "--lr", "0.5"]) == 2
    assert "--lr 0.5 instead of 0.001" in capsys.readouterr().err


def test_resuming_from_a_checkpoint_without_training_state_is_refused(finished, capsys):
    assert train.main(["--resume", str(finished / "model_e0001.ckpt")]) == 2
    assert "optimizer" in capsys.readouterr().err


def test_resuming_with_another_number_of_processes_is_refused(finished, tmp_path, capsys):
    values = content(finished / checkpoints.LATEST)
    values["training_state"]["rng"] *= 2
    checkpoints.write_checkpoint(tmp_path / checkpoints.LATEST, values)
    assert train.main(["--resume", str(tmp_path / checkpoints.LATEST)]) == 2
    assert "2 processes" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_resumes_after_its_data_and_folder_were_moved(finished, tmp_path):
    planted.generate(tmp_path / "moved", seed=1, n_train=N_TRAIN, n_val=N_VAL)
    values = content(finished / checkpoints.LATEST)
    options = vars(values["opt"])
    options.update(
        v_feat_dirs=["/gone/slowfast_features", "/gone/clip_features"],
        a_feat_dir="/gone/pann_features",
        t_feat_dir="/gone/clip_text_features",
        train_path=str(tmp_path / "moved" / planted.TRAIN_FILE),
        eval_path=str(tmp_path / "moved" / planted.VAL_FILE),
    )
    (tmp_path / "run").mkdir()
    checkpoints.write_checkpoint(tmp_path / "run" / checkpoints.LATEST, values)
    resume = ["--resume", str(tmp_path / "run" / checkpoints.LATEST), "--n_epoch", "5", "--device", "cpu", "--quiet"]
    assert train.main(resume) == 0
    assert content(tmp_path / "run" / checkpoints.LATEST)["epoch"] == 4


def test_features_that_turn_out_unusable_while_training_end_the_run_with_1(dataset, tmp_path, capsys):
    copy = tmp_path / "data"
    planted.generate(copy, seed=1, n_train=N_TRAIN, n_val=N_VAL)
    path = copy / planted.A_FEAT_DIR / "planted_train_10003.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    assert train.main(flags(copy, tmp_path / "run")) == 1
    assert path.name in capsys.readouterr().err


def test_labels_are_needed_in_both_splits(dataset, tmp_path, capsys):
    bare = tmp_path / "test.jsonl"
    bare.write_text('{"qid": 1, "query": "A door opens.", "vid": "v", "duration": 60}\n')
    assert train.main([*flags(dataset, tmp_path / "run"), "--eval_path", str(bare)]) == 2
    assert "no labels" in capsys.readouterr().err


@given(n=st.integers(1, 40), bsz=st.integers(1, 12), world_size=st.integers(1, 4), seed=st.integers(0, 2**40))
def test_an_epoch_plan_shares_every_query_out_once_and_gives_processes_equally_many_batches(n, bsz, world_size, seed):
    whole = epoch_plan(n, bsz, seed, epoch=0)
    assert sorted(position for batch in whole for position in batch) == list(range(n))
    shares = [epoch_plan(n, bsz, seed, 0, rank, world_size) for rank in range(world_size)]
    # A batch of fewer queries than processes is left out by all of them.
    shared = [batch for batch in whole if len(batch) >= world_size]
    for batch, *parts in zip(shared, *shares, strict=True):
        assert sorted(position for part in parts for position in part) == sorted(batch)


def test_an_epoch_plan_changes_with_epoch_and_seed():
    plan = epoch_plan(10, 4, seed=3, epoch=0)
    assert plan == epoch_plan(10, 4, seed=3, epoch=0)
    assert plan != epoch_plan(10, 4, seed=3, epoch=1)
    assert plan != epoch_plan(10, 4, seed=4, epoch=0)


def test_without_scipy_the_request_is_refused_with_the_way_to_get_it(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("qd_detr.gates.train.matching.linear_sum_assignment", None)
    assert train.main(flags(dataset, tmp_path / "run")) == 2
    assert "pip install scipy" in capsys.readouterr().err


def small_model(options: dict, video_dim: int, audio_dim: int, text_dim: int) -> QDDETR:
    torch.manual_seed(options["seed"])
    sizes = tiny_options(dim_feedforward=16, num_queries=3, max_q_l=32, fusion_layers=1, input_dropout=0.0, dropout=0.0)
    return QDDETR(Architecture.from_options(sizes, video_dim, audio_dim, text_dim))


def test_one_process_equals_a_plain_training_loop(dataset, tmp_path):
    results = tmp_path / "run"
    argv = flags(dataset, results, n_epoch=2, input_dropout=0, dropout=0)
    assert train.main(argv) == 0
    check_against_plain_loop(results, n_epoch=2, world_size=1)


def test_two_processes_average_the_gradients_of_their_shares(dataset, tmp_path):
    results = tmp_path / "run"
    argv = flags(dataset, results, n_epoch=2, input_dropout=0, dropout=0)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "-m", "qd_detr.gates.train", *argv],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("best at epoch") == 1
    assert len((results / logs.TRAIN_LOG).read_text().splitlines()) == 2
    assert len(content(results / checkpoints.LATEST)["training_state"]["rng"]) == 2
    check_against_plain_loop(results, n_epoch=2, world_size=2)


def check_against_plain_loop(results: Path, n_epoch: int, world_size: int) -> None:
    """Train again with the plainest loop there is, each process's share one after the other."""
    options = json.loads((results / "opt.json").read_text())
    split, _, spec = load_splits(options)
    model = small_model(options, spec.video_dim, spec.audio_dim, spec.text_dim)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options["lr"], weight_decay=options["wd"])
    criterion = Criterion()
    for epoch in range(n_epoch):
        plans = [epoch_plan(N_TRAIN, BSZ, options["seed"], epoch, rank, world_size) for rank in range(world_size)]
        for shares in zip(*plans, strict=True):
            optimizer.zero_grad()
            for share in shares:
                [(_, batch, targets)] = split.batches([share], options["seed"], epoch)
                losses = criterion(model(batch), targets)
                weight = {"span": 10, "giou": 1, "label": 4, "saliency": 1}
                total = sum(v * weight[k.split("_")[1]] for k, v in losses.items() if k.startswith("loss"))
                (total / world_size).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), options["grad_clip"])
            optimizer.step()
    trained = content(results / checkpoints.LATEST)["model"]
    compared = 0
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state is None:  # never used
            torch.testing.assert_close(trained[name], parameter, atol=0, rtol=0, msg=name)
            continue
        # Adam makes steps of full length out of gradients that are nothing but rounding (a key's bias has none).
        real = state["exp_avg_sq"].sqrt() > 1e-6
        torch.testing.assert_close(trained[name][real], parameter[real], atol=2e-5, rtol=1e-4, msg=name)
        compared += int(real.sum())
    assert compared > 0.5 * sum(parameter.numel() for parameter in model.parameters())


def test_tvsum_trains_on_saliency_and_keeps_the_best_map(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("rgb_and_flow", "text", "audio"):
        (tmp_path / folder).mkdir()
    for split, ids in (("train", range(4)), ("val", range(4, 6))):
        lines = []
        for i in ids:
            clips = 6 + i % 2
            np.save(tmp_path / "rgb_and_flow" / f"v{i}_rgb.npy", rng.normal(size=(clips, 4)).astype(np.float32))
            np.save(tmp_path / "rgb_and_flow" / f"v{i}_opt.npy", rng.normal(size=(clips, 4)).astype(np.float32))
            np.save(tmp_path / "audio" / f"v{i}.npy", rng.normal(size=(clips, 3)).astype(np.float32))
            np.savez(tmp_path / "text" / f"{i}.npz", token=rng.normal(size=(3, 5)).astype(np.float32))
            label = rng.integers(1, 6, (clips, 20)).tolist()
            query = {"qid": i, "query": "A kite rises.", "vid": f"v{i}", "duration": 2 * clips, "domain": "BK"}
            lines.append(json.dumps({**query, "label": label}))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    argv = ["--dset_name", "tvsum", "--dset_domain", "BK", "--use_avigate_custom", "--gating_type", "elementwise"]
    argv += ["--train_path", str(tmp_path / "train.jsonl"), "--eval_path", str(tmp_path / "val.jsonl")]
    argv += ["--v_feat_dirs", str(tmp_path / "rgb_and_flow"), "--t_feat_dir", str(tmp_path / "text")]
    argv += ["--a_feat_dir", str(tmp_path / "audio"), "--results_dir", str(tmp_path / "run"), "--quiet"]
    for name, value in {**SMALL, "n_epoch": 2, "fusion_layers": 2}.items():
        argv += [f"--{name}", str(value)]
    assert train.main([*argv, "--device", "cpu"]) == 0
    best = json.loads((tmp_path / "run" / "best_tvsum_val_preds_metrics.json").read_text())
    assert content(tmp_path / "run" / checkpoints.BEST)["training_state"]["best_score"] == best["brief"]["mAP"]
    assert "loss_span" not in (tmp_path / "run" / logs.TRAIN_LOG).read_text()


def test_a_query_that_lacks_features_is_left_out_only_when_asked_and_is_named(tmp_path, capsys, caplog):
    copy = tmp_path / "data"
    planted.generate(copy, seed=1, n_train=N_TRAIN, n_val=N_VAL)
    (copy / planted.A_FEAT_DIR / "planted_train_10001.npy").unlink()
    assert train.main(flags(copy, tmp_path / "run", n_epoch=1)) == 2
    assert "10001" in capsys.readouterr().err
    argv = flags(copy, tmp_path / "run", n_epoch=1, skip_missing=True)
    assert train.main([flag for flag in argv if flag != "--quiet"]) == 0
    assert f"1 of {N_TRAIN} training queries lack features and are left out (--skip_missing): qid 10001" in caplog.text
    assert "validation queries lack" not in caplog.text


def test_mixed_precision_on_the_cpu_is_said_to_be_without_effect(finished, dataset, tmp_path, caplog):
    assert train.main([flag for flag in flags(dataset, tmp_path / "amp", amp="bf16") if flag != "--quiet"]) == 0
    assert "float32" in caplog.text
    assert_same(
        content(finished / checkpoints.LATEST)["model"], content(tmp_path / "amp" / checkpoints.LATEST)["model"]
    )


def test_a_step_in_mixed_precision_gives_finite_losses_in_float32(dataset, tmp_path):
    training = prepare(flags(dataset, tmp_path / "run"))
    training.amp_dtype = torch.bfloat16  # which only CUDA runs are given; the CPU can take it too
    plan = epoch_plan(N_TRAIN, BSZ, 0, 0)
    for _, batch, targets in training.train_split.batches(plan, 0, 0):
        losses = training.train_step(training.model.train(), batch, targets)
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    assert all(parameter.dtype == torch.float32 for parameter in training.model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_training_on_cuda_in_every_precision_keeps_float32_weights(dataset, tmp_path, amp):
    argv = [flag if flag != "cpu" else "cuda" for flag in flags(dataset, tmp_path / amp, amp=amp)]
    assert train.main(argv) == 0
    weights = content(tmp_path / amp / checkpoints.LATEST)["model"]
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert train.main(["--resume", str(tmp_path / amp / checkpoints.LATEST), "--n_epoch", "5", "--device", "cuda"]) == 0


def test_batches_of_validation_hold_equal_clip_counts():
    assert plan_batches([5, 6, 5, 5], 2) == [[0, 2], [3], [1]]
