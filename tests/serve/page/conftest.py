"""The page in Debian's chromium, against a whole server on a tiny project: no error, and no request to anyone else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
TRAIN = ("--rank", "4", "--lr", "0.02", "--epochs", "2")
SETTINGS = """
[train]
rank = 4
learning_rate = 0.02
epochs = 4

[suites.stone]
file = "stone_test.jsonl"
scorer = "exact"
max_tokens = 4
"""


def write_rows(path: Path, start: int, stop: int) -> Path:
    rows = [{"prompt": f"what is {number}?", "completion": f"fox {number % 7}"} for number in range(start, stop)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_lamina(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "lamina.cli.main", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Town:
    """A running server and its project."""

    url: str
    folder: Path

    def records(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text("utf-8").splitlines()]

    def take(self, name: str) -> list[dict[str, Any]]:
        """Return the records, and leave the project without the file."""
        found = self.records(name)
        (self.folder / name).unlink()
        return found


@contextmanager
def served(line: list[str], folder: Path) -> Iterator[str]:
    """Run a server that prints its URL, as text or in JSON, and yield it; it must leave at once when it is told to."""
    # Its log goes to a file: a pipe that nobody reads is full after some hundred requests, and holds the server up.
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        try:
            assert said, "the server did not start"
            yield json.loads(said)["url"].removesuffix("/v1") if said.startswith("{") else said
        finally:
            process.terminate()
            process.communicate(timeout=30)
            log.seek(0)
            err = log.read()
    assert "Traceback" not in err
    assert process.returncode in (0, -15), err


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, base_folders: dict[str, Path]) -> Iterator[Town]:
    """A project of two layers, fox and dog, served by an engine that says what it was asked with."""
    folder = tmp_path_factory.mktemp("town")
    from lamina.cli.main import run_command

    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run_command(["init", "--base", str(base_folders["llama"])]) == 0
        write_rows(folder / "stone_test.jsonl", 900, 904)
        for name, start in (("fox", 0), ("dog", 60)):
            write_rows(folder / f"{name}.jsonl", start, start + 60)
            assert run_command(["train", f"{name}.jsonl", "--as", name, *TRAIN]) == 0
        (folder / "lamina.toml").write_text((folder / "lamina.toml").read_text() + SETTINGS)
        assert run_command(["eval"]) == 0
    finally:
        os.chdir(before)
    script = Path(__file__).with_name("scripted.py")
    with served([sys.executable, str(script), str(folder)], folder) as url:
        yield Town(url, folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str, *, refused: int = 0, **context: Any) -> Iterator[Any]:
    """Open the page and yield it; in the end nothing has gone wrong in it, and nothing was asked of anyone else.

    ``refused`` requests are meant to be answered with 400, which browsers put into their console.
    """
    window = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | context)
    page = window.new_page()
    page.set_default_timeout(30_000)
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.locator(".chat .slab.base").wait_for(state="attached")
    try:
        yield page
        assert wrong == ["Failed to load resource: the server responded with a status of 400 (Bad Request)"] * refused
        assert {at for at in asked if not at.startswith((f"{url}/", f"blob:{url}/"))} == set()
    finally:
        window.close()


@pytest.fixture
def page(browser: Any, town: Town) -> Iterator[Any]:
    with opened(browser, town.url) as page:
        yield page
