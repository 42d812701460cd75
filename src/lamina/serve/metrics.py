"""What Prometheus can ask a server: how much it does, how fast, and what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lamina.serve.engine import Token

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Start all of them at zero."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lamina_requests", "HTTP requests by route and status", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "lamina_request_seconds", "time per HTTP request", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.first_token = Histogram(
            "lamina_first_token_seconds",
            "time from a streamed request to its first text",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter("lamina_prompt_tokens", "tokens read", registry=self.registry)
        self.answer_tokens = Counter("lamina_answer_tokens", "tokens written", registry=self.registry)
        self.running = Gauge("lamina_answers_running", "answers being written", registry=self.registry)
        self.waiting = Gauge("lamina_answers_waiting", "answers waiting for their turn", registry=self.registry)
        self.restarts = Counter("lamina_engine_restarts", "attempts to restart the engine", registry=self.registry)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Report what ``waiting`` returns whenever the figures are read."""
        self.waiting.set_function(waiting)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an HTTP request that was answered."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def clock(self) -> Callable[[], None]:
        """Return a function that counts, when it is called, the time since now as that to a first text."""
        start = time.perf_counter()
        return lambda: self.first_token.observe(time.perf_counter() - start)

    def begin(self, prompt_tokens: int) -> None:
        """Count an answer that the engine begins."""
        self.running.inc()
        self.prompt_tokens.inc(prompt_tokens)

    def token(self, token: Token) -> None:
        """Count a token that the engine wrote."""
        if token.id is not None:
            self.answer_tokens.inc()

    def end(self) -> None:
        """Count an answer as ended."""
        self.running.dec()

    def render(self) -> bytes:
        """Return all figures in Prometheus' text form."""
        return generate_latest(self.registry)
