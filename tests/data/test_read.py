"""Every format in every container, and every way a file can be wrong."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.data.read import read_records, read_rows
from lamina.errors import DataError, LaminaError
from lamina.records import Conversation, Message

ASKED, ANSWER = "How many?", 'Seven, "exactly",\nor so.'
PAIR = (Message("user", ASKED), Message("assistant", ANSWER))
SPELLINGS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWER}]}],
    "sharegpt": [{"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWER}]}],
    "alpaca": [{"instruction": ASKED, "input": "", "output": ANSWER}, {"instruction": ASKED, "output": ANSWER}],
    "prompt/completion": [
        {"prompt": ASKED, "completion": ANSWER},
        {"prompt": ASKED, "response": ANSWER},
        {"question": ASKED, "answer": ANSWER},
        {"input": ASKED, "output": ANSWER},
        {"prompt": [{"role": "user", "content": ASKED}], "completion": [{"role": "assistant", "content": ANSWER}]},
    ],
}
CASES = [(schema, record) for schema, records in SPELLINGS.items() for record in records]


def contents(rows: tuple[Conversation, ...]) -> list[tuple[Message, ...]]:
    return [row.messages for row in rows]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1), "utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        buffer = io.StringIO(newline="")
        table = csv.DictWriter(buffer, list(records[0]), delimiter="," if path.suffix == ".csv" else "\t")
        table.writeheader()
        table.writerows(records)
        path.write_text(buffer.getvalue(), "utf-8", newline="")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(("schema", "record"), CASES)
def test_schemas_in_structured_containers(tmp_path: Path, schema: str, record: dict[str, Any], suffix: str) -> None:
    found = read_rows(write(tmp_path / f"rows{suffix}", [record, record]))
    assert (found.schema, found.container) == (schema, suffix[1:])
    assert contents(found.rows) == [PAIR, PAIR]
    assert [row.row for row in found.rows] == [1, 2]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize(
    ("schema", "record"), [case for case in CASES if all(isinstance(value, str) for value in case[1].values())]
)
def test_schemas_in_tables(tmp_path: Path, schema: str, record: dict[str, Any], suffix: str) -> None:
    found = read_rows(write(tmp_path / f"rows{suffix}", [record, record]))
    assert (found.schema, found.container) == (schema, suffix[1:])
    assert contents(found.rows) == [PAIR, PAIR]


def test_what_was_found_is_said(tmp_path: Path) -> None:
    found = read_rows(write(tmp_path / "rows.jsonl", SPELLINGS["alpaca"][:1]))
    assert found.describe() == "rows.jsonl: 1 rows (JSONL, Alpaca)"


def test_json_lines_under_another_name_and_a_nested_list(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", SPELLINGS["alpaca"][:1] * 2).rename(tmp_path / "a.json")
    assert len(read_rows(lines).rows) == 2
    nested = tmp_path / "b.json"
    nested.write_text(json.dumps({"version": 1, "data": SPELLINGS["alpaca"]}))
    assert len(read_rows(nested).rows) == 2


def test_byte_order_mark_and_unicode_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes("\ufeff".encode() + json.dumps({"text": "a\u2028b"}, ensure_ascii=False).encode() + b"\r\n")
    assert [row.text for row in read_rows(path).rows] == ["a\u2028b"]


def test_plain_text_becomes_rows_of_whole_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    paragraphs = [f"Paragraph {number}. " + "word " * 150 for number in range(6)]
    path.write_text("\n\n".join(paragraphs))
    found = read_rows(path)
    assert found.schema == "text"
    assert len(found.rows) > 1
    assert "\n\n".join(row.text for row in found.rows) == "\n\n".join(text.strip() for text in paragraphs)
    assert [row.row for row in found.rows] == [1, 5, 9]


def test_openai_tool_calls_become_text(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}
    found = read_rows(write(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "go"}, call]}]))
    assert found.rows[0].messages[-1].content == '{"name": "f", "arguments": {"a": 1}}'


GOOD = json.dumps({"prompt": "a", "completion": "b"})
USER = {"role": "user", "content": "a"}
BAD: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("a.jsonl", "", "is empty; expected at least one row"),
    "only blank lines": ("a.jsonl", "\n \n", "is empty; expected at least one row"),
    "empty list": ("a.json", "[]", "holds no rows; expected at least one"),
    "header only": ("a.csv", "prompt,completion\n", "holds no rows; expected at least one"),
    "broken JSON at row 3": ("a.jsonl", f"{GOOD}\n{GOOD}\n{{oops\n", "row 3: broken JSON: "),
    "too deep": ("a.jsonl", f"{GOOD}\n{'[' * 200_000}\n", "row 2: broken JSON: "),
    "not an object": ("a.jsonl", f"{GOOD}\n[1]\n", "row 2: expected a JSON object"),
    "mixed formats": (
        "a.jsonl",
        GOOD + '\n{"instruction": "a", "output": "b"}\n',
        "row 2: is Alpaca, the rows before it are prompt/completion; expected one format",
    ),
    "missing keys": ("a.jsonl", f'{GOOD}\n{{"propmt": "a"}}\n', "row 2: its keys are 'propmt'; expected messages, "),
    "not UTF-8": ("a.jsonl", GOOD.encode() + b'\n{"prompt": "caf\xe9"}\n', "row 2: byte "),
    "only system": (
        "a.jsonl",
        json.dumps({"messages": [{"role": "system", "content": "be kind"}]}),
        "row 1: nothing to learn: only system messages; expected an assistant answer",
    ),
    "ends with the user": (
        "a.jsonl",
        json.dumps({"messages": [USER, {"role": "assistant", "content": "b"}, USER]}),
        "row 1: the conversation ends with a user message",
    ),
    "empty answer": ("a.jsonl", json.dumps({"messages": [USER, {"role": "assistant", "content": " "}]}), "is empty"),
    "unknown role": ("a.jsonl", json.dumps({"messages": [{"role": "narrator", "content": "x"}]}), "unknown role"),
    "null answer": ("a.jsonl", '{"prompt": "a", "completion": null}', "row 1: 'completion' is missing a value"),
    "ragged table": ("a.csv", "prompt,completion\na,b\nc\n", "row 2: has 1 fields; expected 2 as in the header"),
    "not Parquet": ("a.parquet", b"PAR1nonsense", "is not valid Parquet"),
    "number for a list": ("a.jsonl", '{"messages": 3}', "row 1: expected a list of messages, found a number"),
    "image parts": (
        "a.jsonl",
        json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        "row 1: a message has parts that are not text",
    ),
    "tools key": ("a.jsonl", json.dumps({"messages": [USER], "tools": []}), "row 1: the key 'tools'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_name_file_and_row(tmp_path: Path, case: str) -> None:
    name, content, message = BAD[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_rows(path)
    assert caught.value.message.startswith(str(path))
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_row_of_100_megabytes_is_refused(tmp_path: Path, name: str) -> None:
    huge = {"prompt": "a", "completion": "b" * 100_000_000}
    path = write(tmp_path / name, [{"prompt": "a", "completion": "b"}, huge])
    with pytest.raises(DataError, match=r"row 2: .*16 MiB") as caught:
        read_rows(path)
    assert len(caught.value.message) < 400


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: no such file"):
        read_rows(tmp_path / "no.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path)


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=400), suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ""])
)
def test_any_bytes_are_rows_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"a{suffix}"
    path.write_bytes(content)
    problem = problem_with(path)
    assert problem is None or problem.message.startswith(str(path))


def problem_with(path: Path) -> LaminaError | None:
    try:
        assert read_rows(path).rows
    except LaminaError as error:
        return error
    return None


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["messages", "conversations", "instruction", "output", "prompt", "completion", "text", "role"])


@settings(max_examples=150, deadline=None)
@given(records=st.lists(st.dictionaries(KEYS, VALUES, min_size=1, max_size=3), min_size=1, max_size=3))
def test_any_json_is_rows_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "a.jsonl", records)
    problem = problem_with(path)
    assert problem is None or (isinstance(problem, DataError) and problem.row is not None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4))
def test_json_lines_and_csv_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("same")
    records = [{"prompt": f"q{asked}", "completion": f"a{answer}"} for asked, answer in pairs]
    records = [{k: v.replace("\x00", "").replace("\r", "") for k, v in row.items()} for row in records]
    records = [{k: v.encode("utf-8", "ignore").decode() for k, v in row.items()} for row in records]
    lines, table = (read_rows(write(folder / f"a{suffix}", records)) for suffix in (".jsonl", ".csv"))
    assert contents(lines.rows) == contents(table.rows)


def test_records_keep_their_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"\n{GOOD}\n\n{GOOD}\n")
    assert [number for number, _ in read_records(path).items] == [2, 4]
