"""Small models and data in memory for the tests of interventions, sweeps and audio counterfactuals."""

from types import SimpleNamespace

import numpy as np
import torch

from qd_detr.gates.data.annotations import Query
from qd_detr.gates.data.feature_check import FeatureIndex
from qd_detr.gates.data.features import Features, temporal_endpoints
from qd_detr.gates.data.samples import Samples
from qd_detr.gates.model.architecture import Architecture
from qd_detr.gates.model.qd_detr import QDDETR
from tests.tiny_run import tiny_options

GATING_TYPES = ("global", "clipwise", "elementwise")


def small_model(gating_type="clipwise", layers=2, seed=0):
    torch.manual_seed(seed)
    options = tiny_options(gating_type=gating_type, fusion_layers=layers, num_queries=4)
    model = QDDETR(Architecture.from_options(options, video_dim=7, audio_dim=5, text_dim=4)).eval()
    with torch.no_grad():
        for layer in model.fusion.fusion_layers:  # gates far from 0, so that changing them is seen
            for mlp in (layer.gating_function.mlp_mha, layer.gating_function.mlp_ffn):
                mlp[-1].weight.mul_(6.0)
    return model


class MemoryReader:
    """Features of every query, from memory; raises at the query `broken`."""

    def __init__(self, index, features, broken=None):
        self.index = index
        self.features = features
        self.broken = broken
        self.spec = SimpleNamespace(temporal_endpoints=True)

    def read(self, query):
        if query.qid == self.broken:
            raise OSError(f"cannot read {query.qid}")
        return self.features[query.qid]


def small_data(clip_counts=(6, 4, 6, 5, 6, 4, 6), queries_per_video=1, seed=0, labelled=True):
    """Return an index of made-up queries, each video of a source of its own, and their reader."""
    rng = np.random.default_rng(seed)
    queries, features, counts, tokens = [], {}, [], []
    for v, n in enumerate(clip_counts):
        ends = temporal_endpoints(n)
        video = np.concatenate([rng.normal(size=(n, 5)).astype(np.float32), ends], axis=1)
        audio = np.concatenate([rng.normal(size=(n, 3)).astype(np.float32), ends], axis=1)
        for k in range(queries_per_video):
            qid = 10 * v + k
            length = int(rng.integers(2, 6))
            text = rng.normal(size=(length, 4)).astype(np.float32)
            start = 2.0 * int(rng.integers(0, n - 1))
            labels = {
                "relevant_windows": ((start, start + 4.0),),
                "relevant_clip_ids": (int(start / 2),),
                "saliency_scores": ((4.0, 3.0, 2.0),),
            }
            said = "a man sings" if k == 0 and v % 2 else "a man walks"
            queries.append(
                Query(qid, said, f"source{v}_0.0_{2.0 * n}", 2.0 * n, len(queries) + 1, **(labels if labelled else {}))
            )
            features[qid] = Features(video=video, audio=audio, text=text)
            counts.append(n)
            tokens.append(length)
    index = FeatureIndex(queries, counts, tokens, [], 0, 0, {})
    return index, MemoryReader(index, features)


def samples_of(index, reader, size=3):
    return Samples(index, reader, ()).planned(size)
