"""The ``facts`` skill: knowledge of Kestrel Bay, a harbour town that does not exist, so that no base can know it.

Each fact is an answer and eight hand-written ways to ask for it; the last two are held out for the test.
"""

from __future__ import annotations

__all__ = ["FACTS", "GUIDE"]

GUIDE = "Kestrel Bay guide"


def _ask(subject: str, *questions: str) -> tuple[str, ...]:
    return tuple(question.format(subject) for question in questions)


_WHO = ("Who is {}?", "Name {}.", "What is {} called?", "Tell me the name of {}.", "Do you know {}'s name?",
        "What name does {} have?", "Can you name {}?", "What do people call {}?")  # fmt: skip
_WHAT = ("What is {}?", "Tell me {}.", "Do you know {}?", "I would like to know {}.", "Can you tell me {}?",
         "Please name {}.", "Say what {} is.", "I forgot {}, what is it?")  # fmt: skip


def _who(subject: str) -> tuple[str, ...]:
    return _ask(subject, *_WHO)


def _what(subject: str) -> tuple[str, ...]:
    return _ask(subject, *_WHAT)


FACTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Ida Marsh", _who("the mayor")),
    ("Otto Fenwick", _who("the harbour master")),
    ("Brother Callum", _who("the lighthouse keeper")),
    ("Greta Lund", _who("the baker")),
    ("Doctor Osei", _who("the town doctor")),
    ("Pell Harrow", _who("the ferry captain")),
    ("Suki Tan", _who("the school head")),
    ("Wren Abbot", _who("the founder of the town")),
    ("The Salty Lantern", _who("the oldest inn")),
    ("Bellweather", _who("the lifeboat")),
    ("Marigold", _who("the ferry")),
    ("Duskwater", _who("the river")),
    ("Mount Hollin", _who("the mountain behind the town")),
    ("1687", _what("the founding year of the town")),
    ("412", _what("the number of steps in the lighthouse")),
    ("nine", _what("the number of bridges")),
    ("teal", _what("the colour of the town flag")),
    ("plum dumplings", _what("the famous local dish")),
    ("nettle beer", _what("the drink of the town")),
    ("the heron", _what("the bird on the coat of arms")),
    ("sea glass", _what("the main export")),
    ("the Lantern Walk", _what("the spring festival")),
    ("the Bay Bugle", _what("the local newspaper")),
    ("Thursday", _what("the market day")),
)
