"""``lamina chat`` from a pipe: commands, votes, corrections, several lines, and mistakes that end nothing."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.ops import chat, route
from lamina.ops.project import Project
from lamina.stack.layers import stack_digest
from lamina.stack.store import Store

Talk = Callable[..., Any]


@pytest.fixture
def talk(project: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Return a function that types lines into a chat and returns what was said; the answer is always the same."""
    monkeypatch.setattr(chat, "stream_answer", lambda *_, **__: iter(["an ", "answer"]))

    def type_lines(*lines: str, flags: tuple[str, ...] = ("--json",)) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        said = cli("chat", *flags)
        assert said.code == 0
        return said

    return type_lines


def lines_of(said: Any) -> list[Any]:
    return [json.loads(line) for line in said.out.splitlines()]


def records(name: str) -> list[Any]:
    return [json.loads(line) for line in Path(name).read_text("utf-8").splitlines()]


def test_compare_and_vote(talk: Talk) -> None:
    said = talk("who?", "/compare base", "1", "/compare main base", "t", "/compare base", "not a vote")
    told = lines_of(said)
    assert told[0] == {"stack": "main", "answer": "an answer"}
    both = [{"stack": "base", "answer": "an answer"}, {"stack": "main", "answer": "an answer"}]
    assert told[1] == {"compared": both}
    assert [line for line in told if "saved" in line] == [{"saved": "votes.jsonl", "new": True}] * 2
    assert told[-1]["stack"] == "main"  # what is no vote is a question
    votes = records("votes.jsonl")
    assert [(vote["model_a"], vote["model_b"], vote["winner"]) for vote in votes] == [
        ("base", "main", "model_a"),
        ("main", "base", "tie"),
    ]
    assert votes[0]["prompt"] == [{"role": "user", "content": "who?"}]


def test_save_corrects_and_goes_on_from_there(talk: Talk) -> None:
    talk("who?", "/save an owl", "and?", "/save", "/save")
    one, two = records("corrections.jsonl")
    assert [turn["content"] for turn in one["messages"]] == ["who?", "an owl"]
    assert [turn["content"] for turn in two["messages"]][:3] == ["who?", "an owl", "and?"]
    assert two["messages"][-1]["content"] == two["said"] == "an answer"  # right as it was


def test_the_system_message_goes_with_it(talk: Talk) -> None:
    talk("who?", "/save an owl", flags=("--json", "--system", "be brief"))
    assert [turn["role"] for turn in records("corrections.jsonl")[0]["messages"]] == ["system", "user", "assistant"]


def test_a_routed_branch_says_which_layers_answered(
    talk: Talk, grow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    grow("fox")
    whole = grow("dog")
    seen: list[str] = []
    active: list[int] = []

    def pick(project: Any, stack: Any, messages: Any) -> Any:
        assert stack == whole
        seen.append(messages[-1].content)
        return stack if "both" in seen[-1] else route.select(project.store, stack, stack.layers[1:])

    def activate(project: Any, stack: Any, **how: Any) -> None:
        active.append(len(stack.layers))

    monkeypatch.setattr(chat, "choose_layers", pick)
    monkeypatch.setattr(Project, "activate", activate)
    told = lines_of(talk("who?", "both?", "/stack main", "who?", "/stack base", "who?", "/stack", "who?"))
    assert [line.get("layers") for line in told] == [["dog"], ["fox", "dog"], None, None, ["dog"]]
    assert [line["stack"] for line in told] == ["main", "main", "main", "base", "main"]
    assert seen == ["who?", "both?", "who?"]
    assert active == [2, 1, 2, 2, 2, 0, 0, 2, 1]  # at the start and after each /stack, and for each answer
    said = talk("who?", "both?", "/stack main", "who?", flags=())
    assert said.err.count("layers: dog") == said.err.count("layers: fox + dog") == 1
    assert lines_of(talk("who?", flags=("--json", "--stack", "main"))) == [{"stack": "main", "answer": "an answer"}]


def test_what_is_saved_names_the_stack_that_answered(
    talk: Talk, grow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    grow("fox")
    whole = grow("dog")

    def pick(project: Any, stack: Any, messages: Any) -> Any:
        return route.select(project.store, stack, stack.layers[1:])

    monkeypatch.setattr(chat, "choose_layers", pick)
    alone = stack_digest(route.select(Store.find(Path()), whole, whole.layers[1:]))
    talk("who?", "/compare main", "1", "/save an owl")
    (vote,), (correction,) = records("votes.jsonl"), records("corrections.jsonl")
    assert (vote["stack_a"], vote["stack_b"]) == (stack_digest(whole), alone)
    assert (correction["model"], correction["stack"]) == ("main", alone)


def test_several_lines_are_one_entry(talk: Talk) -> None:
    talk("one \\", "two", "/save a \\", "b", '"""three', 'four"""', "/save c")
    first, second = records("corrections.jsonl")
    assert [turn["content"] for turn in first["messages"]] == ["one\ntwo", "a\nb"]
    assert second["messages"][2]["content"] == "three\nfour"


def test_new_and_stack_forget(talk: Talk) -> None:
    talk("who?", "/new", "and?", "/save x", "/stack base", "now?", "/save y")
    assert [row["messages"][0]["content"] for row in records("corrections.jsonl")] == ["and?", "now?"]
    assert records("corrections.jsonl")[1]["model"] == "base"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/compare", "/compare A [B]"),
        ("/compare a b c", "/compare A [B]"),
        ("/wat", "no command '/wat'"),
        ("/stack nope", "no ref or stack 'nope'"),
        ("/help", "into corrections.jsonl"),
        ("/save x", "there is no answer yet"),
        ("/compare base", "nothing has been asked yet"),
    ],
)
def test_mistakes_are_said_and_end_nothing(talk: Talk, line: str, message: str) -> None:
    said = talk(line, "who?")
    assert message in said.err
    assert [told["stack"] for told in lines_of(said)] == ["main"]
    assert max(map(len, said.err.splitlines())) <= 80


def test_plain_text_under_each_other(talk: Talk) -> None:
    said = talk("who?", "/compare base", flags=())
    assert said.out == "an answer\n-- 1: base\nan answer\n-- 2: main\nan answer\n"


def test_at_a_terminal_lines_are_remembered(project: Path) -> None:
    ours, theirs = pty.openpty()
    code = "import sys; from lamina.cli.main import run_command; sys.exit(run_command(['chat', '--max-tokens', '2']))"
    with subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        for line in (b"first\n", b"/quit\n"):
            while not seen.endswith(b"> "):
                assert select.select([ours], [], [], 60)[0], seen
                seen += os.read(ours, 4096)
            os.write(ours, line)
            seen = b""
        while process.poll() is None:
            if select.select([ours], [], [], 0.05)[0]:
                try:
                    os.read(ours, 4096)
                except OSError:  # the other end is closed
                    break
        os.close(ours)
    assert process.returncode == 0
    assert "first" in (project / ".lamina" / "chat_history").read_text()
