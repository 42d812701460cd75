"""``lamina route`` on a tiny model: trained, judged, decided, stale after a change, and what requests get."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from lamina.ops.chat import Chat
from lamina.ops.evaluate import find_suites, score_stack
from lamina.ops.project import Project, open_project
from lamina.ops.route import select
from lamina.ops.routed import RoutedSuite, _conclude, judge_routing
from lamina.ops.router import SUM, _candidates, choose_layers
from lamina.ops.serve import EngineName, make_engine, make_gateway
from lamina.records import Message, Quiet
from lamina.serve.app import make_app
from lamina.serve.guard import Access
from lamina.serve.limits import Limits
from lamina.stack.manifest import StackConfig

TRAIN = ("--rank", "8", "--learning-rate", "0.01", "--epochs", "8")
ASKED = {"fox": "who jumps over", "dog": "LAZY? LAZY?"}
SAID = {"fox": "the fox", "dog": "dog"}


def write_rows(path: Path, name: str, numbers: range) -> None:
    rows = [{"prompt": f"{ASKED[name]} {number}", "completion": SAID[name]} for number in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def skills(project: Path, cli: Callable[..., Any]) -> Path:
    """A stack of two skills with a suite each."""
    for name in ASKED:
        write_rows(project / f"{name}_test.jsonl", name, range(100, 120))
        with (project / "lamina.toml").open("a") as config:
            config.write(f'\n[suites.{name}]\nfile = "{name}_test.jsonl"\nscorer = "likelihood"\n')
    for name in ASKED:
        write_rows(project / f"{name}.jsonl", name, range(24))
        trained = cli("train", f"{name}.jsonl", "--as", name, *TRAIN, "--accept")
        assert trained.code == 0, trained.err
    return project


def ask(project: Project, text: str) -> list[str]:
    stack = choose_layers(project, project.stack(), [Message("user", text)])
    return [entry.name for entry in (stack or project.stack()).layers]


def set_choice(skill: str, names: list[str], project: Project) -> None:
    """Enable routing with these layers for a skill, whatever the held-out rows say."""
    from lamina.route.keep import read_decision, read_router, write_decision, write_router
    from lamina.route.router import Router

    stack, decision = project.stack(), read_decision(project.store, "main")
    assert decision is not None
    router = read_router(project.store, decision.router)
    layers = tuple(entry.layer for entry in stack.layers if entry.name in names)
    routes = tuple(
        route.model_copy(update={"choice": "own", "layers": layers}) if route.name == skill else route
        for route in router.record.skills
    )
    changed = Router(router.record.model_copy(update={"skills": routes}), router.classifier)
    digest = write_router(project.store, changed)
    write_decision(project.store, "main", decision.model_copy(update={"router": digest, "enabled": True}))


def test_a_router_is_trained_judged_and_decided(skills: Path, cli: Callable[..., Any]) -> None:
    said = cli("route", "--json")
    assert said.code == 0, said.err
    found = said.json
    assert found["accuracy"] == 1.0
    assert found["train_rows"] + sum(skill["rows"] for skill in found["skills"]) <= 48
    assert set(found["confusion"]) == set(ASKED)
    assert sum(found["confusion"]["fox"].values()) == found["skills"][0]["rows"]
    for skill in found["skills"]:
        assert skill["choice"] in skill["losses"]
        assert set(skill["losses"]) <= {"all", "prefix", "own"}
    assert "prefix" not in found["skills"][1]["losses"]  # all up to the top layer are all
    for suite in found["suites"]:
        assert sum(suite["goes_to"].values()) == 20
        assert suite["goes_to"].get(suite["suite"], 0) >= 15
    assert found["enabled"] is False
    assert ("use it" in found["verdict"]) == found["helps"]
    again = cli("route", "--json").json
    assert {key: again[key] for key in again if key != "seconds"} == {k: found[k] for k in found if k != "seconds"}
    shown = cli("route")
    assert found["verdict"].split(":")[0][:40] in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


def test_requests_get_the_layers_that_were_decided(skills: Path, cli: Callable[..., Any]) -> None:
    project = open_project(skills, Quiet())
    assert ask(project, "who jumps over 3") == ["fox", "dog"]  # no router yet
    assert cli("route", "--enable").code == 1
    assert cli("route").code == 0
    set_choice("dog", ["dog"], project)
    assert ask(project, "LAZY? LAZY? 5") == ["dog"]
    stranger = "once upon a time there was a very long story " * 3
    assert ask(project, stranger) == ["fox", "dog"]
    said = cli("route", "--disable", "--json").json
    assert (said["branch"], said["enabled"]) == ("main", False)
    assert ask(project, "LAZY? LAZY? 5") == ["fox", "dog"]
    assert cli("route", "--enable", "--json").json["enabled"] is True
    assert ask(project, "LAZY? LAZY? 5") == ["dog"]


@pytest.mark.parametrize("engine", ["torch", "llama"])
def test_served_requests_get_the_same_layers(skills: Path, cli: Callable[..., Any], engine: EngineName) -> None:
    assert cli("route").code == 0
    project = open_project(skills, Quiet())
    for skill in SAID:
        set_choice(skill, [skill], project)
    texts = ["LAZY? LAZY? 5", "who jumps over 3", "once upon a time there was a very long story " * 2]
    wanted = ["+".join(["base", *ask(project, text)]) for text in texts]
    assert wanted == ["base+dog", "base+fox", "base+fox+dog"]

    async def serve() -> list[str]:
        gateway = make_gateway(project, make_engine(project, engine), Limits())
        await gateway.start()
        transport = httpx.ASGITransport(make_app(gateway, Access()))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            found = []
            for text in texts:
                body = {"model": "main", "max_tokens": 2, "messages": [{"role": "user", "content": text}]}
                said = await client.post("/v1/chat/completions", json=body)
                assert said.status_code == 200, said.text
                found.append(said.headers["x-lamina-stack"])
        await gateway.stop()
        return found

    assert asyncio.run(serve()) == wanted


def test_a_chat_with_the_branch_gets_them_and_one_with_a_named_stack_does_not(
    skills: Path, cli: Callable[..., Any]
) -> None:
    assert cli("route").code == 0
    project = open_project(skills, Quiet())
    set_choice("dog", ["dog"], project)
    for stack, wanted in ((None, ["dog"]), ("main", None), ("base+fox+dog", None)):
        chat = Chat(project, stack, max_tokens=2)
        list(chat.ask("LAZY? LAZY? 5"))
        assert (chat.picked and [entry.name for entry in chat.picked.layers]) == wanted
    said = cli("chat", "LAZY? LAZY? 5", "--max-tokens", "2")
    assert "layers: dog" in said.err
    assert "read prompts" not in said.err


def test_a_changed_stack_makes_the_router_stale(skills: Path, cli: Callable[..., Any]) -> None:
    assert cli("route").code == 0
    assert cli("route", "--enable").code == 0
    project = open_project(skills, Quiet())
    set_choice("dog", ["dog"], project)
    assert ask(project, "LAZY? LAZY? 5") == ["dog"]
    assert cli("scale", "fox", "0.5").code == 0
    assert ask(project, "LAZY? LAZY? 5") == ["fox", "dog"]
    assert cli("route", "--disable").code == 0
    refused = cli("route", "--enable", "--json")
    assert refused.code == 1
    assert "trained for another stack" in refused.json["error"]
    assert "lamina route" in refused.json["hint"]
    assert cli("undo").code == 0
    assert cli("route", "--enable").code == 0


def test_routed_scores_are_those_of_the_chosen_stacks(skills: Path, cli: Callable[..., Any]) -> None:
    """An item that goes to a skill scores exactly what the skill's layers score, all others what the sum does."""
    from lamina.ops.routed import _try
    from lamina.ops.router import points_of
    from lamina.route.keep import read_decision, read_router

    assert cli("route").code == 0
    project = open_project(skills, Quiet())
    set_choice("dog", ["dog"], project)
    decision = read_decision(project.store, "main")
    assert decision is not None
    router, stack = read_router(project.store, decision.router), project.stack()
    suite = find_suites(project)["dog"]
    alone = select(project.store, stack, [entry for entry in stack.layers if entry.name == "dog"])
    assert alone.layers[0].moved
    whole, own = score_stack(project, stack, suite), score_stack(project, alone, suite)
    routes = router.routes(points_of(project, [item.prompt for item in suite.items]))
    expected = [
        theirs if route.skill is not None and route.skill.name == "dog" else ours
        for route, ours, theirs in zip(routes, whole.values, own.values, strict=True)
    ]
    found = _try(project, stack, router, suite)
    assert found.routed[0] == pytest.approx(sum(expected) / len(expected), abs=1e-3)
    assert found.goes_to == Counter(SUM if route.skill is None else route.skill.name for route in routes)


def test_one_skill_is_nothing_to_route_between(project: Path, cli: Callable[..., Any]) -> None:
    write_rows(project / "fox.jsonl", "fox", range(24))
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN, "--accept").code == 0
    said = cli("route", "--json")
    assert said.code == 1
    assert "nothing to route between: 1 of" in said.json["error"]
    assert cli("route", "--enable", "--disable").code == 2


def test_updates_share_their_skills_label(grow: Callable[..., StackConfig]) -> None:
    for name in ("tools", "facts", "tools.2"):
        stack = grow(name)
    names = {
        skill: {choice: [entry.name for entry in entries] for choice, entries in _candidates(stack, skill).items()}
        for skill in ("tools", "facts")
    }
    assert names["tools"] == {"all": ["tools", "facts", "tools.2"], "own": ["tools", "tools.2"]}
    assert names["facts"] == {"all": ["tools", "facts", "tools.2"], "prefix": ["tools", "facts"], "own": ["facts"]}


def suite(name: str, p_value: float, *, kept: bool = True, touched: bool = True) -> RoutedSuite:
    routed = (0.5 if name == "tiny" else 0.55, 0.4, 0.6)
    return RoutedSuite(
        suite=name,
        items=60,
        whole=(0.496, 0.4, 0.6),
        routed=routed,
        change=(0.01, 0.09),
        p_value=p_value,
        better=False,
        kept=kept,
        loss_bound=0.04,
        goes_to={"fox": 60} if touched else {SUM: 60},
    )


@pytest.mark.parametrize(
    ("suites", "better", "helps", "says"),
    [
        ([suite("a", 0.01), suite("b", 0.9)], {"a"}, True, "routing helps on a by 1.0 to 9.0 points: use it"),
        ([suite("a", 0.03), suite("b", 0.9)], set(), False, "no suite is shown to be better"),
        ([suite("tiny", 0.0001)], set(), False, "no suite is shown to be better"),
        ([suite("a", 0.03), suite("b", 1.0, touched=False)], {"a"}, True, "use it"),
        ([suite("a", 0.02), suite("b", 0.04)], {"a", "b"}, True, "routing helps on a by"),
        ([suite("a", 0.01), suite("b", 0.9, kept=False)], {"a"}, False, "but may lose on b (up to 4.0 points)"),
        ([], set(), False, "no suite in lamina.toml"),
    ],
)
def test_the_sum_stays_unless_a_gain_is_shown_and_losses_are_ruled_out(
    suites: list[RoutedSuite], better: set[str], helps: bool, says: str
) -> None:
    judged = judge_routing(suites)
    assert {each.suite for each in judged if each.better} == better
    found, verdict = _conclude(judged)
    assert found == helps
    assert says in verdict


def test_deciding_loads_no_model() -> None:
    code = "import sys, lamina.cli.route, lamina.ops.route; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
