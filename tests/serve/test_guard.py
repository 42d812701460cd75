from __future__ import annotations

from typing import Any

import pytest

MODELS = "/v1/models"


def status(site: Any, headers: dict[str, str], **access: Any) -> int:
    code: int = site.ask("GET", MODELS, headers=headers, access=access).status_code
    return code


@pytest.mark.parametrize(
    "host", ["127.0.0.1:11435", "localhost", "LOCALHOST:9", "x.localhost", "[::1]:1", "192.168.0.7:80"]
)
def test_names_of_this_machine_are_answered(site: Any, host: str) -> None:
    assert status(site, {"Host": host}) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:11435", "", "[", "a b"]
)
def test_other_names_are_not(site: Any, host: str) -> None:
    response = site.ask("GET", MODELS, headers={"Host": host})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "host_refused")


def test_a_name_can_be_allowed(site: Any) -> None:
    assert status(site, {"Host": "den.lan:11435"}, hosts=frozenset({"Den.lan"})) == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:11435", "http://[", ""]
)
def test_pages_from_elsewhere_may_not_ask(site: Any, origin: str) -> None:
    response = site.ask("POST", "/v1/chat/completions", headers={"Origin": origin}, json={})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_refused")
    assert "access-control-allow-origin" not in response.headers


def test_its_own_page_may_ask(site: Any) -> None:
    assert status(site, {"Origin": "http://127.0.0.1:11435"}) == 200


def test_an_allowed_origin_may_ask_and_be_asked_for(site: Any) -> None:
    access = {"origins": frozenset({"http://app.test:3000"}), "api_key": "k"}
    headers = {"Origin": "http://app.test:3000", "Access-Control-Request-Method": "POST"}
    preflight = site.ask("OPTIONS", MODELS, headers=headers, access=access)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "http://app.test:3000"
    answer = site.ask(
        "GET", MODELS, headers={"Origin": "http://app.test:3000", "Authorization": "Bearer k"}, access=access
    )
    assert answer.headers["access-control-allow-origin"] == "http://app.test:3000"
    assert status(site, {"Origin": "http://app.test:3001", "Authorization": "Bearer k"}, **access) == 403
    refused = site.ask("OPTIONS", MODELS, headers=headers | {"Origin": "http://evil.example"}, access=access)
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    keyless = site.ask("GET", MODELS, headers={"Origin": "http://app.test:3000"}, access=access)
    assert keyless.status_code == 401
    assert keyless.headers["access-control-allow-origin"] == "http://app.test:3000"


def test_the_key_is_asked_for_everywhere_but_health(site: Any) -> None:
    assert status(site, {}, api_key="secret") == 401
    assert status(site, {"Authorization": "Bearer wrong"}, api_key="secret") == 401
    assert status(site, {"Authorization": "Basic secret"}, api_key="secret") == 401
    assert status(site, {"Authorization": "Bearer sécret".encode("latin-1")}, api_key="secret") == 401  # type: ignore[dict-item]
    assert status(site, {"Authorization": "Bearer secret"}, api_key="secret") == 200
    assert status(site, {"Authorization": "bearer  secret"}, api_key="secret") == 200
    for path, code in (("/health", 200), ("/metrics", 401), ("/openapi.json", 401), ("/health/x", 401)):
        assert site.ask("GET", path, access={"api_key": "secret"}).status_code == code
    response = site.ask("GET", MODELS, access={"api_key": "secret"})
    assert response.json()["error"]["type"] == "authentication_error"
    assert response.headers["www-authenticate"] == "Bearer"


def test_open_paths_are_exact_or_whole_folders(site: Any) -> None:
    access = {"api_key": "k", "open_paths": ("/", "/page/*")}
    codes = [site.ask("GET", path, access=access).status_code for path in ("/", "/page/a.js", "/pages", "/v1/models")]
    assert codes == [404, 404, 401, 401]
