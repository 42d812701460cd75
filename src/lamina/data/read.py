"""Files to rows: JSONL, JSON, CSV, TSV, Parquet and plain text, recognised and reported.

The container is told by the file's name and checked by its content; the schema by the keys of every row. Whatever is
wrong is one ``DataError`` that names file and row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.data.formats import SCHEMAS, BadRowError, detect_schema
from lamina.errors import DataError, MachineError
from lamina.records import Conversation

__all__ = ["DataFile", "Records", "parse_rows", "read_records", "read_rows"]

_MOST_ROW_BYTES = 16 * 2**20
_TEXT_ROW_CHARACTERS = 2000
_TOO_LONG = f"the row is longer than {_MOST_ROW_BYTES // 2**20} MiB; expected one example per row"
_KNOWN = "messages, conversations, instruction/output, prompt/completion, question/answer, text/label, text"
_TITLES = {"jsonl": "JSONL", "json": "JSON", "csv": "CSV", "tsv": "TSV", "parquet": "Parquet", "text": "text"}


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that has been read. ``digest`` is ``sha256:`` of its bytes."""

    path: Path
    container: str
    schema: str
    rows: tuple[Conversation, ...]
    digest: str

    def describe(self) -> str:
        """Return one line for people."""
        title = SCHEMAS[self.schema].title
        return f"{self.path.name}: {len(self.rows)} rows ({_TITLES[self.container]}, {title})"


@dataclass(frozen=True, slots=True)
class Records:
    """The raw records of a file, each with its row number from 1 (the line, for JSONL)."""

    container: str
    items: tuple[tuple[int, dict[str, Any]], ...]
    digest: str


def read_rows(path: Path) -> DataFile:
    """Return the conversations in a file.

    Raises:
        DataError: naming file, row, what was expected and what to do.
        MachineError: if the file is Parquet and pyarrow is not installed.
    """
    return parse_rows(path, read_records(path))


def parse_rows(path: Path, records: Records) -> DataFile:
    """Return the conversations in what was read from ``path``.

    Raises:
        DataError: naming file, row, what was expected and what to do.
    """
    schema = _one_schema(path, records)
    rows: list[Conversation] = []
    bad: list[tuple[int, str]] = []
    for number, record in records.items:
        try:
            row = _read_row(schema, record)
        except BadRowError as problem:
            bad.append((number, str(problem)))
            continue
        rows.append(Conversation(row.messages, row.text, file=path.name, row=number))
    if bad:
        more = f" (and {len(bad) - 1} more rows like it)" if len(bad) > 1 else ""
        raise DataError(path, f"{bad[0][1]}{more}", row=bad[0][0], hint="mend or delete the row")
    return DataFile(path, records.container, schema, tuple(rows), records.digest)


def _read_row(schema: str, record: dict[str, Any]) -> Conversation:
    row = SCHEMAS[schema].read(record)
    if sum(len(message.content) for message in row.messages) + len(row.text) > _MOST_ROW_BYTES:
        raise BadRowError(_TOO_LONG)
    return row


def read_records(path: Path) -> Records:
    """Return the raw records in a file.

    Raises:
        DataError: if the file cannot be read as what it says it is.
        MachineError: if it is Parquet and pyarrow is not installed.
    """
    if path.is_dir():
        raise DataError(path, "is a folder; expected a data file", hint=f"name its files: {path}/*.jsonl")
    try:
        _check_row_sizes(path)
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise DataError(path, f"cannot be read: {reason}", hint="check the path") from error
    if not content.strip():
        raise DataError(path, "is empty; expected at least one row", hint="check how the file was written")
    container, items = _parse(path, content)
    if not items:
        raise DataError(path, "holds no rows; expected at least one", hint="check how the file was written")
    return Records(container, tuple(items), f"sha256:{hashlib.sha256(content).hexdigest()}")


def _check_row_sizes(path: Path) -> None:
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(_MOST_ROW_BYTES + 1):
            number += 1
            if len(line) > _MOST_ROW_BYTES:
                raise DataError(path, _TOO_LONG, row=number, hint="split the file into lines")


def _parse(path: Path, content: bytes) -> tuple[str, list[tuple[int, dict[str, Any]]]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet" or content[:4] == b"PAR1":
        return "parquet", list(_parquet(path, content))
    text = _decode(path, content)
    if suffix in (".csv", ".tsv"):
        return suffix[1:], list(_table(path, text, "," if suffix == ".csv" else "\t"))
    if suffix in (".txt", ".md"):
        return "text", list(_paragraphs(text))
    if suffix in (".jsonl", ".ndjson") or not _is_one_value(text):
        return "jsonl", list(_lines(path, text))
    return "json", list(_document(path, text))


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            path,
            f"byte {error.start} is not UTF-8; expected UTF-8 text",
            row=row,
            hint=f"iconv -f latin1 -t utf8 {path.name} > utf8{path.suffix}",
        ) from error


def _is_one_value(text: str) -> bool:
    # A .json file that is really JSON lines starts with an object that is not the whole file.
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        first = text.lstrip().partition("\n")[0]
        try:
            return not isinstance(json.loads(first), dict)
        except (ValueError, RecursionError):
            return True
    return True


def _lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): it would also split at U+2028 and its kin, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _object(path, _load(path, line, number), number)


def _paragraphs(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield neighbouring paragraphs joined to rows of some 500 tokens, so that a book is not one row."""
    held: list[str] = []
    start = line = 1
    for paragraph in re.split(r"(\n\s*\n)", text.replace("\r\n", "\n")):
        if paragraph.strip():
            if held and sum(map(len, held)) + len(paragraph) > _TEXT_ROW_CHARACTERS:
                yield start, {"text": "\n\n".join(held)}
                held = []
            start = start if held else line
            held.append(paragraph.strip())
        line += paragraph.count("\n")
    if held:
        yield start, {"text": "\n\n".join(held)}


def _document(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    value = _load(path, text, None)
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        value = lists[0] if len(lists) == 1 and detect_schema(value) is None else [value]
    if not isinstance(value, list):
        raise DataError(path, "expected a list of objects", hint="see docs/data.md for the formats")
    for number, item in enumerate(value, 1):
        yield number, _object(path, item, number)


def _load(path: Path, text: str, row: int | None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = (
            f"{error.msg.lower()} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
        )
        at = row if row is not None else getattr(error, "lineno", None)
        raise DataError(path, f"broken JSON: {reason}", row=at, hint="mend the line") from error


def _object(path: Path, value: Any, row: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(path, "expected a JSON object", row=row, hint="each row is {…}; see docs/data.md")
    return value


def _table(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_MOST_ROW_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader)]
        for number, cells in enumerate(reader, 1):
            if len(cells) == 0:
                continue
            if len(cells) != len(header):
                problem = f"has {len(cells)} fields; expected {len(header)} as in the header"
                raise DataError(path, problem, row=number, hint="quote fields that hold the delimiter")
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        problem = _TOO_LONG if "field larger" in str(error) else f"broken table: {error}"
        raise DataError(path, problem, row=max(1, reader.line_num - 1), hint="check the quoting") from error


def _parquet(path: Path, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MachineError(f"{path}: reading Parquet needs pyarrow", hint="pip install 'lamina[parquet]'") from error
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        yield from enumerate(table.to_pylist(), 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(path, "is not valid Parquet", hint="write the file again") from error


def _one_schema(path: Path, records: Records) -> str:
    found: str | None = None
    for number, record in records.items:
        schema = detect_schema(record)
        if schema is None:
            keys = ", ".join(map(repr, list(record)[:6])) or "none"
            raise DataError(path, f"its keys are {keys}; expected {_KNOWN}", row=number, hint="rename the keys")
        if found is not None and schema != found:
            problem = f"is {SCHEMAS[schema].title}, the rows before it are {SCHEMAS[found].title}; expected one format"
            raise DataError(path, problem, row=number, hint="split the file by format")
        found = schema
    assert found is not None
    return found
