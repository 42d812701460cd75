"""The page's routes: what browsers may do with them, what needs the key, how mistakes are said."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from lamina.ops.project import open_project
from lamina.ops.workshop import ProjectWorkshop
from lamina.records import Quiet
from lamina.serve.app import make_app
from lamina.serve.guard import Access
from lamina.serve.page import api
from lamina.serve.page.api import OPEN_PATHS, page_router

STATIC = files("lamina.serve.page").joinpath("static")
Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(site: Any, project: Path) -> Ask:
    """Return a function that asks the whole application, guards included, and returns the answer."""
    router = page_router(ProjectWorkshop(open_project(project, Quiet())), lambda: True)

    def once(method: str, path: str, *, key: str | None = None, **kwargs: Any) -> httpx.Response:
        access = Access(api_key=key, open_paths=("/health", *OPEN_PATHS))
        app = make_app(site.gateway, access, extra=[router])

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11435") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(send())

    return once


def test_the_page_may_run_its_own_scripts_and_nothing_else(ask: Ask) -> None:
    page = ask("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert re.findall(r"<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=", page.text) == []


def test_every_file_of_the_page_is_there_and_names_only_such(ask: Ask) -> None:
    for file in STATIC.iterdir():
        text = file.read_text("utf-8")
        for name in re.findall(r'(?:from "\./|(?:src|href)="/page/)([^"]+)"', text):
            assert STATIC.joinpath(name).is_file(), (file.name, name)
        assert re.findall(r"https?://(?!www\.w3\.org/)", text) == [], file.name
        sent = ask("GET", f"/page/{file.name}")
        assert (sent.status_code, sent.text) == (200, text)
        assert sent.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapi.py", "%2e%2e/api.py", "%2fetc%2fpasswd", "main.js%00"])
def test_no_other_file_is_sent(ask: Ask, name: str) -> None:
    assert ask("GET", f"/page/{name}").status_code == 404


def test_the_page_itself_needs_no_key_and_everything_in_it_does(ask: Ask) -> None:
    assert ask("GET", "/", key="s3cret").status_code == 200
    assert ask("GET", "/page/main.js", key="s3cret").status_code == 200
    for method, path in (("GET", "/lamina/shelf"), ("GET", "/lamina/trainings"), ("POST", "/lamina/votes")):
        assert ask(method, path, key="s3cret").status_code == 401
    opened = ask("GET", "/lamina/shelf", key="s3cret", headers={"Authorization": "Bearer s3cret"})
    assert opened.json()["branch"] == "main"


def test_another_web_page_cannot_use_it(ask: Ask) -> None:
    evil = {"Origin": "http://evil.example"}
    assert ask("POST", "/lamina/files?name=a.jsonl&offset=0&last=true", content=b"x", headers=evil).status_code == 403
    assert ask("GET", "/lamina/shelf", headers={"Host": "evil.example"}).status_code == 403


def test_mistakes_come_with_a_hint(ask: Ask) -> None:
    said = ask("POST", "/lamina/audit", json={"file": "none.jsonl"})
    assert said.status_code == 400
    assert said.json()["error"]["message"] == "none.jsonl: is not among the project's data files"
    assert said.json()["error"]["hint"] == "upload it first"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("votes", {}),
        ("votes", {"prompt": [], "a": {"model": "a"}, "b": 3, "winner": "nobody"}),
        ("corrections", {"prompt": "who?", "said": None, "wanted": 1}),
        ("audit", {"file": ""}),
        ("trainings", {"file": "a.jsonl", "how": "rm", "name": "x"}),
        ("trainings", {"file": "a.jsonl", "how": "train", "name": "x", "more": 1}),
        ("trainings/x/stop", {}),
        ("files?name=a.jsonl&offset=-5&last=true", {}),
        ("files?name=..&offset=0&last=true", {}),
    ],
)
def test_wrong_bodies_are_the_senders_mistake(ask: Ask, path: str, body: Any) -> None:
    said = ask("POST", f"/lamina/{path}", json=body)
    assert said.status_code == 400
    assert said.json()["error"]["message"]


def test_it_is_no_part_of_the_openai_api(ask: Ask) -> None:
    assert [path for path in ask("GET", "/openapi.json").json()["paths"] if "lamina" in path or path == "/"] == []


def test_streams_end_when_the_server_leaves(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_STREAM_S", 0.1)
    assert ask("GET", "/lamina/trainings").text == ""  # the server of these tests is always leaving
