from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from lamina.data.render import Renderer
from lamina.serve.grammar import grammar_of


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_has_openais_shape_and_exact_counts(site: Any) -> None:
    site.says("the lazy dog")
    found = site.chat("a question").json()
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "the lazy dog", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert found["model"] == "main"
    (request,) = site.engine.seen
    counts = {"prompt_tokens": len(request.prompt), "completion_tokens": len(site.ids("the lazy dog"))}
    assert found["usage"] == counts | {"total_tokens": sum(counts.values())}


def test_the_pieces_of_a_stream_are_the_answer(site: Any) -> None:
    site.says("the lazy dog – 日本 jumps")
    whole = site.chat().json()
    stream = site.chat(stream=True, stream_options={"include_usage": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(stream.text)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "the lazy dog – 日本 jumps"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_found_across_tokens_and_never_shown(site: Any, stream: bool) -> None:
    site.says("the quick STOP fox")
    found = site.chat(stop=["k STO"], stream=stream)
    if stream:
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in events(found.text))
        finish = events(found.text)[-1]["choices"][0]["finish_reason"]
    else:
        text, finish = found.json()["choices"][0]["message"]["content"], found.json()["choices"][0]["finish_reason"]
    assert (text, finish) == ("the quic", "stop")
    assert site.engine.closed == 1


def test_length_is_told_from_stop(site: Any) -> None:
    site.says("the quick brown fox")
    assert site.chat(max_completion_tokens=2).json()["choices"][0]["finish_reason"] == "length"
    assert site.chat(max_tokens=2).json()["usage"]["completion_tokens"] == 2


def test_several_choices_differ_by_their_seeds(site: Any) -> None:
    site.engine.script = lambda request: site.ids(f"seed {request.sampling.seed}")
    found = site.chat(n=3, seed=40).json()
    assert [choice["message"]["content"] for choice in found["choices"]] == ["seed 40", "seed 41", "seed 42"]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    streamed = events(site.chat(n=3, seed=40, stream=True).text)
    texts = ["", "", ""]
    for chunk in streamed:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content") or ""
    assert texts == ["seed 40", "seed 41", "seed 42"]


def test_logprobs_name_tokens_by_text_and_bytes(site: Any) -> None:
    site.says("é")
    content = site.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert [byte for entry in content for byte in entry["bytes"]] == list("é".encode())
    assert content[0]["logprob"] == -0.5
    assert [len(entry["top_logprobs"]) for entry in content] == [2] * len(content)
    assert site.engine.seen[-1].sampling.top_logprobs == 2
    streamed = events(site.chat(logprobs=True, stream=True).text)
    told = [entry for chunk in streamed for entry in (chunk["choices"][0]["logprobs"] or {}).get("content", [])]
    assert len(told) == len(content)
    assert site.chat().json()["choices"][0]["logprobs"] is None


def test_what_binds_the_answer_reaches_the_engine(site: Any) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    site.chat(response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema}})
    site.chat(response_format={"type": "json_object"})
    site.chat(grammar='root ::= "yes" | "no"')
    bound = [(request.sampling.schema, request.sampling.grammar) for request in site.engine.seen]
    assert bound == [(schema, None), ({"type": "object"}, None), (None, 'root ::= "yes" | "no"')]


def test_numbers_reach_the_engine(site: Any) -> None:
    site.chat(temperature=0.7, top_p=0.9, seed=5, frequency_penalty=1, presence_penalty=-1, logit_bias={"7": -100})
    how = site.engine.seen[-1].sampling
    assert (how.temperature, how.top_p, how.seed) == (0.7, 0.9, 5)
    assert (how.frequency_penalty, how.presence_penalty, how.logit_bias) == (1, -1, ((7, -100),))
    site.chat()
    assert site.engine.seen[-1].sampling.temperature == 0
    site.chat(temperature=1e-40)
    assert site.engine.seen[-1].sampling.temperature == 0


LIGHT = {
    "type": "function",
    "function": {"name": "set_light", "parameters": {"type": "object", "properties": {"room": {"type": "string"}}}},
}


def test_a_call_is_found_in_the_answer(site: Any) -> None:
    site.says('{"name": "set_light", "arguments": {"room": "study"}}')
    (choice,) = site.chat(tools=[LIGHT]).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "set_light", "arguments": '{"room": "study"}'}
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert site.chat().json()["choices"][0]["message"]["content"].startswith('{"name"')


def test_a_stream_gives_a_call_whole_and_text_at_once(site: Any) -> None:
    site.says('{"name": "set_light", "arguments": {"room": "study"}}')
    first, last = events(site.chat(tools=[LIGHT], stream=True).text)
    (call,) = first["choices"][0]["delta"]["tool_calls"]
    assert (call["index"], call["function"]["name"]) == (0, "set_light")
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    site.says("a dog jumps over")
    chunks = events(site.chat(tools=[LIGHT], stream=True).text)
    assert len(chunks) > 2
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "a dog jumps over"


def test_json_that_is_no_call_is_text(site: Any) -> None:
    for text in ('{"name": "other", "arguments": {}}', '{"name": "set_light"', "[1, 2]", "{} and more"):
        site.says(text)
        (choice,) = site.chat(tools=[LIGHT]).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
        chunks = events(site.chat(tools=[LIGHT], stream=True).text)
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == text


def test_a_forced_call_is_bound_by_a_schema(site: Any) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    site.chat(tools=[LIGHT, other], tool_choice="required")
    schema = site.engine.seen[-1].sampling.schema
    assert [kind["properties"]["name"]["const"] for kind in schema["anyOf"]] == ["set_light", "other"]
    site.chat(tools=[LIGHT, other], tool_choice={"type": "function", "function": {"name": "other"}})
    (only,) = site.engine.seen[-1].sampling.schema["anyOf"]
    assert only["properties"]["name"] == {"const": "other"}
    site.chat(tools=[LIGHT], tool_choice="none")
    assert site.engine.seen[-1].sampling.schema is None


def test_a_forced_calls_schema_may_refer_to_its_own_parts(site: Any) -> None:
    room = {"type": "object", "properties": {"inside": {"anyOf": [{"$ref": "#/$defs/Room"}, {"type": "null"}]}}}
    parameters = {"$defs": {"Room": room}, "type": "object", "properties": {"room": {"$ref": "#/$defs/Room"}}}
    nested = {"type": "function", "function": {"name": "enter", "parameters": parameters}}
    site.chat(tools=[LIGHT, nested], tool_choice="required")
    sampling = site.engine.seen[-1].sampling
    Draft202012Validator.check_schema(sampling.schema)
    validator = Draft202012Validator(sampling.schema)
    assert validator.is_valid({"name": "enter", "arguments": {"room": {"inside": {"inside": None}}}})
    assert not validator.is_valid({"name": "enter", "arguments": {"room": {"inside": {"inside": 1}}}})
    assert grammar_of(sampling)


def test_tools_are_written_into_the_system_message(site: Any) -> None:
    site.chat(tools=[LIGHT])
    assert "system\nset_light(room)<|im_end|>" in site.gateway.renderer.tokenizer.decode(site.engine.seen[-1].prompt)
    earlier = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "light"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "set_light", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    body = {"model": "main", "messages": earlier, "tools": [LIGHT]}
    assert site.ask("POST", "/v1/chat/completions", json=body).status_code == 200
    text = site.gateway.renderer.tokenizer.decode(site.engine.seen[-1].prompt)
    assert "system\nBe brief.\n\nset_light(room)<|im_end|>" in text
    assert 'assistant\n{"name": "set_light", "arguments": {}}<|im_end|>' in text
    assert "tool\ndone<|im_end|>" in text


def test_a_template_that_knows_tools_renders_them(site: Any) -> None:
    template = (
        "{% if tools %}T:{{ tools[0].function.name }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    site.gateway.renderer = Renderer(site.gateway.renderer.tokenizer, template)
    site.chat("hi", tools=[LIGHT])
    site.chat("hi")
    texts = [site.gateway.renderer.tokenizer.decode(request.prompt) for request in site.engine.seen]
    assert texts == ["T:set_lighthi", "hi"]
