"""Tables, charts and the HTML report: the same input gives the same bytes, and nothing in it can run."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from lamina.records import Matrix, Score, SideBySide
from lamina.report.chart import draw_matrix
from lamina.report.html import write_report
from lamina.report.matrix import render_matrix, render_sides


def score(suite: str, mean: float) -> Score:
    return Score(suite=suite, mean=mean, low=mean - 0.05, high=mean + 0.05, n=40, items_digest="d", values=())


MATRIX = Matrix(
    ("base", "+tools", "+facts", "+tools.2"),
    ("tools", "lamp", "facts", "general"),
    tuple(
        tuple(score(suite, mean) for suite, mean in zip(("tools", "lamp", "facts", "general"), row, strict=True))
        for row in ((0.0, 0.0, 0.0, 0.94), (0.81, 0.05, 0.0, 0.88), (0.8, 0.05, 0.98, 0.9), (0.8, 0.9, 0.97, 0.9))
    ),
)


def printed(renderable: object) -> list[str]:
    console = Console(width=80, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: PTH123, SIM115
    console.print(renderable)
    console.file.close()
    return console.export_text().splitlines()


def test_the_matrix_fits_80_columns_and_marks_changes() -> None:
    lines = printed(render_matrix(MATRIX))
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["stack", "tools", "lamp", "facts", "general"]
    assert "81.0 ±5 ▲" in lines[2]
    assert "88.0 ±5 ▼" in lines[2]
    assert "▼" not in lines[3]  # one point less is no change
    assert "▲" not in lines[1]
    assert lines[-1].split() == ["items", "40", "40", "40", "40"]


def test_long_answers_are_shortened_and_markup_is_text() -> None:
    lines = printed(render_sides([SideBySide("[red]q[/red]", "r", (("base", "x " * 500), ("main", "[bold]y")))]))
    assert "[red]q[/red]" in lines[0]
    assert any("…" in line for line in lines)
    assert any("[bold]y" in line for line in lines)


def test_charts_are_whole_and_repeatable(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_matrix(MATRIX, title="What each layer did", png=tmp_path / f"{name}.png", svg=tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]


def test_a_single_stack_and_suite_can_be_drawn(tmp_path: Path) -> None:
    one = Matrix(("base",), ("s",), ((score("s", 1.0),),))
    draw_matrix(one, title="t", png=tmp_path / "a.png", svg=tmp_path / "a.svg")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_report_escapes_everything_and_fetches_nothing(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>{{ 7 * 7 }}"
    draw_matrix(MATRIX, title=evil, png=tmp_path / "a.png", svg=tmp_path / "a.svg")
    write_report(
        tmp_path / "report.html",
        title=evil,
        matrix=MATRIX,
        svg=tmp_path / "a.svg",
        layers=[{"name": evil, "parent": "base"}],
        facts={"base": evil},
        sides=[SideBySide(evil, evil, ((evil, evil),))],
    )
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert "@import" not in page
