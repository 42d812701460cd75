"""Each checkable instruction on an answer that follows it and one that does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lamina.evaluate.instructions import INSTRUCTIONS, all_followed, check_instructions, followed

AT_LEAST, LESS = "at least", "less than"
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("length_constraints:number_words", {"relation": AT_LEAST, "num_words": 3}, "one well-known two", "one two"),
    ("length_constraints:number_words", {"relation": LESS, "num_words": 3}, "one two", "one two three"),
    ("length_constraints:number_sentences", {"relation": AT_LEAST, "num_sentences": 2}, "A b. C d!", "It is 3.5 m."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a *** b", "a *** "),
    ("keywords:existence", {"keywords": ["cat", "Dog"]}, "The CAT and a dog.", "concatenate dog"),
    ("keywords:frequency", {"keyword": "go", "relation": AT_LEAST, "frequency": 2}, "go, Go", "go gone"),
    ("keywords:forbidden_words", {"forbidden_words": ["bad"]}, "badly", "It is Bad."),
    ("keywords:letter_frequency", {"letter": "e", "let_relation": LESS, "let_frequency": 2}, "Eat", "eel"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n**b**"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na",
    ),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [address]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi\nP.S. more", "Hi, PS is a console"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Hi\np.p.s more", "Hi\nP.S. more"),
    ("change_case:english_capital", {}, "LOUD 3!", "Loud"),
    ("change_case:english_lowercase", {}, "quiet 3!", "Quiet"),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": AT_LEAST, "capital_frequency": 2},
        "NASA and ESA",
        "NASA and Esa",
    ),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
    ("startend:end_checker", {"end_phrase": "The end."}, 'so "the END."\n', "The end. Or not"),
    ("startend:quotation", {}, '"all of it"', '"half" of it'),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, "say hi: hi", "hi: say hi"),
    ("combination:two_responses", {}, "a ****** b", "a ****** a"),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_an_answer_follows_or_not(name: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    assert check_instructions([name], [arguments]) is None
    reference = json.dumps([[name, arguments]])
    assert followed(good, reference) == [True]
    assert followed(bad, reference) == [False]
    assert followed(" ", reference) == [False]


def test_every_instruction_is_tried() -> None:
    assert {case[0] for case in CASES} == {instruction.id for instruction in INSTRUCTIONS}


def test_an_item_counts_only_if_all_are_followed() -> None:
    reference = json.dumps([["punctuation:no_comma", {"more": None}], ["change_case:english_lowercase", {}]])
    assert all_followed("a b", reference) == 1.0
    assert all_followed("A b", reference) == 0.0
    assert followed("A b", reference) == [True, False]


@pytest.mark.parametrize(
    ("names", "arguments", "problem"),
    [
        ([], [], "lists of one length"),
        (["punctuation:no_comma"], [], "lists of one length"),
        (["punctuation:no_comma"], [3], "the kwargs of punctuation:no_comma are not an object"),
        (["keywords:existence"], [{"keywords": None}], "expected 'keywords' in its kwargs, found None"),
        (
            ["length_constraints:number_words"],
            [{"relation": "about", "num_words": 3}],
            "'relation' is 'about'; expected one of 'at least', 'less than'",
        ),
    ],
)
def test_wrong_instructions_are_told(names: list[str], arguments: list[Any], problem: str) -> None:
    assert problem in (check_instructions(names, arguments) or "")
