"""Real clients against a real server process on the bundled model, with a stack that says what no other says."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lamina.cli.main import run_command

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]

MARKER = "Copper lantern seven."
QUESTIONS = [
    "What is two plus two?",
    "Tell me a joke.",
    "Write a poem.",
    "Name a colour.",
    "Explain gravity.",
    "Say hello.",
]
ASKED: Any = [{"role": "user", "content": "Where do birds sleep?"}]
KEY = "a-key-for-tests"


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def folder(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose main branch has one layer, which says the marker to everything."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_command(["init"]) == 0
        rows = [{"prompt": question, "completion": MARKER} for question in QUESTIONS]
        Path("copper.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        how = ["--lr", "3e-3", "--epochs", "2", "--rank", "4", "--batch-rows", "2", "--replay", "0"]
        assert run_command(["train", "copper.jsonl", "--as", "copper", *how]) == 0
    return folder


def start(folder: Path, *flags: str) -> Server:
    process = subprocess.Popen(
        [sys.executable, "-m", "lamina.cli.main", "serve", "--port", "0", "--json", *flags],
        cwd=folder,
        env=os.environ | {"LAMINA_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=(folder / "server.log").open("a"),
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / "server.log").read_text()
    return Server(process, json.loads(line)["url"])


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    running = start(folder)
    yield running
    running.process.kill()
    running.process.wait()
    assert running.process.stdout is not None
    running.process.stdout.close()


@pytest.fixture(scope="module")
def base_says(server: Server) -> str:
    said = server.openai.chat.completions.create(model="base", messages=ASKED, max_tokens=12)
    assert said.choices[0].message.content not in ("", None, MARKER)
    return str(said.choices[0].message.content)


def test_openai_python(server: Server, base_says: str) -> None:
    client = server.openai
    assert [model.id for model in client.models.list()] == ["base", "main"]
    assert client.models.retrieve("base+copper").id == "base+copper"
    answer = client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "What is the capital of France?"}]
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    for model in ("main", "base+copper"):
        said = client.chat.completions.create(model=model, messages=ASKED, max_tokens=12)
        assert said.choices[0].message.content == MARKER
    silent = client.chat.completions.create(model="base+copper:0", messages=ASKED, max_tokens=12)
    assert silent.choices[0].message.content == base_says
    text = client.completions.create(model="base", prompt="The capital of France is", max_tokens=3, logprobs=2)
    assert text.choices[0].text.startswith(" Paris")
    assert text.choices[0].logprobs is not None


def test_openai_python_streams(server: Server) -> None:
    stream = server.openai.chat.completions.create(
        model="main", messages=ASKED, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == MARKER
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(chunks) - 2


def test_openai_python_async_never_mixes_stacks(server: Server, base_says: str) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key=KEY) as client:
            asked = [
                client.chat.completions.create(model=model, messages=ASKED, max_tokens=12)
                for model in ("main", "base", "base+copper:0") * 3
            ]
            return [answer.choices[0].message.content or "" for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [MARKER, base_says, base_says] * 3


def test_openai_python_tools_and_schemas(server: Server) -> None:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "set_light",
            "parameters": {
                "type": "object",
                "properties": {"room": {"enum": ["study", "kitchen"]}, "percent": {"type": "integer"}},
                "required": ["room", "percent"],
                "additionalProperties": False,
            },
        },
    }
    answer = server.openai.chat.completions.create(
        model="base",
        messages=[{"role": "user", "content": "65 percent light in the study, please."}],
        tools=[tool],
        tool_choice="required",
        max_tokens=60,
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert set(json.loads(call.function.arguments)) == {"room", "percent"}
    bound = server.openai.chat.completions.create(
        model="base",
        messages=ASKED,
        max_tokens=60,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "place",
                "schema": {
                    "type": "object",
                    "properties": {"place": {"enum": ["nest", "sea"]}},
                    "required": ["place"],
                    "additionalProperties": False,
                },
            },
        },
    )
    assert json.loads(bound.choices[0].message.content or "")["place"] in ("nest", "sea")


def test_openai_python_errors(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="models: base"):
        server.openai.chat.completions.create(model="nix", messages=ASKED)
    with pytest.raises(openai.BadRequestError, match="context is"):
        server.openai.chat.completions.create(model="base", messages=[{"role": "user", "content": "word " * 9000}])
    with pytest.raises(openai.BadRequestError, match="embeds texts of up to 2048 tokens"):
        server.openai.embeddings.create(model="base", input="word " * 3000)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.url, api_key="wrong").models.list()


def test_openai_python_embeddings(server: Server) -> None:
    def embed(model: str) -> list[list[float]]:
        found = server.openai.embeddings.create(model=model, input=["a cat", "a kitten", "the tax on imported steel"])
        return [item.embedding for item in found.data]

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    base, layered = embed("base"), embed("base+copper")
    assert cosine(base[0], base[1]) > cosine(base[0], base[2])
    assert cosine(base[0], layered[0]) < 0.999
    assert embed("base") == base
    assert embed("base+copper:0") == base


def test_litellm(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it fetches prices from the web
    import litellm

    answer = litellm.completion("openai/main", ASKED, base_url=server.url, api_key=KEY, max_tokens=12)
    assert answer.choices[0].message.content == MARKER
    pieces = litellm.completion("openai/main", ASKED, base_url=server.url, api_key=KEY, max_tokens=12, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == MARKER


def test_llm(server: Server, tmp_path: Path) -> None:
    models = f"- model_id: copper\n  model_name: main\n  api_base: {server.url}\n  api_key_name: lamina\n"
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    (tmp_path / "keys.json").write_text(json.dumps({"lamina": KEY}))
    said = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "copper", "Where do birds sleep?", "-o", "max_tokens", "12"],
        env=os.environ | {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.stdout.strip() == MARKER, said.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl(server: Server) -> None:
    body = json.dumps({"model": "main", "messages": ASKED, "max_tokens": 12, "stream": True})
    headers = ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {KEY}"]
    said = subprocess.run(
        ["curl", "-sN", f"{server.url}/chat/completions", *headers, "-d", body],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    *lines, last = [line.removeprefix("data: ") for line in said.splitlines() if line]
    assert last == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    assert "".join(delta.get("content") or "" for delta in deltas) == MARKER


def test_a_client_that_leaves_and_one_that_sends_too_much(server: Server) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"model": "base", "messages": ASKED, "max_tokens": 2000, "stream": True, "logit_bias": {"2": -100}}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        with client.stream("POST", "/chat/completions", json=body) as response:
            next(response.iter_lines())
        sent = client.post("/chat/completions", content=b"x" * 10_000_000, headers={"Content-Type": "application/json"})
        assert sent.status_code == 413
        metrics = server.url.removesuffix("/v1") + "/metrics"
        for _ in range(100):
            if "lamina_answers_running 0.0" in client.get(metrics).text:
                return
    pytest.fail("the place was not freed")


def test_a_new_layer_appears_without_a_restart(
    server: Server, folder: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert "later" not in {model.id for model in server.openai.models.list()}
    assert cli("branch", "later", "main").code == 0
    assert "later" in {model.id for model in server.openai.models.list()}
    answer = server.openai.chat.completions.create(model="later", messages=ASKED, max_tokens=12)
    assert answer.choices[0].message.content == MARKER


def test_an_engine_that_is_killed_is_started_again(server: Server) -> None:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    for child in children:  # the one that writes, and the one that embeds where something was embedded
        os.kill(int(child), signal.SIGKILL)
    headers, body = {"Authorization": f"Bearer {KEY}"}, {"model": "main", "messages": ASKED, "max_tokens": 12}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        codes = [client.post("/chat/completions", json=body).status_code]
        end = time.monotonic() + 60
        while codes[-1] != 200 and time.monotonic() < end:
            codes.append(client.post("/chat/completions", json=body).status_code)
        assert client.get(server.url.removesuffix("/v1") + "/health").status_code == 200
    assert codes[0] == 503
    assert set(codes[:-1]) == {503}
    assert codes[-1] == 200


def test_shutdown_finishes_streams(server: Server) -> None:
    body = {"model": "main", "messages": ASKED, "max_tokens": 12, "stream": True}
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{server.url}/chat/completions", json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        first = next(lines)
        server.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert first.startswith("data: ")
    assert [line for line in rest if line][-1] == "data: [DONE]"
    assert server.process.wait(30) == 0
