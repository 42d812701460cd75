"""What llama.cpp must be told of each model family, and where its rows lie otherwise than in transformers.

Only what llama.cpp computes exactly as transformers does is named here; a setting that it would silently ignore is
refused with its reason.

Source: the ``set_gguf_parameters`` methods of llama.cpp's convert_hf_to_gguf.py and src/models/*.cpp, build 11549.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import PretrainedConfig

__all__ = ["FAMILIES", "Family", "interleave_heads", "rope_factors"]

_GEMMA3_LOCAL_BASE = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one of transformers' model types is written.

    Attributes:
        arch: its name in GGUF.
        interleaved: whether llama.cpp rotates neighbouring pairs of a head's dimensions where transformers rotates
            halves, so that the rows of q and k are reordered.
        norm_offset: what transformers adds to a norm's stored weight and llama.cpp does not.
        refuse: why a configuration cannot be written, None if it can.
        describe: writes what is peculiar to the family.
    """

    arch: gguf.MODEL_ARCH
    interleaved: bool = False
    norm_offset: float = 0.0
    refuse: Callable[[PretrainedConfig], str | None] = lambda config: None
    describe: Callable[[gguf.GGUFWriter, PretrainedConfig], None] = lambda writer, config: None

    def why_refused(self, config: PretrainedConfig) -> str | None:
        """Return why llama.cpp would not compute what transformers does, None if it does."""
        kind = global_rope(config)["rope_type"]
        if kind not in _ROPES:
            return f"its rotary embedding is of the type '{kind}'; known are {', '.join(_ROPES)}"
        return self.refuse(config)

    def context(self, config: PretrainedConfig) -> int:
        """Return the longest input that is exact: a sliding window that llama.cpp lacks for this family ends it."""
        whole = int(config.max_position_embeddings)
        window = getattr(config, "sliding_window", None)
        if window is None or self.arch in _WITH_WINDOWS or not getattr(config, "use_sliding_window", True):
            return whole
        return min(whole, int(window))

    def write(self, writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
        """Write the hyper-parameters."""
        heads = int(config.num_attention_heads)
        head_width = head_width_of(config)
        rope = global_rope(config)
        writer.add_context_length(self.context(config))
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(head_width)
        writer.add_value_length(head_width)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(head_width * rope.get("partial_rotary_factor", 1.0)))
        if rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        self.describe(writer, config)


def head_width_of(config: PretrainedConfig) -> int:
    """Return the width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def global_rope(config: PretrainedConfig) -> Mapping[str, Any]:
    """Return the rotary parameters of blocks that see the whole input."""
    found: Mapping[str, Any] = config.rope_parameters
    whole: Mapping[str, Any] = found.get("full_attention", found)
    return whole


def interleave_heads(rows: Tensor, heads: int) -> Tensor:
    """Return rows (heads * width, ...) with the two halves of every head interleaved, as llama.cpp rotates them.

    Source: ``LlamaModel.permute`` of convert_hf_to_gguf.py.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def rope_factors(config: PretrainedConfig) -> Tensor | None:
    """Return what each rotary frequency is divided by under Llama 3's scheme, None under any other.

    Source: Llama 3.1's reference code, ``apply_scaling``; transformers, modeling_rope_utils.py.
    """
    rope = global_rope(config)
    if rope["rope_type"] != "llama3":
        return None
    width = head_width_of(config)
    frequencies = rope["rope_theta"] ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * torch.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    divisors: Tensor = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return divisors.float()


def _why_gemma_refused(config: PretrainedConfig) -> str | None:
    if config.query_pre_attn_scalar != head_width_of(config):
        return (
            f"its attention is scaled by 1/sqrt({config.query_pre_attn_scalar}), "
            f"and llama.cpp scales by 1/sqrt({head_width_of(config)})"
        )
    return _why_pattern_refused(config)


def _why_pattern_refused(config: PretrainedConfig) -> str | None:
    period = _period(config)
    expected = ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(len(config.layer_types))]
    if config.layer_types != expected:
        return "its blocks with a sliding window do not follow a regular pattern"
    local = config.rope_parameters.get("sliding_attention")
    if local is not None and (local["rope_theta"] != _GEMMA3_LOCAL_BASE or local["rope_type"] != "default"):
        return "its blocks with a sliding window have a rotary embedding of their own"
    return None


def _period(config: PretrainedConfig) -> int:
    kinds = list(config.layer_types)
    return kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1


def _describe_gemma(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern(_period(config))
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _why_gemma2_refused(config: PretrainedConfig) -> str | None:
    if not (config.attn_logit_softcapping and config.final_logit_softcapping):
        return "its logits are not capped, and llama.cpp caps those of gemma2"
    return _why_gemma_refused(config)


def _why_gemma3_refused(config: PretrainedConfig) -> str | None:
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention logits are capped, which llama.cpp does not do for gemma3"
    return _why_gemma_refused(config)


def _why_qwen_refused(config: PretrainedConfig) -> str | None:
    return "it uses a sliding window (use_sliding_window)" if config.use_sliding_window else None


_ROPES = ("default", "linear", "llama3")
_WITH_WINDOWS = (gguf.MODEL_ARCH.GEMMA2, gguf.MODEL_ARCH.GEMMA3)
FAMILIES: Mapping[str, Family] = {
    "llama": Family(arch=gguf.MODEL_ARCH.LLAMA, interleaved=True),
    "mistral": Family(arch=gguf.MODEL_ARCH.LLAMA, interleaved=True),
    "qwen2": Family(arch=gguf.MODEL_ARCH.QWEN2, refuse=_why_qwen_refused),
    "qwen3": Family(arch=gguf.MODEL_ARCH.QWEN3, refuse=_why_qwen_refused),
    "gemma2": Family(
        arch=gguf.MODEL_ARCH.GEMMA2, norm_offset=1.0, refuse=_why_gemma2_refused, describe=_describe_gemma
    ),
    "gemma3_text": Family(
        arch=gguf.MODEL_ARCH.GEMMA3, norm_offset=1.0, refuse=_why_gemma3_refused, describe=_describe_gemma
    ),
    "phi3": Family(arch=gguf.MODEL_ARCH.PHI3),
}
"""By transformers' model type."""
