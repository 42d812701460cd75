"""``lamina pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, print_line, say
from lamina.cli.progress import TerminalProgress


def run(
    target: Annotated[str, typer.Argument(help="REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST")],
    ref: Annotated[str | None, typer.Option("--as", help="which ref shall hold it; else named like the tag")] = None,
    force: Annotated[bool, typer.Option("--force", help="move the ref also where it holds something else")] = False,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="without TLS; always so on this machine")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Bring a stack from an OCI registry, only what is not here yet, and point a ref at it."""
    from lamina.ops.pull import pull
    from lamina.stack.layers import name_of, stack_digest

    done = pull(Path(), target, progress=TerminalProgress(), ref=ref, force=force, plain_http=plain_http)
    say(f"{done.reference}: {done.received} blobs received ({done.received_bytes:,} bytes)")
    if not done.moved:
        say(f"{done.ref} is up to date")
    if json_:
        emit_json(
            {
                "reference": str(done.reference),
                "digest": done.digest,
                "stack": stack_digest(done.stack),
                "ref": done.ref,
                "moved": done.moved,
                "layers": [entry.name for entry in done.stack.layers],
                "received": done.received,
                "received_bytes": done.received_bytes,
            }
        )
        return
    print_line(f"{done.ref}  {name_of(done.stack)}  {stack_digest(done.stack)[7:19]}")
