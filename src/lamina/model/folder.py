"""A model written as a folder that transformers, and ``lamina init --base``, load."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from lamina.errors import StackError

__all__ = ["stored_dtype", "stored_tensors", "write_folder"]

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BESIDES = ("*.json", "*.jinja", "*.model", "merges.txt", "LICENSE*", "NOTICE*")


def stored_tensors(file: Path) -> dict[str, tuple[str, int]]:
    """Return for each tensor of a safetensors file its dtype, as the file spells it, and how many numbers it holds.

    Raises:
        OSError, SafetensorError: if the file cannot be read.
    """
    with safe_open(file, framework="pt") as weights:
        pieces = {key: weights.get_slice(key) for key in weights.keys()}  # noqa: SIM118  (not a dict)
        return {key: (piece.get_dtype(), math.prod(piece.get_shape())) for key, piece in pieces.items()}


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype that most of a base's weights are stored in.

    Raises:
        StackError: if they are not stored as plain floating point numbers.
    """
    counts: dict[str, int] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            for dtype, size in stored_tensors(path).values():
                counts[dtype] = counts.get(dtype, 0) + size
    except (OSError, SafetensorError) as error:
        raise StackError(f"{folder}: its weights cannot be read: {error}", hint="fetch the base again") from error
    most = max(counts, key=lambda name: counts[name], default="nothing")
    if most not in _DTYPES:
        raise StackError(
            f"{folder}: its weights are stored as {most}; expected one of {', '.join(_DTYPES)}",
            hint="use a base in 16 or 32 bits",
        )
    return _DTYPES[most]


def write_folder(model: PreTrainedModel, base: Path, template: str, folder: Path) -> None:
    """Write ``model``'s weights into ``folder``, with configuration and tokenizer of ``base`` and the chat template.

    Files beside the weights are copied byte for byte, so that the tokenizer stays the one it was.

    Raises:
        OSError: if the disk is full or read-only.
    """
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    for pattern in _BESIDES:
        for path in base.glob(pattern):
            if not path.name.endswith(".safetensors.index.json"):
                shutil.copyfile(path, folder / path.name)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
