"""Errors as OpenAI's clients expect them: ``{"error": {"message", "type", "param", "code"}}`` with a fitting status."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from lamina.errors import LaminaError
from lamina.serve.engine import EngineError, RefusedError

__all__ = ["RETRY_AFTER_S", "ApiError", "as_api_error", "error_response", "install_handlers"]

RETRY_AFTER_S = 1

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_WORDS = {
    400: "the request body is not valid JSON, or nested too deeply",
    404: "no such path",
    405: "this path does not take that method",
    413: "the request body is too large",
    415: "the request body must be application/json",
}


class ApiError(Exception):
    """An answer that is an error: the status, a sentence, and OpenAI's ``code`` and ``param`` where they have one."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, retry: bool = False
    ) -> None:
        """Keep what the client reads; ``retry`` tells it to try again in a moment."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry = retry

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        kind = _KINDS.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def error_response(error: ApiError) -> JSONResponse:
    """Return the HTTP response that says ``error``."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.retry else {}
    if error.status >= 500 and not error.retry:
        headers["x-should-retry"] = "false"  # or OpenAI's clients ask again, and wait as long once more
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


def as_api_error(error: Exception) -> ApiError:
    """Return what a client may know of ``error``: nothing of paths or code, all of what it can mend."""
    match error:
        case ApiError():
            return error
        case EngineError():
            return ApiError(503, "the engine failed; try again in a moment", code="engine_unavailable", retry=True)
        case RefusedError():
            return ApiError(400, str(error))
        case TimeoutError():
            return ApiError(504, "the answer took longer than this server allows", code="timeout")
        case HTTPException():
            return ApiError(error.status_code, _WORDS.get(error.status_code) or str(error.detail))
        case RequestValidationError():
            return _invalid(error)
        case LaminaError():
            return ApiError(500, "this stack cannot be served: its files are missing or damaged", code="stack_damaged")
    return ApiError(500, "internal error; the server's log has this request's id")


def install_handlers(app: FastAPI) -> None:
    """Make every error of ``app`` answer in OpenAI's shape."""
    for kind in (ApiError, EngineError, RefusedError, TimeoutError, HTTPException, RequestValidationError, LaminaError):
        app.add_exception_handler(kind, _answer)


async def _answer(_request: Request, error: Exception) -> JSONResponse:
    response = error_response(as_api_error(error))
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


def _invalid(error: RequestValidationError) -> ApiError:
    """Return the first of the problems pydantic found, by the field's path and without the value."""
    item = error.errors()[0]
    if item["type"] == "json_invalid":
        return ApiError(
            400, f"the request body is not valid JSON: {item['ctx']['error']} at character {item['loc'][-1]}"
        )
    place = [part for part in item["loc"] if part not in ("body", "query", "path")]
    name = ".".join(str(part) for part in place)
    if item["type"] == "extra_forbidden":
        return ApiError(400, f"unknown field '{name}'", code="unknown_parameter", param=name)
    message = str(item["msg"])
    if item["type"] == "value_error":
        message = message.removeprefix("Value error, ")
    what = f"'{name}': {message}" if name else f"the request body: {message}"
    return ApiError(400, what, param=name or None)
