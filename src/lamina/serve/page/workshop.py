"""What the page can ask for besides answers: data in, trainings, votes, corrections, lineage, results.

``serve`` may not reach up to the operations that do all this; ``lamina.ops.workshop`` implements the protocol and is
handed in. Everything here is plain values that become JSON as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = [
    "Audit",
    "Cell",
    "Chart",
    "LayerCard",
    "LineageRow",
    "Piece",
    "Point",
    "Results",
    "Said",
    "Shelf",
    "StackCard",
    "StoredFile",
    "Term",
    "Training",
    "Turn",
    "Workshop",
]


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a model name: a layer as it is typed there, and its scale."""

    layer: str
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCard:
    """A layer that can be switched on. ``term`` is how a model name spells it, unambiguously."""

    name: str
    digest: str
    term: str
    rows: int
    files: tuple[str, ...]
    rank: int
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StackCard:
    """A branch or tag and the layers of its stack, bottom first."""

    name: str
    kind: Literal["branch", "tag"]
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What there is to stack."""

    project: str
    base: str
    branch: str
    layers: tuple[LayerCard, ...]
    stacks: tuple[StackCard, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, the model that was asked, and the sum of layers that gave it: names move, and routers pick."""

    model: str
    text: str
    stack: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageRow:
    """One line of the lineage tree, the newest on top.

    ``graph`` holds the strokes of ``lamina log --all``. A line without ``digest`` is only strokes, or the base.
    ``effects`` pairs suites with the change of their score, 0..1, where it left the interval.
    """

    graph: str
    label: str
    digest: str | None = None
    refs: tuple[str, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    money: str = ""
    loss: tuple[float, float] | None = None
    effects: tuple[tuple[str, float], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A score with its 95 % interval, 0..1; ``moved`` is 1 or -1 where it left the interval of the row above."""

    mean: float
    low: float
    high: float
    items: int
    moved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart as SVG, for wide screens and for phones; ``caption`` says the same in words."""

    name: str
    title: str
    caption: str
    wide: str
    narrow: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Recorded scores of the current branch, layer by layer; None where nothing was measured."""

    stacks: tuple[str, ...]
    suites: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A data file of the project, by its path inside it."""

    file: str
    size_bytes: int
    rows_of: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered row that is trained, or not."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What lamina found in a file.

    Attributes:
        file: its path inside the project.
        description: rows and format in words.
        rows: distinct rows, of which ``known`` have been trained on before; ``duplicates`` more are left out.
        heldout: how many of the new rows are kept out to measure.
        longest: the longest row of the sample that was rendered, in tokens; ``context`` is what fits.
        example: the first row as the model sees it.
        how: whether the file starts a skill (``train``) or continues one (``update``), and ``name`` of that skill.
    """

    file: str
    description: str
    rows: int
    duplicates: int
    known: int
    heldout: int
    longest: int
    context: int
    example: tuple[Piece, ...]
    how: Literal["train", "update"]
    name: str


@dataclass(frozen=True, slots=True)
class Point:
    """One optimiser step: the loss in nats per token, and the held-out loss where it was measured."""

    step: int
    loss: float
    heldout: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training as it stands.

    Attributes:
        id: names it in the page's requests.
        title: what it is, for people.
        state: ``running``, ``accepted``, ``refused`` (by the gate), ``current`` (there was nothing new), ``stopped``
            or ``failed``.
        here: whether the page started it, and may stop it; else it runs in a terminal.
        points: every step so far.
        steps: how many are planned.
        tokens_per_s: over the last steps.
        eta_s: seconds to the last planned step.
        log: what the command said, newest last.
        outcome: the command's own JSON once it has ended: layer, gate, or error and hint.
    """

    id: str
    title: str
    state: Literal["running", "accepted", "refused", "current", "stopped", "failed"]
    here: bool
    points: tuple[Point, ...] = ()
    steps: int = 0
    tokens_per_s: float = 0.0
    eta_s: float | None = None
    log: tuple[str, ...] = ()
    outcome: dict[str, Any] | None = None


class Workshop(Protocol):
    """The work behind the page. Every method may take a while and is called from a worker thread.

    All of them raise ``LaminaError`` for what a person can mend.
    """

    def shelf(self) -> Shelf:
        """Return the layers and stacks there are."""

    def lineage(self) -> list[LineageRow]:
        """Return the tree of all refs' stacks."""

    def results(self) -> Results:
        """Return the recorded scores of the current branch."""

    def charts(self) -> list[Chart]:
        """Return charts of the recorded scores; they take a second or two to draw."""

    def vote(self, prompt: list[Turn], a: Said, b: Said, winner: Literal["model_a", "model_b", "tie"]) -> bool:
        """Save a vote and return whether it was new."""

    def correct(self, prompt: list[Turn], wanted: str, said: Said) -> bool:
        """Save the answer that was wanted and return whether it was new."""

    def files(self) -> list[StoredFile]:
        """Return the data files of the project."""

    def receive(self, name: str, offset: int, piece: bytes, *, last: bool) -> str | None:
        """Take in a piece of a file; return its path inside the project once it is whole."""

    def audit(self, file: str) -> Audit:
        """Look through a data file of the project."""

    def start(self, file: str, how: Literal["train", "update"], name: str) -> str:
        """Start a training and return its id."""

    def stop(self, training: str) -> None:
        """Stop a training that was started here, after a checkpoint."""

    def trainings(self) -> list[Training]:
        """Return the trainings of this machine that run on the project, and those that ended here."""
