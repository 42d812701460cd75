"""A whole base as fused blocks: which families can be, and how a pack goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lamina.kernels.shapes import WIDEST_HEAD, Heads, Kernels, Turns
from lamina.model.block import Block, Maps, Norm, Pass, run_block
from lamina.model.bucket import Attention

__all__ = ["FUSED_FAMILIES", "FusedDecoder", "fuse"]

FUSED_FAMILIES = ("gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3")
_GEMMA = ("gemma2", "gemma3_text")
_ACTIVATIONS = {"silu": False, "gelu_pytorch_tanh": True}
# The others change their frequencies with the longest position seen, which in a pack is not one row's.
_STEADY_ROTARY = {"default", "linear", "llama3", "yarn"}


@dataclass(frozen=True, slots=True)
class FusedDecoder:
    """A base's decoder as blocks that run in one autograd step each.

    Attributes:
        kernels: the element-wise part, compiled for this machine where that is possible.
        blocks: in order.
        last: the norm behind the last block.
        embed: token ids to (T, width).
        rotary: position ids and kind to the rotary embedding's tables.
    """

    kernels: Kernels
    blocks: tuple[Block, ...]
    last: Norm
    embed: Callable[[Tensor], Tensor]
    rotary: Callable[[Tensor, str | None], Turns]

    def states(self, ids: Tensor, positions: Tensor, buckets: list[Any], rows: Tensor, *, recompute: bool) -> Tensor:
        """Return the last hidden states at ``rows``, (N, width), of a pack's ``ids`` and ``positions``, (T,)."""
        kinds = {block.kind for block in self.blocks}
        run = Pass(self.kernels, {kind: self.rotary(positions, kind) for kind in kinds}, buckets, recompute)
        x = self.embed(ids)
        for block in self.blocks[:-1]:
            x = run_block(block, x, run)
        # Behind the last block only the rows that are asked for matter.
        x = run_block(self.blocks[-1], x, run, rows)
        normed: Tensor = _LastNorm.apply(x, self.last, self.kernels)  # type: ignore[no-untyped-call]
        return normed

    def bytes_per_token(self, element_bytes: int, *, recompute: bool) -> int:
        """Return the memory that one token takes between forward and backward, with what a running block needs."""
        whole = max(block.numbers_per_token() for block in self.blocks)
        width = len(self.last.weight)
        kept = width if recompute else whole
        return element_bytes * (kept * len(self.blocks) + 2 * whole)


class _LastNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rest = (norm, kernels)
        return kernels.norm(x, norm.weight, norm.eps)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        norm, kernels = ctx.rest
        return kernels.norm_backward(upstream[0].contiguous(), x, norm.weight, norm.eps)[0], None, None


def fuse(model: PreTrainedModel, kernels: Kernels) -> FusedDecoder | None:
    """Return ``model``'s decoder as fused blocks, None if its family or its settings are not known here."""
    config = model.config
    rotary = config.rope_parameters if config.model_type in FUSED_FAMILIES else None
    if rotary is None or getattr(config, "use_bidirectional_attention", False):
        return None
    kinds = rotary.values() if "rope_type" not in rotary else [rotary]
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if any(kind["rope_type"] not in _STEADY_ROTARY for kind in kinds if kind) or activation not in _ACTIVATIONS:
        return None
    decoder = model.base_model
    if decoder.layers[0].self_attn.head_dim > WIDEST_HEAD:
        return None
    blocks = tuple(_read_block(layer, config, _ACTIVATIONS[activation]) for layer in decoder.layers)

    def embed(ids: Tensor) -> Tensor:
        states: Tensor = decoder.embed_tokens(ids)
        return states

    def tables(positions: Tensor, kind: str | None) -> Turns:
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        found = decoder.rotary_emb(like, positions[None], *([] if kind is None else [kind]))
        return Turns(*(table[0].contiguous() for table in found))

    return FusedDecoder(kernels, blocks, _read_norm(decoder.norm, config), embed, tables)


def _read_block(layer: Any, config: Any, gelu: bool) -> Block:
    gemma = config.model_type in _GEMMA
    attention, mlp = layer.self_attn, layer.mlp
    whole = hasattr(attention, "qkv_proj")
    heads = Heads(
        heads=config.num_attention_heads,
        groups=config.num_key_value_heads,
        width=attention.head_dim,
        q_weight=_read_norm(attention.q_norm, config).weight if hasattr(attention, "q_norm") else None,
        k_weight=_read_norm(attention.k_norm, config).weight if hasattr(attention, "k_norm") else None,
        eps=config.rms_norm_eps,
    )
    # Mistral and Phi-3 have one window for all blocks; Llama has none, also where its configuration names one.
    one_window = config.sliding_window if config.model_type in ("mistral", "phi3") else None
    window = getattr(attention, "sliding_window", one_window)
    cap = getattr(attention, "attn_logit_softcapping", None)
    return Block(
        before_attention=_read_norm(layer.input_layernorm, config),
        after_attention=_read_norm(layer.post_attention_layernorm, config) if gemma else None,
        before_mlp=_read_norm(layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm, config),
        after_mlp=_read_norm(layer.post_feedforward_layernorm, config) if gemma else None,
        qkv=Maps(attention, ("qkv_proj",) if whole else ("q_proj", "k_proj", "v_proj")),
        out=Maps(attention, ("o_proj",)),
        gate_up=Maps(mlp, ("gate_up_proj",) if hasattr(mlp, "gate_up_proj") else ("gate_proj", "up_proj")),
        down=Maps(mlp, ("down_proj",)),
        attention=Attention(
            heads, attention.scaling, window or 0, cap, flash=cap is None and attention.o_proj.weight.is_cuda
        ),
        gelu=gelu,
        kind=attention.layer_type if config.model_type == "gemma3_text" else None,
    )


def _read_norm(norm: Any, config: Any) -> Norm:
    weight = norm.weight.detach().float()
    return Norm(weight + 1.0 if config.model_type in _GEMMA else weight.clone(), config.rms_norm_eps)
