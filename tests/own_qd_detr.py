"""A checkout of a user's own: a package `qd_detr` with modules named as in the code that legacy models come from.

Small, and written here; only the names of its modules and how it is used are theirs: the loader yields (list of meta, dict
of tensors), the model takes the tensors by keyword, and the fusion stands in `avigate_custom.py`.
"""

from pathlib import Path

MODULES = {
    "__init__": "",
    "config": """
        class Options:
            hidden_dim, n_heads, layers, epochs = 16, 2, 2, 2
    """,
    "attention": """
        from torch import nn

        class SelfAttention(nn.MultiheadAttention):
            def attend(self, x, pad):
                return self(x, x, x, key_padding_mask=pad, need_weights=False)[0]
    """,
    "avigate_custom": """
        import torch
        from torch import nn
        from qd_detr.attention import SelfAttention

        def mlp(i, h, o):
            return nn.Sequential(nn.Linear(i, h), nn.ReLU(), nn.Linear(h, o))

        class Gates(nn.Module):
            def __init__(self, d):
                super().__init__()
                self.mlp_mha, self.mlp_ffn = mlp(2 * d, d // 2, 1), mlp(2 * d, d // 2, 1)

            def forward(self, v, a):
                j = torch.cat([v, a], -1)
                return torch.tanh(self.mlp_mha(j)), torch.tanh(self.mlp_ffn(j))

        class Layer(nn.Module):
            def __init__(self, d, heads):
                super().__init__()
                self.gating_function = Gates(d)
                self.a_proj, self.out_proj = nn.Linear(d, d), nn.Linear(d, d)
                self.ffn1 = mlp(d, 4 * d, d)
                self.self_attention = SelfAttention(d, heads, batch_first=True)
                self.ffn2 = mlp(d, 4 * d, d)
                self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(d) for _ in range(4))

            def forward(self, v, a, pad):
                g_att, g_ffn = self.gating_function(v, a)
                z = v + g_att * self.out_proj(self.a_proj(self.norm1(a)))
                z = z + g_ffn * self.ffn1(self.norm2(z))
                r = z + self.self_attention.attend(self.norm3(z), pad)
                return r + self.ffn2(self.norm4(r))

        class AVIGATEFusionCustom(nn.Module):
            def __init__(self, vid_dim, aud_dim, hidden_dim, n_heads=8, num_layers=1, gating_type="global"):
                super().__init__()
                assert gating_type == "clipwise" and vid_dim == aud_dim == hidden_dim
                self.gating_type = gating_type
                self.fusion_layers = nn.ModuleList(Layer(hidden_dim, n_heads) for _ in range(num_layers))

            def forward(self, video_feat, audio_feat, video_mask=None, audio_mask=None):
                pad = None if video_mask is None else video_mask == 0
                for layer in self.fusion_layers:
                    video_feat = layer(video_feat, audio_feat, pad)
                return video_feat
    """,
    "transformer": """
        from torch import nn

        class Transformer(nn.Module):
            def __init__(self, d):
                super().__init__()
                self.head = nn.Linear(d, 2)

            def forward(self, x):
                return {"pred_logits": self.head(x)}
    """,
    "model": """
        import torch
        from torch import nn
        from qd_detr.avigate_custom import AVIGATEFusionCustom
        from qd_detr.transformer import Transformer

        class QDDETR(nn.Module):
            def __init__(self, opt):
                super().__init__()
                d = opt.hidden_dim
                self.fusion = AVIGATEFusionCustom(d, d, d, n_heads=opt.n_heads, num_layers=opt.layers, gating_type="clipwise")
                self.transformer = Transformer(d)

            def forward(self, src_vid, src_vid_mask, src_aud, src_aud_mask):
                return self.transformer(self.fusion(src_vid, src_aud, src_vid_mask, src_aud_mask))

        def build_model(opt):
            torch.manual_seed(1)
            return QDDETR(opt)
    """,
    "data": """
        import torch

        def loader(opt):
            for b in range(3):
                make = torch.Generator().manual_seed(b)
                video, audio = (torch.randn(2, 5, opt.hidden_dim, generator=make) for _ in range(2))
                mask = torch.tensor([[1.0] * 5, [1.0] * 4 + [0.0]])
                inputs = {"src_vid": video, "src_vid_mask": mask, "src_aud": audio, "src_aud_mask": mask}
                yield [{"qid": 10 * b, "vid": "a"}, {"qid": 10 * b + 1, "vid": "b"}], inputs
    """,
    "train": """
        import torch
        from qd_detr.config import Options
        from qd_detr.data import loader
        from qd_detr.model import build_model

        def train(opt=Options):
            model = build_model(opt)
            optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
            for _ in range(opt.epochs):
                for meta, inputs in loader(opt):
                    loss = model(**inputs)["pred_logits"].square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            return model
    """,
    "inference": """
        import torch
        from qd_detr.config import Options
        from qd_detr.data import loader

        def evaluate(model, opt=Options):
            model.eval()
            with torch.no_grad():
                return [model(**inputs)["pred_logits"].double().sum().item() for meta, inputs in loader(opt)]
    """,
}


def make_own_checkout(folder: Path) -> Path:
    """Write the checkout and return its root."""
    import textwrap

    package = folder / "qd_detr"
    package.mkdir(parents=True)
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return folder
