"""Bases as the Hugging Face hub names them: what PEFT is told to load an adapter onto."""

from __future__ import annotations

from pathlib import Path

from lamina.model.bundled import BUNDLED_NAME
from lamina.stack.manifest import BasePin

__all__ = ["BUNDLED_NOTE", "hub_id", "is_bundled", "is_same_base"]

# The bundled base is a quantised copy of this one, dequantised.
_BUNDLED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
BUNDLED_NOTE = (
    f"Trained on {_BUNDLED_ID} as dequantised from its Q4_1 GGUF file; on the hub's own weights answers differ, by how "
    "much was not measured."
)
"""What a card says of an adapter for the bundled base."""


def is_bundled(pin: BasePin) -> bool:
    """Return whether this is the bundled base."""
    return pin.source == BUNDLED_NAME


def hub_id(pin: BasePin) -> str | None:
    """Return the hub's id of a base; None for a folder or file, which the hub need not have."""
    if is_bundled(pin):
        return _BUNDLED_ID
    is_id = pin.source.count("/") == 1 and not pin.source.startswith((".", "/", "~"))
    return pin.source if is_id and not Path(pin.source).exists() else None


def is_same_base(pin: BasePin, named: str) -> bool:
    """Return whether ``named``, an id or a path, is the base's name: owners and upper case aside, as copies abound."""
    names = {name.rpartition("/")[2].lower() for name in (pin.name, pin.source, hub_id(pin) or "") if name}
    return named.rstrip("/").rpartition("/")[2].lower() in names
