"""``lamina show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.output import emit_json, print_line

if TYPE_CHECKING:
    from lamina.stack.manifest import LayerConfig


def run(
    name: Annotated[str, typer.Argument(help="a layer's name or digest, or a stack")],
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Show everything that is recorded about one layer or stack."""
    from lamina.ops.lineage import read_named
    from lamina.stack.manifest import StackConfig

    digest, config = read_named(Path(), name)
    record = {"digest": digest, **config.model_dump(mode="json")}
    if json_:
        emit_json(record)
        return
    if isinstance(config, StackConfig):
        record["layers"] = {entry.name: f"{entry.layer}, scale {entry.scale:g}" for entry in config.layers}
    else:
        _shorten(record, config)
    for key, value in record.items():
        if isinstance(value, dict):
            print_line(f"{key}:")
            for inner, item in value.items():
                print_line(f"  {inner}: {item}")
        else:
            print_line(f"{key}: {'none' if value is None else value}")


def _shorten(record: dict[str, Any], config: LayerConfig) -> None:
    record["modules"] = f"{len(config.modules)} linear maps"
    record["data"] = {file.file: f"{file.rows} rows, {file.digest}" for file in config.data}
    record["recipe"] = {key: f"{value}{_origin(config, key)}" for key, value in config.recipe.items()}
    del record["recipe_origins"]


def _origin(config: LayerConfig, key: str) -> str:
    return f"  ({config.recipe_origins[key]})" if key in config.recipe_origins else ""
