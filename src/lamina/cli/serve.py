"""``lamina serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress


def run(
    host: Annotated[str, typer.Option(help="address to listen on; any but loopback needs an API key")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0 takes a free one")] = 11435,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="LAMINA_API_KEY", help="key that clients must send; safer in the environment"),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line once the server answers")] = False,
) -> None:
    """Serve every stack of the project behind the OpenAI API, on this machine alone unless told otherwise."""
    from lamina.ops.project import open_project
    from lamina.ops.serve import ServeOptions, serve

    def ready(url: str) -> None:
        if json_:
            emit_json({"url": f"{url}/v1"})
        say(f"serving at {url}/v1 (Ctrl-C stops)")

    project = open_project(Path(), TerminalProgress())
    serve(project, ServeOptions(host=host, port=port, api_key=api_key), ready=ready)
