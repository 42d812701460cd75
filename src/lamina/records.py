"""Frozen results that the packages hand to one another. Only the standard library is imported here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = [
    "Conversation",
    "CostPoint",
    "CostStep",
    "Matrix",
    "Message",
    "Progress",
    "Quality",
    "Quiet",
    "Score",
    "SideBySide",
    "StepRecord",
    "Tick",
    "TokenRow",
    "Transfer",
]

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row of data: a conversation, or plain text.

    Exactly one of ``messages`` and ``text`` is filled. ``file`` and ``row`` (from 1) say where it
    came from.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    file: str = field(default="", compare=False)
    row: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A rendered row: token ids and, for each, whether the model is trained to produce it.

    ``trained[0]`` is always False: nothing predicts the first token. ``lost`` counts trained tokens
    that truncation cut. ``taught`` is the share of a training target that is what the parent stack predicts, the rest
    being the row's own tokens: 0 for new rows, 1 for rows that the model wrote itself.
    """

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    file: str = ""
    row: int = 0
    lost: int = 0
    taught: float = 0.0

    @property
    def trained_count(self) -> int:
        """How many tokens carry loss."""
        return sum(self.trained)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What one optimiser step did.

    ``loss`` is nats per trained token over the whole step; times are in seconds; ``pass_tokens`` is the most tokens
    that went through the model at once. ``divergence`` is how far the model has moved from its parent on the step's
    taught rows: KL(parent || model) in nats per trained token, None where there are none.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    trained_tokens: int
    elapsed_s: float
    pass_tokens: int
    heldout_loss: float | None = None
    divergence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A suite's score of one stack: mean of per-item values in 0..1, a 95 % interval, and the items it came from.

    ``values`` holds one number per item in suite order (for paired tests); NaN marks an unscored item, which counts in
    ``unscored`` and not in ``n``. ``figures`` are what else the run gives by the field's names, such as acc beside
    acc_norm or corpus BLEU. ``nll`` holds each reference's negative log-likelihood in nats per token (NaN where
    there is none), and ``clusters`` what each item shares with others; both are empty where nothing was recorded.
    """

    suite: str
    mean: float
    low: float
    high: float
    n: int
    items_digest: str
    values: tuple[float, ...]
    answers: tuple[str, ...] = ()
    unscored: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    nll: tuple[float, ...] = ()
    clusters: tuple[str, ...] = ()

    def moved_from(self, other: Score) -> int:
        """Return 1 or -1 if this lies above or below ``other``, neither mean in the other's interval; else 0."""
        if self.low > other.mean and self.mean > other.high:
            return 1
        return -1 if self.high < other.mean and self.mean < other.low else 0


class Tick(Protocol):
    """Advance a running stage by ``amount`` of its unit; ``detail`` is shown beside the bar."""

    def __call__(self, amount: float, detail: str = "") -> None:
        """Advance."""


class Progress(Protocol):
    """Where long work tells people how it goes. ``cli`` draws bars; tests and ``--quiet`` pass ``Quiet()``."""

    def note(self, text: str) -> None:
        """Say one line."""

    @contextmanager
    def stage(self, label: str, *, total: float, unit: str) -> Iterator[Tick]:
        """Open a stage of ``total`` units (for rate and ETA) and yield its tick."""
        ...


class Quiet:
    """A ``Progress`` that says nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def stage(self, label: str, *, total: float, unit: str) -> Iterator[Tick]:
        """Yield a tick that does nothing."""
        yield lambda amount, detail="": None


@dataclass(frozen=True, slots=True)
class Matrix:
    """Scores of stacks (rows) on suites (columns)."""

    stacks: tuple[str, ...]
    suites: tuple[str, ...]
    scores: tuple[tuple[Score, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the matrix for ``--json``: names, means 0..1, and the intervals and item counts beside them."""
        return {
            "stacks": list(self.stacks),
            "suites": list(self.suites),
            "scores": [[score.mean for score in row] for row in self.scores],
            "intervals": [[[score.low, score.high] for score in row] for row in self.scores],
            "items": [[score.n for score in row] for row in self.scores],
            "unscored": [[score.unscored for score in row] for row in self.scores],
            "figures": [[score.figures for score in row] for row in self.scores],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What a stack gained and forgot as it grew, 0..1 or differences of such; None where nothing defines it.

    Attributes:
        skills: the suites that belong to a layer.
        average_accuracy: mean score of the whole stack on them.
        backward: what later layers changed on earlier skills.
        forward: what earlier layers gave to later skills.
        forgetting: how far earlier skills fell from their best.
        general: change on suites that belong to no layer.
    """

    skills: tuple[str, ...]
    average_accuracy: float | None
    backward: float | None
    forward: float | None
    forgetting: float | None
    general: float | None


@dataclass(frozen=True, slots=True)
class SideBySide:
    """One question, answered by several stacks. ``answers`` pairs a stack's name with what it said."""

    question: str
    reference: str
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a model or stack is, in percent of another's quality, with a 95 % interval."""

    name: str
    percent: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPoint:
    """What a stack scores and what training it took.

    Attributes:
        name: the stack, for people.
        score: mean of its suites, 0..1, between ``low`` and ``high``.
        tokens: tokens its layers were trained on, padding not counted.
        flops: floating-point operations that takes, by formula; ``lamina.ops.costs`` says which.
        money: an estimate from the seconds and ``[cost]``, in the settings' currency.
        parameters: numbers in its layers.
    """

    name: str
    score: float
    low: float
    high: float
    tokens: int
    flops: float
    money: float
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CostStep:
    """A point of a stack as it grew: its score, and what was spent up to there, in one unit.

    Attributes:
        name: the stack at that point, for people.
        score: mean of its suites, 0..1, between ``low`` and ``high``.
        spent: on this stack from the bare base on.
        retrained: had the model been trained anew on everything at every point.
    """

    name: str
    score: float
    low: float
    high: float
    spent: float
    retrained: float
