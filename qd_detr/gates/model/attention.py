"""Multi-head attention over packed projections, without the weights nobody reads.

Letters: B batch, Lq/Lk query and key lengths, D hidden, H heads, E = D / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Return (B, L, D) as (B, H, L, E), a view."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Return (B, H, L, E) as (B, L, D)."""
    return x.transpose(1, 2).flatten(2)


def visible_keys(pad_mask: Tensor | None) -> Tensor | None:
    """Turn a key padding mask (B, Lk), True = padding, into an attention mask (B, 1, 1, Lk), True = may be seen."""
    return None if pad_mask is None else ~pad_mask[:, None, None, :]


def packed_attention(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None
) -> Tensor:
    """Return what `attention(query, key, value)` returns as its first item, computing no attention weights.

    Args:
        attention: holds the packed projections (3D, D) and the output projection; batch-first semantics are used.
        query: (B, Lq, D). key, value: (B, Lk, D).
        visible: None, or a boolean mask that broadcasts to (B, H, Lq, Lk), True = the key may be seen.

    Projections of inputs that are the same tensor are done in one matrix product.
    """
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    dim = attention.embed_dim
    if query is key and key is value:
        q, k, v = F.linear(query, weight, bias).chunk(3, dim=-1)
    elif query is key:
        q, k = F.linear(query, weight[: 2 * dim], bias[: 2 * dim]).chunk(2, dim=-1)
        v = F.linear(value, weight[2 * dim :], bias[2 * dim :])
    else:
        q = F.linear(query, weight[:dim], bias[:dim])
        if key is value:
            k, v = F.linear(key, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        else:
            k = F.linear(key, weight[dim : 2 * dim], bias[dim : 2 * dim])
            v = F.linear(value, weight[2 * dim :], bias[2 * dim :])
    heads = attention.num_heads
    mixed = F.scaled_dot_product_attention(
        split_heads(q, heads),
        split_heads(k, heads),
        split_heads(v, heads),
        attn_mask=visible,
        dropout_p=attention.dropout if attention.training else 0.0,
    )  # (B, H, Lq, E)
    # Not called as a module, just as MultiheadAttention does not: a user's hook on it must not begin to fire.
    return F.linear(merge_heads(mixed), attention.out_proj.weight, attention.out_proj.bias)


def self_attention(attention: nn.Module, x: Tensor, pad_mask: Tensor | None) -> Tensor:
    """Self-attention of x (B, L, D) with padded keys masked, through any module that behaves as MultiheadAttention.

    A plain, unhooked `nn.MultiheadAttention` takes the short way. One that carries a user's hooks, or a subclass,
    is called as the user's own code would call it, so that the hooks fire and see attention weights.
    """
    if type(attention) is nn.MultiheadAttention and attention.in_proj_weight is not None and not hooked(attention):
        return packed_attention(attention, x, x, x, visible_keys(pad_mask))
    if getattr(attention, "batch_first", True):
        return attention(x, x, x, key_padding_mask=pad_mask)[0]
    first = x.transpose(0, 1)  # (L, B, D)
    return attention(first, first, first, key_padding_mask=pad_mask)[0].transpose(0, 1)


def hooked(module: nn.Module) -> bool:
    """Whether somebody watches a module's calls, so that no short way may be taken around it or its output."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or nn.modules.module._has_any_global_hook()
    )


def padding_of(mask: Tensor | None) -> Tensor | None:
    """Return the key padding mask (B, L), True = padding, of a validity mask (1 = real), or None if nothing is padded.

    On the CPU a mask without padding becomes None, which is faster; on a GPU looking would stall the stream.
    """
    if mask is None:
        return None
    pad = mask == 0
    if pad.device.type == "cpu" and not torch.any(pad):
        return None
    return pad
