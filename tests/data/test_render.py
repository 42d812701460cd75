"""Laws 1 to 3: the mask by prefix rendering, one BOS, nothing cut in silence."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lamina.data.render import Renderer
from lamina.errors import DataError, StackError
from lamina.model.template import PLAIN_TEMPLATE
from lamina.records import Conversation, Message

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_LIKE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
REWRITING = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}{{ '<think>' }}{% endif %}"
    "{{ m['content'] }}<|im_end|>{% endfor %}{% if add_generation_prompt %}{{ '@' }}{% endif %}"
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20).filter(str.strip)
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


def talk(*pairs: tuple[str, str], system: str = "") -> Conversation:
    turns = [Message("system", system)] if system else []
    for asked, answer in pairs:
        turns += [Message("user", asked), Message("assistant", answer)]
    return Conversation(tuple(turns), file="a.jsonl", row=3)


def trained_text(renderer: Renderer, row: Conversation) -> list[str]:
    made = renderer.row(row, max_length=10_000)
    parts, ids = [], []
    for token, flag in zip([*made.ids, 0], [*made.trained, False], strict=True):
        if flag:
            ids.append(token)
        elif ids:
            parts.append(renderer.tokenizer.decode(ids))
            ids = []
    return parts


@pytest.mark.parametrize(
    ("template", "end"), [(CHATML, "<|im_end|>"), (LLAMA_LIKE, "<|im_end|>"), (PLAIN_TEMPLATE, "<|im_end|>")]
)
def test_law_1_exactly_the_answers_and_their_ends_are_trained(
    tokenizer: PreTrainedTokenizerFast, template: str, end: str
) -> None:
    renderer = Renderer(tokenizer, template)
    row = talk(("the user said fox", "quick fox"), ("and the dog?", "lazy dog"), system="be brief")
    assert [part.strip() for part in trained_text(renderer, row)] == [f"quick fox{end}", f"lazy dog{end}"]


def test_law_1_holds_when_the_answer_stands_in_the_prompt_too(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer, CHATML)
    row = talk(("<|im_start|>assistant\nfox<|im_end|>", "fox"), ("fox", "fox"))
    assert trained_text(renderer, row) == ["fox<|im_end|>", "fox<|im_end|>"]


def test_law_1_rows_with_nothing_to_train_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=re.escape("a.jsonl, row 3: no token is trained")):
        Renderer(tokenizer, CHATML).row(Conversation((Message("user", "x"),), file="a.jsonl", row=3), max_length=99)


@settings(max_examples=80, deadline=None)
@given(turns=TURNS)
def test_law_2_the_prompt_is_the_front_of_the_row(
    tokenizer: PreTrainedTokenizerFast, turns: list[tuple[str, str]]
) -> None:
    renderer = Renderer(tokenizer, CHATML)
    row = talk(*turns)
    made = renderer.row(row, max_length=10_000)
    prompt = renderer.prompt(row.messages[:-1])
    assert list(made.ids[: len(prompt)]) == prompt
    assert all(made.trained[len(prompt) : -1])
    assert not made.trained[len(prompt) - 1]


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE, PLAIN_TEMPLATE])
def test_law_2_at_most_one_bos(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    tokenizer_of_its_own = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="the", eos_token="<|im_end|>"
    )
    made = Renderer(tokenizer_of_its_own, template).row(talk(("a", "b"), ("c", "d")), max_length=999)
    bos = tokenizer_of_its_own.bos_token_id
    assert list(made.ids).count(bos) == (1 if "bos_token" in template else 0)


def test_law_3_what_is_cut_is_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer, CHATML)
    whole = renderer.row(talk(("a", "b" * 50)), max_length=10_000)
    cut = renderer.row(talk(("a", "b" * 50)), max_length=len(whole.ids) - 7)
    assert whole.lost == 0
    assert cut.lost == whole.trained_count - cut.trained_count > 0
    assert cut.ids == whole.ids[:-7]


def test_law_3_an_answer_beyond_the_context_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=re.escape("a.jsonl, row 3: the answer lies beyond the context of 40 tokens")):
        Renderer(tokenizer, CHATML).row(talk(("x" * 200, "b")), max_length=40)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="rewrites earlier turns"):
        Renderer(tokenizer, REWRITING).row(talk(("a", "b"), ("c", "d")), max_length=999)


def test_templates_cannot_reach_python(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer, "{{ messages.__class__.__mro__ }}")
    with pytest.raises(StackError, match="chat template refuses"):
        renderer.prompt([Message("user", "x")])
    with pytest.raises(StackError, match="not valid Jinja"):
        Renderer(tokenizer, "{% for %}")


def test_plain_text_is_trained_whole_and_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    made = Renderer(tokenizer, CHATML).row(Conversation(text="the quick fox"), max_length=99)
    assert not made.trained[0]
    assert all(made.trained[1:])
    assert made.ids[-1] == tokenizer.eos_token_id
