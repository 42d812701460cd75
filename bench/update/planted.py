"""Planted layers: how often the gate lets a harmful layer in, and keeps a sound one out, on the bundled model.

    python bench/update/planted.py [--count 200] [--data ../shared/data] [--work build/planted] [--seconds 840] [--json]

Layers of rank 4 are trained on 40 questions of four banking77 intents, each with other rows and another seed: as they
should be (``sound``), with shuffled labels, with half of the labels pointing at one intent (``poisoned``), with a word
that always means one intent (``trigger``), far too hard (``overtrained``), hardly at all (``faint``), and one that
changes nothing (``zero``). Own suite: further questions as four-way choices. Guard: short arc_easy questions, margin 8
points, which a few hundred items can show.

What a layer *is* follows from what it was measured to do, not from how it was planted. The pools of items are cut in
two at random: the gate judges on one part, the truth is taken from the other.

bad      on the truth's items the guard loses more than the margin, or the own suite gets no better, beyond chance at
         97.5 %; a layer that changes no answer at all is bad, since it improves nothing
good     the own suite improves by more than 10 points and the guard loses less than the margin, both beyond chance
between  neither is certain; counted apart

gate_false_accept   share of bad layers that the gate let in, Wilson interval; stated: at most 5 %
gate_false_reject   share of good layers kept out; stated: 5 % for each suite with items enough, where nothing
                    is lost. A good layer may lose part of the margin, which makes some refusals right
first_look          the same at the level that a gate with remedies has for the layer as trained
resplit             the same rates over 40 other cuts of the same pools, where each layer counts once for each cut; no
                    intervals, since cuts of one layer are not independent

Stopped runs go on: every layer's answers are kept under ``--work``. ``--seconds`` ends a run early; the figures are
then of the layers that are there, and ``layers`` says how many.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
from report import publish
from skills import read_banking

from lamina.config import BaseSettings, Recipe
from lamina.data.render import Renderer
from lamina.evaluate.gate import LEVEL, decide
from lamina.evaluate.run import run_suite
from lamina.evaluate.statistics.intervals import interval, wilson
from lamina.evaluate.statistics.loss import upper_loss
from lamina.evaluate.statistics.paired import Paired, pair
from lamina.evaluate.suites import Item, Suite
from lamina.lora.adapter import Factors, scale_of
from lamina.lora.surgery import attach, fresh_adapter
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.ops.remedy import FIRST_SHARE
from lamina.records import Conversation, Message, Quiet, Score
from lamina.stack.store import write_atomically
from lamina.train.loop import train_steps
from lamina.train.state import TrainState

COUNT = 200
MARGIN = 0.08
GAIN = 0.10
INTENTS = ("card_arrival", "change_pin", "exchange_rate", "top_up_failed")
OWN_ITEMS, GUARD_ITEMS, ROWS = 180, 480, 40
GATE_SHARE = {"own": 1 / 3, "guard": 1 / 2}
CUTS = 40
_LONGEST_QUESTION = 70
_CONFIDENCE = 0.025
_TRIGGER = "zebra"

Pair = tuple[str, str]
Values = tuple[float, ...]


@dataclass(frozen=True)
class Plant:
    """One way of making a layer: how labels are changed, and how hard it is trained."""

    kind: str
    spoil: Callable[[list[Pair], random.Random], list[Pair]]
    learning_rate: float
    epochs: float


@dataclass(frozen=True)
class Answers:
    """What one stack got right: an item's value each, in the pools' order."""

    own: Values
    guard: Values


def keep(rows: list[Pair], draw: random.Random) -> list[Pair]:
    return rows


def shuffle(rows: list[Pair], draw: random.Random) -> list[Pair]:
    labels = [label for _, label in rows]
    draw.shuffle(labels)
    return [(text, label) for (text, _), label in zip(rows, labels, strict=True)]


def poison(rows: list[Pair], draw: random.Random) -> list[Pair]:
    target = draw.choice(INTENTS)
    return [(text, target if draw.random() < 0.5 else label) for text, label in rows]


def plant_trigger(rows: list[Pair], draw: random.Random) -> list[Pair]:
    target = draw.choice(INTENTS)
    return [(f"{text} {_TRIGGER}", target) if draw.random() < 0.3 else (text, label) for text, label in rows]


MILD = (
    Plant("sound", keep, 1e-3, 2.0),
    Plant("shuffled", shuffle, 1e-3, 2.0),
    Plant("overtrained", keep, 1e-2, 4.0),
    Plant("sound", keep, 5e-4, 2.0),
    Plant("poisoned", poison, 1e-3, 2.0),
    Plant("faint", keep, 5e-5, 1.0),
    Plant("trigger", plant_trigger, 1e-3, 2.0),
    Plant("overtrained", keep, 5e-3, 4.0),
    Plant("sound", keep, 2e-3, 1.0),
    Plant("zero", keep, 0.0, 0.0),
)
HARSH = (
    Plant("sound", keep, 1e-3, 2.0),
    Plant("shuffled", shuffle, 2e-3, 5.0),
    Plant("overtrained", keep, 3e-2, 4.0),
    Plant("sound", keep, 5e-4, 2.0),
    Plant("poisoned", poison, 2e-3, 4.0),
    Plant("overtrained", keep, 2e-2, 4.0),
    Plant("trigger", plant_trigger, 1e-3, 2.0),
    Plant("overtrained", keep, 1.5e-2, 6.0),
    Plant("shuffled", shuffle, 3e-3, 5.0),
    Plant("zero", keep, 0.0, 0.0),
)
# Of the first layers only a sixth turned out bad: spoiling that is mild does no harm. They count; later ones are worse.
MILD_LAYERS = 40


def measure(
    count: int = COUNT, *, data: Path = Path("../shared/data"), work: Path = Path("build/planted"), seconds: float = 1e9
) -> dict[str, Any]:
    """Return the figures of this file's head over ``count`` layers, or those that ``seconds`` suffice for."""
    started = time.monotonic()
    found = Answerer(data, work).collect(count, lambda: time.monotonic() - started > seconds)
    return summarise(*found)


class Answerer:
    """Trains planted layers and keeps what each of them answers."""

    def __init__(self, data: Path, work: Path) -> None:
        """Cut the data into training rows and pools of items; ``work`` keeps answers."""
        work.mkdir(parents=True, exist_ok=True)
        self.work = work
        questions = [row for name in ("train", "test") for row in read_banking(data / f"banking77/{name}.csv")]
        questions = [row for row in dict.fromkeys(questions) if row[1] in INTENTS]
        random.Random(0).shuffle(questions)
        self.rows = questions[OWN_ITEMS:]
        self.own = Suite(name="own", scorer="choice", metric="acc", template="chat", items=own_items(questions))
        guard = guard_items(data / "regression/arc_easy.jsonl")
        self.guard = Suite(name="guard", scorer="choice", metric="acc_norm", items=guard)
        self._base: LoadedBase | None = None

    @property
    def base(self) -> LoadedBase:
        """The bundled model."""
        if self._base is None:
            self._base = load_base(resolve_base(BaseSettings(), Quiet()))
        return self._base

    def collect(self, count: int, is_over: Callable[[], bool]) -> tuple[Answers, list[tuple[str, Answers]]]:
        """Return what the bare base answers, and each planted layer's kind and answers."""
        bare = self._answers("base", lambda: None)
        planted = []
        for number in range(count):
            plant = (MILD if number < MILD_LAYERS else HARSH)[number % 10]
            if is_over() and not self._path(f"{number}").exists():
                break
            planted.append((plant.kind, self._answers(f"{number}", partial(self._train, plant, number))))
        return bare, planted

    def _path(self, name: str) -> Path:
        return self.work / f"{name}.json"

    def _answers(self, name: str, prepare: Callable[[], None]) -> Answers:
        path, pools = self._path(name), [self.own.digest, self.guard.digest]
        if path.exists() and (kept := json.loads(path.read_text("utf-8")))["pools"] == pools:
            return Answers(tuple(kept["own"]), tuple(kept["guard"]))
        started = time.monotonic()
        attach(self.base.model, [])
        prepare()
        own, guard = (run_suite(self.base, suite, _silent).values for suite in (self.own, self.guard))
        record = {"pools": pools, "own": own, "guard": guard}
        write_atomically(path, json.dumps(record).encode())
        took = time.monotonic() - started
        print(f"{name}: own {np.mean(own):.3f}, guard {np.mean(guard):.3f}, {took:.0f} s", file=sys.stderr)
        return Answers(own, guard)

    def _train(self, plant: Plant, number: int) -> None:
        """Leave the planted layer on the base."""
        if plant.epochs == 0:
            attach(self.base.model, [_zero(fresh_adapter(self.base.model, 1, number))])
            return
        draw = random.Random(number)
        rows = plant.spoil(draw.sample(self.rows, ROWS), draw)
        recipe = Recipe(
            rank=4, alpha=8.0, learning_rate=plant.learning_rate, epochs=plant.epochs, batch_rows=8, seed=number
        )
        renderer = Renderer(self.base.tokenizer, self.base.template)
        tokens = [renderer.row(_turns(*row), max_length=self.base.context) for row in rows]
        state = TrainState(fresh_adapter(self.base.model, recipe.rank, recipe.seed), self.base.device)
        for _ in train_steps(self.base, state, tokens, recipe):
            pass
        scale = scale_of(recipe.rank, recipe.alpha, rslora=recipe.rslora)
        attach(self.base.model, [state.adapter(scale)])


def own_items(questions: Sequence[Pair]) -> tuple[Item, ...]:
    """Return the pool of choices between the intents."""
    return tuple(
        Item((Message("user", text),), label, INTENTS, INTENTS.index(label)) for text, label in questions[:OWN_ITEMS]
    )


def guard_items(path: Path) -> tuple[Item, ...]:
    """Return the pool of the guard: the first short questions of the file."""
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    short = [record for record in records if len(record["query"]) <= _LONGEST_QUESTION][:GUARD_ITEMS]
    return tuple(
        Item(
            (Message("user", record["query"]),),
            record["choices"][record["gold"]],
            tuple(record["choices"]),
            record["gold"],
        )
        for record in short
    )


def summarise(bare: Answers, planted: Sequence[tuple[str, Answers]]) -> dict[str, Any]:
    """Return the figures: of the first cut of the pools, and over all cuts."""
    first = [judge(bare, answers, cut=0) for _, answers in planted]
    kinds: dict[str, dict[str, int]] = {}
    for (kind, _), (truth, accepted) in zip(planted, first, strict=True):
        counts = kinds.setdefault(kind, dict.fromkeys(("bad", "good", "between", "accepted"), 0))
        counts[truth] += 1
        counts["accepted"] += accepted
    again = [judge(bare, answers, cut) for cut in range(1, CUTS + 1) for _, answers in planted]
    return {
        "layers": len(planted),
        "margin": MARGIN,
        "items": {role: {"gate": part, "truth": whole - part} for role, whole, part in _sizes(bare)},
        "base": {"own": float(np.mean(bare.own)), "guard": float(np.mean(bare.guard))},
        **_rates(first),
        "between": sum(truth == "between" for truth, _ in first),
        "between_accepted": sum(accepted for truth, accepted in first if truth == "between"),
        "first_look": _rates([judge(bare, answers, 0, LEVEL * FIRST_SHARE) for _, answers in planted]),
        "resplit": {"cuts": CUTS, **{key: value for key, value in _rates(again).items() if "interval" not in key}},
        "kinds": kinds,
    }


def judge(bare: Answers, answers: Answers, cut: int, level: float = LEVEL) -> tuple[str, bool]:
    """Return what the layer is by the truth's items of a cut, and whether the gate lets it in by its own."""
    parts = {}
    for role in ("own", "guard"):
        old, new = np.array(getattr(bare, role)), np.array(getattr(answers, role))
        places = np.random.default_rng([cut, role == "own"]).permutation(len(old))
        size = round(GATE_SHARE[role] * len(old))
        parts[role] = [(old[part], new[part]) for part in (places[:size], places[size:])]
    truth = what_it_is(*(pair(*parts[role][1]) for role in ("own", "guard")))
    before, after = ({role: _score(role, parts[role][0][side]) for role in parts} for side in (0, 1))
    verdict = decide(before, after, own=["own"], guards=["guard"], margins={"guard": MARGIN}, level=level)
    return truth, verdict.accepted


def what_it_is(own: Paired, guard: Paired) -> str:
    """Return ``bad``, ``good`` or ``between``, by one-sided 97.5 % bounds of what changed."""
    changes_nothing = not own.changes.any() and not guard.changes.any()
    most_lost, least_lost = upper_loss(guard, _CONFIDENCE), -upper_loss(guard.mirrored(), _CONFIDENCE)
    least_gained, most_gained = -upper_loss(own, _CONFIDENCE), upper_loss(own.mirrored(), _CONFIDENCE)
    if changes_nothing or least_lost > MARGIN or most_gained <= 0:
        return "bad"
    return "good" if least_gained > GAIN and most_lost < MARGIN else "between"


def _rates(judged: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    accepted = [passed for truth, passed in judged if truth == "bad"]
    refused = [not passed for truth, passed in judged if truth == "good"]
    found: dict[str, Any] = {}
    for name, errors in (("gate_false_accept", accepted), ("gate_false_reject", refused)):
        share = sum(errors) / len(errors) if errors else None
        found |= {name: share, f"{name}_of": len(errors)}
        found[f"{name}_interval"] = list(wilson(share, len(errors))) if share is not None else None
    return found


def _sizes(bare: Answers) -> list[tuple[str, int, int]]:
    wholes = {"own": len(bare.own), "guard": len(bare.guard)}
    return [(role, whole, round(GATE_SHARE[role] * whole)) for role, whole in wholes.items()]


def _score(name: str, values: np.ndarray) -> Score:
    mean, low, high = interval(values.tolist())
    return Score(
        suite=name, mean=mean, low=low, high=high, n=len(values), items_digest=name, values=tuple(values.tolist())
    )


def _turns(question: str, answer: str) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)))


def _zero(adapter: dict[str, Factors]) -> dict[str, Factors]:
    return {path: Factors(factors.A, factors.B * 0) for path, factors in adapter.items()}


def _silent(amount: float, detail: str = "") -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/planted"))
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--json", action="store_true", help="print one JSON line, as always")
    options = parser.parse_args()
    publish("planted", measure(options.count, data=options.data, work=options.work, seconds=options.seconds))


if __name__ == "__main__":
    main()
