"""Log-probabilities in the two shapes of OpenAI's API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lamina.serve.engine import Token

__all__ = ["TokenNames", "chat_logprobs", "completion_logprobs"]

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BROKEN = "\ufffd"


class TokenNames:
    """What tokens are called: their text, and their bytes where they are part of a character."""

    def __init__(self, tokenizer: Any) -> None:
        """Name the tokens of a transformers tokenizer."""
        self._tokenizer = tokenizer
        self._bytes = _byte_letters()

    @property
    def count(self) -> int:
        """How many tokens there are."""
        return len(self._tokenizer)

    def text(self, token: int) -> str:
        """Return the token's text; U+FFFD stands for a part of a character."""
        return str(self._tokenizer.decode([token]))

    def bytes(self, token: int) -> list[int]:
        """Return the token's UTF-8 bytes."""
        text = self.text(token)
        if _BROKEN not in text:
            return list(text.encode())
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        if match := _BYTE.fullmatch(piece):
            return [int(match[1], 16)]
        if all(letter in self._bytes for letter in piece):
            return [self._bytes[letter] for letter in piece]
        return list(text.encode())


def chat_logprobs(tokens: Sequence[Token], names: TokenNames) -> dict[str, Any]:
    """Return ``logprobs`` of a chat choice."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": names.text(token), "logprob": logprob, "bytes": names.bytes(token)}

    content = [
        entry(token.id, token.logprob) | {"top_logprobs": [entry(other, logprob) for other, logprob in token.top]}
        for token in tokens
        if token.id is not None
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Token], names: TokenNames, offset: int) -> dict[str, Any]:
    """Return ``logprobs`` of a text completion whose next token begins at character ``offset``."""
    said = [(token.id, token) for token in tokens if token.id is not None]
    texts = [names.text(token) for token, _ in said]
    offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
    top = [{names.text(other): logprob for other, logprob in token.top} for _, token in said]
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for _, token in said],
        "top_logprobs": top if any(top) else None,
        "text_offset": offsets,
    }


def _byte_letters() -> dict[str, int]:
    """Return the byte that each letter stands for in byte-level vocabularies.

    Source: ``bytes_to_unicode`` of openai/gpt-2: printable bytes stand for themselves, the rest for what follows 255.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(rest)}
