from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import UsageError
from lamina.refs import Digest, LayerTerm, StackExpression, check_name

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,20}", fullmatch=True)
SCALES = st.integers(-9999, 9999).map(lambda number: number / 100)
TERMS = st.builds(LayerTerm, NAMES, SCALES)
EXPRESSIONS = st.builds(StackExpression, NAMES, st.integers(0, 99), st.lists(TERMS, max_size=4).map(tuple))


@given(EXPRESSIONS)
def test_an_expression_prints_and_parses_back(expression: StackExpression) -> None:
    assert StackExpression.parse(str(expression)) == expression


@given(st.binary())
def test_a_digest_prints_and_parses_back(content: bytes) -> None:
    digest = Digest.of_bytes(content)
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize("scale", [0.1234567, 1e20])
def test_every_scale_prints_and_parses_back(scale: float) -> None:
    expression = StackExpression("base", terms=(LayerTerm("tools", scale),))
    assert StackExpression.parse(str(expression)) == expression


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("main", StackExpression("main")),
        ("main~", StackExpression("main", 1)),
        ("main~2", StackExpression("main", 2)),
        ("sha256:9c1e04", StackExpression("sha256:9c1e04")),
        (" base+tools+facts:0.5 ", StackExpression("base", 0, (LayerTerm("tools"), LayerTerm("facts", 0.5)))),
    ],
)
def test_the_grammar(text: str, expected: StackExpression) -> None:
    assert StackExpression.parse(text) == expected


@pytest.mark.parametrize("text", ["", "+", "main~x", "base+", "base+a:", "base+a:nan", "base+a:inf", "base+:1", "a b"])
def test_nonsense_names_the_part_it_cannot_read(text: str) -> None:
    with pytest.raises(UsageError, match="is not a stack: cannot read") as caught:
        StackExpression.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["base", "", "1st", "a/b", "../x", "a b", "a" * 65, "a\n"])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


@pytest.mark.parametrize("text", ["sha512:" + "0" * 64, "sha256:12", "0" * 64, "sha256:" + "G" * 64])
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="not a sha256 digest"):
        Digest.parse(text)


def test_a_file_and_its_bytes_have_one_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert Digest.of_file(tmp_path / "f") == Digest.of_bytes(b"abc")
    assert Digest.of_bytes(b"abc").short == "ba7816bf8f01"
