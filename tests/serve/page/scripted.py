"""``lamina serve`` with an engine that says which layers it was asked with: a whole server for the page's tests.

Run as ``python scripted.py FOLDER``; prints the URL once it answers. ``forever`` in a question never ends, and to
``nothing`` it says nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from lamina.model.base import load_tokenizer
from lamina.ops import serve as serve_module
from lamina.ops.project import Project, open_project
from lamina.ops.serve import ServeOptions, serve
from lamina.records import Quiet
from lamina.serve.engine import Generation, Layers, Token
from lamina.stack.layers import read_layer, term_of


class ScriptedEngine:
    """Says ``base+fox+dog:0.5 heard "…"``, with the layers of the request and the question at its end."""

    name = "scripted"
    context = 4096

    def __init__(self, project: Project) -> None:
        self._project = project
        self._tokenizer = load_tokenizer(project.base)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def generate(self, request: Generation) -> AsyncIterator[Token]:
        asked = self._asked(request.prompt)
        names = [term_of(read_layer(self._project.store, digest).name, scale) for digest, scale in request.layers]
        said = f'{"+".join(["base", *names])} heard "{asked}"'
        if "nothing" in asked:
            said = ""
        for token in self._tokenizer.encode(said, add_special_tokens=False):
            yield Token(id=token)
            await asyncio.sleep(0)
        while "forever" in asked:
            yield Token(id=self._tokenizer.encode(".", add_special_tokens=False)[0])
            await asyncio.sleep(0.01)
        yield Token(id=None, finish="stop")

    async def embed(self, prompt: tuple[int, ...], layers: Layers) -> list[float] | None:
        return [1.0, 0.0] if "fox" in self._asked(prompt) else [0.0, 1.0]

    def _asked(self, prompt: tuple[int, ...]) -> str:
        text: str = self._tokenizer.decode(list(prompt), skip_special_tokens=True)
        return text.rstrip().removesuffix("assistant").rstrip().splitlines()[-1]


def main(folder: Path) -> None:
    project = open_project(folder, Quiet())
    serve_module.make_engine = lambda *_: ScriptedEngine(project)
    serve(project, ServeOptions(port=0), ready=lambda url: print(url, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
