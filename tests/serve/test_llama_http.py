"""The way to a llama.cpp process, spoken to by a server that cuts its answer where it likes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lamina.serve.llama_http import GONE, post

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def _asked(socket: Path, answer: Sequence[bytes]) -> tuple[int, list[bytes], bytes]:
    """Return status and lines of an answer that comes in these pieces, and the request that it answers."""
    seen = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-len"))
        seen = await reader.readexactly(length)
        for piece in answer:
            writer.write(piece)
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, socket), post(socket, "/completion", {"prompt": [1, 2]}) as reply:
        return reply.status, [line async for line in reply.lines()], seen


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_lines_are_whole_wherever_the_answer_is_cut(tmp_path: Path, size: int) -> None:
    text = _HEAD + _chunk(b"data: {\xc3") + _chunk(b"\xa9}\n\ndata: 2") + _chunk(b"\nend") + _chunk(b"")
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    status, lines, seen = asyncio.run(_asked(tmp_path / "s.sock", pieces))
    assert status == 200
    assert lines == ["data: {é}".encode(), b"", b"data: 2", b"end"]
    assert json.loads(seen) == {"prompt": [1, 2]}


def test_a_body_of_known_length(tmp_path: Path) -> None:
    answer = [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nab\ncd"]
    assert asyncio.run(_asked(tmp_path / "s.sock", answer))[:2] == (400, [b"ab", b"cd"])


@pytest.mark.parametrize("answer", [[], [_HEAD], [_HEAD, _chunk(b"data: 1\n")], [_HEAD, b"5\r\nab"]])
def test_a_process_that_ends_while_it_answers_is_gone(tmp_path: Path, answer: list[bytes]) -> None:
    with pytest.raises(GONE):
        asyncio.run(_asked(tmp_path / "s.sock", answer))


def test_a_process_that_is_not_there_is_gone(tmp_path: Path) -> None:
    async def ask() -> None:
        async with post(tmp_path / "nothing.sock", "/completion", {}):
            raise AssertionError("nobody is there")

    with pytest.raises(GONE):
        asyncio.run(ask())
