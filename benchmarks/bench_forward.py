"""What tracking costs, what leaving out the negative pass saves, and how far the forward is from its matrix products.

Full size: inputs 2818/2050/512, 4 fusion layers, 75 clips, 25 tokens, batch 32. Run on an otherwise idle machine:

    python -m benchmarks.bench_forward
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.pairing import paired_ratio
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR

aten = torch.ops.aten


def full_size_model(gating_type: str, fusion_layers: int = 4) -> QDDETR:
    torch.manual_seed(0)
    return QDDETR(Architecture(2818, 2050, 512, fusion_layers=fusion_layers, gating_type=gating_type)).eval()


def full_size_batch(batch: int = 32, clips: int = 75, tokens: int = 25) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def features(length: int, dim: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(batch, length, dim, generator=generator), dim=-1)

    return {
        "src_txt": features(tokens, 512),
        "src_txt_mask": torch.ones(batch, tokens),
        "src_vid": features(clips, 2818),
        "src_vid_mask": torch.ones(batch, clips),
        "src_aud": features(clips, 2050),
        "src_aud_mask": torch.ones(batch, clips),
    }


class Products(TorchDispatchMode):
    """Collects the shapes and strides of every matrix product of a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket
        if name in (aten.mm, aten.bmm):
            self.found.append(args[:2])
        elif name in (aten.addmm, aten.baddbmm):
            self.found.append(args[1:3])
        elif name is aten.linear:
            self.found.append((args[0].flatten(0, -2), args[1].t()))
        elif "scaled_dot_product" in str(name):
            q, k, v = (t.flatten(0, 1) for t in args[:3])
            self.found.append((q, k.transpose(1, 2)))
            self.found.append((q.new_empty(q.shape[0], q.shape[1], k.shape[1]), v))
        return func(*args, **(kwargs or {}))

    def replay(self) -> Callable[[], None]:
        """Return a function that does the same products on random numbers of the same shapes and strides."""
        pairs = [(torch.empty_like(a).normal_(), torch.empty_like(b).normal_()) for a, b in self.found]

        def run() -> None:
            with torch.inference_mode():
                for a, b in pairs:
                    torch.matmul(a, b)

        return run


def with_negative_pass(model: QDDETR, batch: dict[str, torch.Tensor]) -> None:
    """Do what the legacy code does at inference too: the whole transformer a second time, with the next sample's text."""
    projected = model.project(*(batch[k] for k in ("src_txt", "src_txt_mask", "src_vid", "src_vid_mask", "src_aud")))
    fused = model.fusion.fuse(projected.video, projected.audio, projected.vid_mask)
    model.decode(fused, projected)
    projected.text, projected.txt_mask = projected.text.roll(-1, 0), projected.txt_mask.roll(-1, 0)
    model.decode(fused, projected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="pairs per ratio (default: 15)")
    parser.add_argument("--gating_types", nargs="+", default=["global", "clipwise", "elementwise"])
    args = parser.parse_args()
    batch = full_size_batch()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch 32, {args.rounds} pairs each")
    for gating_type in args.gating_types:
        model = full_size_model(gating_type)

        def forward(model: QDDETR = model) -> None:
            with torch.inference_mode():
                model(batch)

        def negative(model: QDDETR = model) -> None:
            with torch.inference_mode():
                with_negative_pass(model, batch)

        def tracked(injection: bool, model: QDDETR = model) -> None:
            gates = model.avigate_fusion
            gates.enable_gate_tracking(injection=injection)
            gates.set_current_sample_id(list(range(32)))
            with torch.inference_mode():
                model(batch)
            assert len(gates.gate_history) == 32
            gates.disable_gate_tracking()

        print(
            f"{gating_type}: tracked / untracked           {paired_ratio(partial(tracked, False), forward, args.rounds)}"
        )
        print(
            f"{gating_type}: tracked+injection / untracked {paired_ratio(partial(tracked, True), forward, args.rounds)}"
        )
        print(f"{gating_type}: with negative pass / without  {paired_ratio(negative, forward, args.rounds)}")
        products = Products()
        with torch.no_grad(), products:
            model(batch)
        print(f"{gating_type}: forward / matrix products     {paired_ratio(forward, products.replay(), args.rounds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
