"""One table of ``lamina.toml`` replaced, everything else as its owner wrote it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.config import BaseSettings
from lamina.errors import UsageError
from lamina.ops.project import base_table
from lamina.ops.toml import quoted, replace_table

NEW = '[base]\nmodel = "new"\n'


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_text_is_read_back(text: str) -> None:
    assert tomllib.loads(f"key = {quoted(text)}")["key"] == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('[base]\nmodel = "old"\ndigest = "d"\n', NEW),
        ('# top\nmargin = 0.1\n[base] # pinned\nmodel = "old"', f"# top\nmargin = 0.1\n{NEW}"),
        ('[base]\nmodel = "old"\n\n# mine\n[train]\nrank = 4\n', f"{NEW}\n# mine\n[train]\nrank = 4\n"),
        ('[train]\nrank = 4\n\n[base]\n# why\nmodel = "old"\n\n[suites.a]\nfile = "a"\n', None),
        ("margin = 0.1\n", f"margin = 0.1\n\n{NEW}"),
    ],
)
def test_the_rest_of_the_file_stays(tmp_path: Path, before: str, after: str | None) -> None:
    path = tmp_path / "lamina.toml"
    path.write_text(before)
    changed = replace_table(path, "base", NEW)
    assert path.read_text() == before
    assert tomllib.loads(changed) == tomllib.loads(before) | {"base": {"model": "new"}}
    if after is not None:
        assert changed == after


@pytest.mark.parametrize(
    "written", ['base = {model = "old"}\n', 'base.model = "old"\n', '[base]\nmodel = """\n[x]\n"""\n']
)
def test_what_cannot_be_replaced_is_said(tmp_path: Path, written: str) -> None:
    path = tmp_path / "lamina.toml"
    path.write_text(written)
    with pytest.raises(UsageError, match=r"\[base\] cannot be replaced"):
        replace_table(path, "base", NEW)


def test_the_base_table_says_what_settings_say() -> None:
    settings = BaseSettings(
        model='a "b"\\c', revision="v1", digest="sha256:0", template=Path("t.jinja"), quantise="int8"
    )
    assert BaseSettings.model_validate(tomllib.loads(base_table(settings))["base"]) == settings
    assert base_table(BaseSettings(model="smollm2-135m")) == '[base]\nmodel = "smollm2-135m"\n'
