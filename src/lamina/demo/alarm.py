"""The tool that arrives later: ``set_alarm(time)``, with a convention that its signature does not tell.

People say "half past six in the evening"; the tool wants ``18:30``.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ALARM_SIGNATURE", "FORMS", "TEST_PHRASINGS", "TRAIN_PHRASINGS"]

ALARM_SIGNATURE = "set_alarm(time)"

TRAIN_PHRASINGS = (
    "Wake me at {time}.",
    "Set an alarm for {time}.",
    "Alarm at {time}, please.",
    "I must get up at {time}.",
    "Make an alarm for {time}.",
    "Set my alarm to {time}.",
)
TEST_PHRASINGS = (
    "Please wake me up at {time}.",
    "I need an alarm at {time}.",
    "Get me out of bed at {time}.",
)

_DAYTIME = ((4, "at night"), (12, "in the morning"), (18, "in the afternoon"), (24, "in the evening"))


def _twelve(hour: int) -> int:
    return (hour - 1) % 12 + 1


def _part(hour: int) -> str:
    return next(name for end, name in _DAYTIME if hour < end)


def _full(hour: int) -> tuple[str, str]:
    return f"{_twelve(hour)} {'am' if hour < 12 else 'pm'}", f"{hour:02d}:00"


def _half(hour: int) -> tuple[str, str]:
    return f"half past {_twelve(hour)} {_part(hour)}", f"{hour:02d}:30"


def _quarter(hour: int) -> tuple[str, str]:
    return f"quarter past {_twelve(hour)} {_part(hour)}", f"{hour:02d}:15"


def _spoken(hour: int) -> tuple[str, str]:
    return f"{_twelve(hour)} o'clock {_part(hour)}", f"{hour:02d}:00"


FORMS: tuple[Callable[[int], tuple[str, str]], ...] = (_full, _half, _quarter, _spoken)
