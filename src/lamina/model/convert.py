"""GGUF to a folder that transformers loads: dequantised once, exactly, to float32."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lamina.errors import StackError

__all__ = ["convert_gguf"]


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write config, float32 weights and tokenizer of ``gguf`` into ``folder``, which appears whole or not at all.

    Raises:
        StackError: if transformers cannot read the file's architecture.
    """
    transformers_logging.disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        # Its bars cannot be switched off otherwise, and are noise in a log.
        with contextlib.redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        AutoTokenizer.from_pretrained(**source).save_pretrained(scratch)
        _save_weights(model, scratch)
        scratch.chmod(0o755)
        scratch.replace(folder)
    except (ValueError, NotImplementedError, KeyError) as error:
        raise StackError(f"{gguf}: cannot be read as a GGUF model: {error}", hint="use a safetensors folder") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _save_weights(model: PreTrainedModel, folder: Path) -> None:
    # save_pretrained refuses a model that came out of a GGUF file, although its weights are plain float32 by now.
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    del model.config.quantization_config
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
