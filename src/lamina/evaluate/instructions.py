"""Instructions whose following a program can check: one pure function for each, under IFEval's names.

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", arXiv:2311.07911, section 2 and
table 1. Written from the paper's descriptions; its ``language:response_language`` is left out, because it needs a
language detector whose verdicts change with its version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["INSTRUCTIONS", "all_followed", "check_instructions", "followed"]


class Instruction(NamedTuple):
    """A checkable instruction: its id, the arguments it needs (name: type) and whether an answer follows it."""

    id: str
    arguments: Mapping[str, type | tuple[type, ...]]
    follows: Callable[..., bool]


_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_RELATIONS = ("at least", "less than")


def _compare(count: int, relation: str, wanted: int) -> bool:
    return count >= wanted if relation == "at least" else count < wanted


def _count_words(text: str, phrase: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))


def _words(answer: str, relation: str, num_words: int) -> bool:
    return _compare(len(_WORD.findall(answer)), relation, num_words)


def _sentences(answer: str, relation: str, num_sentences: int) -> bool:
    count = sum(bool(part.strip()) for part in _SENTENCE_END.split(answer))
    return _compare(count, relation, num_sentences)


def _paragraphs(answer: str, num_paragraphs: int) -> bool:
    # IFEval divides paragraphs by a line of three stars.
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", answer)]
    return all(parts) and len(parts) == num_paragraphs


def _keywords(answer: str, keywords: Sequence[str]) -> bool:
    return all(_count_words(answer, word) for word in keywords)


def _frequency(answer: str, keyword: str, relation: str, frequency: int) -> bool:
    return _compare(_count_words(answer, keyword), relation, frequency)


def _forbidden(answer: str, forbidden_words: Sequence[str]) -> bool:
    return not any(_count_words(answer, word) for word in forbidden_words)


def _letters(answer: str, letter: str, let_relation: str, let_frequency: int) -> bool:
    return _compare(answer.lower().count(letter.lower()), let_relation, let_frequency)


def _json(answer: str) -> bool:
    text = answer.strip()
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL | re.IGNORECASE)
    try:
        json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def _bullets(answer: str, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*(?!\*)|-(?!-))\s+\S", answer, re.MULTILINE)) == num_bullets


def _highlights(answer: str, num_highlights: int) -> bool:
    return len(re.findall(r"\*\*[^\n*]*\S[^\n*]*\*\*|(?<!\*)\*[^\n*\s][^\n*]*\*(?!\*)", answer)) >= num_highlights


def _sections(answer: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"^\s*{re.escape(section_spliter)}\s?\d+", answer, re.MULTILINE)) >= num_sections


def _title(answer: str) -> bool:
    return re.search(r"<<[^\n<>]*\S[^\n<>]*>>", answer) is not None


def _placeholders(answer: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]+\]", answer)) >= num_placeholders


def _postscript(answer: str, postscript_marker: str) -> bool:
    letters = [re.escape(letter) for letter in postscript_marker if letter not in ". "]
    return re.search(r"^\s*" + r"\.?\s?".join(letters), answer, re.MULTILINE | re.IGNORECASE) is not None


def _capitals(answer: str) -> bool:
    return answer.isupper()


def _lowercase(answer: str) -> bool:
    return answer.islower()


def _capital_words(answer: str, capital_relation: str, capital_frequency: int) -> bool:
    return _compare(sum(word.isupper() for word in _WORD.findall(answer)), capital_relation, capital_frequency)


def _no_comma(answer: str) -> bool:
    return "," not in answer


def _ends_with(answer: str, end_phrase: str) -> bool:
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(answer: str) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _repeats(answer: str, prompt_to_repeat: str) -> bool:
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _two_responses(answer: str) -> bool:
    parts = [part.strip() for part in answer.split("******")]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


_MANY = (list, tuple)
INSTRUCTIONS: tuple[Instruction, ...] = (
    Instruction("length_constraints:number_words", {"relation": str, "num_words": int}, _words),
    Instruction("length_constraints:number_sentences", {"relation": str, "num_sentences": int}, _sentences),
    Instruction("length_constraints:number_paragraphs", {"num_paragraphs": int}, _paragraphs),
    Instruction("keywords:existence", {"keywords": _MANY}, _keywords),
    Instruction("keywords:frequency", {"keyword": str, "relation": str, "frequency": int}, _frequency),
    Instruction("keywords:forbidden_words", {"forbidden_words": _MANY}, _forbidden),
    Instruction("keywords:letter_frequency", {"letter": str, "let_relation": str, "let_frequency": int}, _letters),
    Instruction("detectable_format:json_format", {}, _json),
    Instruction("detectable_format:number_bullet_lists", {"num_bullets": int}, _bullets),
    Instruction("detectable_format:number_highlighted_sections", {"num_highlights": int}, _highlights),
    Instruction("detectable_format:multiple_sections", {"section_spliter": str, "num_sections": int}, _sections),
    Instruction("detectable_format:title", {}, _title),
    Instruction("detectable_content:number_placeholders", {"num_placeholders": int}, _placeholders),
    Instruction("detectable_content:postscript", {"postscript_marker": str}, _postscript),
    Instruction("change_case:english_capital", {}, _capitals),
    Instruction("change_case:english_lowercase", {}, _lowercase),
    Instruction(
        "change_case:capital_word_frequency", {"capital_relation": str, "capital_frequency": int}, _capital_words
    ),
    Instruction("punctuation:no_comma", {}, _no_comma),
    Instruction("startend:end_checker", {"end_phrase": str}, _ends_with),
    Instruction("startend:quotation", {}, _quoted),
    Instruction("combination:repeat_prompt", {"prompt_to_repeat": str}, _repeats),
    Instruction("combination:two_responses", {}, _two_responses),
)
_BY_ID = {instruction.id: instruction for instruction in INSTRUCTIONS}


def check_instructions(ids: Any, arguments: Any) -> str | None:
    """Return what is wrong with an item's instructions, None if nothing is.

    Args:
        ids: IFEval's ``instruction_id_list``.
        arguments: its ``kwargs``: for each instruction an object; arguments that are null count as not given.
    """
    if not isinstance(ids, list) or not ids or not isinstance(arguments, list) or len(arguments) != len(ids):
        return "expected instruction_id_list and kwargs, lists of one length"
    for name, given in zip(ids, arguments, strict=True):
        if name not in _BY_ID:
            return f"unknown instruction {name!r}; known: {', '.join(_BY_ID)}"
        if not isinstance(given, dict):
            return f"the kwargs of {name} are not an object"
        for key, kind in _BY_ID[name].arguments.items():
            value = given.get(key)
            if not isinstance(value, kind) or isinstance(value, bool):
                return f"{name}: expected '{key}' in its kwargs, found {value!r}"
            if key.endswith("relation") and value not in _RELATIONS:
                return f"{name}: '{key}' is {value!r}; expected one of {', '.join(map(repr, _RELATIONS))}"
    return None


def followed(answer: str, reference: str) -> list[bool]:
    """Return for each instruction of ``reference`` (JSON: a list of [id, arguments]) whether ``answer`` follows it.

    An empty answer follows nothing, as in IFEval.
    """
    return [
        bool(answer.strip()) and _BY_ID[name].follows(answer, **{key: given[key] for key in _BY_ID[name].arguments})
        for name, given in json.loads(reference)
    ]


def all_followed(answer: str, reference: str) -> float:
    """Return 1 if every instruction is followed, else 0: IFEval's prompt-level strict accuracy of one item."""
    return float(all(followed(answer, reference)))
