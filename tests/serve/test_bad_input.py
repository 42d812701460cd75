"""Whatever is sent, the answer is an error in OpenAI's shape that says what to mend, and the server goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CHAT = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "hello"}]


def told(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "/" not in error["message"].replace("application/json", ""), "a path"
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"].startswith("req_")
    return error


def test_an_unknown_model_gets_the_list(site: Any, grow: Callable[..., Any]) -> None:
    grow("tools")
    for path, body in (
        (CHAT, {"messages": ASKED}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/embeddings", {"input": "a"}),
    ):
        error = told(site.ask("POST", path, json={"model": "mian", **body}), 404)
        assert error["code"] == "model_not_found"
        assert "did you mean 'main'?" in error["message"]
        assert "models: base, main" in error["message"]
    assert told(site.ask("GET", "/v1/models/nix"), 404)["param"] == "model"
    assert "no layer 'nix'" in told(site.chat(model="base+nix"), 404)["message"]


def test_a_layer_off_its_parent_is_refused_unless_forced(site: Any, grow: Callable[..., Any]) -> None:
    grow("first")
    grow("second")
    error = told(site.chat(model="base+second"), 400)
    assert error["code"] == "stack_refused"
    assert "'second' was trained on stack" in error["message"]
    assert site.chat(model="base+second", force=True).status_code == 200
    assert [scale for _, scale in site.engine.seen[-1].layers] == [1.0]


def test_a_prompt_over_the_context_is_refused_with_counts(site: Any) -> None:
    error = told(site.chat("a" * 500), 400)
    assert error["code"] == "context_length_exceeded"
    assert "context is 200 tokens; the prompt has 5" in error["message"]
    assert told(site.ask("POST", "/v1/completions", json={"model": "main", "prompt": [5] * 200}), 400)
    site.engine.script = lambda request: [5] * 300
    assert site.chat().json()["usage"]["total_tokens"] == 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not valid JSON"),
        (b"", "the request body"),
        (b"[]", "the request body"),
        (b"\xff\xfe", "request body"),
        (b"[" * 100_000, "request body"),
        (b'{"model": "main"}', "'messages'"),
        (b'{"model": "main", "messages": []}', "'messages'"),
        (b'{"model": 1, "messages": [{"role": "user", "content": "a"}]}', "'model'"),
        (b'{"model": "main", "messages": [{"role": "wizard", "content": "a"}]}', "'messages.0.role'"),
        (b'{"model": "main", "messages": [{"role": "user"}]}', "needs 'content'"),
        (b'{"model": "main", "messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
        (b'{"model": "main", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "content"),
    ],
)
def test_a_broken_body_is_refused(site: Any, content: bytes, said: str) -> None:
    response = site.ask("POST", CHAT, content=content, headers={"Content-Type": "application/json"})
    assert said in told(response, 400)["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", 1025 * ASKED),
        ("temperature", "hot"),
        ("temperature", 3),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("n", 0),
        ("n", 17),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("stop", ""),
        ("stop", 7),
        ("seed", "x"),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"299": 1}),
        ("top_logprobs", 3),
        ("stream_options", {"include_usage": True}),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_schema"}),
        ("functions", []),
        ("audio", {}),
        ("modalities", ["audio"]),
    ],
)
def test_a_wrong_field_is_named(site: Any, field: str, value: Any) -> None:
    import json

    body = json.dumps({"model": "main", "messages": ASKED, field: value})
    response = site.ask("POST", CHAT, content=body, headers={"Content-Type": "application/json"})
    assert f"'{field}" in told(response, 400)["message"]


def test_fields_that_openais_clients_send_are_taken(site: Any) -> None:
    sent = {"user": "u", "store": False, "metadata": {"a": "b"}, "parallel_tool_calls": True, "service_tier": "auto"}
    assert site.chat(**sent, modalities=["text"], response_format={"type": "text"}).status_code == 200


def test_paths_and_methods_that_do_not_exist(site: Any) -> None:
    assert told(site.ask("GET", "/v1/nothing"), 404)["type"] == "invalid_request_error"
    response = site.ask("GET", CHAT)
    assert told(response, 405)
    assert response.headers["allow"] == "POST"
    assert told(site.ask("POST", CHAT, content=b"{}", headers={"Content-Type": "text/plain"}), 415)


def test_a_body_of_ten_megabytes_is_refused(site: Any) -> None:
    response = site.ask("POST", CHAT, content=b"x" * 10_000_000, headers={"Content-Type": "application/json"})
    assert "larger than the 4,194,304 bytes" in told(response, 413)["message"]


def test_embeddings_without_an_engine_that_has_them(site: Any) -> None:
    assert (
        told(site.ask("POST", "/v1/embeddings", json={"model": "main", "input": "a"}), 501)["code"] == "not_implemented"
    )


def test_a_bug_shows_no_more_than_a_request_id(site: Any) -> None:
    site.engine.script = lambda request: [KeyError("secret")]
    for stream in (False, True):
        assert "secret" not in told(site.chat(stream=stream), 500)["message"]
