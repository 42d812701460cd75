"""A fast tokenizer's vocabulary, as llama.cpp reads it.

The serving engine is given ids, so that only a token's text, kind and number matter to it; whoever runs an exported
file elsewhere also needs the merges and the name of the rule that cuts text into words.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType

from lamina.errors import StackError

__all__ = ["write_vocab"]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# What in a Hugging Face pre-tokenizer tells which of llama.cpp's rules is the same one; the first that fits.
_WORD_RULES = (
    ('"Digits"', "smollm"),
    (r"\\p{N}{1,3}", "llama-bpe"),
    (r"\\p{N}|", "qwen2"),
)


def write_vocab(writer: gguf.GGUFWriter, folder: Path, tokenizer: Any, *, template: str, size: int) -> None:
    """Write tokens, merges, special ids and the chat template of the tokenizer in ``folder``.

    Args:
        writer: where to.
        folder: the base's.
        tokenizer: it, loaded.
        template: the base's chat template.
        size: rows of the embedding; ids beyond the tokenizer's are filled up with unused tokens.

    Raises:
        StackError: if the tokenizer is no byte-level or byte-fallback BPE, or has more tokens than the model has rows.
    """
    path = folder / "tokenizer.json"
    try:
        spec = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StackError(f"{path}: a GGUF file needs a fast tokenizer's JSON", hint="use another base") from error
    model = spec["model"]
    if model["type"] != "BPE":
        raise StackError(f"{path}: a {model['type']} tokenizer cannot be written as GGUF", hint="use --to peft")
    tokens, kinds = _tokens(spec, size, path)
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_prepends_space(spec))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_word_rule(spec))
        writer.add_token_merges([f"{left} {right}" for left, right in merges])
        writer.add_add_space_prefix(False)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _write_special(writer, tokenizer)
    writer.add_chat_template(template)


def _tokens(spec: dict[str, Any], size: int, path: Path) -> tuple[list[str], list[TokenType]]:
    found = {number: (text, TokenType.NORMAL) for text, number in spec["model"]["vocab"].items()}
    if spec["model"].get("byte_fallback"):
        found |= {number: (text, TokenType.BYTE) for number, (text, _) in found.items() if _BYTE.fullmatch(text)}
    for added in spec["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        found[added["id"]] = (added["content"], kind)
    if max(found) >= size:
        raise StackError(
            f"{path}: token {max(found)} has no row in the embedding of {size:,}", hint="use the base's own tokenizer"
        )
    filled = [found.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(size)]
    return [text for text, _ in filled], [kind for _, kind in filled]


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """Return scores under which merging the best-scored pair first does what the merges do in their order."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(token, 0)) for token in tokens]


def _prepends_space(spec: dict[str, Any]) -> bool:
    parts = json.dumps([spec.get("normalizer"), spec.get("pre_tokenizer")])
    return '"Prepend"' in parts or '"prepend_scheme": "first"' in parts or '"prepend_scheme": "always"' in parts


def _word_rule(spec: dict[str, Any]) -> str:
    rule = json.dumps(spec.get("pre_tokenizer"))
    return next((name for mark, name in _WORD_RULES if mark in rule), "gpt-2")


def _write_special(writer: gguf.GGUFWriter, tokenizer: Any) -> None:
    writers = {
        "bos_token_id": writer.add_bos_token_id,
        "eos_token_id": writer.add_eos_token_id,
        "unk_token_id": writer.add_unk_token_id,
        "pad_token_id": writer.add_pad_token_id,
    }
    for name, write in writers.items():
        if (number := getattr(tokenizer, name, None)) is not None:
            write(number)
    bos = tokenizer.bos_token_id
    writer.add_add_bos_token(bos is not None and tokenizer.encode("")[:1] == [bos])
    writer.add_add_eos_token(False)
