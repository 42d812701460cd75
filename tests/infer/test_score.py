"""Scoring: what is shared changes nothing, and texts longer than the context are scored once, whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lamina.infer.score import continuation, rolling_windows, score_rows, score_rows_greedily
from lamina.model.base import LoadedBase
from lamina.records import TokenRow


def rows_of_choices() -> list[TokenRow]:
    random = torch.Generator().manual_seed(3)
    draw = lambda size: tuple(torch.randint(5, 290, (size,), generator=random).tolist())  # noqa: E731
    shown = draw(24)
    rows = []
    for _ in range(3):
        asked = (*shown, *draw(10))
        alike = draw(12)
        ends = [(*alike, *draw(2)), (*alike, *draw(3)), draw(4), draw(1)]
        rows += [TokenRow((*asked, *end), (False,) * len(asked) + (True,) * len(end)) for end in ends]
    return [*rows, rows[0]]


def test_every_row_scores_what_it_scores_alone(sharp_base: LoadedBase) -> None:
    rows = rows_of_choices()
    together = score_rows(sharp_base, rows)
    for row, found in zip(rows, together, strict=True):
        assert found == pytest.approx(score_rows(sharp_base, [row])[0], abs=2e-4)
        logits = sharp_base.model(input_ids=torch.tensor([row.ids])).logits[0].float().log_softmax(-1)
        wanted = [logits[place - 1, row.ids[place]].item() for place, flag in enumerate(row.trained) if flag]
        assert found == pytest.approx(wanted, abs=2e-3)


def test_greedy_is_what_generation_writes(llama_base: LoadedBase) -> None:
    rows = rows_of_choices()
    found = score_rows_greedily(llama_base, rows)
    assert [each.log_probs for each in found] == score_rows(llama_base, rows)
    asked = rows[0].ids[:34]
    ids = torch.tensor([asked])
    for _ in range(3):
        ids = torch.cat([ids, llama_base.model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    written = tuple(ids[0].tolist())
    row = TokenRow(written, (False,) * 34 + (True,) * 3)
    other = TokenRow((*written[:-1], (written[-1] + 1) % 290), row.trained)
    assert [each.is_greedy for each in score_rows_greedily(llama_base, [row, other])] == [True, False]


def test_a_continuation_is_cut_where_its_context_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    row = continuation(tokenizer, "the quick \n", "brown fox", start=(0,))
    assert row.ids[0] == 0
    text = tokenizer.decode([token for token, flag in zip(row.ids, row.trained, strict=True) if flag])
    assert text == " \nbrown fox"


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 9))
def test_windows_score_every_token_once(length: int, longest: int) -> None:
    ids = list(range(1, length + 1))
    windows = list(rolling_windows(ids, 0, longest))
    scored = [token for row in windows for token, flag in zip(row.ids, row.trained, strict=True) if flag]
    assert scored == ids
    assert all(len(row.ids) <= longest + 1 and not row.trained[0] for row in windows)
    harness = pytest.importorskip("lm_eval.utils")
    theirs = list(harness.get_rolling_token_windows(ids, 0, longest, 1))
    assert [(list(row.ids[:-1]), row.trained_count) for row in windows] == [
        (list(inputs), len(wanted)) for inputs, wanted in theirs
    ]
