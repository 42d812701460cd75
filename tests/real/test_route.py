"""The bundled base's own embeddings tell the demo's skills apart, and a stranger from both."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from lamina.config import BaseSettings
from lamina.data.read import read_rows
from lamina.data.render import Renderer
from lamina.demo.files import data_path
from lamina.infer.embed import embed_prompts
from lamina.lora.adapter import Adapter
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.ops.llama import make_llama_engine
from lamina.records import Conversation, Message, Quiet
from lamina.route.classifier import Points, fit

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def base(bundled: Path) -> LoadedBase:
    return load_base(resolve_base(BaseSettings(), Quiet()))


def embed(base: LoadedBase, prompts: list[tuple[Message, ...]]) -> Points:
    renderer = Renderer(base.tokenizer, base.template)
    return embed_prompts(base, [renderer.prompt(prompt) for prompt in prompts])


def test_llama_cpp_embeds_closely_enough_to_route_as_torch_does(base: LoadedBase) -> None:
    renderer = Renderer(base.tokenizer, base.template)
    asked = [
        row.messages[:-1]
        for name in ("tools", "facts")
        for row in read_rows(data_path(f"{name}_train.jsonl")).rows[:20]
    ]
    points = embed(base, asked)
    train, owners = [place for place in range(40) if place % 20 < 15], [place // 20 for place in range(40)]
    tested = [place for place in range(40) if place % 20 >= 15]
    classifier = fit(points[train], [owners[place] for place in train], 2)

    async def served() -> Points:
        engine = make_llama_engine(resolve_base(BaseSettings(), Quiet()), Quiet(), adapter=_none, known=lambda: ())
        await engine.start()
        try:
            found = [await engine.embed(tuple(renderer.prompt(asked[place])), ()) for place in tested]
        finally:
            await engine.stop()
        return np.array(found)

    found = asyncio.run(served())
    assert (found * points[tested]).sum(1).min() > 0.999  # torch may run in bfloat16 here
    theirs, ours = classifier.squared_distances(found), classifier.squared_distances(points[tested])
    assert np.abs(theirs / ours - 1).max() < 0.05


def _none(digest: str) -> Adapter:
    raise AssertionError(digest)


def test_skills_and_strangers(base: LoadedBase) -> None:
    def asked(row: Conversation) -> tuple[Message, ...]:
        return row.messages[:-1]

    names = ("tools", "facts")
    train = [[asked(row) for row in read_rows(data_path(f"{name}_train.jsonl")).rows[:24]] for name in names]
    test = [[asked(row) for row in read_rows(data_path(f"{name}_test.jsonl")).rows[:12]] for name in names]
    classifier = fit(embed(base, [*train[0], *train[1]]), [0] * 24 + [1] * 24, 2)
    found = embed(base, [*test[0], *test[1]])
    assert classifier.probabilities(found).argmax(1).tolist() == [0] * 12 + [1] * 12
    own = classifier.squared_distances(found).min(1)
    lines = data_path("general.jsonl").read_text("utf-8").splitlines()[:12]
    strangers = embed(base, [(Message("user", json.loads(line)["query"]),) for line in lines])
    assert np.median(classifier.squared_distances(strangers).min(1)) > np.quantile(own, 0.95)
