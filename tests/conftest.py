"""Small things that many tests share: a tiny model, a tiny batch, tiny checkpoints in the legacy format."""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qd_detr.gates.model.architecture import OPTION_FIELDS, Architecture
from qd_detr.gates.model.qd_detr import QDDETR
from tests.browser import NAMES, Browser, browser_path
from tests.tiny_run import tiny_options

# Models this small are fastest on one thread, most of all where tests share their cores with others; the processes that
# tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# A shell that starts a job in the background lets it ignore Ctrl-C; the tests of Ctrl-C mean what a terminal sends.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = {
    "video_dim": 6,
    "audio_dim": 5,
    "text_dim": 4,
    "hidden_dim": 16,
    "n_heads": 2,
    "fusion_layers": 2,
    "fusion_n_heads": 2,
    "enc_layers": 2,
    "dec_layers": 2,
    "dim_feedforward": 12,
    "num_queries": 3,
    "max_q_l": 6,
}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real checkpoints and data beside the repository, or a skip."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "legacy").is_dir():
        pytest.skip("needs ../shared, which a clone does not have")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless browser, or a skip."""
    if browser_path() is None:
        pytest.skip(f"needs a browser ({', '.join(NAMES)}); on Debian: apt-get install chromium")
    with Browser() as browser:
        yield browser


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For models this small one thread is fastest, most of all where tests share their cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scramble(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter a value of its own: what is zero or one at the start would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.fixture
def tiny_model() -> Callable[..., QDDETR]:
    """Build a model of D = 16 and H = 2 with scrambled weights, in eval mode; sizes can be changed by name."""

    def build(gating_type: str = "clipwise", seed: int = 0, **changes: Any) -> QDDETR:
        with torch.random.fork_rng():
            model = QDDETR(Architecture(**{**TINY, "gating_type": gating_type, **changes}))
        scramble(model, seed)
        return model.eval()

    return build


@pytest.fixture
def tiny_batch() -> Callable[..., dict[str, Any]]:
    """Build a batch as the dataset gives it; `clips` and `tokens` are the valid counts, sample by sample."""

    def build(clips: tuple[int, ...] = (5, 3, 4), tokens: tuple[int, ...] = (4, 2, 3), seed: int = 0) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)

        def features(counts: tuple[int, ...], dim: int) -> Tensor:
            return torch.randn(len(counts), max(counts), dim, generator=generator)

        def mask(counts: tuple[int, ...]) -> Tensor:
            return (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).float()

        return {
            "qid": list(range(len(clips))),
            "vid": [f"video{i}" for i in range(len(clips))],
            "src_txt": features(tokens, TINY["text_dim"]),
            "src_txt_mask": mask(tokens),
            "src_vid": features(clips, TINY["video_dim"]),
            "src_vid_mask": mask(clips),
            "src_aud": features(clips, TINY["audio_dim"]),
            "src_aud_mask": mask(clips),
        }

    return build


def legacy_options(gating_type: str = "clipwise", **changes: Any) -> dict[str, Any]:
    """Return the options under which legacy training would have made the tiny model."""
    sizes = {option: TINY[field] for option, field in OPTION_FIELDS.items() if field in TINY}
    data = {"v_feat_dirs": ["../v"], "t_feat_dir": "../t", "a_feat_dir": "../a", "t_feat_dim": 4, "a_feat_dim": 5}
    more = {"max_v_l": 75, "n_input_proj": 2, "use_txt_pos": False}
    return tiny_options(**{**sizes, **data, **more, "gating_type": gating_type, **changes})


@pytest.fixture
def legacy_checkpoint(tmp_path: Path, tiny_model: Callable[..., QDDETR]) -> Callable[..., Path]:
    """Write a tiny checkpoint as legacy training wrote it and return its path.

    Args of the function: `options`, changes to the embedded ones, or None for none embedded; `opt_json`, the file
    beside it; `change`, a function on the state dict; `content`, a function from (weights, Namespace) to what is saved.
    """

    def write(
        gating_type: str = "clipwise",
        *,
        name: str = "model_best.ckpt",
        options: dict[str, Any] | None = {},  # noqa: B006 - only read
        opt_json: dict[str, Any] | str | None = None,
        change: Callable[[dict[str, Tensor]], Any] | None = None,
        content: Callable[[dict[str, Tensor], argparse.Namespace | None], Any] | None = None,
        save: dict[str, Any] | None = None,
        **sizes: Any,
    ) -> Path:
        weights = {key: value.clone() for key, value in tiny_model(gating_type, **sizes).state_dict().items()}
        if change is not None:
            weights = change(weights) or weights
        namespace = None
        if options is not None:
            given = {"gating_type": gating_type, "device": torch.device("cpu"), **options}
            namespace = argparse.Namespace(**legacy_options(**given))
        if content is not None:
            saved = content(weights, namespace)
        else:
            saved = {"model": weights, "optimizer": {"state": {}}, "lr_scheduler": {}, "epoch": 7}
            if namespace is not None:
                saved["opt"] = namespace
        path = tmp_path / "run" / name
        path.parent.mkdir(exist_ok=True)
        torch.save(saved, path, **(save or {}))
        if opt_json is not None:
            text = opt_json if isinstance(opt_json, str) else json.dumps(opt_json)
            (path.parent / "opt.json").write_text(text, encoding="utf-8")
        return path

    return write
