"""Batched, drafted and streamed decoding all give what one-by-one greedy decoding gives."""

from dataclasses import replace

import torch

from lamina.infer.generate import greedy_answers, stream_tokens
from lamina.infer.score import score_rows
from lamina.model.base import LoadedBase
from lamina.records import TokenRow

PROMPTS = [[5, 9, 33], [121, 7, 88, 64, 3, 17, 50], [44, 2, 8, 12], [9]]


def reference(base: LoadedBase, prompt: list[int], length: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            token = int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token in base.stop_ids:
                break
            ids.append(token)
    return ids[len(prompt) :]


def test_batched_greedy_equals_single(any_base: LoadedBase) -> None:
    expected = [reference(any_base, prompt, 6) for prompt in PROMPTS]
    assert greedy_answers(any_base, PROMPTS, max_tokens=6) == expected


def test_guesses_never_change_the_answer(any_base: LoadedBase) -> None:
    expected = [reference(any_base, prompt, 6) for prompt in PROMPTS]
    right_then_wrong = [[*answer[:3], 200, 201] for answer in expected]
    assert greedy_answers(any_base, PROMPTS, max_tokens=6, guesses=expected) == expected
    assert greedy_answers(any_base, PROMPTS, max_tokens=6, guesses=right_then_wrong) == expected
    assert greedy_answers(any_base, PROMPTS, max_tokens=6, guesses=[[]] * 4) == expected


def test_an_end_inside_a_guess_ends_the_answer(any_base: LoadedBase) -> None:
    whole = [reference(any_base, prompt, 6) for prompt in PROMPTS]
    ending = replace(any_base, stop_ids=frozenset(answer[2] for answer in whole))
    expected = [reference(ending, prompt, 6) for prompt in PROMPTS]
    assert all(len(answer) <= 2 for answer in expected)
    assert greedy_answers(ending, PROMPTS, max_tokens=6, guesses=whole) == expected


def test_guesses_are_weighed_as_references_are(llama_base: LoadedBase) -> None:
    guesses = [[4, 8], [], [7, 7, 7], [200]]
    weights: dict[int, list[float]] = {}
    greedy_answers(llama_base, PROMPTS, max_tokens=3, guesses=guesses, weigh=weights.__setitem__)
    assert sorted(weights) == [0, 2, 3]
    for place, weight in weights.items():
        ids = (*PROMPTS[place], *guesses[place])
        asked = len(PROMPTS[place])
        row = TokenRow(ids, tuple(position >= asked for position in range(len(ids))))
        torch.testing.assert_close(
            torch.tensor(weight), torch.tensor(score_rows(llama_base, [row])[0]), atol=1e-4, rtol=0
        )


def test_streaming_equals_batched(llama_base: LoadedBase) -> None:
    for prompt in PROMPTS:
        assert list(stream_tokens(llama_base, prompt, max_tokens=6)) == reference(llama_base, prompt, 6)


def test_sampling_is_repeatable(llama_base: LoadedBase) -> None:
    runs = [list(stream_tokens(llama_base, [5, 9], max_tokens=8, temperature=1.0, seed=4)) for _ in range(2)]
    assert runs[0] == runs[1]


def test_log_probs_equal_the_models(any_base: LoadedBase) -> None:
    rows = [TokenRow(tuple(prompt), (False,) + (True,) * (len(prompt) - 1)) for prompt in PROMPTS[:3]]
    for row, found in zip(rows, score_rows(any_base, rows), strict=True):
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            log_probs = torch.log_softmax(any_base.model(input_ids=ids).logits[0, :-1].float(), -1)
        expected = log_probs.gather(1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=1e-4)
