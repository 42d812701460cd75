"""What ``lamina branch`` and ``lamina tag`` have in common."""

from __future__ import annotations

from pathlib import Path

from lamina.cli.output import emit_json, print_line, say


def run(
    start: Path, name: str | None, stack: str | None, *, tag: bool, delete: bool, force: bool, as_json: bool
) -> None:
    """List, make or delete branches (or, with ``tag``, tags)."""
    from lamina.errors import UsageError
    from lamina.ops import branch as ops

    what = "tag" if tag else "branch"
    if name is None:
        if delete:
            raise UsageError("--delete needs a name", hint=f"lamina {what} --delete NAME")
        listed = [each for each in ops.refs(start) if each.tag == tag]
        if as_json:
            emit_json({each.name: {"digest": each.digest, "current": each.current} for each in listed})
            return
        width = max((len(each.name) for each in listed), default=0)
        for each in listed:
            print_line(f"{'*' if each.current else ' '} {each.name:{width}}  {each.digest[7:15]}  {each.stack}")
        if not listed:
            say(f"no {what} yet")
    elif delete:
        held = ops.delete(start, name, tag=tag)
        say(f"deleted {what} {name} (was {held[7:19]}; `lamina {what} {name} {held[7:19]}` brings it back)")
        if as_json:
            emit_json({"deleted": name, "was": held})
    else:
        made = ops.create_ref(start, name, stack, tag=tag, force=force)
        say(f"{what} {name}: {made}")
        if as_json:
            emit_json({what: name, "stack": made})
