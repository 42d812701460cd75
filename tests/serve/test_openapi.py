"""Schemathesis sends what our OpenAPI document allows, and what it does not; no answer may contradict the document."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from lamina.serve.app import make_app
from lamina.serve.guard import Access

PATHS = [
    "/v1/models",
    "/v1/models/{name}",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/health",
    "/metrics",
]


@pytest.mark.filterwarnings("ignore")
def test_no_answer_contradicts_the_document(site: Any) -> None:
    site.says("the lazy dog")
    site.engine.vector = [1.0, 0.0]
    asyncio.run(site.gateway.start())
    app = make_app(site.gateway, Access(hosts=frozenset({"testserver"})))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    found = [result.ok() for result in schema.get_all_operations()]
    assert sorted(operation.path for operation in found) == sorted(PATHS)
    for operation in found:
        wrong = [schemathesis.GenerationMode.NEGATIVE] if operation.method.upper() == "POST" else []
        for mode in (schemathesis.GenerationMode.POSITIVE, *wrong):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
            )
            def send(case: Any) -> None:
                # Fields that exclude each other are more than a schema can say.
                case.call_and_validate(excluded_checks=[positive_data_acceptance])

            send()
