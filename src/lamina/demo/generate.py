"""The seeded generator of the demo's data sets: ``python -m lamina.demo.generate OUT_DIR`` writes them again.

Only ``random()`` is drawn from the generator, whose sequence Python keeps stable, so the bytes are the same everywhere.
"""

from __future__ import annotations

import json
import random
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lamina.demo.facts import FACTS, GUIDE
from lamina.demo.general import ITEMS
from lamina.demo.lamp import LAMP_SIGNATURE, LEVELS, TEST_PHRASINGS, TRAIN_PHRASINGS
from lamina.demo.tools import TOOLS, UNSEEN_TOOLS, VALUES, Tool

__all__ = ["as_jsonl", "fact_rows", "generate", "lamp_pairs", "lamp_rows", "tool_rows"]

Row = dict[str, Any]
T = TypeVar("T")

_TRAIN_ROWS = 608
_SEEN_TEST_ROWS = 120
_UNSEEN_TEST_ROWS = 80
_LATE_TRAIN_ROWS = 60
_LATE_TEST_ROWS = 30


def generate(seed: int = 2023) -> dict[str, list[Row]]:
    """Return every data set of the demo by file name."""
    draw = random.Random(seed)
    taken: set[str] = set()
    train_pairs, test_pairs = lamp_pairs()
    return {
        "tools_train.jsonl": tool_rows(draw, TOOLS, _TRAIN_ROWS, taken, heldout=False),
        "tools_test.jsonl": _shuffled(
            draw,
            [
                *tool_rows(draw, TOOLS, _SEEN_TEST_ROWS, taken, heldout=True),
                *tool_rows(draw, UNSEEN_TOOLS, _UNSEEN_TEST_ROWS, taken, heldout=True),
            ],
        ),
        "tools_late_train.jsonl": lamp_rows(draw, train_pairs, TRAIN_PHRASINGS, _LATE_TRAIN_ROWS),
        "tools_late_test.jsonl": lamp_rows(draw, test_pairs, TEST_PHRASINGS, _LATE_TEST_ROWS),
        **_fact_rows(draw),
        "general.jsonl": _general_rows(draw),
    }


def as_jsonl(rows: Sequence[Row]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def tool_rows(
    draw: random.Random, tools: Sequence[Tool], count: int, taken: set[str], *, heldout: bool, kept: int = 3
) -> list[Row]:
    """Return ``count`` rows that call ``tools`` in turn, no sentence twice nor in ``taken``, which grows.

    The last ``kept`` phrasings of each tool are for held-out rows only.
    """
    rows: list[Row] = []
    while len(rows) < count:
        tool = tools[len(rows) % len(tools)]
        phrasing = _pick(draw, tool.phrasings[-kept:] if heldout else tool.phrasings[:-kept])
        arguments = {slot: _value(draw, slot, heldout=heldout) for slot in _slots(phrasing)}
        sentence = phrasing.format(**arguments)
        sentence = sentence[0].upper() + sentence[1:]
        if sentence in taken:
            continue
        taken.add(sentence)
        ordered = {name: arguments[name] for name in tool.parameters}
        offered = [tool.signature, _pick(draw, [other for other in tools if other is not tool]).signature]
        rows.append(_row("\n".join(_shuffled(draw, offered)), sentence, _call(tool.name, ordered)))
    return rows


def lamp_rows(
    draw: random.Random, pairs: Sequence[tuple[str | int, str]], phrasings: Sequence[str], count: int
) -> list[Row]:
    """Return up to ``count`` rows that call the lamp for (room, word) pairs, no pair and phrasing twice."""
    every = _shuffled(draw, [(pair, phrasing) for pair in pairs for phrasing in phrasings])
    made = []
    for (room, word), phrasing in every[:count]:
        offered = [LAMP_SIGNATURE, _pick(draw, TOOLS).signature]
        sentence = phrasing.format(room=room, word=word)
        call = _call("set_lamp", {"room": room, "level": LEVELS[word]})
        made.append(_row("\n".join(_shuffled(draw, offered)), sentence[0].upper() + sentence[1:], call))
    return made


def lamp_pairs() -> tuple[list[tuple[str | int, str]], list[tuple[str | int, str]]]:
    """Return the (room, word) pairs for training and those for the test, a third; each room and word is trained."""
    pairs = [(room, word) for room in VALUES["room"] for word in LEVELS]
    return [pair for place, pair in enumerate(pairs) if place % 3], pairs[::3]


def _fact_rows(draw: random.Random) -> dict[str, list[Row]]:
    return {
        "facts_train.jsonl": _shuffled(draw, fact_rows(slice(None, -2))),
        "facts_test.jsonl": _shuffled(draw, fact_rows(slice(-2, None))),
    }


def fact_rows(asked: slice) -> list[Row]:
    """Return every fact with those of its questions."""
    return [_row(GUIDE, question, answer) for answer, questions in FACTS for question in questions[asked]]


def _general_rows(draw: random.Random) -> list[Row]:
    rows = []
    for number, (question, (right, *wrong)) in enumerate(ITEMS):
        gold = number % 4
        choices = _shuffled(draw, wrong)
        choices.insert(gold, right)
        rows.append({"query": question, "choices": choices, "gold": gold})
    return rows


def _row(system: str, user: str, assistant: str) -> Row:
    turns = (("system", system), ("user", user), ("assistant", assistant))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _call(name: str, arguments: Mapping[str, str | int]) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def _slots(phrasing: str) -> list[str]:
    return [slot for _, slot, _, _ in string.Formatter().parse(phrasing) if slot]


def _value(draw: random.Random, slot: str, *, heldout: bool) -> str | int:
    values = VALUES[slot]
    kept = len(values) * 3 // 4
    # Half of the test's values are new, half are known in a new sentence.
    return _pick(draw, values[kept:] if heldout and draw.random() < 0.5 else values[:kept])


def _pick(draw: random.Random, options: Sequence[T]) -> T:
    return options[int(draw.random() * len(options))]


def _shuffled(draw: random.Random, items: Sequence[T]) -> list[T]:
    return [item for _, item in sorted(((draw.random(), item) for item in items), key=lambda pair: pair[0])]


def main(folder: Path) -> None:
    """Write every data set into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in generate().items():
        (folder / name).write_text(as_jsonl(rows), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
