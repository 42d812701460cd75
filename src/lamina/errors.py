"""Every error a user can meet, as one tree.

    LaminaError                exit 1
    ├── UsageError             exit 2   a flag, a setting or a command is wrong
    ├── DataError              exit 1   a data file or one of its rows is wrong
    ├── StackError             exit 1   a base, layer, stack or ref does not fit
    │   └── BusyError          exit 1   another lamina is at work in the project
    └── MachineError           exit 1   this machine lacks disk, memory or a package

A message is one sentence: what failed, what was expected, what was found. The hint is a field of its own: a command or
an edit that mends it. ``cli`` prints both and exits with ``exit_code``; nothing below ``cli`` prints.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["BusyError", "DataError", "LaminaError", "MachineError", "StackError", "UsageError"]


class LaminaError(Exception):
    """An error with a message for people, a hint and an exit code."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the message (one sentence) and the hint (one command or edit, may be empty)."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LaminaError):
    """A flag, a setting in ``lamina.toml`` or a command is wrong."""

    exit_code = 2


class DataError(LaminaError):
    """A data file, or one of its rows, cannot be used."""

    def __init__(self, file: str | Path, problem: str, *, row: int | None = None, hint: str = "") -> None:
        """Build the message ``file, row k: problem`` (rows count from 1; None means the whole file)."""
        where = f"{file}, row {row}" if row is not None else f"{file}"
        super().__init__(f"{where}: {problem}", hint=hint)
        self.file = str(file)
        self.row = row


class StackError(LaminaError):
    """A base, layer, stack or ref is missing or does not fit the others."""


class BusyError(StackError):
    """Another lamina is at work in the project; nothing was changed, and it may be tried again later."""


class MachineError(LaminaError):
    """This machine lacks the disk, memory or package that the command needs."""
