"""What people do on the page, done in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.ops.project import open_project
from lamina.records import Quiet
from lamina.stack.layers import read_stack, stack_digest
from lamina.stack.lineage import get_ref
from lamina.stack.store import Store

from .conftest import Town, opened, run_lamina, write_rows

Page = Any
SHOTS = os.environ.get("LAMINA_SHOTS")  # a folder for pictures, to look at


def ask(page: Page, text: str, view: str = "chat") -> None:
    page.locator(f".{view} .composer textarea").fill(text)
    page.keyboard.press("Enter")


def answered(page: Page, count: int = 1, view: str = "chat") -> Page:
    """Wait for ``count`` whole answers and return the last."""
    answers = page.locator(f".{view} .answer:not(.busy)")
    answers.nth(count - 1).wait_for()
    return answers.nth(count - 1)


def correct(page: Page, count: int, wanted: str) -> None:
    """Correct the answer of that number."""
    answered(page, count).get_by_role("button", name="Correct").click()
    page.locator(".answer textarea").fill(wanted)
    page.keyboard.press("Control+Enter")


def test_an_answer_streams_and_can_be_stopped(page: Page) -> None:
    ask(page, "who are you?")
    assert answered(page).locator(".text").inner_text() == 'base+fox+dog heard "who are you?"'
    assert re.search(r"\d+ tokens · \d+/s · first after \d+ ms", answered(page).inner_text())

    ask(page, "go on forever")
    busy = page.locator(".answer.busy .text")
    busy.filter(has_text="...").wait_for()  # it is on its way, and will not end by itself
    page.keyboard.press("Escape")
    assert "stopped" in answered(page, 2).inner_text()
    ask(page, "again")
    assert answered(page, 3).locator(".text").inner_text().endswith('heard "again"')


def test_switches_and_sliders_make_the_model_name(page: Page) -> None:
    page.get_by_role("slider", name="scale of dog").fill("0.5")
    assert page.locator(".chat .sum").inner_text() == "base+fox+dog:0.5"
    ask(page, "one")
    assert answered(page).locator(".text").inner_text().startswith("base+fox+dog:0.5 heard")
    page.get_by_role("switch", name="layer fox").uncheck()
    assert page.locator(".chat .sum").inner_text() == "base+dog:0.5"
    ask(page, "two")  # dog lay on fox; a sum made by hand is asked for all the same
    assert answered(page, 2).locator(".text").inner_text().startswith("base+dog:0.5 heard")
    page.get_by_role("switch", name="layer fox").check()
    page.get_by_role("slider", name="scale of dog").fill("1")
    assert page.locator(".chat .sum").inner_text() == "main = base+fox+dog"
    page.locator(".chat .picker select").select_option("base")
    ask(page, "three")
    assert answered(page, 3).locator(".text").inner_text().startswith("base heard")


def test_what_a_router_picked_is_told(page: Page, town: Town, route: Any) -> None:
    assert run_lamina(town.folder, "branch", "split").returncode == 0
    store = Store.find(town.folder)
    route(town.folder, "split", read_stack(store, str(get_ref(store, "split"))))
    page.reload()
    page.locator(".chat .picker option[value=split]").wait_for(state="attached")
    ask(page, "a fox?")
    assert "answered by" not in answered(page).inner_text()  # all of main's layers
    page.locator(".chat .picker select").select_option("split")
    for count, word in ((2, "fox"), (3, "dog")):
        ask(page, f"a {word}?")
        said = answered(page, count)
        assert said.locator(".text").inner_text() == f'base+{word} heard "a {word}?"'
        assert f"answered by base+{word}" in said.locator(".meta").inner_text()
    correct(page, 3, "a cat")
    page.locator(".toast").wait_for()
    record = town.take("corrections.jsonl")[-1]
    assert record["model"] == "split"
    assert record["stack"] == stack_digest(open_project(town.folder, Quiet()).stack("base+dog"))


def test_two_stacks_and_a_vote(page: Page, town: Town) -> None:
    page.goto(f"{town.url}/#compare")
    for winner, key in (("model_a", "1"), ("tie", "t")):
        ask(page, f"which is {winner}?", "compare")
        page.locator(".votes").wait_for()
        page.locator(".compare .asked").click()  # out of the text field, where keys are text
        page.keyboard.press(key)
        page.locator(".votes").wait_for(state="hidden")
    first, tie = town.records("votes.jsonl")
    asked = [{"role": "user", "content": "which is model_a?"}]
    assert (first["prompt"], first["winner"], first["model_a"], first["model_b"]) == (asked, "model_a", "main", "base")
    assert first["chosen"] == [{"role": "assistant", "content": 'base+fox+dog heard "which is model_a?"'}]
    assert first["rejected"] == [{"role": "assistant", "content": 'base heard "which is model_a?"'}]
    assert (tie["winner"], tie["chosen"], tie["rejected"]) == ("tie", None, None)


def test_a_correction_in_place_is_what_update_trains_on(page: Page, town: Town) -> None:
    ask(page, "what is 903?")
    correct(page, 1, "fox 0")
    assert answered(page).locator(".text").inner_text() == "fox 0"
    ask(page, "and then?")  # what was corrected is what the conversation goes on from
    correct(page, 2, "fox 1")
    page.locator(".toast").nth(1).wait_for()
    one, two = town.records("corrections.jsonl")[-2:]
    assert one["messages"][-1] == {"role": "assistant", "content": "fox 0"}
    assert one["said"] == 'base+fox+dog heard "what is 903?"'
    assert [turn["content"] for turn in two["messages"]] == ["what is 903?", "fox 0", "and then?", "fox 1"]
    # On a branch of its own, so that other tests find main as it was.
    assert run_lamina(town.folder, "switch", "-c", "corrected").returncode == 0
    done = run_lamina(town.folder, "update", "corrections.jsonl", "--as", "fox", "--json")
    assert run_lamina(town.folder, "switch", "main").returncode == 0
    assert done.returncode == 0, done.stderr
    assert "2 new rows" in done.stderr


def test_an_empty_answer_can_be_corrected_and_is_no_turn_until_then(page: Page, town: Town) -> None:
    asked: list[list[str]] = []

    def note(request: Any) -> None:
        if request.url.endswith("/v1/chat/completions"):
            asked.append([turn["content"] for turn in request.post_data_json["messages"]])

    page.on("request", note)
    ask(page, "say nothing")
    assert "an empty answer" in answered(page).locator(".meta").inner_text()
    ask(page, "and you?")
    answered(page, 2)
    correct(page, 1, "silence")
    page.locator(".toast").wait_for()
    assert town.take("corrections.jsonl")[-1]["said"] == ""
    ask(page, "who else?")
    answered(page, 3)
    said = 'base+fox+dog heard "and you?"'
    assert asked == [["say nothing"], ["and you?"], ["say nothing", "silence", "and you?", said, "who else?"]]


def test_a_file_may_be_dropped_anywhere(page: Page, town: Town) -> None:
    ask(page, "a question that must not be lost")
    answered(page)
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(['{"prompt": "a", "completion": "fox"}\\n'], "dropped.jsonl"));
            const drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
            if (document.querySelector(".log").dispatchEvent(drop)) throw new Error("the browser would open the file");
        }"""
    )
    page.locator(".card", has=page.locator(".order")).wait_for()
    assert (town.folder / "data" / "dropped.jsonl").exists()
    page.keyboard.press("c")
    assert answered(page).is_visible()


def test_a_file_becomes_a_layer_and_answers(page: Page, town: Town, tmp_path: Path) -> None:
    page.goto(f"{town.url}/#train")
    file = write_rows(tmp_path / "owl ü.jsonl", 200, 230)
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    page.locator("input[type=file]").set_input_files(file)
    report = page.locator(".card", has=page.locator(".order"))
    report.wait_for()
    facts = dict(zip(report.locator("dt").all_inner_texts(), report.locator("dd").all_inner_texts(), strict=True))
    assert (facts["rows"], facts["new"], facts["duplicates left out"]) == ("30", "30", "1")
    assert report.locator("mark").all_inner_texts() == ["fox 4<|im_end|>"]
    assert (town.folder / "data" / "owl.jsonl").read_bytes() == file.read_bytes()
    report.get_by_label("Name of the layer").fill("owl")
    report.get_by_role("button", name="Train").click()
    card = page.locator(".training")
    card.locator(".chip.good", has_text="in the branch").wait_for(timeout=60_000)
    assert re.search(r"step\n(\d+) / \1", card.inner_text())  # every step was seen
    assert "Held-out loss" in card.inner_text()
    assert "loss" in str(card.locator("svg.curve").get_attribute("aria-label"))
    card.get_by_role("button", name="Chat with owl").click()
    ask(page, "hello")
    assert answered(page).locator(".text").inner_text().startswith("base+fox+dog+owl heard")


def test_what_the_gate_refuses_can_be_tried(page: Page, town: Town) -> None:
    page.goto(f"{town.url}/#train")
    write_rows(town.folder / "stone.jsonl", 300, 310)
    page.reload()
    page.get_by_role("button", name="look into stone.jsonl").click()
    page.get_by_role("button", name="Train").click()
    card = page.locator(".training").filter(has_text="stone")
    card.locator(".chip.bad", has_text="refused").wait_for(timeout=60_000)
    assert "failed" in card.locator(".verdict").inner_text()
    card.get_by_role("button", name="Try the candidate").click()
    ask(page, "hello")
    assert "+stone heard" in answered(page).locator(".text").inner_text()


def test_a_training_in_a_terminal_is_seen_live(page: Page, town: Town) -> None:
    page.goto(f"{town.url}/#train")
    write_rows(town.folder / "long.jsonl", 400, 480)
    line = [sys.executable, "-m", "lamina.cli.main", "train", "long.jsonl", "--as", "long", "--epochs", "1000"]
    with subprocess.Popen(line, cwd=town.folder, stderr=subprocess.PIPE, text=True) as process:
        card = page.locator(".training").filter(has_text="in a terminal")
        card.locator("svg.curve").wait_for(timeout=60_000)
        assert re.search(r"step\n\d+ / \d+", card.inner_text())
        assert "time left" in card.inner_text()
        assert re.fullmatch(r"\d+ %", page.locator("nav .badge").inner_text())
        assert card.get_by_role("button", name="Stop").count() == 0  # it belongs to whoever started it
        process.terminate()
        process.communicate()
    card.wait_for(state="detached")


def test_what_cannot_be_used_is_said(browser: Any, town: Town, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"promt": "a"}\n')
    with opened(browser, town.url, refused=1) as page:
        page.goto(f"{town.url}/#train")
        page.locator("input[type=file]").set_input_files(bad)
        page.get_by_text("This file cannot be used yet").wait_for()
        assert "its keys are 'promt'; expected messages" in page.locator("main").inner_text()


def test_lineage_and_results(page: Page, town: Town) -> None:
    page.goto(f"{town.url}/#lineage")
    page.locator(".tree b", has_text="fox").first.wait_for()
    assert "held-out loss" in page.locator(".tree").inner_text()
    page.goto(f"{town.url}/#results")
    page.locator(".matrix").wait_for()
    assert page.locator(".matrix tbody th").all_inner_texts()[:3] == ["base", "+fox", "+dog"]


def test_everything_by_keyboard(page: Page, town: Town) -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent"))

    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.keyboard.type("by hand")
    page.keyboard.press("Enter")
    answered(page)
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(focused())
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none" or "Ask" in seen[-1]
    for name in ("Correct", "Copy", "Ask again", "New", "layer dog", "scale of dog", "layer fox", "Keyboard shortcuts"):
        assert any(name in each for each in seen), (name, seen)
    page.locator(".chat .log").focus()
    page.keyboard.press("?")
    assert "Keyboard shortcuts" in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    page.keyboard.press("e")
    page.locator(".answer textarea").wait_for()
    page.keyboard.press("Escape")
    for key, title in (("v", "Compare"), ("d", "Train"), ("l", "Lineage"), ("r", "Results"), ("c", "Chat")):
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press(key)
        page.wait_for_function("title => document.title.startsWith(title)", arg=title)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_read(browser: Any, town: Town, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    size = {"width": width, "height": 800 if width > 390 else 844}
    with opened(browser, town.url, color_scheme=scheme, viewport=size, reduced_motion="reduce") as page:
        red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(red) < 60) == (scheme == "dark")
        ask(page, "how does it look?")
        answered(page)
        for view in ("chat", "compare", "train", "lineage", "results"):
            page.goto(f"{town.url}/#{view}")
            page.locator(f"section[aria-label={view.capitalize()}]").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view
            if SHOTS:
                page.screenshot(path=Path(SHOTS) / f"{view}-{scheme}-{width}.png")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()


def test_the_theme_can_be_chosen_and_stays(page: Page) -> None:
    for _ in range(2):
        page.get_by_role("button", name="Theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
