"""What the web page works with: the project's own operations behind the protocol of ``lamina.serve.page``."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from lamina.config import CONFIG_NAME, load_settings
from lamina.errors import DataError
from lamina.ops.audit import audit_file
from lamina.ops.feedback import CORRECTIONS, VOTES, Answered, save_correction, save_vote
from lamina.ops.lineage import LogRow, read_tree
from lamina.ops.project import Project
from lamina.ops.recorded import recorded_charts, recorded_results
from lamina.ops.trainings import How, Trainings
from lamina.records import Message
from lamina.serve.page.workshop import (
    Audit,
    Chart,
    LayerCard,
    LineageRow,
    Results,
    Said,
    Shelf,
    StackCard,
    StoredFile,
    Term,
    Training,
    Turn,
)
from lamina.stack.layers import list_layers, read_stack, stack_digest, term_of
from lamina.stack.lineage import list_refs, list_tags
from lamina.stack.manifest import LayerConfig, StackConfig
from lamina.stack.store import disk_errors

__all__ = ["ProjectWorkshop", "safe_name"]

_DATA = "data"
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")
_MOST_BYTES = 512 * 2**20
_LONGEST_NAME = 100
_CENT = 0.01
_KINDS = {CORRECTIONS: "corrections of answers", VOTES: "votes between answers"}


class ProjectWorkshop:
    """The ``Workshop`` of one open project."""

    def __init__(self, project: Project) -> None:
        """Work on ``project``, whose base need not be in memory."""
        self._project = project
        self._trainings = Trainings(project.store)
        self._drawing = threading.Lock()  # matplotlib's settings belong to the whole process
        self._receiving = threading.Lock()

    def close(self) -> None:
        """Stop the trainings that were started here, each after a checkpoint."""
        self._trainings.close()

    def shelf(self) -> Shelf:
        """Return the layers and stacks on the project's base."""
        store, pin = self._project.store, self._project.base.pin
        layers = [pair for pair in list_layers(store) if pair[1].base.digest == pin.digest]
        terms = _terms(layers)
        tags = list_tags(store)
        stacks = {name: read_stack(store, digest) for name, digest in list_refs(store).items()}
        return Shelf(
            project=store.project.name,
            base=pin.name,
            branch=self._project.branch,
            layers=tuple(_card(digest, layer, terms[digest]) for digest, layer in layers),
            stacks=tuple(
                _stack_card(name, stack, terms, is_tag=name in tags)
                for name, stack in stacks.items()
                if stack.base.digest == pin.digest
            ),
        )

    def lineage(self) -> list[LineageRow]:
        """Return what ``lamina log --all`` draws."""
        tree = read_tree(self._project.store.project)
        return [
            _lineage_row(line, tree.currency) if isinstance(line, LogRow) else LineageRow(graph=line, label="")
            for line in tree.lines
        ]

    def results(self) -> Results:
        """Return the recorded scores of the current branch's prefixes; nothing is measured."""
        return recorded_results(self._as_set_now())

    def charts(self) -> list[Chart]:
        """Return the charts of `lamina chart` for suites on which every prefix was measured."""
        with self._drawing:
            return recorded_charts(self._as_set_now())

    def vote(self, prompt: list[Turn], a: Said, b: Said, winner: Literal["model_a", "model_b", "tie"]) -> bool:
        """Add a vote to ``votes.jsonl``."""
        return save_vote(self._project.store, _messages(prompt), self._answered(a), self._answered(b), winner)

    def correct(self, prompt: list[Turn], wanted: str, said: Said) -> bool:
        """Add a row to ``corrections.jsonl``."""
        return save_correction(self._project.store, _messages(prompt), wanted, self._answered(said))

    def files(self) -> list[StoredFile]:
        """Return the data files in the project's folder and in its ``data``, by name."""
        root = self._project.store.project
        found = [path for folder in (root, root / _DATA) if folder.is_dir() for path in folder.iterdir()]
        return [
            StoredFile(
                file=str(path.relative_to(root)), size_bytes=path.stat().st_size, rows_of=_KINDS.get(path.name, "")
            )
            for path in sorted(found)
            if path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")
        ]

    def receive(self, name: str, offset: int, piece: bytes, *, last: bool) -> str | None:
        """Add a piece to a file under ``data``; the file appears, in place of an older one, with its last piece.

        Raises:
            DataError: if the name is no data file's, the file grows too large, or a piece is missing.
            MachineError: if the disk is full or read-only.
        """
        target = self._project.store.project / _DATA / safe_name(name)
        partial = target.with_name(f".{target.name}.part")
        if offset + len(piece) > _MOST_BYTES:
            partial.unlink(missing_ok=True)
            raise DataError(name, f"is larger than {_MOST_BYTES // 2**20} MiB", hint="`lamina train FILE` has no limit")
        with self._receiving, disk_errors(target):
            target.parent.mkdir(exist_ok=True)
            held = partial.stat().st_size if offset and partial.exists() else 0
            if held != offset:
                raise DataError(name, f"a piece is missing: expected byte {held}, got {offset}", hint="send it again")
            with partial.open("ab" if offset else "wb") as stream:
                stream.write(piece)
            if not last:
                return None
            partial.replace(target)
        return f"{_DATA}/{target.name}"

    def audit(self, file: str) -> Audit:
        """Look through a data file of the project."""
        return audit_file(self._as_set_now(), self._inside(file), file)

    def start(self, file: str, how: How, name: str) -> str:
        """Start a training on a data file of the project."""
        self._inside(file)
        return self._trainings.start(file, how, name)

    def stop(self, training: str) -> None:
        """Stop a training after a checkpoint."""
        self._trainings.stop(training)

    def trainings(self) -> list[Training]:
        """Return the trainings on this project."""
        return self._trainings.all()

    def _as_set_now(self) -> Project:
        """Return the project with ``lamina.toml`` as it is now: suites come and go while a server runs."""
        settings = load_settings(self._project.store.project / CONFIG_NAME)
        return dataclasses.replace(self._project, settings=settings)

    def _inside(self, file: str) -> Path:
        if all(file != known.file for known in self.files()):
            raise DataError(Path(file).name, "is not among the project's data files", hint="upload it first")
        return self._project.store.project / file

    def _answered(self, said: Said) -> Answered:
        return Answered(
            model=said.model, digest=stack_digest(self._project.stack(said.stack or said.model)), text=said.text
        )


def safe_name(name: str) -> str:
    """Return the last part of an uploaded file's name with only letters, digits, dot, dash and underscore in it.

    Raises:
        DataError: if nothing is left, or the ending is no data file's.
    """
    last = re.split(r"[/\\]", name)[-1]
    stem, dot, suffix = last.rpartition(".")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-_")
    if not stem or f"{dot}{suffix}".lower() not in _SUFFIXES:
        raise DataError(last or "file", f"expected a name that ends in {', '.join(_SUFFIXES)}", hint="rename the file")
    return f"{stem[:_LONGEST_NAME]}.{suffix}"


def _terms(layers: Sequence[tuple[str, LayerConfig]]) -> dict[str, str]:
    """Return how each layer is typed in a sum: by name, or by digits where several share the name."""
    names = [layer.name for _, layer in layers]
    return {digest: layer.name if names.count(layer.name) == 1 else digest[7:19] for digest, layer in layers}


def _stack_card(name: str, stack: StackConfig, terms: dict[str, str], *, is_tag: bool) -> StackCard:
    summands = tuple(Term(terms[entry.layer], entry.scale) for entry in stack.layers)
    return StackCard(name=name, kind="tag" if is_tag else "branch", terms=summands)


def _card(digest: str, layer: LayerConfig, term: str) -> LayerCard:
    return LayerCard(
        name=layer.name,
        digest=digest[7:19],
        term=term,
        rows=sum(source.rows for source in layer.data),
        files=tuple(source.file for source in layer.data),
        rank=layer.rank,
        created=layer.created,
    )


def _lineage_row(row: LogRow, currency: str) -> LineageRow:
    before, after = row.layer.heldout_loss_before, row.layer.heldout_loss_after
    origin = None if row.layer.origin is None else row.layer.origin.method
    notes = [*([f"moved: {row.moved}"] if row.moved else []), *([origin] if origin else [])]
    return LineageRow(
        graph=row.graph,
        label=term_of(row.entry.name, row.entry.scale),
        digest=row.entry.layer[7:19],
        refs=row.refs,
        tokens=row.spent.tokens,
        seconds=row.spent.seconds,
        money=f"{currency}{row.spent.money:.2f}" if row.spent.money >= _CENT else f"under {currency}{_CENT}",
        loss=None if before is None or after is None else (before, after),
        effects=tuple(
            (suite, after.mean - before.mean)
            for suite, (before, after) in row.effect.items()
            if after.moved_from(before)
        ),
        note=", ".join(notes),
    )


def _messages(turns: Iterable[Turn]) -> list[Message]:
    return [Message(turn.role, turn.content) for turn in turns]
