"""``lamina chat``."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.output import emit_json, print_line, say, whisper
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.ops.chat import Chat
    from lamina.ops.feedback import Winner

_COMMANDS = (
    ("/stack [NAME]", "that stack answers as it is, in a new conversation;"),
    ("", "without NAME the branch, through its router"),
    ("/compare A [B]", "A's answer to the last question beside B's, else this stack's"),
    ("1, 2 or t", "after /compare: which was better, or a tie; into votes.jsonl"),
    ("/save [TEXT]", "what the last answer should have been; without TEXT"),
    ("", "it is right; into corrections.jsonl, for `lamina update`"),
    ("/new", "a new conversation"),
    ("/help", "this"),
    ("/quit", "leave (or Ctrl-D); Ctrl-C stops an answer"),
)
_MULTILINE = 'A line that ends in \\ goes on; """ opens and closes several lines.'
_VOTES: dict[str, Winner] = {"1": "model_a", "2": "model_b", "t": "tie"}
_HISTORY_LINES = 1000
_SIDE_BY_SIDE_FROM = 100  # columns


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
    """Talk to a stack in the terminal; /help lists what else can be typed there."""
    from lamina.ops.chat import Chat
    from lamina.ops.project import open_project

    project = open_project(Path(), TerminalProgress())
    chat = Chat(
        project,
        stack,
        system=system,
        force=force,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
    )
    talk = _Talk(chat, as_json=json_)
    if question is not None:
        talk.ask(question)
        return
    say(f"talking to {chat.stack}; /help for commands, Ctrl-D leaves")
    with _line_history(project.store.root / "chat_history"):
        for line in _read_entries():
            talk.take(line)


class _Talk:
    """What happens to each line that is typed."""

    def __init__(self, chat: Chat, *, as_json: bool) -> None:
        self._chat, self._as_json = chat, as_json
        self._compared: tuple[tuple[str | None, str], tuple[str | None, str]] | None = None

    def take(self, line: str) -> None:
        from lamina.errors import LaminaError

        compared, self._compared = self._compared, None
        try:
            if compared is not None and line in _VOTES:
                self._vote(*compared, _VOTES[line])
            elif line.startswith("/"):
                self._command(line)
            else:
                self.ask(line)
        except LaminaError as error:
            say(f"error: {error.message}")
            if error.hint:
                say(f"hint: {error.hint}")

    def ask(self, question: str) -> None:
        from lamina.stack.layers import term_of

        text = self._show(self._chat.ask(question))
        picked = self._chat.picked
        names = None if picked is None else [term_of(entry.name, entry.scale) for entry in picked.layers]
        if self._as_json:
            layers = {} if names is None else {"layers": names}
            emit_json({"stack": self._chat.stack, "answer": text, **layers})
        elif names is not None:
            whisper(f"layers: {' + '.join(names)}")

    def _command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "/new":
            self._chat.restart()
            say("new conversation")
        elif word == "/stack":
            self._chat.switch(rest or None)
            say(f"now {self._chat.stack}; new conversation")
        elif word == "/compare" and 1 <= len(rest.split()) <= 2:
            self._compare(*[*rest.split(), None][:2])
        elif word == "/save":
            self._save(rest or None)
        else:
            if word not in ("/help", "/?"):
                say(f"no command '{line}'")
            say("\n".join([*(f"{name:15} {what}" for name, what in _COMMANDS), _MULTILINE]))

    def _compare(self, a: str | None, b: str | None) -> None:
        wide = shutil.get_terminal_size().columns >= _SIDE_BY_SIDE_FROM and sys.stdout.isatty()
        texts, names = [], [stack or self._chat.stack for stack in (a, b)]
        for number, stack in enumerate((a, b), 1):
            pieces = self._chat.answer_again(stack)
            if not (wide or self._as_json):
                print_line(f"-- {number}: {names[number - 1]}")
            texts.append(self._show(pieces, shown=not wide))
        if wide and not self._as_json:
            print_line(_side_by_side([f"1: {names[0]}", f"2: {names[1]}"], texts))
        self._compared = (a, texts[0]), (b, texts[1])
        if self._as_json:
            emit_json({"compared": [{"stack": names[0], "answer": texts[0]}, {"stack": names[1], "answer": texts[1]}]})
        say("better? 1, 2 or t for a tie; anything else goes on")

    def _vote(self, a: tuple[str | None, str], b: tuple[str | None, str], winner: Winner) -> None:
        new = self._chat.vote(a, b, winner)
        self._saved("votes.jsonl", new)

    def _save(self, wanted: str | None) -> None:
        self._saved("corrections.jsonl", self._chat.correct(wanted))

    def _saved(self, file: str, new: bool) -> None:
        say(f"saved to {file}" if new else f"is in {file} already")
        if self._as_json:
            emit_json({"saved": file, "new": new})

    def _show(self, pieces: Iterator[str], *, shown: bool = True) -> str:
        """Print an answer as it comes, if it is to be ``shown``, and return what came; Ctrl-C ends it."""
        shown = shown and not self._as_json
        said: list[str] = []
        try:
            for piece in pieces:
                said.append(piece)
                if shown:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            pieces.close()  # type: ignore[attr-defined]
            say(" (stopped)")
        if shown:
            print(flush=True)
        return "".join(said)


def _side_by_side(titles: list[str], texts: list[str]) -> str:
    width = (shutil.get_terminal_size().columns - 3) // 2
    columns = []
    for title, text in zip(titles, texts, strict=True):
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]]
        columns.append([title, "-" * min(len(title), width), *lines])
    height = max(map(len, columns))
    rows = zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
    return "\n".join(f"{left:{width}} | {right}".rstrip() for left, right in rows)


def _read_entries() -> Iterator[str]:
    """Yield what is typed, several lines joined where they belong together, until the end."""
    while (line := _read_line("> ")) is not None:
        entry = line.strip()
        if entry in ("/quit", "/exit"):
            return
        if entry.startswith('"""'):
            entry = _read_block(entry[3:])
        while entry.endswith("\\"):
            entry = f"{entry[:-1].rstrip()}\n{_read_line('. ') or ''}".rstrip()
        if entry:
            yield entry


def _read_block(first: str) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith('"""') and (line := _read_line(". ")) is not None:
        lines.append(line)
    return "\n".join(lines).rstrip().removesuffix('"""').strip()


def _read_line(prompt: str) -> str | None:
    while True:
        try:
            return input(prompt if sys.stdin.isatty() else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            say("")  # a second thought about the line; Ctrl-D leaves


@contextmanager
def _line_history(path: Path) -> Iterator[None]:
    """Let a person at a terminal edit lines and find earlier ones, also those of earlier days."""
    if not sys.stdin.isatty():
        yield
        return
    import readline

    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with suppress(OSError):
            readline.write_history_file(path)
