"""The pin of a base that is not quantised is spelt as it always was, so stores from before stay valid."""

from __future__ import annotations

from lamina.stack.layers import stack_digest
from lamina.stack.manifest import BasePin, StackConfig


def test_spelling_and_digest_from_before_there_was_quantisation(pin: BasePin) -> None:
    fields = ("name", "digest", "family", "template_digest", "tokenizer_digest", "source")
    spelt = ",".join(f'"{name}":"{getattr(pin, name)}"' for name in fields)
    assert pin.canonical().decode() == f"{{{spelt}}}"
    bare = StackConfig(base=pin, layers=())
    assert bare.canonical().decode() == f'{{"format":1,"base":{{{spelt}}},"layers":[]}}'
    assert stack_digest(StackConfig(base=pin.model_copy(update={"quantise": "nf4"}), layers=())) != stack_digest(bare)
