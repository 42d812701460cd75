from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.serve.gateway import Gateway
from lamina.serve.limits import Limits
from lamina.serve.text import Detokeniser, StopFinder

TEXTS = st.text(st.sampled_from("ab é日\U0001f600\n"), max_size=30)


def as_bytes(ids: Any) -> str:
    """One token per byte, as the worst tokenizer has it."""
    return bytes(ids).decode("utf-8", "replace")


def with_spaces(words: list[str]) -> Callable[[Any], str]:
    """Words with a space in front of each but the text's first, as SentencePiece has it."""
    return lambda ids: " ".join(words[i] for i in ids)


@given(TEXTS)
def test_pieces_are_whole_characters_and_join_to_the_text(text: str) -> None:
    detokeniser = Detokeniser(as_bytes)
    pieces = [detokeniser.push(byte) for byte in text.encode()]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert detokeniser.flush() == ""


@given(st.lists(st.integers(0, 2), max_size=20))
def test_spaces_between_words_survive(ids: list[int]) -> None:
    decode = with_spaces(["one", "two", "three"])
    detokeniser = Detokeniser(decode)
    assert "".join(map(detokeniser.push, ids)) + detokeniser.flush() == decode(ids)


@given(st.lists(st.integers(0, 255), max_size=20))
def test_broken_text_is_given_out_at_the_end(ids: list[int]) -> None:
    detokeniser = Detokeniser(as_bytes)
    said = "".join(map(detokeniser.push, ids)) + detokeniser.flush()
    assert said == as_bytes(ids)


@given(st.lists(st.text("ab", max_size=5), max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    finder = StopFinder(stops)
    said = ""
    for piece in pieces:
        said += finder.push(piece)
        assert all(stop not in said for stop in stops)
        if finder.found:
            break
    else:
        said += finder.flush()
    whole = "".join(pieces)
    assert finder.found == any(stop in whole for stop in stops)
    assert whole.startswith(said)
    if not finder.found:
        assert said == whole
    else:
        assert any(whole[len(said) :].startswith(stop) for stop in stops)


@pytest.mark.parametrize("pieces", [["one STO", "P two"], ["one STOP two"], list("one STOP two")])
def test_nothing_of_a_stop_string_is_shown(pieces: list[str]) -> None:
    finder = StopFinder(["STOP"])
    assert "".join(map(finder.push, pieces)).startswith("one ")
    assert finder.found


def test_a_gateways_text_is_the_tokenizers(site: Any) -> None:
    tokenizer, draw = site.gateway.renderer.tokenizer, random.Random(0)
    for tidy in (False, True):  # which is a thing of transformers, not of the tokenizers library
        tokenizer.clean_up_tokenization_spaces = tidy
        gateway = Gateway(site.engine, site.gateway.stacks, site.gateway.renderer, Limits(), routing=lambda stack: None)
        for _ in range(50):
            ids = [draw.randrange(len(tokenizer)) for _ in range(8)]
            assert gateway.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)
