"""What binds an answer, in the notation that engines with llguidance inside follow: llama.cpp and vLLM."""

from __future__ import annotations

import json

from llguidance import LLMatcher, grammar_from

from lamina.serve.engine import RefusedError, Sampling

__all__ = ["grammar_of"]


def grammar_of(sampling: Sampling) -> str | None:
    """Return what binds the answer in llguidance's notation, which llama.cpp follows too; None if nothing does.

    Raises:
        RefusedError: if the schema or grammar is wrong.
    """
    if sampling.schema is not None:
        # The spelling of JSON that models are trained on; a model that may put in any space may never stop doing so.
        style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        rule = f"start: %json {json.dumps({'x-guidance': style, **sampling.schema})}"
    elif sampling.grammar is not None:
        try:
            rule = str(grammar_from("gbnf", sampling.grammar)).removeprefix("%llguidance {}")
        except ValueError as error:
            raise RefusedError(f"the grammar cannot be followed: {error}") from error
    else:
        return None
    grammar = f"%llguidance {{}}\n{rule.lstrip()}"
    if problem := LLMatcher.validate_grammar(grammar):
        raise RefusedError(f"the answer cannot be bound: {problem}")
    return grammar
