"""``lamina chat``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.ops.project import Project
    from lamina.records import Message

_HELP = "/stack NAME switches the stack, /new starts over, /quit (or Ctrl-D) leaves"


def run(
    question: Annotated[str | None, typer.Argument(help="ask once and leave; without it, a conversation")] = None,
    stack: Annotated[str | None, typer.Option(help="ref, digest or base+layer+layer; else the branch")] = None,
    system: Annotated[str | None, typer.Option(help="system message")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer in tokens")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="seed for temperatures above 0")] = None,
    force: Annotated[bool, typer.Option("--force", help="load layers on a parent they were not trained on")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line per answer")] = False,
) -> None:
    """Talk to a stack in the terminal."""
    from lamina.ops.chat import stream_answer
    from lamina.ops.project import open_project
    from lamina.records import Message

    project = open_project(Path(), TerminalProgress())
    stack = stack or project.branch
    project.activate(project.stack(stack), force=force)
    start = [Message("system", system)] if system else []

    def reply(messages: list[Message]) -> str:
        said = []
        for piece in stream_answer(project, messages, max_tokens=max_tokens, temperature=temperature, seed=seed):
            said.append(piece)
            if not json_:
                print(piece, end="", flush=True)
        text = "".join(said)
        if json_:
            emit_json({"stack": stack, "answer": text})
        else:
            print(flush=True)
        return text

    if question is not None:
        reply([*start, Message("user", question)])
        return
    say(_HELP)
    messages = list(start)
    while (line := _read_line()) is not None:
        if line.startswith("/"):
            stack = _command(project, line, stack, force=force)
            messages = list(start)
        elif line:
            messages.append(Message("user", line))
            messages.append(Message("assistant", reply(messages)))


def _read_line() -> str | None:
    try:
        line = input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    return None if line in ("/quit", "/exit") else line


def _command(project: Project, line: str, stack: str, *, force: bool) -> str:
    from lamina.errors import LaminaError

    word, _, rest = line.partition(" ")
    if word == "/new":
        say("new conversation")
    elif word == "/stack" and rest:
        try:
            project.activate(project.stack(rest.strip()), force=force)
        except LaminaError as error:
            say(f"error: {error.message}")
        else:
            stack = rest.strip()
            say(f"now {stack}; new conversation")
    else:
        say(_HELP)
    return stack
