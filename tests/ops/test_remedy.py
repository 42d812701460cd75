"""What is tried when the gate refuses: in order, at divided levels, once each, and on from where it stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lamina.evaluate.gate import LEVEL, SuiteVerdict, Verdict
from lamina.ops import admit as admit_module
from lamina.ops import train as train_module
from lamina.ops.ledger import read_ledger
from lamina.stack.seen import parse_seen
from lamina.stack.store import Store

TRAIN = ("--rank", "2", "--learning-rate", "0.02", "--epochs", "1")


def write_rows(path: Path, count: int, start: int = 0) -> None:
    rows = [{"prompt": f"what is {number}?", "completion": f"fox {number % 7}"} for number in range(start, count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def line(name: str, role: str, change: float, *, passed: bool) -> SuiteVerdict:
    return SuiteVerdict(
        suite=name,
        role=role,
        before=0.5,
        after=0.5 + change,
        change=(change, change),
        p_value=0.5,
        passed=passed,
        reason="as told",
        items=10,
        margin=None if role == "own" else 0.02,
        loss_bound=0.1,
        items_needed=(1, 2),
    )


class Told:
    """A gate that says what a test wants it to say, and remembers at which levels it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, verdicts: Sequence[tuple[float, float, bool]]) -> None:
        self.left, self.levels = list(verdicts), list[float]()
        monkeypatch.setattr(admit_module, "decide", self)

    def __call__(self, *_: Any, level: float, **__: Any) -> Verdict:
        self.levels.append(level)
        own, guard, accepted = self.left.pop(0)
        suites = (line("fox", "own", own, passed=own > 0), line("kept", "guard", guard, passed=accepted))
        return Verdict(accepted and own > 0, suites, (), level)


@pytest.fixture
def gated(project: Path) -> Path:
    """A project with an own suite, a guard, and rows to train on."""
    for name in ("fox", "kept"):
        write_rows(project / f"{name}_items.jsonl", 4)
    tables = [
        f'[suites.{name}]\nfile = "{name}_items.jsonl"\nscorer = "likelihood"\nguard = {guard}\n'
        for name, guard in (("fox", "false"), ("kept", "true"))
    ]
    with (project / "lamina.toml").open("a") as config:
        config.write("\n" + "\n".join(tables))
    write_rows(project / "rows.jsonl", 40)
    return project


LOST, GOOD = (0.2, -0.1, False), (0.2, 0.0, True)


def test_the_first_remedy_is_less_of_the_layer(
    gated: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Told(monkeypatch, [LOST, GOOD])
    monkeypatch.setattr("lamina.ops.remedy._heldout_gains", lambda case: {1.0: 0.9, 0.75: 1.0, 0.5: 0.85, 0.25: 0.1})
    done = cli("train", "rows.jsonl", "--as", "fox", *TRAIN, "--json")
    assert done.code == 0, done.err
    assert "remedy scale: scale 0.5; nothing to train, the gate again" in done.err
    assert gate.levels == [LEVEL / 2, pytest.approx(LEVEL / 6)]  # a new skill: nothing to squash it with
    assert [attempt["remedy"] for attempt in done.json["attempts"]] == ["", "scale"]
    (layer,) = cli("log", "--json").json["layers"]
    assert layer["scale"] == 0.5
    assert cli("log", "--moves").out.splitlines()[0].endswith("train fox, scale 0.5")


def test_a_last_refusal_shows_every_try(gated: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Told(monkeypatch, [LOST, LOST, LOST, LOST])
    monkeypatch.setattr("lamina.ops.remedy._heldout_gains", lambda case: {1.0: 1.0, 0.75: 0.9, 0.5: 0.2, 0.25: 0.1})
    done = cli("train", "rows.jsonl", "--as", "fox", *TRAIN)
    assert done.code == 1
    table = done.err[done.err.index("tried") :].splitlines()
    assert table[0].split() == ["tried", "fox", "kept", "verdict"]
    assert table[1].startswith("as trained")
    assert table[1].endswith("+20.0  -10.0  refused at 2.50%")
    assert table[2].startswith("scale 0.75")
    assert table[3].startswith("anchors 0.15 instead of 0 ")
    assert table[4].startswith("learning rate 0.01 instead of 0.02")
    told = cli("log", "--candidates").out
    assert told.count("fox  ") == 3
    assert "    scale 0.75: refused: guard kept -10.0" in told
    found = cli("log", "--candidates", "--json").json["candidates"]
    assert sorted(len(each["judgements"]) for each in found) == [1, 1, 2]


def test_no_remedy_where_none_can_help(gated: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Told(monkeypatch, [(0.2, 0.0, False)])
    done = cli("train", "rows.jsonl", "--as", "fox", *TRAIN)
    assert done.code == 1
    assert "remedy scale: not tried, no guard lost anything that its items can show" in done.err
    assert gate.left == []


def test_without_remedies_the_gate_keeps_its_whole_level(
    gated: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Told(monkeypatch, [LOST, LOST])
    assert cli("train", "rows.jsonl", "--as", "fox", *TRAIN, "--no-remedies").code == 1
    with (gated / "lamina.toml").open("r+") as config:
        text = config.read()
        config.seek(0)
        config.write("remedies = false\n" + text)
    assert cli("train", "rows.jsonl", "--as", "fox", *TRAIN).code == 1
    assert gate.levels == [LEVEL]  # the second time its verdict stands


def test_the_budget_holds(gated: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Told(monkeypatch, [LOST])
    monkeypatch.setattr("lamina.ops.remedy._heldout_gains", lambda case: {1.0: 1.0, 0.75: 0.1})
    with (gated / "lamina.toml").open("r+") as config:
        text = config.read()
        config.seek(0)
        config.write("remedy_budget = 0.5\n" + text)
    done = cli("train", "rows.jsonl", "--as", "fox", *TRAIN)
    assert "remedy scale: not tried, on held-out rows every smaller scale loses more than a fifth" in done.err
    assert "remedy rate: not tried, would train " in done.err


def test_an_update_may_become_one_layer_with_its_skill(
    gated: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Told(monkeypatch, [GOOD, LOST, LOST, LOST, LOST, GOOD])
    monkeypatch.setattr("lamina.ops.remedy._heldout_gains", lambda case: {1.0: 1.0, 0.75: 0.9, 0.5: 0.2})
    with (gated / "lamina.toml").open("r+") as config:
        text = config.read()
        config.seek(0)
        config.write("remedy_budget = 50.0\n" + text)
    assert cli("train", "rows.jsonl", "--as", "fox", *TRAIN).code == 0
    write_rows(gated / "rows.jsonl", 50)
    done = cli("update", "rows.jsonl", *TRAIN, "--json")
    assert done.code == 0, done.err
    assert [attempt["remedy"] for attempt in done.json["attempts"]] == ["", "scale", "replay", "rate", "squash"]
    assert sum(attempt["level"] for attempt in done.json["attempts"]) == pytest.approx(LEVEL)
    (layer,) = cli("log", "--json").json["layers"]
    assert layer["name"] == "fox"
    rows = parse_seen(Store.find(gated).read_bytes(cli("show", "fox", "--json").json["rows"]))
    assert len(rows) == 50


def test_nothing_is_trained_or_scored_twice_after_an_interruption(
    gated: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at every place between training, gate and remedies; the ledger holds each step once."""
    trained: list[str] = []
    real_run, real_decide = train_module.run_training, admit_module.decide

    def run(*arguments: Any) -> Any:
        trained.append("run")
        return real_run(*arguments)

    monkeypatch.setattr(train_module, "run_training", run)
    calls = {"gate": 0}

    def decide(*arguments: Any, **named: Any) -> Verdict:
        calls["gate"] += 1
        if calls["gate"] in (1, 3):  # first the layer as trained, then its remedy: interrupted before the verdict
            raise KeyboardInterrupt
        verdict = real_decide(*arguments, **named)
        lost = tuple(dataclasses.replace(each, passed=False, after=each.before - 0.1) for each in verdict.suites)
        return dataclasses.replace(verdict, accepted=False, suites=lost)

    monkeypatch.setattr(admit_module, "decide", decide)
    codes = [cli("train", "rows.jsonl", "--as", "fox", *TRAIN).code for _ in range(4)]
    assert codes == [130, 130, 1, 1]
    assert len(trained) == 3  # the layer, with more anchors, and at half the rate
    steps = [entry.step for entry in read_ledger(Store.find(gated))]
    assert steps.count("train") == 1
    assert cli("log").out.count("fox") == 0
    before = len(steps)
    again = cli("train", "rows.jsonl", "--as", "fox", *TRAIN)
    assert again.code == 1
    assert len(read_ledger(Store.find(gated))) == before


def test_a_guard_whose_file_is_gone(gated: Path, cli: Callable[..., Any]) -> None:
    (gated / "kept_items.jsonl").unlink()
    done = cli("train", "rows.jsonl", "--as", "fox", *TRAIN)
    assert done.code == 1
    assert "kept_items.jsonl" in done.err
    assert "train:" not in done.err
    assert cli("log", "--json").json["layers"] == []
    assert read_ledger(Store.find(gated)) == []


def test_who_overruled_the_gate_is_recorded(
    gated: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Told(monkeypatch, [LOST])
    assert cli("train", "rows.jsonl", "--as", "fox", *TRAIN, "--accept").code == 0
    (layer,) = cli("log", "--json").json["layers"]
    assert layer["overruled"].endswith(": guard kept -10.0")
    assert "against the gate" in cli("log").out


def test_what_is_said_fits_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lamina.cli.recipe import _describe_attempts
    from lamina.ops.admit import Attempt

    suites = tuple(line(f"a long suite name {number}", "guard", -0.1, passed=False) for number in range(8))
    wide = Verdict(False, suites, (), 0.025)
    reason = "on held-out rows every smaller scale loses more than a fifth of what the layer gains"
    _describe_attempts(
        [Attempt(remedy="", done="as trained", verdict=wide), Attempt(remedy="scale", done=reason)],
    )
    said = capsys.readouterr().err
    assert max(map(len, said.splitlines())) <= 80
    assert said.startswith("as trained: guard a long suite name 0 -10.0")
    assert "scale: not tried, on held-out rows" in said
