"""``lamina push --to hf:OWNER/NAME``: a stack as one PEFT adapter with its card, in a folder or on the hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lamina.errors import StackError, UsageError
from lamina.export.card import Card, ScoreLine, render_card
from lamina.export.peft import maps_of, write_peft
from lamina.lora.adapter import combine
from lamina.model.base import load_skeleton
from lamina.model.hub import BUNDLED_NOTE, hub_id, is_bundled
from lamina.ops.evaluate import find_suites
from lamina.ops.project import Project, open_project
from lamina.ops.results import read_score
from lamina.records import Progress
from lamina.stack.layers import read_layer, stack_digest
from lamina.stack.manifest import LayerConfig, StackConfig
from lamina.stack.order import check_parents
from lamina.stack.store import disk_errors, scratch_folder, write_atomically

__all__ = ["HUB", "Published", "publish", "write_files"]

HUB = "hf:"
_LONGEST_NAME = 96
# The hub's rule: letters, digits, single dots and dashes inside, underscores.
_PART = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_REPOSITORY = re.compile(rf"{_PART}/(?!.*\.git$){_PART}")


@dataclass(frozen=True, slots=True)
class Published:
    """What was published: the stack, its files with their sizes in bytes, and where it is (a folder or an address)."""

    stack: str
    files: dict[str, int]
    where: str


def publish(
    start: Path, expression: str | None, target: str, *, folder: Path | None = None, progress: Progress
) -> Published:
    """Write a stack as a hub repository, and upload it unless ``folder`` is given.

    A new repository on the hub is private. The token is the one of ``hf auth login`` or HF_TOKEN.

    Args:
        start: where the project is looked for.
        expression: the stack; None means the current branch.
        target: ``hf:OWNER/NAME``.
        folder: write the repository's files here, into a folder that does not exist yet, and upload nothing.
        progress: for people.

    Raises:
        UsageError: if ``target`` is no hub id, or ``folder`` exists.
        StackError: if the stack does not fit the base or adds nothing, or the hub refuses it or cannot be reached.
        MachineError: if the disk is full or read-only.
    """
    name = _check_target(target)
    if folder is None:
        _require_login()
    elif folder.exists():
        raise UsageError(f"{folder}: exists already", hint="name a folder that does not exist yet")
    project = open_project(start, progress)
    stack = project.stack(expression)
    check_parents(project.store, stack, project.base.pin)
    near = project.store.root / "runs" if folder is None else folder.absolute().parent
    with scratch_folder(near) as scratch:
        write_files(project, stack, name, scratch)
        files = {path.name: path.stat().st_size for path in sorted(scratch.iterdir())}
        where = _upload(scratch, name, stack, progress) if folder is None else _move(scratch, folder)
    return Published(stack_digest(stack), files, where)


def _check_target(target: str) -> str:
    name = target.removeprefix(HUB)
    valid = target.startswith(HUB) and _REPOSITORY.fullmatch(name) and len(name) <= _LONGEST_NAME
    if not valid:
        raise UsageError(f"'{target}' names no hub repository", hint="for example: --to hf:yourname/tools-lora")
    return name


def _require_login() -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise StackError(
            "not logged in to the Hugging Face hub", hint="`hf auth login`, or set HF_TOKEN; --folder needs neither"
        )


def write_files(project: Project, stack: StackConfig, name: str, folder: Path) -> None:
    """Write the stack as one PEFT adapter with its card, its records and the chat template.

    Args:
        project: the open project.
        stack: of its base.
        name: what the card calls it.
        folder: an existing folder.

    Raises:
        StackError: if the stack adds nothing.
        MachineError: if the disk is full or read-only.
    """
    store, pin = project.store, project.base.pin
    layers = [(entry, read_layer(store, entry.layer)) for entry in stack.layers]
    whole = combine(project.adapters(stack.layers), [entry.scale for entry in stack.layers])
    known = hub_id(pin)
    if known is None and pin.source != pin.name:
        project.progress.note(f"lamina.json tells where the base lies here, as the layers record it: {pin.source}")
    with disk_errors(folder):
        write_peft(whole, folder, base=known or pin.name, maps=maps_of(load_skeleton(project.base)))
        card = Card(
            target=name,
            base=pin,
            hub_id=known,
            stack_id=stack_digest(stack),
            layers=layers,
            rank=max(factors.rank for factors in whole.values()),
            scores=_scores(project, stack),
            source_note=BUNDLED_NOTE if is_bundled(pin) else "",
        )
        write_atomically(folder / "README.md", render_card(card).encode())
        write_atomically(folder / "lamina.json", _records(stack, {entry.layer: layer for entry, layer in layers}))
        write_atomically(folder / "chat_template.jinja", project.base.template.encode())


def _scores(project: Project, stack: StackConfig) -> list[ScoreLine]:
    bare = stack.prefix(0)
    lines = []
    for suite in find_suites(project).values():
        before, after = (read_score(project.store, scored, suite.digest) for scored in (bare, stack))
        lines.append(ScoreLine(suite.name, suite.scorer, suite.guard, len(suite.items), before, after))
    return lines


def _records(stack: StackConfig, layers: dict[str, LayerConfig]) -> bytes:
    """Return the configs as JSON. Each, spelled as ``canonical`` does, has the digest that names it."""
    record = {
        "format": 1,
        "stack": stack_digest(stack),
        "config": json.loads(stack.canonical()),
        "layers": {digest: json.loads(layer.canonical()) for digest, layer in layers.items()},
    }
    return f"{json.dumps(record, indent=1, ensure_ascii=False)}\n".encode()


def _move(scratch: Path, folder: Path) -> str:
    with disk_errors(folder):
        scratch.chmod(0o755)
        scratch.rename(folder)
    return str(folder)


def _upload(folder: Path, name: str, stack: StackConfig, progress: Progress) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # Its bases are whatever the hub's HTTP client, which changed over time, raises when a connection fails.
    failures = cast(tuple[type[Exception], ...], (*HfHubHTTPError.__bases__, ValueError))
    size = sum(path.stat().st_size for path in folder.iterdir())
    hub = HfApi()
    try:
        with progress.stage(f"upload to {name}", total=size, unit="B") as tick:
            address = hub.create_repo(name, private=True, exist_ok=True)
            hub.upload_folder(repo_id=name, folder_path=folder, commit_message=f"lamina stack {stack_digest(stack)}")
            tick(size)
    except failures as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise StackError(
            f"{HUB}{name}: not uploaded: {reason}",
            hint="check the network, the name and the token's right to write; --folder keeps the files here",
        ) from error
    return str(address)
