"""The values of a recipe that follow from the data, each with its reason. Arithmetic only: no torch, no data.

What was set by a flag, in ``lamina.toml`` or by a caller stays; the rest of rank, batch, passes and learning rate is
chosen around the recipe's defaults. docs/design/recipe.md says why each rule is as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina.config import Recipe

__all__ = ["Choice", "DataSize", "choose"]

_RANK = 16
_LARGEST_RANK = 256
_PARAMETERS_PER_TOKEN_TINY = 20_000
_FEW_ROWS = 1600
_SMALL_BATCH_ROWS = 4
_BATCH_ROWS = 8
_LARGEST_BATCH_ROWS = 32
_MOST_STEPS_PER_PASS = 1000
_FEWEST_STEPS = 24
_ENOUGH_STEPS = 48
_MOST_PASSES = 3
_RATE = 5e-4
_SHORT_RUN_RATE = 7.5e-4
_SHORT_RUN_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """The numbers that the choices follow from.

    Attributes:
        rows: rows in one pass, replayed rows included.
        trained_tokens: tokens of the new rows that carry loss, in one pass.
        parameters_per_rank: what the base's adapted maps add for each unit of rank: the sum of their widths.
        replayed: how many of the rows are replayed.
        is_known: whether the stack below has a layer of the same skill, so that these rows only bring it up to date.
    """

    rows: int
    trained_tokens: int
    parameters_per_rank: int
    replayed: int = 0
    is_known: bool = False

    @property
    def is_small(self) -> bool:
        """Whether the new rows are few."""
        return self.rows - self.replayed < _FEW_ROWS


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen value and, in half a line, why."""

    value: float
    reason: str


def choose(size: DataSize, recipe: Recipe) -> dict[str, Choice]:
    """Return the values of rank, batch_rows, epochs and learning_rate that ``recipe`` leaves unset.

    A value that is set counts in the choices after it: with a larger batch a pass has fewer steps, so more passes may
    be chosen. The result is a function of the arguments alone, so a stopped run finds its checkpoint again.
    """
    chosen: dict[str, Choice] = {}

    def settle(key: str, choice: Choice) -> float:
        if key in recipe.model_fields_set:
            return float(getattr(recipe, key))
        chosen[key] = choice
        return choice.value

    settle("rank", _choose_rank(size))
    batch_rows = settle("batch_rows", _choose_batch_rows(size))
    steps_per_pass = max(1, -int(-size.rows // batch_rows))
    epochs = settle("epochs", _choose_epochs(size, steps_per_pass))
    settle("learning_rate", _choose_learning_rate(max(1, round(epochs * steps_per_pass))))
    return chosen


def _choose_rank(size: DataSize) -> Choice:
    """Keep one parameter for each trained token: factors store about two bits each, a token brings about one."""
    tokens, width = size.trained_tokens, size.parameters_per_rank
    if tokens * _PARAMETERS_PER_TOKEN_TINY < _RANK * width:
        return Choice(_RANK // 2, f"only {tokens:,} trained tokens for {_RANK // 2 * width:,} parameters")
    rank = _RANK
    while tokens > rank * width and rank < _LARGEST_RANK:
        rank *= 2
    fit = "fit into" if tokens <= rank * width else "are more than fit into"
    return Choice(rank, f"{tokens:,} trained tokens {fit} {rank * width:,} parameters")


def _choose_batch_rows(size: DataSize) -> Choice:
    rows, batch_rows = size.rows, _SMALL_BATCH_ROWS if size.is_small else _BATCH_ROWS
    while rows > batch_rows * _MOST_STEPS_PER_PASS and batch_rows < _LARGEST_BATCH_ROWS:
        batch_rows *= 2
    return Choice(batch_rows, f"{rows:,} rows in {_steps(max(1, -(-rows // batch_rows)))} a pass")


def _choose_epochs(size: DataSize, steps_per_pass: int) -> Choice:
    at_least = -(-_FEWEST_STEPS // steps_per_pass)
    enough = min(_MOST_PASSES, -(-_ENOUGH_STEPS // steps_per_pass))
    passes = max(at_least, enough, 2 if size.is_small and not size.is_known else 1)
    why = f"{_steps(steps_per_pass)} a pass"
    if passes > 1:
        why += f", {_steps(passes * steps_per_pass)} in all: few rows take more passes"
    return Choice(float(passes), why)


def _choose_learning_rate(steps: int) -> Choice:
    if steps < _SHORT_RUN_STEPS:
        return Choice(_SHORT_RUN_RATE, f"{_steps(steps)}, a short run: 15 times a full fine-tuning's 5e-05")
    return Choice(_RATE, f"{_steps(steps)}: 10 times a full fine-tuning's 5e-05")


def _steps(count: int) -> str:
    return f"{count:,} step" + "s" * (count != 1)
