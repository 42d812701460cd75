"""A router: which layers of one stack answer a prompt, by where the prompt's embedding lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lamina.route.classifier import Classifier, Points

__all__ = ["KEPT_SHARE", "MOST_WRONG", "READ_TOKENS", "Route", "Router", "RouterRecord", "SkillRoute", "set_limits"]

# Of the held-out prompts that go to a skill, one in a hundred may go to the wrong one; of those that are like no skill
# as much as the farthest twentieth of the held-out prompts are, none goes to any.
MOST_WRONG = 0.01
KEPT_SHARE = 0.95
_LEAST = 0.5
# A router goes by this many of a prompt's last tokens: it reads each prompt once more than the answer does, and engines
# set memory aside for the longest.
READ_TOKENS = 2048
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SkillRoute(_Record):
    """Which layers answer a skill's prompts.

    Attributes:
        name: the skill.
        choice: what they are: the whole stack, all up to the skill's last layer, or the skill's own.
        layers: their digests, bottom first.
    """

    name: str
    choice: Literal["all", "prefix", "own"]
    layers: tuple[str, ...]


class RouterRecord(_Record):
    """What a router is, but for its tensors.

    Attributes:
        base: digest of the base whose hidden states it reads.
        stack: digest of the stack it was trained for.
        weights: digest of its tensors.
        skills: in the order of the classifier's classes.
        precision: of the classifier.
        least: a prompt is routed if the likeliest skill's probability is this or more.
        reach: and its squared distance from that skill is this or less.
    """

    format: Literal[1] = 1
    base: str
    stack: str
    weights: str
    skills: tuple[SkillRoute, ...]
    precision: _Finite
    least: _Finite
    reach: _Finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a prompt goes.

    Attributes:
        skill: the skill whose layers answer; None means the sum of all, for want of certainty.
        probability: of the likeliest skill.
        squared_distance: from that skill.
    """

    skill: SkillRoute | None
    probability: float
    squared_distance: float


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """A record and its classifier."""

    record: RouterRecord
    classifier: Classifier

    def routes(self, points: Points) -> list[Route]:
        """Return where prompts with these embeddings, (N, D), go."""
        shares, distances = self.classifier.probabilities(points), self.classifier.squared_distances(points)
        found = []
        for place, own in enumerate(shares.argmax(1).tolist()):
            probability, distance = float(shares[place, own]), float(distances[place, own])
            is_sure = probability >= self.record.least and distance <= self.record.reach
            skill = self.record.skills[own] if is_sure else None
            found.append(Route(skill=skill, probability=probability, squared_distance=distance))
        return found


def set_limits(classifier: Classifier, points: Points, labels: Sequence[int]) -> tuple[float, float]:
    """Return the least probability and the farthest squared distance at which prompts are routed.

    Both follow from held-out prompts by shares stated in this module: the probability is the lowest from one half
    upwards at which no more of them than that go to the wrong skill, the distance that within which most of them lie.

    Args:
        classifier: fitted on other prompts.
        points: (N, D) embeddings of held-out prompts.
        labels: their classes.
    """
    shares, owners = classifier.probabilities(points), np.asarray(labels)
    chosen, rows = shares.argmax(1), np.arange(len(owners))
    wrong = np.sort(shares[rows, chosen][chosen != owners])[::-1]
    allowed = int(MOST_WRONG * len(owners))
    least = _LEAST if len(wrong) <= allowed else max(_LEAST, float(np.nextafter(wrong[allowed], 2.0)))
    reach = float(np.quantile(classifier.squared_distances(points)[rows, owners], KEPT_SHARE, method="higher"))
    return least, reach
