"""A judge behind an OpenAI-compatible endpoint: one question, one reply, however often it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import requests

from lamina.config import JudgeSettings
from lamina.errors import MachineError, UsageError
from lamina.records import Message

__all__ = ["Endpoint", "JudgeDownError", "NoReplyError", "request_body"]

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class NoReplyError(Exception):
    """One question got no usable reply after all attempts; the next may."""


class JudgeDownError(MachineError):
    """Nobody answers at the judge's address; asking on is no use."""


class _Bearer(requests.auth.AuthBase):
    """The key as a header of our own: ``requests`` would let a netrc file replace a plain one."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Endpoint:
    """The judge that ``settings`` name.

    Args:
        settings: ``[judge]`` of ``lamina.toml``.
        sleep: how to wait between attempts.

    Raises:
        UsageError: if no model is named, or the address is none.
    """

    def __init__(self, settings: JudgeSettings, sleep: Callable[[float], None] = time.sleep) -> None:
        if settings.model is None:
            raise UsageError("no judge is named", hint='set model = "…" under [judge] in lamina.toml')
        address = urlsplit(settings.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UsageError(f"judge.url: '{settings.url}' is not an address", hint="as in http://127.0.0.1:11434/v1")
        self._settings = settings
        self._sleep = sleep
        self._address = f"{settings.url.rstrip('/')}/chat/completions"
        self._session = requests.Session()
        self._session.auth = _Bearer(os.environ.get(settings.key_env))
        # A proxy from the environment cannot reach this machine's own ports.
        self._session.trust_env = address.hostname not in _LOOPBACK

    def ask(self, messages: Sequence[Message]) -> str:
        """Return the judge's reply, which may be anything.

        Raises:
            NoReplyError: if it timed out, failed, or answered something else than a completion, at every attempt.
            JudgeDownError: if no connection was made at any attempt.
            UsageError: if it refuses the key, or knows neither model nor address.
        """
        body = request_body(self._settings, messages)
        wait = _FIRST_WAIT_S
        for attempt in range(self._settings.retries + 1):
            last = attempt == self._settings.retries
            try:
                answer = self._session.post(self._address, json=body, timeout=self._settings.timeout_s)
            except requests.Timeout as error:
                if last:
                    raise NoReplyError(f"no reply within {self._settings.timeout_s:g} s") from error
            except requests.RequestException as error:
                if last:
                    raise self._down() from error
            else:
                if answer.status_code not in _AGAIN:
                    return self._read(answer)
                if last:
                    raise NoReplyError(f"HTTP {answer.status_code}: {_excerpt(answer)}")
                wait = max(wait, _asked_wait(answer))
            self._sleep(min(wait, _LONGEST_WAIT_S))
            wait *= 2
        raise AssertionError("the last attempt returns or raises")

    def _read(self, answer: requests.Response) -> str:
        settings, code = self._settings, answer.status_code
        if code in (401, 403):
            raise UsageError(
                f"the judge at {settings.url} refuses the key (HTTP {code})",
                hint=f"export {settings.key_env}=… with a key for it, or name another variable as judge.key_env",
            )
        if code == 404:
            raise UsageError(
                f"the judge at {settings.url} knows no '{settings.model}' (HTTP {code}): {_excerpt(answer)}",
                hint="check url and model under [judge] in lamina.toml",
            )
        if code >= 400:
            raise NoReplyError(f"HTTP {code}: {_excerpt(answer)}")
        try:
            content = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise NoReplyError(f"answered something else than a chat completion: {_excerpt(answer)}") from error
        if not isinstance(content, str):
            raise NoReplyError("answered a completion without text")
        return content

    def _down(self) -> JudgeDownError:
        return JudgeDownError(
            f"no judge answers at {self._settings.url}",
            hint="start it (`ollama serve`), or set url under [judge] in lamina.toml",
        )


def request_body(settings: JudgeSettings, messages: Sequence[Message]) -> dict[str, Any]:
    """Return the request: everything that decides the reply besides the address."""
    return {
        "model": settings.model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "temperature": 0,
        "max_tokens": settings.max_tokens,
    }


def _asked_wait(answer: requests.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0  # a date; our own wait will do


def _excerpt(answer: requests.Response) -> str:
    return " ".join(answer.text.split())[:200] or "no text"
