"""What the README says exists, exists: commands, modules, links, and the figures' scripts."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from lamina.cli.main import VERBS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_commands() -> None:
    typed = set(re.findall(r"^lamina (\w+)", README, re.MULTILINE))
    assert typed <= {name for name, _ in VERBS}
    assert len(typed) >= 9
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= set(targets)


def test_every_module_has_its_place_in_the_tree() -> None:
    tree = README[README.index("src/lamina/\n") :]
    modules = {path for path in (ROOT / "src" / "lamina").rglob("*.py") if path.name != "__init__.py"}
    assert {path.name for path in modules if path.name not in tree} == set()
    folders = {path.parent.name for path in modules} - {"lamina"}
    assert {folder for folder in folders if f"  {folder}/ " not in tree} == set()


def test_links_and_scripts() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    pages = [*(ROOT / "docs").rglob("*.md")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert "://" in link or (page.parent / link).exists(), (page, link)
    scripts = set(re.findall(r"`bench/([\w/]+\.py)[^`]*`", README))
    assert scripts
    assert {name for name in scripts if not (ROOT / "bench" / name).exists()} == set()


@pytest.mark.parametrize("script", sorted((ROOT / "bench").rglob("*.py")), ids=lambda path: path.stem)
def test_every_bench_finds_what_it_imports(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lamina":
            module = importlib.import_module(str(node.module))
            for name in node.names:
                found = hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}")
                assert found, f"{script}: {node.module} has no {name.name}"


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README
