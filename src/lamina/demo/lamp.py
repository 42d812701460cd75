"""The tool that arrives later: ``set_lamp(room, level)``, with a convention that its signature does not tell.

People say "make the kitchen dim"; the tool wants ``3``. No layer trained before can know which word is which number.
"""

from __future__ import annotations

__all__ = ["LAMP_SIGNATURE", "LEVELS", "TEST_PHRASINGS", "TRAIN_PHRASINGS"]

LAMP_SIGNATURE = "set_lamp(room, level)"

LEVELS: dict[str, int] = {"faint": 1, "dim": 3, "bright": 7, "dazzling": 9}

TRAIN_PHRASINGS = (
    "Make the {room} {word}.",
    "Light the {room}, {word} please.",
    "I want {word} light in the {room}.",
    "Set the {room} lamp to {word}.",
    "{word} light in the {room}, please.",
    "The {room} should be {word}.",
)
TEST_PHRASINGS = (
    "Give me {word} light in the {room}.",
    "Could the {room} be {word}?",
    "Turn the {room} light to {word}.",
)
