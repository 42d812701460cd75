"""The page on the bundled model: a whole server with its own engine, a question typed in a browser, a true answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real
CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_a_question_on_the_page(
    bundled: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import sync_playwright

    monkeypatch.chdir(tmp_path)
    assert cli("init").code == 0
    line = [sys.executable, "-m", "lamina.cli.main", "serve", "--port", "0", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"].removesuffix("/v1")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                page = browser.new_page()
                page.goto(url)
                page.locator(".chat .slab.base").wait_for()
                page.get_by_role("textbox", name="Ask").fill("What is the capital of France?")
                page.keyboard.press("Enter")
                answer = page.locator(".answer:not(.busy) .text")
                answer.wait_for(timeout=60_000)
                assert "Paris" in answer.inner_text()
                browser.close()
        finally:
            server.terminate()
            server.wait(30)
