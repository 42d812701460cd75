"""``lamina blame``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.output import emit_json, print_columns, print_line
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.ops.blame import Blame, LeftOut

_FIRST_LINE = 200


def run(
    prompt: Annotated[str, typer.Argument(help="what the stack is asked")],
    stack: Annotated[str | None, typer.Option(help="ref, digest or base+layer+layer; else the branch")] = None,
    answer: Annotated[str | None, typer.Option(help="an answer to explain; else the stack's own")] = None,
    system: Annotated[str | None, typer.Option(help="system message")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer in tokens")] = 64,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Tell which layer changed an answer: the stack without each layer, by what that costs the answer."""
    from lamina.ops.blame import blame
    from lamina.ops.project import open_project
    from lamina.records import Message

    project = open_project(Path(), TerminalProgress())
    asked = [Message("system", system)] if system else []
    found = blame(
        project, project.stack(stack), [*asked, Message("user", prompt)], max_tokens=max_tokens, answer=answer
    )
    if json_:
        emit_json(
            {
                "stack": stack or project.branch,
                "answer": found.answer,
                "own_answer": found.own_answer,
                "log_prob": found.log_prob,
                "tokens": found.tokens,
                "layers": [_record(out) for out in found.layers],
                "base": _record(found.base),
                "responsible": None if found.responsible is None else found.responsible.name,
            }
        )
        return
    _print(found)


def _record(out: LeftOut) -> dict[str, Any]:
    entry = {} if out.entry is None else {"name": out.entry.name, "digest": out.entry.layer, "scale": out.entry.scale}
    return entry | {
        "log_prob": out.log_prob,
        "change": out.change,
        "changed": out.is_changed,
        "answer": out.answer,
    }


def _print(found: Blame) -> None:
    print_line(f"answer: {_first_line(found.answer)}")
    if found.answer != found.own_answer:
        print_line(f"the stack says: {_first_line(found.own_answer)}")
    print_line(f"log-probability {found.log_prob:.2f} nats over {found.tokens} tokens")
    print_line("")
    rows = [("without", "digest", "nats", "it would say")]
    for out in (*found.layers, found.base):
        name, digest = ("all layers", "") if out.entry is None else (out.entry.name, out.entry.layer[7:15])
        rows.append((name, digest, f"{out.change:+.2f}", _first_line(out.answer) if out.is_changed else "the same"))
    print_columns(rows, "llr")
    print_line("")
    print_line(_verdict(found))


def _verdict(found: Blame) -> str:
    if found.responsible is not None:
        cost = -found.layers[0].change
        return f"{found.responsible.name} is most responsible: without it the answer loses {cost:.2f} nats"
    if found.layers and found.base.is_changed:
        return "no single layer is responsible: without any one of them the others still give this answer"
    return "no layer is responsible: the base gives this answer by itself"


def _first_line(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    # Text from a model may hold what a terminal takes for commands.
    plain = "".join(letter if letter.isprintable() else " " for letter in lines[0][:_FIRST_LINE])
    return f"{plain} …" if len(lines) > 1 or len(lines[0]) > _FIRST_LINE else plain or "(nothing)"
