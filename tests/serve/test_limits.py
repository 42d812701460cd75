"""Turns, queues, clients that leave, engines that fall over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.serve.engine import EngineError
from lamina.serve.errors import ApiError
from lamina.serve.limits import FairQueue

CHAT = "/v1/chat/completions"


def body(**more: Any) -> dict[str, Any]:
    return {"model": "main", "messages": [{"role": "user", "content": "hello"}]} | more


def test_stacks_take_turns() -> None:
    queue = FairQueue(1, 10)
    a, b = (("a", 1.0),), (("b", 1.0),)
    (first,) = queue.draw(a, 1)
    crowd = queue.draw(a, 3)
    (other,) = queue.draw(b, 1)
    served = []
    ticket = first
    while ticket is not None:
        served.append(ticket)
        queue.give_back(ticket)
        ticket = next((t for t in (*crowd, other) if t.turn.is_set() and not t.ended), None)
    assert [served.index(t) for t in (first, crowd[0], other, crowd[1], crowd[2])] == [0, 1, 2, 3, 4]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.booleans()), max_size=30))
def test_no_place_is_ever_lost(requests: list[tuple[str, int, bool]]) -> None:
    queue, held = FairQueue(2, 4), []
    for name, count, ends in requests:
        try:
            held += queue.draw(((name, 1.0),), count)
        except ApiError:
            assert count > 4 - queue.waiting
        if ends and held:
            queue.give_back(held.pop(len(held) // 2))
        assert sum(t.turn.is_set() for t in held) == min(2, len(held))
        assert queue.waiting == max(0, len(held) - 2) <= 4
    for ticket in held:
        queue.give_back(ticket)
        queue.give_back(ticket)
    assert queue.waiting == 0
    assert all(t.turn.is_set() for t in queue.draw((), 2))


def test_a_full_queue_turns_away_and_says_when_to_come_back(make_site: Callable[..., Any]) -> None:
    site = make_site(parallel=1, queue=1)

    async def crowd() -> list[Any]:
        open_ = asyncio.Event()
        site.engine.script = lambda request: [open_, *site.ids("done")]
        async with site.client() as client:
            asked = [asyncio.create_task(client.post(CHAT, json=body())) for _ in range(2)]
            while site.gateway.queue.waiting < 1:
                await asyncio.sleep(0)
            refused = await client.post(CHAT, json=body())
            open_.set()
            return [refused, *await asyncio.gather(*asked)]

    refused, *served = asyncio.run(crowd())
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert [response.status_code for response in served] == [200, 200]
    assert site.chat(n=3).status_code == 400
    assert "at most 2 at once" in site.chat(n=3).json()["error"]["message"]


def test_who_leaves_while_waiting_takes_no_place_along() -> None:
    async def scene() -> None:
        queue = FairQueue(1, 1)
        [held], [waiting] = queue.draw((), 1), queue.draw((), 1)

        async def work() -> None:
            async with waiting:
                raise AssertionError("its turn has not come")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        queue.give_back(held)
        assert [ticket.turn.is_set() for ticket in queue.draw((), 2)] == [True, False]

    asyncio.run(scene())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place_at_once(make_site: Callable[..., Any], stream: bool) -> None:
    site = make_site(parallel=1)

    async def leave() -> None:
        never, asked = asyncio.Event(), asyncio.Event()
        site.engine.script = lambda request: [*site.ids("one two"), never]
        messages = iter([{"type": "http.request", "body": _bytes(body(stream=stream)), "more_body": False}])
        sent: list[Any] = []

        async def receive() -> Any:
            for message in messages:
                return message
            await asked.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        async with site.client() as client:
            app = client._transport.app
            task = asyncio.create_task(app(_scope(CHAT), receive, send))
            while not site.engine.seen:
                await asyncio.sleep(0)
            assert site.engine.closed == 0
            asked.set()
            await task
        assert site.engine.closed == 1
        assert bool(sent) == stream

    asyncio.run(leave())
    site.says("again")
    assert site.chat().status_code == 200


def test_an_answer_that_takes_too_long_ends(make_site: Callable[..., Any]) -> None:
    site = make_site(timeout_s=0.05)

    async def wait(**more: Any) -> Any:
        site.engine.script = lambda request: [*site.ids("one"), asyncio.Event()]
        async with site.client() as client:
            return await client.post(CHAT, json=body(**more))

    response = asyncio.run(wait())
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    streamed = asyncio.run(wait(stream=True)).text
    assert '"code": "timeout"' in streamed
    assert "[DONE]" not in streamed
    assert site.engine.closed == 2


def test_a_lost_engine_is_started_again(make_site: Callable[..., Any]) -> None:
    site = make_site()

    async def crash() -> list[int]:
        async with site.client() as client:
            site.engine.script = lambda request: [EngineError("out of memory at /secret", lost=True)]
            site.engine.failing_starts = 1
            codes = []
            lost = await client.post(CHAT, json=body())
            assert "secret" not in lost.text
            assert lost.headers["retry-after"]
            codes.append(lost.status_code)
            codes.append((await client.post(CHAT, json=body())).status_code)
            codes.append((await client.get("/health")).status_code)
            site.says("back")
            while site.gateway.state != "ready":
                await asyncio.sleep(0.01)
            codes.append((await client.post(CHAT, json=body())).status_code)
            await site.gateway.stop()
            return codes

    assert asyncio.run(crash()) == [503, 503, 503, 200]
    assert site.engine.starts == 3


def test_a_stream_that_breaks_says_so(site: Any) -> None:
    site.engine.script = lambda request: [*site.ids("one"), EngineError("gone")]
    text = site.chat(stream=True).text
    assert '"content":"o"' in text
    assert '"code": "engine_unavailable"' in text
    assert site.chat(stream=True, n=3).status_code == 200


def test_figures_add_up(site: Any) -> None:
    site.says("one two")
    site.chat()
    site.chat(stream=True)
    site.ask("GET", "/v1/models/nix")
    text = site.ask("GET", "/metrics").text
    assert f"lamina_answer_tokens_total {2.0 * len(site.ids('one two'))}" in text
    assert 'lamina_requests_total{route="/v1/chat/completions",status="200"} 2.0' in text
    assert 'lamina_requests_total{route="/v1/models/{name:path}",status="404"} 1.0' in text
    assert "lamina_answers_running 0.0" in text
    assert "lamina_first_token_seconds_count 1.0" in text


def test_prompts_are_logged_only_when_asked(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="lamina.serve")
    site.chat("a private matter")
    assert "private" not in caplog.text
    site.gateway._log_prompts = True
    site.chat("a private matter")
    assert "private" in caplog.text


def _bytes(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
