"""Do audio share and timeline find what was planted? Models of each gating type, trained here on data of a fresh seed.

    python -m benchmarks.planted_evidence [--seed 7] [--n_epoch 50] [--folder DIR]
        [--gating_types global clipwise elementwise noise]

Printed per model: the AUC of the audio share for the videos whose audio is useful against the others, its mean on both,
and on the useful videos the mean AUC of clips in which audio can decide (the event heard, and its look-alike, which its
absence rules out) against all others, by the size of the contributions (sum of |C| over layers) and by injection. "noise"
is a clipwise model trained and run on audio that is noise. Takes some minutes of CPU per model. What is in the folder
already is used.

Measured. Without --both_heard, elementwise, seed 21, all 50 epochs (mAP 98.7): AUC 0.858, the event alone 0.716, the
look-alike alone 1.000. The score is right: this model does not need the event's sound. With the attention gates of all
clips open F is 0.999, with those of the look-alike alone 0.967, without the event's 0.982, without the look-alike's 0.384.
To rule out the place without the sound is enough, and so it learns.

With --both_heard, elementwise, seed 7, all 50 epochs (mAP 94.8): share AUC 0.983; timeline AUC 0.871, the event alone
0.885, the look-alike alone 0.857, injection 0.354. Short of the 0.95 that was wanted. Looked at afterwards: AUCs are
low in the 12 of 32 videos whose |C| sum to less than 0.5; with gates off the first window stays (IoU above 0.5) in all of
these 12, and in 10 of the other 20.
Clipwise, the same (mAP 93.2): share AUC 0.955; timeline AUC 0.708, event 0.624, look-alike 0.792, injection 0.369: without
the event's audio F falls by 0.06, without the look-alike's by 0.33, without that of all other clips by 0.11.
Planting two places that must both be heard is
not enough for 0.95; global gates were not measured on it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import run_gate_analysis
from qd_detr.gates.analysis.planted_truth import auc
from qd_detr.gates.planted import (
    A_FEAT_DIR,
    CLIP_LENGTH_S,
    TRAINING_OPTIONS,
    VAL_FILE,
    PlantedVideo,
    generate,
    read_truth,
    training_flags,
)
from qd_detr.gates.train import __main__ as train

MODELS = ("global", "clipwise", "elementwise", "noise")


def analysed(folder: Path, name: str, seed: int, n_epoch: int, *, both_heard: bool) -> Path:
    """Train a model and run it over the validation split; return the results folder."""
    data, run, results = (folder / f"{name}_{part}" for part in ("data", "run", "results"))
    if not (results / "run_config.json").is_file():
        if not data.exists():
            generate(data, seed, both_heard=both_heard)
            if name == "noise":
                _make_audio_noise(data / A_FEAT_DIR, seed)
        gating_type = "clipwise" if name == "noise" else name
        if not (run / "model_best.ckpt").is_file():
            flags = [
                *training_flags(data),
                "--gating_type",
                gating_type,
                "--seed",
                str(seed),
                "--n_epoch",
                str(n_epoch),
            ]
            assert train.main([*flags, "--results_dir", str(run), "--quiet"]) == 0
        flags = ["--model_path", str(run / "model_best.ckpt"), "--data_path", str(data / VAL_FILE)]
        flags += ["--timeline", "--save_raw_data", "--no_figures", "--quiet", "--output_dir", str(results)]
        assert run_gate_analysis.main(flags) == 0
    return results


def _make_audio_noise(folder: Path, seed: int) -> None:
    rng = np.random.default_rng([seed, 99])
    for path in sorted(folder.iterdir()):
        sound = np.load(path)
        np.save(path, rng.normal(0, sound.std(), sound.shape).astype(sound.dtype))


def evidence(results: Path, truth: dict[int, PlantedVideo]) -> dict[str, float | None]:
    """Return the numbers that are printed."""
    given = [
        one for one in json.loads((results / "audio_share.json").read_text())["samples"] if _share(one) is not None
    ]
    useful = np.array([truth[one["qid"]].audio == "useful" for one in given])
    share = np.array([_share(one) for one in given])
    arrays = np.load(results / "timeline.npz")
    by_contribution, by_injection, of_event, of_lookalike = [], [], [], []
    for i, qid in enumerate(map(int, arrays["qids"])):
        video = truth[qid]
        if video.lookalike is None:
            continue
        event, lookalike = (_clips(video, place) for place in (video.window, video.lookalike))
        decides = event | lookalike
        size = np.abs(arrays["prediction"][:, arrays["offsets"][i] : arrays["offsets"][i + 1]]).sum(axis=0)
        by_contribution.append(auc(size.tolist(), decides.tolist()))
        of_event.append(auc(size[~lookalike].tolist(), event[~lookalike].tolist()))
        of_lookalike.append(auc(size[~event].tolist(), lookalike[~event].tolist()))
        layers = sorted((results / "raw_data").glob(f"{qid}_layer*_injection.npy"))
        injection = np.mean([np.load(path)[0] for path in layers], axis=0)
        by_injection.append(auc(injection.tolist(), decides.tolist()))
    timeline = json.loads((results / "timeline.json").read_text())
    target = timeline["targets"]["prediction"]
    return {
        "auc_share": auc(share.tolist(), useful.tolist()),
        "share_useful": float(share[useful].mean()),
        "share_others": float(share[~useful].mean()),
        "share_all": float(share.mean()),
        "auc_timeline": float(np.mean(by_contribution)),
        "auc_event": float(np.mean(of_event)),
        "auc_lookalike": float(np.mean(of_lookalike)),
        "auc_injection": float(np.mean(by_injection)),
        "complete": target["n_complete"] / target["n"],
        "forwards": timeline["cost"]["forwards"],
        "mAP": json.loads((results / "metrics.json").read_text())["brief"]["MR-full-mAP"],
    }


def _clips(video: PlantedVideo, place: tuple[int, int]) -> np.ndarray:
    """Return which clips of a video lie in a place given in seconds."""
    inside = np.zeros(video.clips, bool)
    inside[place[0] // CLIP_LENGTH_S : place[1] // CLIP_LENGTH_S] = True
    return inside


def _share(one: dict) -> float | None:
    return one["windows"]["share"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--n_epoch", type=int, default=TRAINING_OPTIONS["n_epoch"])
    parser.add_argument("--gating_types", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument(
        "--both_heard", action="store_true", help="useful sound at both places, louder at the meant one"
    )
    parser.add_argument("--folder", type=Path, help="where data, runs and results go (default: a temporary folder)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.gating_types:
            results = analysed(folder, name, args.seed, args.n_epoch, both_heard=args.both_heard)
            numbers = evidence(results, read_truth(folder / f"{name}_data"))
            print(name, "  ".join(f"{key} {value:.3f}" for key, value in numbers.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
