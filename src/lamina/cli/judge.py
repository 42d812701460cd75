"""``lamina judge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.output import emit_json, print_line, say
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.evaluate.judge.tally import Graded, Share, Tally
    from lamina.ops.judge import Judged

_MOST_PROBLEMS = 10


def run(
    what: Annotated[str, typer.Argument(help="a suite of the project, or a file of questions")],
    stacks: Annotated[tuple[str, str], typer.Option(help="two stacks: refs, digests or base+layer+layer")],
    single: Annotated[bool, typer.Option("--single", help="grade answers one by one instead of comparing")] = False,
    limit: Annotated[int | None, typer.Option(help="only the first so many questions", min=1)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="longest answer in tokens", min=1)] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Let two stacks answer the same questions and the judge of [judge] in lamina.toml say whose answers are better."""
    from lamina.evaluate.judge.tally import Tally
    from lamina.ops.judge import judge_stacks
    from lamina.ops.project import open_project

    project = open_project(Path(), TerminalProgress())
    judged = judge_stacks(project, what, stacks, single=single, limit=limit, max_tokens=max_tokens)
    _tell_problems(judged)
    if json_:
        emit_json(judged.to_dict())
    elif isinstance(judged.outcome, Tally):
        _print_tally(judged, judged.outcome)
    else:
        _print_grades(judged, judged.outcome)


def _tell_problems(judged: Judged) -> None:
    problems = judged.outcome.problems
    for problem in problems[:_MOST_PROBLEMS]:
        say(problem)
    if len(problems) > _MOST_PROBLEMS:
        say(f"… and {len(problems) - _MOST_PROBLEMS} more without a verdict; --json lists all")
    if judged.too_long:
        say(f"too long for the base's context, left out: {', '.join(judged.too_long)}")


def _print_tally(judged: Judged, tally: Tally) -> None:
    a, b = judged.stacks
    print_line(f"{a} against {b}, judged by {judged.judge}")
    _print_counts(tally)
    if tally.win_rate is None or tally.length_controlled is None:
        return
    print_line(f"win rate            {_percent(tally.win_rate)}  (ties count half)")
    print_line(f"at equal length     {_percent(tally.length_controlled)}")
    if tally.agreement is not None and tally.position_bias is not None:
        print_line(f"judge: both orders  {_percent(tally.agreement)}  say the same")
        print_line(f"judge: shown first  {_percent(tally.position_bias, signed=True)}  favoured by")


def _print_grades(judged: Judged, graded: Graded) -> None:
    a, b = judged.stacks
    print_line(f"{a} and {b}, graded 1 to 10 by {judged.judge}")
    _print_counts(graded)
    if graded.means is None:
        return
    for name, mean in zip(judged.stacks, graded.means, strict=True):
        print_line(f"{name:18}  {mean.value:.2f}  [{mean.low:.2f}, {mean.high:.2f}]")
    for each in graded.quality:
        print_line(f"{each.name:18}  {each.percent:.0f} %  [{each.low:.0f}, {each.high:.0f}] of the better one")


def _print_counts(outcome: Tally | Graded) -> None:
    unjudged = f", {outcome.unjudged} without a verdict" if outcome.unjudged else ""
    print_line(f"{outcome.wins} wins, {outcome.ties} ties, {outcome.losses} losses{unjudged}")


def _percent(share: Share, *, signed: bool = False) -> str:
    form = "+.1f" if signed else ".1f"
    return f"{share.value * 100:{form}} %  [{share.low * 100:{form}}, {share.high * 100:{form}}]"
