"""``lamina push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, print_line, say
from lamina.cli.progress import TerminalProgress
from lamina.errors import UsageError


def run(
    names: Annotated[
        list[str], typer.Argument(metavar="[STACK] TARGET", help="which stack, else the branch; REGISTRY/NAME:TAG")
    ],
    with_data: Annotated[bool, typer.Option("--with-data", help="send sampled and held-out rows along")] = False,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="without TLS; always so on this machine")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Send a stack to an OCI registry: whole, but for your rows, and only what is not there yet."""
    if len(names) > 2:
        raise UsageError(f"{len(names)} names where one or two belong", hint="lamina push main localhost:5000/tools:v1")
    from lamina.ops.push import push

    stack, target = names if len(names) == 2 else (None, names[0])
    done = push(Path(), stack, target, progress=TerminalProgress(), with_data=with_data, plain_http=plain_http)
    if done.left_out:
        say(f"left out: {done.left_out} files of sampled and held-out rows, which are yours (--with-data sends them)")
    say(f"{done.reference}: {done.sent} blobs sent ({done.sent_bytes:,} bytes), {done.present} were there")
    if json_:
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
