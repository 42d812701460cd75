"""GGUF files for llama.cpp: a base in 16 bits, and layers as LoRA adapters.

    base-f16.gguf       token_embd.weight, blk.N.attn_q.weight ...   16 bits; norms and biases 32
    adapter.gguf        blk.N.attn_q.weight.lora_a (r, d_in), .lora_b (d_out, r)   32 bits

Rows of q and k are reordered where llama.cpp rotates otherwise than transformers, in a base and in an adapter's ``B``
alike. Adapters are written with ``alpha = r``, so that llama.cpp multiplies by one what has its scale folded in.

Source: llama.cpp's convert_hf_to_gguf.py, convert_lora_to_gguf.py and src/llama-adapter.cpp, build 11549.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from lamina.errors import StackError
from lamina.export.gguf_family import FAMILIES, Family, interleave_heads, rope_factors
from lamina.export.gguf_vocab import write_vocab
from lamina.lora.adapter import Adapter, widen
from lamina.model.base import Base
from lamina.model.machine import cache_folder, require_disk
from lamina.records import Progress
from lamina.stack.store import disk_errors

__all__ = ["WeightKind", "base_gguf", "context_of", "why_no_gguf", "write_adapter_gguf", "write_base_gguf"]

WeightKind = Literal["f16", "q8_0", "q4_1", "q4_0"]
"""How a base's matrices are held: in 16 bits, or quantised in blocks of 32."""

_QUANTISED = {"q8_0": Kind.Q8_0, "q4_1": Kind.Q4_1, "q4_0": Kind.Q4_0}
_FILE_TYPES = {
    Kind.F16: gguf.LlamaFileType.MOSTLY_F16,
    Kind.BF16: gguf.LlamaFileType.MOSTLY_BF16,
    Kind.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
    Kind.Q4_1: gguf.LlamaFileType.MOSTLY_Q4_1,
    Kind.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
}
_OUTER = ("token_embd.weight", "output.weight")
_BLOCK = 32
_FORMAT = 1  # part of the cached file's name: raise it when the same base is written otherwise
_ROTATED = re.compile(r"\.self_attn\.(?P<map>[qk])_proj\b")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a family's tensors go, and how their rows are ordered there."""

    family: Family
    config: PretrainedConfig
    names: gguf.TensorNameMap

    @classmethod
    def of(cls, base: Base) -> _Layout:
        if (reason := why_no_gguf(base)) is not None:
            raise StackError(f"base {base.pin.name} cannot be written as GGUF: {reason}", hint="use --to peft")
        config = _config_of(base)
        family = FAMILIES[base.pin.family]
        return cls(family, config, gguf.get_tensor_name_map(family.arch, config.num_hidden_layers))

    def name(self, key: str) -> str:
        found = self.names.get_name(key, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise StackError(f"{key}: llama.cpp knows no such weight of {self.config.model_type}", hint="use --to peft")
        return str(found)

    def rows(self, key: str, tensor: Tensor) -> Tensor:
        """Return ``tensor``, whose first axis is the output of the map ``key``, in llama.cpp's order."""
        match = _ROTATED.search(key) if self.family.interleaved else None
        if match is None:
            return tensor
        heads = self.config.num_attention_heads if match["map"] == "q" else self.config.num_key_value_heads
        return interleave_heads(tensor, heads)

    def kind(self, key: str, shape: tuple[int, ...], main: Kind) -> Kind:
        """Return how the weight ``key`` is held where most matrices are held as ``main``.

        Norms and biases keep 32 bits. Embeddings and head, on which all choices hang, keep 8 where the others have 4;
        what does not come in whole blocks keeps 16.
        """
        if len(shape) == 1:
            return Kind.F32
        if main in (Kind.F16, Kind.BF16):
            return main
        if shape[-1] % _BLOCK:
            return Kind.F16
        return Kind.Q8_0 if self.name(key) in _OUTER else main

    def weight(self, key: str, tensor: Tensor) -> Tensor:
        values = self.rows(key, tensor.float())
        return values + self.family.norm_offset if key.endswith("norm.weight") else values


def why_no_gguf(base: Base) -> str | None:
    """Return why llama.cpp cannot run this base, in a few words; None if it can."""
    if base.pin.family not in FAMILIES:
        return f"its family '{base.pin.family}' is none of {', '.join(FAMILIES)}"
    if base.pin.quantise != "none":
        return f"its layers are trained on what {base.pin.quantise} makes of its weights, which GGUF does not hold"
    return FAMILIES[base.pin.family].why_refused(_config_of(base))


def context_of(base: Base) -> int:
    """Return the longest input for which llama.cpp computes what transformers does, in tokens."""
    return FAMILIES[base.pin.family].context(_config_of(base))


def base_gguf(base: Base, progress: Progress, *, weights: WeightKind = "f16") -> Path:
    """Return the base as a GGUF file in the cache, written on first use.

    Raises:
        StackError: if llama.cpp does not know its family, or would compute something else.
        MachineError: if the disk is full.
    """
    path = cache_folder() / "gguf" / f"{base.pin.digest[7:19]}-{weights}-{_FORMAT}.gguf"
    if not path.exists():
        progress.note(f"Writing {base.pin.name} as GGUF once, into {path}")
        write_base_gguf(base, path, progress, weights=weights)
    return path


def write_base_gguf(base: Base, path: Path, progress: Progress, *, weights: WeightKind = "f16") -> None:
    """Write the base to ``path``, which appears whole or not at all; one tensor is in memory at a time.

    16 bits are float16, whose 11 significant bits hold every bfloat16 number of ordinary size, too; bfloat16 only
    where a weight is too large for that.

    Raises:
        StackError: if llama.cpp does not know the base's family, or would compute something else.
        MachineError: if the disk is full.
    """
    layout = _Layout.of(base)
    main = _QUANTISED.get(weights) or _half_kind(base)
    sizes = {key: shape for key, _, shape in _stored(base)}
    count = sum(int(np.prod(shape)) for shape in sizes.values())
    require_disk(path.parent, 2 * count + 2**25, purpose="for the base as GGUF")
    with _appearing(path) as scratch, _writer(scratch, layout) as writer:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(base.pin.name)
        writer.add_file_type(_FILE_TYPES[main])
        if main in _QUANTISED.values():
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        layout.family.write(writer, layout.config)
        tokenizer = AutoTokenizer.from_pretrained(base.folder)
        rows = sizes[next(key for key in sizes if key.endswith("embed_tokens.weight"))][0]
        write_vocab(writer, base.folder, tokenizer, template=base.template, size=rows)
        with progress.stage("base as GGUF", total=count, unit="weights") as tick:
            _write_tensors(writer, layout, base, main, tick)


def write_adapter_gguf(adapter: Adapter, base: Base, path: Path, *, half: bool = False) -> None:
    """Write ``adapter``, scales folded in, as a LoRA file for the base's GGUF; whole or not at all.

    In 32 bits, or with ``half`` in float16. Where maps have different ranks, all are filled up with zeros to the
    largest: one alpha is stored for all of them.

    Raises:
        StackError: if llama.cpp does not know the base's family, or a map that is adapted.
        MachineError: if the disk is full.
    """
    layout = _Layout.of(base)
    rank = max(factors.rank for factors in adapter.values())
    with _appearing(path) as scratch, _writer(scratch, layout) as writer:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
        for key, factors in widen(adapter, rank).items():
            name = layout.name(f"{key}.weight")
            for part, factor in (("a", factors.A), ("b", layout.rows(f"{key}.weight", factors.B))):
                values = factor.half() if half else factor.float()
                writer.add_tensor(f"{name}.lora_{part}", values.contiguous().cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _write_tensors(
    writer: gguf.GGUFWriter, layout: _Layout, base: Base, main: Kind, tick: Callable[[int], None]
) -> None:
    factors = rope_factors(layout.config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, np.dtype(np.float32), factors.nbytes)
    for key, _, shape in _stored(base):
        kind = layout.kind(key, shape, main)
        size = int(np.prod(gguf.quant_shape_to_byte_shape(shape, kind)))
        writer.add_tensor_info(layout.name(key), shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors.numpy())
    for key, read, shape in _stored(base):
        values = layout.weight(key, read())
        writer.write_tensor_data(quantize(values.contiguous().numpy(), layout.kind(key, shape, main)))
        tick(values.numel())


def _stored(base: Base) -> Iterator[tuple[str, Callable[[], Tensor], tuple[int, ...]]]:
    """Yield key, reader and shape of every weight that is the base's own: tied heads are not."""
    tied = bool(_config_of(base).tie_word_embeddings)
    for path in sorted(base.folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118  (not a dict)
                if not (key.endswith("rotary_emb.inv_freq") or (tied and key == "lm_head.weight")):
                    shape = tuple(weights.get_slice(key).get_shape())
                    yield key, lambda key=key, weights=weights: weights.get_tensor(key), shape  # type: ignore[misc]


def _half_kind(base: Base) -> Kind:
    largest = max(float(read().abs().max()) for _, read, shape in _stored(base) if len(shape) > 1)
    return Kind.F16 if largest <= torch.finfo(torch.float16).max else Kind.BF16


def _config_of(base: Base) -> PretrainedConfig:
    return AutoConfig.from_pretrained(base.folder).get_text_config()


def _writer(path: Path, layout: _Layout) -> closing[gguf.GGUFWriter]:
    return closing(gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[layout.family.arch]))


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Yield a file's temporary name; it gets its own when the block ends well, and is gone otherwise."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        scratch = Path(name)
        try:
            yield scratch
            scratch.chmod(0o644)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
