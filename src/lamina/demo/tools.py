"""The everyday tools of the ``tools`` skill, as ``tools.toml`` writes them down."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["TOOLS", "UNSEEN_TOOLS", "VALUES", "Tool"]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: its name, its parameters in order, and its phrasings."""

    name: str
    parameters: list[str]
    phrasings: list[str]

    @property
    def signature(self) -> str:
        """How the system message shows it."""
        return f"{self.name}({', '.join(self.parameters)})"


_WRITTEN = tomllib.loads((files("lamina.demo") / "tools.toml").read_text("utf-8"))

TOOLS = [Tool(**tool) for tool in _WRITTEN["tools"]]
UNSEEN_TOOLS = [Tool(**tool) for tool in _WRITTEN["unseen_tools"]]
VALUES: dict[str, list[str | int]] = _WRITTEN["values"]
