"""What clients send, as strict models: a field we do not know is refused by name.

Fields that OpenAI's own clients send and that change no answer here are known and ignored.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["ChatRequest", "Common", "CompletionRequest", "EmbeddingRequest", "NamedTool", "RequestMessage", "Tool"]

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
_LONGEST_STOP = 256
_Stop = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP)]
_MOST_PROMPTS = 64
_Texts = Annotated[list[str], Field(min_length=1, max_length=_MOST_PROMPTS)]
_Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
_Bias = Annotated[float, Field(ge=-100, le=100)]


class _Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text"]
    text: str


class _CalledFunction(BaseModel):
    """A function that the model called, its arguments as JSON text."""

    model_config = _STRICT

    name: str
    arguments: str


class _ToolCall(BaseModel):
    """A call that the model made in an earlier turn."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: str = ""
    type: Literal["function"] = "function"
    function: _CalledFunction


class RequestMessage(BaseModel):
    """One turn. What a client gives back of an earlier answer besides its text and calls is ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The turn's text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @model_validator(mode="after")
    def _check_content(self) -> RequestMessage:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("a message needs 'content'")
        return self


class _Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """A tool that the model may use."""

    model_config = _STRICT

    type: Literal["function"]
    function: _Function


class _NamedFunction(BaseModel):
    model_config = _STRICT

    name: str


class NamedTool(BaseModel):
    """The one tool that the model must use."""

    model_config = _STRICT

    type: Literal["function"] = "function"
    function: _NamedFunction


class _JsonSchema(BaseModel):
    """A named JSON Schema."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = "answer"
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class _ResponseFormat(BaseModel):
    """What form the answer has."""

    model_config = _STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> _ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("'json_schema' belongs to type json_schema, and only to it")
        return self


class _StreamOptions(BaseModel):
    model_config = _STRICT

    include_usage: bool = False
    include_obfuscation: bool = False


class _Body(BaseModel):
    """A whole request body."""

    model_config = _STRICT

    @model_validator(mode="before")
    @classmethod
    def _check_text(cls, data: Any) -> Any:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text holds half a surrogate pair, which is no character") from error
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        return data


class Common(_Body):
    """What both kinds of completion take."""

    model: str = Field(min_length=1, max_length=2048)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, _Bias] | None = Field(None, max_length=1024)
    grammar: str | None = Field(None, min_length=1, description="lamina: a GBNF grammar that binds the answer")
    force: bool = Field(False, description="lamina: use layers on a parent they were not trained on")
    user: str | None = None

    @field_validator("logit_bias")
    @classmethod
    def _check_bias(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for key in bias or {}:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ValueError(f"keys are token ids, found {key[:20]!r}")
        return bias

    @model_validator(mode="after")
    def _check_stream(self) -> Common:
        if self.stream_options is not None and not self.stream:
            raise ValueError("'stream_options' needs stream: true")
        return self

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Common):
    """The body of ``/v1/chat/completions``."""

    # Rendering takes time by their square, while nobody else is answered; each has some tokens of the context.
    messages: list[RequestMessage] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: _ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    modalities: list[Literal["text"]] | None = None
    # Known and ignored: they change no answer here.
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    @model_validator(mode="after")
    def _check_partners(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("'top_logprobs' needs logprobs: true")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("'tool_choice' needs tools")
        names = [tool.function.name for tool in self.tools or []]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"'tool_choice' names no tool of: {', '.join(names)}")
        formed = self.response_format is not None and self.response_format.type != "text"
        if [self.grammar is not None, formed, self.tool_choice not in (None, "none", "auto")].count(True) > 1:
            raise ValueError("only one of 'grammar', 'response_format' and a forced 'tool_choice' can bind the answer")
        return self


class CompletionRequest(Common):
    """The body of ``/v1/completions``."""

    prompt: str | _Texts | _Ids | Annotated[list[_Ids], Field(min_length=1, max_length=_MOST_PROMPTS)]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] | None = None
    suffix: None = None


class EmbeddingRequest(_Body):
    """The body of ``/v1/embeddings``."""

    model: str = Field(min_length=1, max_length=2048)
    input: str | _Texts | _Ids | Annotated[list[_Ids], Field(min_length=1, max_length=_MOST_PROMPTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
    force: bool = Field(False, description="lamina: use layers on a parent they were not trained on")
    user: str | None = None
