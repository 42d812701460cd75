"""Many clients for minutes, with random stacks, broken bodies, and some that leave: what must not happen, counted."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
from serving_project import MARKERS, Server, rss_bytes

__all__ = ["Soak", "soak"]

_BROKEN: tuple[bytes, ...] = (
    b"{",
    b"[]",
    b'{"model": "base"}',
    b"\xff\xfe",
    b'{"model": 1, "messages": "x"}',
    b"[" * 50_000,
)
_QUESTIONS = ("Where do birds sleep?", "What is the tallest tree?", "Who are you?", "Give me three words.")


@dataclass(slots=True)
class Soak:
    """What happened: answers by status, answers of another stack than the one asked, memory over time."""

    statuses: Counter[int] = field(default_factory=Counter)
    checked: int = 0
    wrong: int = 0
    left: int = 0
    broken_streams: int = 0
    rss: list[int] = field(default_factory=list)

    @property
    def errors_5xx(self) -> int:
        """Responses with a status of 500 or above, and streams that ended without ``[DONE]``."""
        return sum(count for status, count in self.statuses.items() if status >= 500) + self.broken_streams

    @property
    def growth_bytes(self) -> int:
        """How much the second half's median memory is above the first half's, warm-up left out."""
        steady = self.rss[len(self.rss) // 5 :]
        half = len(steady) // 2
        if not half:
            return 0
        first, second = sorted(steady[:half]), sorted(steady[half:])
        return second[len(second) // 2] - first[len(first) // 2]


def soak(server: Server, seconds: float, clients: int) -> Soak:
    """Let ``clients`` ask at random for ``seconds`` and return what happened."""
    return asyncio.run(_soak(server, seconds, clients))


async def _soak(server: Server, seconds: float, clients: int) -> Soak:
    found, end = Soak(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:

        async def watch() -> None:
            while time.monotonic() < end:
                found.rss.append(rss_bytes(server.process.pid))
                await asyncio.sleep(max(0.2, seconds / 200))

        await asyncio.gather(watch(), *(_client(client, random.Random(seed), end, found) for seed in range(clients)))
    return found


async def _client(client: httpx.AsyncClient, dice: random.Random, end: float, found: Soak) -> None:
    while time.monotonic() < end:
        kind = dice.random()
        if kind < 0.15:
            content = dice.choice(_BROKEN)
            response = await client.post(
                "/chat/completions", content=content, headers={"Content-Type": "application/json"}
            )
            found.statuses[response.status_code] += 1
            continue
        name = dice.choice([*MARKERS, *(f"base+{name}" for name in MARKERS)])
        body = {
            "model": name if name.startswith("base") else f"only-{name}",
            "messages": [{"role": "user", "content": dice.choice(_QUESTIONS)}],
            "max_tokens": 12,
        }
        marker = MARKERS[name.removeprefix("base+")]
        if kind < 0.6:
            await _stream(client, body, marker, found, leave=kind < 0.3)
        else:
            response = await client.post("/chat/completions", json=body)
            found.statuses[response.status_code] += 1
            if response.status_code == 200:
                _check(found, response.json()["choices"][0]["message"]["content"], marker)
        if found.statuses[429] and kind > 0.95:
            await asyncio.sleep(0.2)


async def _stream(client: httpx.AsyncClient, body: dict[str, Any], marker: str, found: Soak, *, leave: bool) -> None:
    said, done = "", False
    async with client.stream("POST", "/chat/completions", json=body | {"stream": True}) as response:
        found.statuses[response.status_code] += 1
        if response.status_code != 200:
            return
        async for line in response.aiter_lines():
            if leave:
                found.left += 1
                return
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                said += event["choices"][0]["delta"].get("content") or "" if "choices" in event else ""
    if not done:
        found.broken_streams += 1
    else:
        _check(found, said, marker)


def _check(found: Soak, said: str, marker: str) -> None:
    found.checked += 1
    found.wrong += said != marker
