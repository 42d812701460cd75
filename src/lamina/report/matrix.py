"""Scores for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lamina.records import Matrix, Score, SideBySide, Transfer

__all__ = ["render_matrix", "render_sides", "render_transfer"]


def render_matrix(matrix: Matrix) -> Table:
    """Return stacks as rows and suites as columns: score in %, half its 95 % interval, ▲ or ▼ where it moved."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stack", no_wrap=True)
    for suite in matrix.suites:
        table.add_column(suite, justify="right", no_wrap=True)
    above: Sequence[Score] | None = None
    for name, scores in zip(matrix.stacks, matrix.scores, strict=True):
        table.add_row(name, *(_cell(score, above[place] if above else None) for place, score in enumerate(scores)))
        above = scores
    table.add_row("items", *(Text(str(score.n), style="dim") for score in matrix.scores[-1]), style="dim")
    return table


def render_transfer(transfer: Transfer) -> Text:
    """Return the transfer metrics, in points, in two lines; what nothing defines is left out."""
    named = (
        ("average", transfer.average_accuracy, ".1f"),
        ("backward", transfer.backward, "+.1f"),
        ("forward", transfer.forward, "+.1f"),
        ("forgetting", transfer.forgetting, ".1f"),
        ("general", transfer.general, "+.1f"),
    )
    figures = ", ".join(f"{name} {value * 100:{form}}" for name, value, form in named if value is not None)
    return Text(f"\n{', '.join(transfer.skills)}: {figures}", style="dim")


def render_sides(sides: Sequence[SideBySide]) -> RenderableType:
    """Return questions with each stack's answer below, the reference last."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for side in sides:
        table.add_row("asked", Text(side.question, style="bold"))
        for stack, answer in side.answers:
            table.add_row(stack, Text(_short(answer)))
        table.add_row("wanted", Text(side.reference))
        table.add_row("", "")
    return Group(table)


def _cell(score: Score, above: Score | None) -> Text:
    half = (score.high - score.low) / 2
    text = Text(f"{score.mean * 100:.1f} ±{half * 100:.0f}")
    moved = score.moved_from(above) if above else 0
    if moved > 0:
        text.append(" ▲", style="green")
    elif moved < 0:
        text.append(" ▼", style="red")
    else:
        text.append("  ")
    return text


def _short(answer: str) -> str:
    flat = " ".join(answer.split())
    return flat if len(flat) <= 200 else f"{flat[:199]}…"
