"""The algebra's laws on the bundled model, in float32, on two prompts; and squash, fold and diff as typed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import Layers, draw_layers, error, folded_logits, logits, summed_logits
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lamina.demo.files import data_path
from lamina.lora.adapter import combine, rescale
from lamina.lora.squash import compress

pytestmark = pytest.mark.real

PROMPTS = ("The capital of France is", "Turn on the lamp in the")


@pytest.fixture(scope="module")
def model(bundled: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(bundled, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def ids(bundled: Path) -> Tensor:
    tokens = [AutoTokenizer.from_pretrained(bundled).encode(prompt) for prompt in PROMPTS]
    shortest = min(map(len, tokens))
    return torch.tensor([row[:shortest] for row in tokens])


@pytest.fixture(scope="module")
def four(model: PreTrainedModel) -> Layers:
    return draw_layers(model, 4, seed=4)


@pytest.mark.parametrize("count", [1, 6, 32])
def test_concatenation_is_the_sum_of_the_layers(model: PreTrainedModel, ids: Tensor, count: int) -> None:
    layers = draw_layers(model, count, seed=count, size=0.02)
    found = logits(model, ids, layers.adapters, layers.scales)
    assert error(found, summed_logits(model, ids, layers)) < 1e-5


def test_sums_commute_and_scales_multiply(model: PreTrainedModel, ids: Tensor, four: Layers) -> None:
    wanted = logits(model, ids, four.adapters, four.scales)
    order = random.Random(0).sample(range(4), 4)
    turned = logits(model, ids, [four.adapters[i] for i in order], [four.scales[i] for i in order])
    assert error(turned, wanted) < 1e-5
    halved = [rescale(adapter, 0.5) for adapter in four.adapters]
    assert error(logits(model, ids, halved, [2 * scale for scale in four.scales]), wanted) < 1e-5


def test_squashed_at_full_rank_and_folded_they_are_the_same(model: PreTrainedModel, ids: Tensor, four: Layers) -> None:
    wanted = logits(model, ids, four.adapters, four.scales)
    small, _ = compress(combine(four.adapters, four.scales), energy=1.0)
    assert error(logits(model, ids, [small], [1.0]), wanted) < 1e-5
    assert error(folded_logits(model, ids, four.adapters, four.scales), wanted) < 1e-5
    without = Layers(four.adapters[1:], four.scales[1:])
    dropped = logits(model, ids, without.adapters, without.scales)
    assert error(folded_logits(model, ids, without.adapters, without.scales), dropped) < 1e-5
    assert error(dropped, wanted) > 1e-3


def test_squash_fold_and_diff_as_typed(
    bundled: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("init").code == 0
    for name in ("tools", "facts"):
        rows = data_path(f"{name}_train.jsonl").read_text("utf-8").splitlines(keepends=True)[:24]
        Path(f"{name}.jsonl").write_text("".join(rows))
        assert cli("train", f"{name}.jsonl", "--as", name, "--rank", "4", "--lr", "1e-3", "--epochs", "1").code == 0
    angles = cli("diff", "tools", "facts", "--json").json
    assert len(angles["maps"]) == 210
    assert 0 < angles["maps"][0]["relative_a"] < 0.2

    smaller = cli("squash", "--rank", "4", "--as", "both", "--json")
    assert smaller.code == 0, smaller.err
    assert smaller.json["rank"] == [8, 4]
    assert 0.0 < smaller.json["relative_error"] < 0.8
    assert cli("diff", "--json").json["added"][0]["name"] == "both"

    folded = cli("fold", "main~1", "--out", "folded", "--json").json
    assert folded["dtype"] == "float32"
    assert folded["logit_drift"]["relative_error"] < 1e-5
    assert folded["logit_drift"]["agreement"] == 1.0
    assert json.loads(Path("folded/lamina.json").read_text())["folded"] == "base+tools+facts"
