"""Prompts that ask for FastChat's verdicts, and replies read back; agreement and bias by hand."""

from __future__ import annotations

import pytest

from lamina.evaluate.judge.asking import Question, Reply
from lamina.evaluate.judge.cases import Case, PairVerdict, Rated, choice_questions, read_pairs, read_ratings
from lamina.evaluate.judge.prompts import ask_for_choice, ask_for_rating, show_turns
from lamina.evaluate.judge.tally import grade, tally
from lamina.evaluate.judge.verdict import read_choice, read_rating
from lamina.records import Message


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("A is clearer.\n[[A]]", "first"),
        ("[[B]]", "second"),
        ("both\n[[ C ]]", "tie"),
        ("It could be [[A]] at first sight, but B is right. [[B]]", "second"),
        ("I prefer A.", None),
        ("[A]", None),
        ("[[D]]", None),
        ("[[a]]", None),
        ("", None),
    ],
)
def test_choices(reply: str, choice: str | None) -> None:
    assert read_choice(reply) == choice


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Rating: [[7]]", 7.0),
        ("Rating: [[7.5]]", 7.5),
        ("[[8/10]]", 8.0),
        ("Rating: [4]", 4.0),
        ("one might say [[3]], yet: Rating: [[9]]", 9.0),
        ("[[11]]", None),
        ("[[0]]", None),
        ("[[rating]]", None),
        ("a seven", None),
    ],
)
def test_ratings(reply: str, rating: float | None) -> None:
    assert read_rating(reply) == rating


def test_prompts_hold_everything_and_name_the_forms() -> None:
    system, user = ask_for_choice("Why?", "one", "two", "because")
    assert all(form in system.content for form in ("[[A]]", "[[B]]", "[[C]]"))
    order = [user.content.index(text) for text in ("Why?", "because", "one", "two")]
    assert order == sorted(order)
    plain_system, plain_user = ask_for_choice("Why?", "one", "two")
    assert "reference" not in plain_system.content + plain_user.content
    system, user = ask_for_rating("Why?", "", "because")
    assert "[[5]]" in system.content
    assert "(empty)" in user.content


def test_conversations_are_shown_turn_by_turn() -> None:
    assert show_turns([Message("user", "hi")]) == "hi"
    assert show_turns([Message("system", "s"), Message("user", "hi")]) == "system: s\n\nuser: hi"


CASE = Case("q 1", "Why?", "ours", "theirs")


def test_both_orders_are_asked() -> None:
    first, second = choice_questions([CASE])
    assert first.messages[1].content.index("ours") < first.messages[1].content.index("theirs")
    assert second.messages[1].content.index("ours") > second.messages[1].content.index("theirs")


@pytest.mark.parametrize(
    ("a_first", "b_first", "value"),
    [
        ("[[A]]", "[[B]]", 1.0),  # ours both times
        ("[[B]]", "[[A]]", 0.0),  # theirs both times
        ("[[A]]", "[[A]]", 0.5),  # whoever is first
        ("[[B]]", "[[B]]", 0.5),
        ("[[C]]", "[[C]]", 0.5),
        ("[[A]]", "[[C]]", 0.5),  # FastChat: not the same verdict twice
        ("[[A]]", "well", None),
    ],
)
def test_a_win_is_a_win_in_both_orders(a_first: str, b_first: str, value: float | None) -> None:
    (verdict,) = read_pairs([CASE], [Reply(a_first), Reply(b_first)])
    assert verdict.value == value


def test_what_is_missing_is_named() -> None:
    (verdict,) = read_pairs([CASE], [Reply("Both have  merits."), Reply(None, "q 1 (b first): no reply within 1 s")])
    assert verdict.problems == (
        "q 1 (a first): no verdict in the reply: 'Both have merits.'",
        "q 1 (b first): no reply within 1 s",
    )
    (rated,) = read_ratings([Question("q 1", ())], [Reply("x" * 300)])
    assert rated.rating is None
    assert len(rated.problem) < 200


def test_tally_by_hand() -> None:
    # Two wins, a loss, a judge who takes the first twice, one who takes the second, a tie, and one without a verdict.
    sides = [(1, 1), (1, 1), (-1, -1), (1, -1), (1, -1), (-1, 1), (0, 0), (1, None)]
    verdicts = [PairVerdict(f"q {place}", first, second) for place, (first, second) in enumerate(sides)]
    cases = [Case(f"q {place}", "?", "same", "long") for place in range(len(sides))]
    found = tally(cases, verdicts)
    assert (found.wins, found.ties, found.losses, found.unjudged) == (2, 4, 1, 1)
    assert found.win_rate is not None
    assert found.win_rate.value == pytest.approx(4 / 7)
    assert found.win_rate.low < 4 / 7 < found.win_rate.high
    assert found.length_controlled is not None
    assert found.length_controlled.value == pytest.approx(4 / 7)  # all lengths are alike
    assert found.agreement is not None
    assert found.agreement.value == pytest.approx(4 / 7)
    # First shown wins 2 + 2 of the 14 verdicts more than the second shown does 2 times: (4 - 2) / 14 = 1/7.
    assert found.position_bias is not None
    assert found.position_bias.value == pytest.approx(1 / 7)


def test_swapping_the_stacks_turns_the_tally_round() -> None:
    sides = [(1, 1), (1, -1), (0, 1), (-1, -1), (1, 0)]
    names = [f"q {place}" for place in range(len(sides))]
    ours = tally(
        [Case(n, "?", "ab", "c") for n in names], [PairVerdict(n, *s) for n, s in zip(names, sides, strict=True)]
    )
    turned = [PairVerdict(n, -second, -first) for n, (first, second) in zip(names, sides, strict=True)]
    theirs = tally([Case(n, "?", "c", "ab") for n in names], turned)
    assert (ours.wins, ours.losses, ours.ties) == (theirs.losses, theirs.wins, theirs.ties)
    assert ours.win_rate is not None
    assert theirs.win_rate is not None
    assert ours.win_rate.value == pytest.approx(1 - theirs.win_rate.value)
    assert ours.agreement == theirs.agreement
    assert ours.position_bias == theirs.position_bias  # whose answer it is does not matter to a bias


def test_nothing_judged_is_nothing_claimed() -> None:
    found = tally([CASE], [PairVerdict("q 1", None, 1, ("why",))])
    assert (found.win_rate, found.length_controlled, found.agreement, found.position_bias) == (None,) * 4
    assert (found.unjudged, found.problems) == (1, ("why",))


def test_grades_by_hand() -> None:
    rated = [
        Rated("1a", 8.0),
        Rated("1b", 4.0),
        Rated("2a", 6.0),
        Rated("2b", 6.0),
        Rated("3a", None, "why"),
        Rated("3b", 9),
    ]
    found = grade(("new", "old"), ["1", "2", "3"], rated)
    assert (found.wins, found.ties, found.losses, found.unjudged, found.problems) == (1, 1, 0, 1, ("why",))
    assert found.means is not None
    assert [mean.value for mean in found.means] == pytest.approx([7.0, 5.0])
    assert {each.name: each.percent for each in found.quality} == pytest.approx({"new": 100.0, "old": 100 * 10 / 14})
