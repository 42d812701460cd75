"""A project's base and layers in llama.cpp: whether it can, and the engine that does."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from lamina.export.gguf import WeightKind, base_gguf, context_of, why_no_gguf, write_adapter_gguf
from lamina.lora.adapter import Adapter, combine
from lamina.model.base import Base
from lamina.records import Progress
from lamina.serve.engine import Layers
from lamina.serve.llama import LlamaEngine

__all__ = ["make_llama_engine", "stop_ids", "why_no_llama"]


def why_no_llama(base: Base) -> str | None:
    """Return why llama.cpp cannot serve this base here, in a few words; None if it can."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "xllamacpp is not installed (pip install xllamacpp)"
    return why_no_gguf(base)


def make_llama_engine(
    base: Base,
    progress: Progress,
    *,
    adapter: Callable[[str], Adapter],
    known: Callable[[], Iterable[Layers]],
    weights: WeightKind = "f16",
    threads: int | None = None,
) -> LlamaEngine:
    """Return an engine for ``base``, not started.

    Args:
        base: which ``why_no_llama`` says nothing against.
        progress: is told when the base's GGUF file is written, once.
        adapter: reads a layer's weights by its digest.
        known: returns the stacks to load ahead, those that matter most first.
        weights: how the base is held; its agreement with torch is in docs/serving.
        threads: that compute; None means one per processor.
    """

    def write(layers: Layers, path: Path) -> None:
        whole = combine([adapter(digest) for digest, _ in layers], [scale for _, scale in layers])
        # 16 bits, as the base has: speed is a matter of how much is read per token.
        write_adapter_gguf(whole, base, path, half=True)

    return LlamaEngine(
        base=lambda: base_gguf(base, progress, weights=weights),
        adapter=write,
        known=known,
        stop_ids=stop_ids(base),
        context=context_of(base),
        threads=threads,
    )


def stop_ids(base: Base) -> frozenset[int]:
    """Return the tokens that end an answer, those of the tokenizer and of the generation settings."""
    try:
        configured = GenerationConfig.from_pretrained(base.folder).eos_token_id
    except OSError:
        configured = AutoConfig.from_pretrained(base.folder).eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    own = AutoTokenizer.from_pretrained(base.folder).eos_token_id
    return frozenset(token for token in [*listed, own] if token is not None)
