"""A Modelfile: what Ollama must be told of a base, a stack and the chat template.

Ollama renders chats with Go templates, and takes a GGUF file's own chat template only where it knows that one already.
ChatML is written for it; what is any other template is left to Ollama, and said.

Source: github.com/ollama/ollama, docs/modelfile.md and docs/template.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lamina.records import Message

__all__ = ["chatml_system", "modelfile"]

_GO_CHATML = """{{- if not (eq (index .Messages 0).Role "system") }}%SYSTEM%{{ end }}
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


def chatml_system(render: Callable[[Sequence[Message]], str]) -> str | None:
    """Return what a ChatML template puts in front where no system message is given; None if it is not ChatML.

    What the template makes of two conversations tells, whatever way it is written: ``render`` returns what the model is
    asked with, special tokens and all.
    """
    asked = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    plain = render(asked)
    body = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in asked)
    told = render([Message("system", "s"), *asked])
    end = "<|im_start|>assistant\n"
    if not plain.endswith(body + end) or told != f"<|im_start|>system\ns<|im_end|>\n{body}{end}":
        return None
    return plain.removesuffix(body + end)


def modelfile(*, base: str, adapter: str, system: str | None, context: int) -> str:
    """Return the text of a Modelfile.

    Args:
        base: the base's GGUF file, beside the Modelfile.
        adapter: the stack's, likewise.
        system: what ``chatml_system`` returned.
        context: longest input, in tokens.
    """
    lines = [f"FROM ./{base}", f"ADAPTER ./{adapter}", f"PARAMETER num_ctx {context}", "PARAMETER temperature 0"]
    if system is not None:
        lines += ['PARAMETER stop "<|im_end|>"', f'TEMPLATE """{_GO_CHATML.replace("%SYSTEM%", system)}"""']
    return "\n".join(lines) + "\n"
