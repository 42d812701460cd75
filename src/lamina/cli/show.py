"""``lamina show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, print_line


def run(
    layer: Annotated[str, typer.Argument(help="a layer's name or digest")],
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Show everything that is recorded about one layer."""
    from lamina.ops.lineage import read_one_layer

    digest, config = read_one_layer(Path(), layer)
    record = {"digest": digest, **config.model_dump(mode="json")}
    if json_:
        emit_json(record)
        return
    record["modules"] = f"{len(config.modules)} linear maps"
    for key, value in record.items():
        if isinstance(value, dict):
            print_line(f"{key}:")
            for inner, item in value.items():
                origin = config.recipe_origins.get(inner) if key == "recipe" else None
                print_line(f"  {inner}: {item}{f'  ({origin})' if origin else ''}")
        else:
            print_line(f"{key}: {value}")
