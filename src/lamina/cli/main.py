"""The ``lamina`` command: one module per verb, imported only when that verb runs."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from pathlib import Path

from lamina import __version__
from lamina.cli.output import emit_json, say
from lamina.errors import LaminaError, UsageError

__all__ = ["VERBS", "main", "run_command"]

VERBS: tuple[tuple[str, str], ...] = (
    ("demo", "watch a small model gain two skills and an update, with proof"),
    ("init", "start a project here: lamina.toml and .lamina/"),
    ("train", "train a new layer on your files, on top of the stack"),
    ("update", "files have changed: train what is new, with replay"),
    ("watch", "keep the stack current while files grow"),
    ("forget", "take data out of the model for good"),
    ("import", "put a PEFT LoRA from elsewhere on top of the stack"),
    ("log", "the layers of a stack with their cost and effect"),
    ("show", "everything about one layer, or a stack"),
    ("blame", "which layer changed an answer"),
    ("reproduce", "train a layer again from its record and compare the bits"),
    ("diff", "tell two stacks apart, or two layers"),
    ("drop", "take a layer out of the stack"),
    ("reorder", "put the layers into another order"),
    ("scale", "weigh a layer"),
    ("squash", "make one layer out of several"),
    ("merge", "join layers that were trained apart"),
    ("fold", "write the base with a stack's layers in its weights"),
    ("export", "write a stack for llama.cpp, Ollama, PEFT or vLLM"),
    ("rebase", "carry layers to another order, stack or base"),
    ("undo", "take back the last change"),
    ("branch", "list, make or delete branches"),
    ("switch", "go to another branch"),
    ("tag", "name a stack for good"),
    ("eval", "score every prefix of the stack on every suite"),
    ("route", "learn which layers should answer which request"),
    ("judge", "let a model say which of two stacks answers better"),
    ("chart", "draw the scores: PNG, SVG and one HTML report"),
    ("chat", "talk to a stack in the terminal"),
    ("serve", "answer other programs: OpenAI API, any stack per request"),
    ("push", "send a stack to an OCI registry, layer by layer"),
    ("pull", "bring a stack from an OCI registry"),
    ("data", "look at a file as the model will see it"),
    ("fsck", "check every digest, mend refs and index"),
    ("gc", "remove what no branch or tag reaches"),
    ("doctor", "what this machine can do, measured"),
)

# Verbs that Python keeps for itself.
_MODULES = {"eval": "evaluate", "import": "import_"}


def main() -> None:
    """Run the verb that the command line names, and exit with its code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run what a person typed after ``lamina`` and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"lamina {__version__}")
        return 0
    try:
        return _run_verb(arguments[0], arguments[1:])
    except LaminaError as error:
        say(f"error: {error.message}")
        if error.hint:
            say(f"\nhint: {error.hint}")
        if "--json" in arguments:
            emit_json({"error": error.message, "hint": error.hint})
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; a second error at interpreter exit would only be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        return _report_bug()


def _run_verb(verb: str, arguments: list[str]) -> int:
    names = [name for name, _ in VERBS]
    if verb not in names:
        import difflib

        near = difflib.get_close_matches(verb, names, n=1)
        raise UsageError(f"no command '{verb}'", hint=f"lamina {near[0]}" if near else "lamina --help")
    import typer

    module = importlib.import_module(f"lamina.cli.{_MODULES.get(verb, verb)}")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(name=verb)(module.run)
    try:
        app(args=arguments, prog_name=f"lamina {verb}", standalone_mode=True)
    except SystemExit as leaving:
        if leaving.code == 130:
            # typer turns Ctrl-C into a silent exit; the person who pressed it gets an answer.
            raise KeyboardInterrupt from leaving
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _overview() -> str:
    lines = [f"  {name:9} {line}" for name, line in VERBS]
    return "\n".join(
        [
            "usage: lamina COMMAND [OPTIONS]",
            "",
            "Docker layers for a language model: train, stack, prove, keep up to date.",
            "",
            "commands:",
            *lines,
            "",
            "`lamina COMMAND --help` tells more. Every command takes --json.",
            "Exit codes: 0 done, 1 refused or failed with a reason, 2 bad usage, 130 stopped.",
        ]
    )


def _report_bug() -> int:
    if os.environ.get("LAMINA_DEBUG"):
        traceback.print_exc()
        return 1
    handle, name = tempfile.mkstemp(prefix="lamina-bug-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        traceback.print_exc(file=file)
    say(f"error: this is a bug in lamina: {sys.exc_info()[1]!r:.200}")
    say(f"\nhint: please report it with {Path(name)}")
    return 1


if __name__ == "__main__":
    main()
