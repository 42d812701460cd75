"""``lamina.toml`` edited by a command: one table replaced, the rest left as its owner wrote it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from lamina.errors import UsageError

__all__ = ["quoted", "replace_table"]


def quoted(text: str) -> str:
    """Return ``text`` as a TOML string."""
    # Every escape that JSON knows is TOML's too; TOML alone wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def replace_table(path: Path, name: str, table: str) -> str:
    """Return the content of ``path`` with the table ``[name]`` replaced by ``table`` (its header included).

    Comments behind the table's last key belong to what follows, and stay.

    Raises:
        UsageError: if the file is written in a way that this cannot be done in without touching the rest.
    """
    text = path.read_text("utf-8")
    wanted = tomllib.loads(text) | tomllib.loads(table)
    header = re.search(rf"^\[{re.escape(name)}\][^\n]*\n?", text, re.MULTILINE)
    if header is None:
        changed = f"{text.rstrip()}\n\n{table}"
    else:
        following = re.compile(r"^\[", re.MULTILINE).search(text, header.end())
        end = len(text) if following is None else following.start()
        lines = text[header.end() : end].splitlines(keepends=True)
        kept = len(lines)
        while kept and _is_remark(lines[kept - 1]):
            kept -= 1
        changed = f"{text[: header.start()]}{table}{''.join(lines[kept:])}{text[end:]}"
    if _parsed(changed) != wanted:
        raise UsageError(
            f"{path}: [{name}] cannot be replaced as it is written there",
            hint=f"write it as a table of its own, under a line [{name}]",
        )
    return changed


def _is_remark(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
