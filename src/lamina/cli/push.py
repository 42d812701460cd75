"""``lamina push``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.output import emit_json, print_line, say
from lamina.cli.progress import TerminalProgress
from lamina.errors import UsageError

if TYPE_CHECKING:
    from lamina.ops.push import Pushed

_HUB = "hf:"


def run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[STACK] TARGET", help="which stack, else the branch; where to")
    ] = None,
    to: Annotated[str | None, typer.Option(help="the target: REGISTRY/NAME:TAG or hf:OWNER/NAME")] = None,
    folder: Annotated[Path | None, typer.Option(help="hf: write the files here and upload nothing")] = None,
    with_data: Annotated[bool, typer.Option("--with-data", help="send sampled and held-out rows along")] = False,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="without TLS; always so on this machine")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Send a stack to an OCI registry, whole but for your rows, or to the Hugging Face hub as one adapter."""
    stack, target = _read(names or [], to)
    if target.startswith(_HUB):
        if with_data or plain_http:
            raise UsageError("--with-data and --plain-http are for registries", hint=f"lamina push --to {target}")
        _publish(stack, target, folder, as_json=json_)
        return
    if folder is not None:
        raise UsageError("--folder is for the hub", hint=f"lamina push --to hf:OWNER/NAME --folder {folder}")
    from lamina.ops.push import push

    done = push(Path(), stack, target, progress=TerminalProgress(), with_data=with_data, plain_http=plain_http)
    _report(done, as_json=json_)


def _read(names: list[str], to: str | None) -> tuple[str | None, str]:
    words = names if to is None else [*names, to]
    if not 1 <= len(words) <= 2:
        raise UsageError(
            f"{len(words)} names where a target, or a stack and a target, belong",
            hint="lamina push main localhost:5000/tools:v1",
        )
    return (words[0] if len(words) == 2 else None), words[-1]


def _publish(stack: str | None, target: str, folder: Path | None, *, as_json: bool) -> None:
    from lamina.ops.publish import publish

    done = publish(Path(), stack, target, folder=folder, progress=TerminalProgress())
    say(f"{done.where}: {', '.join(f'{name} ({size:,} bytes)' for name, size in done.files.items())}")
    if as_json:
        emit_json({"stack": done.stack, "where": done.where, "files": done.files, "uploaded": folder is None})


def _report(done: Pushed, *, as_json: bool) -> None:
    if done.left_out:
        say(f"left out: {done.left_out} files of sampled and held-out rows, which are yours (--with-data sends them)")
    say(f"{done.reference}: {done.sent} blobs sent ({done.sent_bytes:,} bytes), {done.present} were there")
    if as_json:
        emit_json(
            {
                "reference": str(done.reference),
                "digest": done.digest,
                "layers": [entry.name for entry in done.stack.layers],
                "sent": done.sent,
                "sent_bytes": done.sent_bytes,
                "present": done.present,
                "left_out": done.left_out,
            }
        )
        return
    print_line(done.digest)
