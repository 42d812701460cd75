"""``lamina serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    engine: Annotated[
        Literal["llama", "torch", "vllm"] | None,
        typer.Option(help="what computes; else llama.cpp where it can, torch where not; vllm is for GPUs"),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="answers written at once; more wait their turn")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="answers that may wait; more are turned away")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer in tokens")] = 4096,
    timeout: Annotated[float, typer.Option(min=1, help="longest time for one request in seconds")] = 600,
    allow_host: Annotated[list[str] | None, typer.Option(help="a name this machine may be called by")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="a web page that may ask, as http://localhost:3000")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="put prompts into the log")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line once the server answers")] = False,
) -> None:
    """Serve every stack of the project behind the OpenAI API, on this machine alone unless told otherwise."""
    from lamina.ops.project import open_project
    from lamina.ops.serve import ServeOptions, serve
    from lamina.serve.limits import Limits

    def ready(url: str) -> None:
        if json_:
            emit_json({"url": f"{url}/v1"})
        say(f"serving at {url}/v1, a page to work in at {url} (Ctrl-C stops)")

    project = open_project(Path(), TerminalProgress())
    options = ServeOptions(
        host=host,
        port=port,
        engine=engine,
        api_key=(api_key or "").strip() or None,
        limits=Limits(parallel=parallel, queue=queue, max_tokens=max_tokens, timeout_s=timeout),
        hosts=tuple(allow_host or ()),
        origins=tuple(allow_origin or ()),
        log_prompts=log_prompts,
    )
    serve(project, options, ready=ready)
