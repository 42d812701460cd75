"""The recipe's flags, shared by ``train`` and ``update``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.output import emit_json, say

if TYPE_CHECKING:
    from lamina.evaluate.gate import SuiteVerdict
    from lamina.ops.admit import Admission, Attempt

_WIDTH = 80

Rank = Annotated[int | None, typer.Option(help="LoRA rank; else from the data")]
LearningRate = Annotated[
    float | None, typer.Option("--lr", "--learning-rate", help="peak learning rate; else from the data")
]
Epochs = Annotated[float | None, typer.Option(help="passes over the rows; else from the data")]
BatchRows = Annotated[int | None, typer.Option(help="rows per optimiser step; else from the data")]
MaxLength = Annotated[int | None, typer.Option(help="longest row in tokens; 0 means the base's context")]
Replay = Annotated[float | None, typer.Option(help="rows of earlier layers mixed in, as a share of the new rows")]
Seed = Annotated[int | None, typer.Option(help="seed of everything random")]
Guard = Annotated[list[str] | None, typer.Option(help="a suite that must not get worse; may be given again")]
Remedies = Annotated[
    bool | None,
    typer.Option("--remedies/--no-remedies", help="mend what the gate refuses; else as lamina.toml says"),
]
Accept = Annotated[bool, typer.Option("--accept", help="let the layer in whatever the gate says; it is recorded")]


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's flags out of a verb's arguments; None stands for one that was not typed."""
    names = ("rank", "learning_rate", "epochs", "batch_rows", "max_length", "replay", "seed")
    return {name: flags[name] for name in names}


def report(result: Admission, *, as_json: bool, more: Mapping[str, Any] | None = None) -> None:
    """Say what became of a new layer; exit with 1 if the gate kept the layer out. ``more`` goes into the JSON."""
    if as_json:
        emit_json({**as_record(result), **(more or {})})
    else:
        describe(result)
    if not result.accepted:
        raise typer.Exit(1)


def as_record(result: Admission) -> dict[str, Any]:
    """Return what became of a new layer, for JSON."""
    config = result.config
    return {
        "layer": result.layer,
        "name": result.name,
        "accepted": result.accepted,
        "heldout_loss": [config.heldout_loss_before, config.heldout_loss_after],
        "cost": config.cost.model_dump(),
        "gate": [_as_json(line) for line in (result.verdict.suites if result.verdict else ())],
        "not_scored": list(result.verdict.skipped if result.verdict else ()),
        "attempts": [_attempt_as_json(each) for each in result.attempts],
    }


def describe(result: Admission) -> None:
    """Say what became of a new layer."""
    config = result.config
    if config.heldout_loss_before is not None and config.heldout_loss_after is not None:
        say(f"held-out loss {config.heldout_loss_before:.3f} -> {config.heldout_loss_after:.3f} nats per token")
    if result.verdict is not None:
        for line in result.verdict.suites:
            _describe_suite(line)
        for name in result.verdict.skipped:
            say(f"--   {name}: not scored, the layer is refused already")
    else:
        say("no suite was asked whether it helps: name one with --guard, or write [suites.NAME] into lamina.toml")
    if result.attempts:
        _describe_attempts(result.attempts)
    if result.accepted:
        say(f"layer {result.name} ({result.layer[7:19]}) is in {result.branch}")
    else:
        say(
            f"refused: layer {result.name} ({result.layer[7:19]}) is kept as a candidate and not in {result.branch}; "
            "run again with --accept to let it in all the same"
        )


def _describe_suite(line: SuiteVerdict) -> None:
    from lamina.evaluate.gate import DROPS

    say(f"{'ok  ' if line.passed else 'FAIL'} {line.role:5} {line.suite}: {line.before:.1%} -> {line.after:.1%}")
    low, high = (f"{end * 100:+.1f}" for end in line.change)
    say(f"     {line.reason}")
    say(f"     change {low} to {high} points at 95 %; {line.items:,} items")
    needed = ", ".join(f"{count:,} for {drop * 100:.0f}" for drop, count in zip(DROPS, line.items_needed, strict=True))
    say(f"     items that show a loss in points: {needed}")
    if line.warning:
        say(f"     warning: {line.warning}")


def _describe_attempts(attempts: Sequence[Attempt]) -> None:
    """Say every attempt: a table of what each suite did, or where that is too wide a line of what spoke against it."""
    suites = [line.suite for line in attempts[0].verdict.suites] if attempts[0].verdict else []
    rows = [["tried", *suites, "verdict"]]
    for each in attempts:
        if each.verdict is not None:
            changes = {line.suite: f"{(line.after - line.before) * 100:+.1f}" for line in each.verdict.suites}
            said = f"{'accepted' if each.verdict.accepted else 'refused'} at {each.verdict.level:.2%}"
            rows.append([each.done, *(changes.get(name, "--") for name in suites), said])
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * len(widths) <= _WIDTH:
        for row in rows:
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    else:
        for each in attempts:
            if each.verdict is not None:
                _say_wrapped(f"{each.done}: {each.verdict.refusals or 'accepted'}")
    for each in attempts:
        if each.verdict is None:
            _say_wrapped(f"{each.remedy}: not tried, {each.done}")


def _say_wrapped(text: str) -> None:
    say("\n".join(textwrap.wrap(text, _WIDTH, subsequent_indent="    ")))


def _attempt_as_json(each: Attempt) -> dict[str, Any]:
    return {
        "remedy": each.remedy,
        "done": each.done,
        "layer": each.layer or None,
        "scale": each.scale,
        "level": each.verdict.level if each.verdict else None,
        "accepted": each.verdict.accepted if each.verdict else None,
        "gate": [_as_json(line) for line in (each.verdict.suites if each.verdict else ())],
    }


def _as_json(line: SuiteVerdict) -> dict[str, Any]:
    from lamina.evaluate.gate import DROPS

    return {
        "suite": line.suite,
        "role": line.role,
        "before": line.before,
        "after": line.after,
        "change": list(line.change),
        "p_value": line.p_value,
        "passed": line.passed,
        "reason": line.reason,
        "items": line.items,
        "margin": line.margin,
        "loss_bound": line.loss_bound,
        "items_needed": {f"{drop:g}": count for drop, count in zip(DROPS, line.items_needed, strict=True)},
        "nll_shift": line.nll_shift,
        "warning": line.warning or None,
        "stopped_after": line.stopped_after,
    }
