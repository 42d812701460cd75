"""Where the demo's data sets lie in the installed package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["data_path"]


def data_path(name: str) -> Path:
    """Return the path of a shipped file, for example ``tools_train.jsonl``."""
    return Path(str(files("lamina.demo") / "data" / name))
