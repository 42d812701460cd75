from __future__ import annotations

import base64
import struct
from typing import Any

import pytest


def complete(site: Any, prompt: Any, **more: Any) -> Any:
    return site.ask("POST", "/v1/completions", json={"model": "main", "prompt": prompt} | more)


def test_text_goes_on_without_a_template(site: Any) -> None:
    site.says(" dog")
    found = complete(site, "the lazy", max_tokens=50).json()
    assert found["object"] == "text_completion"
    assert found["choices"][0]["text"] == " dog"
    assert list(site.engine.seen[-1].prompt) == site.ids("the lazy")
    assert found["usage"]["prompt_tokens"] == len(site.ids("the lazy"))
    site.engine.script = lambda request: [70] * 40
    assert complete(site, "the lazy").json()["usage"]["completion_tokens"] == 16


def test_several_prompts_in_order(site: Any) -> None:
    site.engine.script = lambda request: request.prompt
    found = complete(site, ["one", "two"], n=2).json()
    assert [choice["text"] for choice in found["choices"]] == ["one", "one", "two", "two"]
    assert complete(site, [site.ids("a"), site.ids("b")]).json()["choices"][1]["text"] == "b"
    assert complete(site, site.ids("fox")).json()["choices"][0]["text"] == "fox"


@pytest.mark.parametrize("prompt", [[], [[]], [1.5], "", [299], [-1], None, ["a", 1]])
def test_what_is_no_prompt(site: Any, prompt: Any) -> None:
    response = complete(site, prompt)
    assert response.status_code == 400
    assert "prompt" in response.json()["error"]["message"]


def test_logprobs_have_offsets(site: Any) -> None:
    site.says("a fox")
    logprobs = complete(site, "x", logprobs=1).json()["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == "a fox"
    assert logprobs["text_offset"] == [sum(map(len, logprobs["tokens"][:i])) for i in range(len(logprobs["tokens"]))]
    assert all(logprob == -0.5 for logprob in logprobs["token_logprobs"])
    text = complete(site, "x", logprobs=1, stream=True).text
    assert text.count('"text_offset"') >= 2


def test_embeddings_in_both_spellings(site: Any) -> None:
    site.engine.vector = [0.6, -0.8]

    def embed(**more: Any) -> Any:
        return site.ask("POST", "/v1/embeddings", json={"model": "main", "input": ["a", "fox"]} | more).json()

    found = embed()
    assert [item["embedding"] for item in found["data"]] == [[0.6, -0.8]] * 2
    assert found["usage"]["prompt_tokens"] == len(site.ids("a")) + len(site.ids("fox"))
    packed = embed(encoding_format="base64")["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == pytest.approx((0.6, -0.8))
