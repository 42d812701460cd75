"""``lamina fold``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress


def run(
    out: Annotated[Path, typer.Option(help="the folder to write; it must not exist yet")],
    stack: Annotated[str | None, typer.Argument(help="ref, digest or base+layer+layer; else the branch")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Write the base with a stack's layers in its weights, as a folder that transformers and --base load."""
    import dataclasses

    from lamina.ops.fold import fold_stack
    from lamina.ops.project import open_project
    from lamina.stack.layers import name_of, stack_digest

    result = fold_stack(open_project(Path(), TerminalProgress()), stack, out)
    if json_:
        emit_json(
            {
                "folder": str(result.folder),
                "stack": stack_digest(result.stack),
                "dtype": result.dtype,
                "weights_relative_error": result.weights.total,
                "logit_drift": dataclasses.asdict(result.logits),
                "rows": result.rows,
                "measured_on": result.measured_on,
            }
        )
        return
    say(f"{name_of(result.stack)} is folded into {result.folder}, in {result.dtype}")
    say(f"rounding took {result.weights.total:.2%} of the layers' additions")
    say(
        f"logits moved by {result.logits.mean_error:.2g} on average, {result.logits.max_error:.2g} at most; "
        f"{result.logits.agreement:.2%} same choice ({result.logits.tokens:,} tokens, {result.measured_on})"
    )
    say(f"use it: lamina init NEW --base {result.folder}")
