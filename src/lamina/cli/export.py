"""``lamina export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress


def run(
    to: Annotated[Literal["gguf", "ollama", "peft", "safetensors", "vllm"], typer.Option(help="who is to load it")],
    out: Annotated[Path, typer.Option(help="the folder to write; it must not exist yet")],
    stack: Annotated[str | None, typer.Argument(help="ref, digest or base+layer+layer; else the branch")] = None,
    weights: Annotated[
        Literal["f16", "q8_0", "q4_1", "q4_0"], typer.Option(help="how GGUF holds the base; less than 16 bits differs")
    ] = "f16",
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Write a stack for llama.cpp, Ollama, PEFT, transformers or vLLM, checked against the stack first."""
    import dataclasses

    from lamina.ops.export import export_stack
    from lamina.ops.project import open_project
    from lamina.stack.layers import name_of, stack_digest

    done = export_stack(open_project(Path(), TerminalProgress()), stack, to, out, weights=weights)
    if json_:
        emit_json(
            {
                "folder": str(done.folder),
                "to": done.form,
                "stack": stack_digest(done.stack),
                "files": dict(done.files),
                "agreement": dataclasses.asdict(done.agreement) if done.agreement else None,
                "note": done.note,
            }
        )
        return
    say(f"{name_of(done.stack)} is in {done.folder}, for {done.form}")
    for name, size in done.files.items():
        say(f"  {size / 1e6:9,.1f} MB  {name}")
    if done.agreement is not None:
        found = done.agreement
        say(
            f"checked: log-probabilities {found.mean_error:.2g} nats away on average, {found.max_error:.2g} at most; "
            f"{found.top1:.1%} same choice ({found.positions} places; the bare base: {found.without:.2g} away)"
        )
    if done.note:
        say(done.note)
