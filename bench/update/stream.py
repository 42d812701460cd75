"""The rows of ``bench/update.py``: four real skills, cut into what comes first, what comes later, dev and test.

    dialogue        llms_from_scratch rows 0-934 and both dolly files; test: its rows 935-1044
    reasoning       mawps and ASDiv-A with the calculation as the answer; test: SVAMP
    tools           snips sentences and taskmaster4 dialogues as JSON calls; test: their own test files
    classification  banking77; test: its own test file

Three skills hold back a class with a slice of the others: division, an intent of snips, a fifth of the labels. Rows
count as the same when their question is, whatever its case, spacing and punctuation. What stands in a test file is
taken out of training; AddSub, MultiArith, SingleEq and mawps' own tests lie inside the training file and test nothing.
The split is drawn once: training seeds do not move it.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skills import read_banking, read_snips

__all__ = ["SKILLS", "UPDATED", "Cut", "Row", "Skill", "read_pool", "read_skills"]

SKILLS = ("dialogue", "reasoning", "tools", "classification")
# In the order of their updates.
UPDATED = ("reasoning", "tools", "classification")
_LAST_TRAINING_ROW, _LAST_TEST_ROW = 935, 1045
_HELD_INTENT = "SearchScreeningEvent"
_HELD_LABELS = 5  # every fifth label
_LONGEST = 600  # characters: a row twice as long takes the place of two
_TURNS = 4
_INSTRUCTION = re.compile(r"### Instruction:\n(.*?)\n\n### Response:", re.DOTALL)
_HUMAN = re.compile(r"### Human: (.*?) ### Assistant: (.*)", re.DOTALL)
_OPERATORS = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class Row:
    """A question and its answer, from one of a skill's sources; ``late`` marks the class that is held back."""

    system: str
    question: str
    answer: str
    source: str
    late: bool = False

    @property
    def key(self) -> str:
        """What rows with the same question share: its words in order, or all of it where it has none."""
        return " ".join(re.findall(r"\w+", self.question.casefold())) or self.question

    def line(self) -> str:
        """Return the row as a line of JSON, in the messages format."""
        turns = [("system", self.system)] if self.system else []
        turns += [("user", self.question), ("assistant", self.answer)]
        return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}, ensure_ascii=False)


@dataclass(frozen=True)
class Cut:
    """How many rows of every skill are taken: ``rows`` first, dev and test; ``labels`` of banking77.

    An update adds a tenth of all rows before it, so the counts of the three follow from ``rows``.
    """

    rows: int
    dev: int
    test: int
    labels: int

    def added(self, skill: str) -> int:
        """Return how many rows the skill's update adds."""
        if skill not in UPDATED:
            return 0
        total = len(SKILLS) * self.rows
        for name in UPDATED:
            count = round(total / 10)
            if name == skill:
                return count
            total += count
        raise AssertionError(skill)


@dataclass(frozen=True)
class Skill:
    """One skill's rows, no question in two of the lists."""

    name: str
    first: tuple[Row, ...]
    later: tuple[Row, ...]
    dev: tuple[Row, ...]
    test: tuple[Row, ...]
    notes: dict[str, int] = field(default_factory=dict)


def read_skills(data: Path, cut: Cut) -> dict[str, Skill]:
    """Return the four skills, cut to size."""
    return {name: _cut(name, *read_pool(name, data, cut.labels), cut) for name in SKILLS}


def read_pool(name: str, data: Path, labels: int = 77) -> tuple[list[Row], list[Row], dict[str, int]]:
    """Return all rows to train on, all to test on, and how many were left out as duplicates.

    Both are without repetitions, and no question of the test stands in training.
    """
    train, test = _READERS[name](data, labels)
    distinct, tested = _distinct(train), _distinct(test)
    keys = {row.key for row in tested}
    kept = [row for row in distinct if row.key not in keys]
    notes = {
        "duplicates_in_train": len(train) - len(distinct),
        "duplicates_in_test": len(test) - len(tested),
        "train_rows_in_test": len(distinct) - len(kept),
    }
    return kept, tested, notes


def _cut(name: str, train: list[Row], test: list[Row], notes: dict[str, int], cut: Cut) -> Skill:
    draw = random.Random(f"{name} of bench/update.py")
    pool = _mixed(train, draw)
    early, late = [row for row in pool if not row.late], [row for row in pool if row.late]
    dev, first, early = early[: cut.dev], early[cut.dev : cut.dev + cut.rows], early[cut.dev + cut.rows :]
    added = cut.added(name)
    new = late[: added // 2]
    later = new + early[: added - len(new)]
    draw.shuffle(later)
    if len(first) < cut.rows or len(later) < added:
        raise ValueError(f"{name} has {len(train)} rows: too few for {cut.rows} and an update of {added}")
    return Skill(name, tuple(first), tuple(later), tuple(dev), tuple(_mixed(test, draw)[: cut.test]), notes)


def _mixed(rows: Sequence[Row], draw: random.Random) -> list[Row]:
    """Return the rows in random order, the sources in turns for as long as each lasts."""
    sources: dict[str, list[Row]] = {}
    for row in draw.sample(list(rows), len(rows)):
        sources.setdefault(row.source, []).append(row)
    ordered = [(place, name) for name, group in sorted(sources.items()) for place in range(len(group))]
    return [sources[name][place] for place, name in sorted(ordered)]


def _distinct(rows: Sequence[Row]) -> list[Row]:
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.key, row)
    return list(found.values())


def _dialogue(data: Path, labels: int) -> tuple[list[Row], list[Row]]:
    records = json.loads((data / "llms_from_scratch" / "instruction-data.json").read_text("utf-8"))
    rows = [
        Row("", "\n\n".join(filter(None, (each["instruction"], each["input"]))), each["output"], "llms_from_scratch")
        for each in records
    ]
    folder = data / "dolly"
    dolly = [
        *_matches(folder / "dolly_hhrlhf_train_small.jsonl", _hhrlhf),
        *_matches(folder / "dolly_open_qa.jsonl", _open_qa),
    ]
    train = [*rows[:_LAST_TRAINING_ROW], *dolly]
    return [row for row in train if _is_short(row)], rows[_LAST_TRAINING_ROW:_LAST_TEST_ROW]


def _matches(path: Path, read: Callable[[dict[str, str]], Row | None]) -> Iterator[Row]:
    for line in path.read_text("utf-8").splitlines():
        row = read(json.loads(line))
        if row is not None:
            yield row


def _hhrlhf(record: dict[str, str]) -> Row | None:
    found = _INSTRUCTION.search(record["prompt"])
    return None if found is None else Row("", found[1].strip(), record["response"].strip(), "dolly")


def _open_qa(record: dict[str, str]) -> Row | None:
    found = _HUMAN.fullmatch(record["text"])
    return None if found is None else Row("", found[1].strip(), found[2].strip(), "dolly")


def _reasoning(data: Path, labels: int) -> tuple[list[Row], list[Row]]:
    folder = data / "svamp"
    with (folder / "mawps-asdiv-a_train.csv").open(encoding="utf-8", newline="") as stream:
        found = [_problem(each) for each in csv.DictReader(stream)]
    train = [row for row in found if row is not None]
    test = [
        Row("math", f"{each['Body'].rstrip(' .')}. {each['Question']}", _plain(each["Answer"]), "svamp")
        for each in json.loads((folder / "SVAMP.json").read_text("utf-8"))
    ]
    return train, test


def _problem(record: dict[str, str]) -> Row | None:
    """Return a problem with its numbers filled in; None if its equation does not give its answer."""
    numbers = [float(each) for each in record["Numbers"].split()]
    text, value, _ = _infix(iter(record["Equation"].split()), numbers)
    answer = float(record["Answer"])
    if abs(value - answer) > 1e-3 * max(1.0, abs(answer)):
        return None
    question = re.sub(r"number(\d+)", lambda found: _plain(numbers[int(found[1])]), record["Question"])
    question = re.sub(r"\s+([.,?!;:'])", r"\1", question)
    return Row("math", question, f"{text} = {_plain(answer)}", "mawps-asdiv", late="/" in record["Equation"])


def _infix(symbols: Iterator[str], numbers: Sequence[float]) -> tuple[str, float, int]:
    """Return a prefix expression as people write it, its value, and how strongly its outermost operator binds."""
    symbol = next(symbols)
    if symbol not in _OPERATORS:
        value = numbers[int(symbol.removeprefix("number"))] if symbol.startswith("number") else float(symbol)
        return _plain(value), value, 3
    strength = _OPERATORS[symbol]
    left, a, left_strength = _infix(symbols, numbers)
    right, b, right_strength = _infix(symbols, numbers)
    left = f"({left})" if left_strength < strength else left
    right = f"({right})" if right_strength <= strength else right
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else float("nan")}[symbol]
    return f"{left} {symbol} {right}", value, strength


def _plain(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 1e10 else str(value)


def _tools(data: Path, labels: int) -> tuple[list[Row], list[Row]]:
    snips, coffee = data / "snips_nlu", data / "taskmaster4"
    train = [
        Row("snips call", *pair, path.stem.split("_")[1], late=_HELD_INTENT in path.stem)
        for path in sorted(snips.glob("train_*_full.json"))
        for pair in read_snips(path)
    ]
    test = [
        Row("snips call", *pair, path.stem.split("_")[1])
        for path in sorted(snips.glob("validate_*.json"))
        for pair in read_snips(path)
    ]
    return [*train, *_orders(coffee / "tm4_train.jsonl")], [*test, *_orders(coffee / "tm4_test.jsonl")]


def _orders(path: Path) -> Iterator[Row]:
    """Yield one call out of every dialogue, after the turns before it; calls that are no JSON are passed over."""
    for line in path.read_text("utf-8").splitlines():
        dialogue = json.loads(line)
        turns = dialogue["turns"]
        found = [row for place in range(1, len(turns)) if (row := _order(turns, place)) is not None and _is_short(row)]
        if found:
            yield random.Random(dialogue["conversation_id"]).choice(found)


def _order(turns: Sequence[dict[str, str]], place: int) -> Row | None:
    turn = turns[place]
    if turn["role"] != "assistant" or "api" not in turn:
        return None
    try:
        arguments = json.loads(turn["request"])
    except (KeyError, ValueError):
        return None
    before = [_said(each) for each in turns[max(0, place - _TURNS) : place]]
    return Row("coffee call", "\n".join(before), json.dumps({"name": turn["api"], "arguments": arguments}), "coffee")


def _said(turn: dict[str, str]) -> str:
    if "api" not in turn:
        return f"{turn['role']}: {turn.get('text', '')}"
    return f"{turn['role']}: {turn['api']} {turn.get('request') or turn.get('response') or ''}"


def _classification(data: Path, labels: int) -> tuple[list[Row], list[Row]]:
    folder = data / "banking77"
    names = sorted(json.loads((folder / "categories.json").read_text("utf-8")))
    # Evenly over the alphabet: neighbours there ask about the same thing.
    kept = [names[place * len(names) // labels] for place in range(labels)]
    late = set(kept[_HELD_LABELS - 1 :: _HELD_LABELS])

    def read(file: str) -> list[Row]:
        return [Row("bank intent", *pair, "banking77", pair[1] in late) for pair in read_banking(folder / file)]

    return tuple([row for row in read(file) if row.answer in kept] for file in ("train.csv", "test.csv"))  # type: ignore[return-value]


def _is_short(row: Row) -> bool:
    return bool(row.question and row.answer) and len(row.question) + len(row.answer) <= _LONGEST


_READERS: dict[str, Callable[[Path, int], tuple[list[Row], list[Row]]]] = {
    "dialogue": _dialogue,
    "reasoning": _reasoning,
    "tools": _tools,
    "classification": _classification,
}
