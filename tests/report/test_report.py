"""Tables, charts and the HTML report: the same input gives the same bytes, and nothing in it can run."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lamina.records import CostPoint, CostStep, Matrix, Quality, Score, SideBySide
from lamina.report.chart import draw_matrix
from lamina.report.drawing import spread
from lamina.report.html import write_report
from lamina.report.matrix import render_matrix, render_sides
from lamina.report.pareto import draw_pareto, frontier
from lamina.report.quality import draw_quality
from lamina.report.staircase import draw_cost_staircase


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
        draw_matrix(MATRIX, title="What each layer did").write(tmp_path / name)
    assert (tmp_path / "a" / "scores.svg").read_bytes() == (tmp_path / "b" / "scores.svg").read_bytes()
    assert (tmp_path / "a" / "scores.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["scores.png", "scores.svg"]


def test_a_single_stack_and_suite_can_be_drawn() -> None:
    one = Matrix(("base",), ("s",), ((score("s", 1.0),),))
    assert len(draw_matrix(one, title="t").png) > 1000


BARS = [Quality("base", 60.0, 55.0, 66.0), Quality("+tools", 100.0, 100.0, 100.0)]


def point(name: str, score: float, cost: float) -> CostPoint:
    return CostPoint(
        name=name,
        score=score,
        low=score - 0.05,
        high=score + 0.05,
        tokens=int(cost),
        flops=cost * 1e9,
        money=cost / 1e6,
        parameters=int(cost),
    )


POINTS = [point("base", 0.2, 0.0), point("+a", 0.5, 1e3), point("+b", 0.4, 2e3), point("+c", 0.5, 3e3)]


def test_the_frontier_holds_what_nothing_beats() -> None:
    assert [each.name for each in frontier(POINTS, lambda each: each.flops)] == ["base", "+a"]
    assert [each.name for each in frontier(POINTS[::-1], lambda each: each.flops)] == ["base", "+a"]
    assert frontier([], lambda each: each.flops) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_every_point_is_on_the_frontier_or_beaten_by_one_that_is(pairs: list[tuple[int, int]]) -> None:
    points = [point(str(place), score / 5, cost) for place, (score, cost) in enumerate(pairs)]
    best = frontier(points, lambda each: each.flops)
    for each in points:
        assert each in best or any(other.flops <= each.flops and other.score >= each.score for other in best)
    for each in best:
        assert not any(other.flops <= each.flops and other.score > each.score for other in points)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_labels_keep_their_distance(heights: list[float]) -> None:
    spots = spread(heights, 6.0, 0.0, 100.0)
    ordered = sorted(spots)
    assert all(upper - lower >= 6.0 - 1e-9 for lower, upper in pairwise(ordered))
    assert ordered[0] >= -1e-9
    assert ordered[-1] <= 100 + 1e-9
    assert spread(ordered, 6.0, 0.0, 100.0) == pytest.approx(ordered)  # labels that have room stay where they are


def test_captions_say_in_words_what_charts_show() -> None:
    quality = draw_quality(BARS, name="quality", title="Relative quality", of="the best stack")
    assert "base 60 % (55 to 66)" in quality.caption
    cost = draw_pareto(POINTS, title="Quality for cost", currency="$")
    assert "+a: 50.0% for 1e+12 operations, 1,000 tokens, $0.001, 1,000 parameters" in cost.caption
    assert "base: tools 0%" in draw_matrix(MATRIX, title="t").caption


def test_charts_of_decades_and_of_nothing_spent_can_be_drawn() -> None:
    decades = [point("base", 0.1, 0.0), *(point(f"+{power}", power / 10, 10.0**power) for power in range(1, 8))]
    assert draw_pareto(decades, title="t", currency="$").png
    assert draw_pareto([point("base", 0.1, 0.0)] * 2, title="t", currency="$").png


def test_narrow_drawings_are_for_phones() -> None:
    for each in (draw_matrix(MATRIX, title="t"), draw_pareto(POINTS, title="t", currency="$")):
        widths = [float(re.search(rb'width="([0-9.]+)pt"', svg)[1]) for svg in (each.wide, each.narrow)]
        # 390 pixels less the page's edges: letters of 11 points stay larger than 11 pixels.
        assert widths[1] <= 310 < 500 < widths[0]


def test_the_report_escapes_everything_and_fetches_nothing(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>{{ 7 * 7 }}"
    bars = [Quality(evil, 60.0, 55.0, 66.0), BARS[1]]
    write_report(
        tmp_path / "report.html",
        title=evil,
        matrix=MATRIX,
        drawings=[
            draw_matrix(MATRIX, title=evil),
            draw_quality(bars, name="quality", title=evil, of=evil),
            draw_pareto(POINTS, title=evil, currency="$"),
        ],
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
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))  # drawings side by side do not use one another's parts
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(names)


def test_the_staircase_tells_both_costs() -> None:
    points = [("base", 0.2, 0.0, 0.0), ("+a", 0.5, 100.0, 90.0), ("+b", 0.6, 150.0, 400.0)]
    steps = [
        CostStep(name=name, score=score, low=score - 0.1, high=score + 0.1, spent=spent, retrained=retrained)
        for name, score, spent, retrained in points
    ]
    first, again = (draw_cost_staircase(steps, title="t", unit="operations") for _ in range(2))
    assert first.name == "cost-staircase"
    assert "+b: 60.0% for 1.5e+02, retraining 4e+02" in first.caption
    assert first.wide == again.wide
    assert first.narrow != first.wide
