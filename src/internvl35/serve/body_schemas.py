"""What bodies may say and answers look like, as JSON schemas for the OpenAPI document.

The readers of bodies decide; a test holds these schemas against them. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, get_args

from starlette.responses import Response

from internvl35.generate.flash import FlashPolicy
from internvl35.generate.sampling import MAX_SAMPLES
from internvl35.serve.chat_body import IGNORED
from internvl35.serve.chat_messages import DETAILS
from internvl35.serve.chat_sampling import MAX_STOPS, MAX_TOP_LOGPROBS
from internvl35.serve.responses_body import IGNORED as IGNORED_IN_RESPONSES
from internvl35.serve.text_body import MAX_LOGPROBS, MAX_PROMPTS
from internvl35.serve.tools import MAX_TOOLS, NAME

Schema: TypeAlias = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_ADDRESS: Schema = {"type": "string", "pattern": "^(data:|https?://)"}
_TRUTH: Schema = {"type": "boolean"}
_ANY: Schema = {}
_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}}
_JSON_SCHEMA: Schema = {"type": "object", "description": "A JSON schema."}


def _whole(least: int = -(2**63) + 1, most: int = 2**63 - 1) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _number(least: float, most: float) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most}


def _one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


def _list(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    limits = {"minItems": least} | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": items, **limits}


def _any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _object(needed: Mapping[str, Schema], **others: Schema) -> Schema:
    """An object of these fields alone; null counts as left out."""
    optional = {name: _any_of(schema, {"type": "null"}) for name, schema in others.items()}
    return {
        "type": "object", "properties": {**needed, **optional}, "required": list(needed),
        "additionalProperties": {"type": "null"},
    }  # fmt: skip


def _ignored(names: Sequence[str]) -> dict[str, Schema]:
    return dict.fromkeys(names, _ANY)


_SAMPLING: dict[str, Schema] = {
    "max_tokens": _whole(1),
    "max_completion_tokens": _whole(1),
    "temperature": _number(0, 100),
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "top_k": _whole(-1),
    "min_p": _number(0, 1),
    "repetition_penalty": {"type": "number", "exclusiveMinimum": 0},
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "seed": _whole(),
    "n": _whole(1, MAX_SAMPLES),
    "min_tokens": _whole(0),
    "ignore_eos": _TRUTH,
    "stop": _any_of(
        {"type": "string", "minLength": 1},
        _list({"type": "string", "minLength": 1}, most=MAX_STOPS),
    ),
    "stop_token_ids": _IDS,
    "logit_bias": {
        "type": "object", "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": _number(-100, 100),
    },
    "response_format": _any_of(
        _object({"type": _one_of("text", "json_object")}),
        _object({
            "type": _one_of("json_schema"),
            "json_schema": _object(
                {"schema": _any_of(_JSON_SCHEMA, _TRUTH)},
                name=_ANY, description=_ANY, strict=_ANY,
            ),
        }),
    ),
    "structured_outputs": _object(
        {}, json=_any_of(_JSON_SCHEMA, _TEXT), regex=_TEXT, choice=_list(_TEXT), json_object=_TRUTH
    ),
}  # fmt: skip

_STREAM: dict[str, Schema] = {
    "stream": _TRUTH,
    "stream_options": _object({}, include_usage=_TRUTH, include_obfuscation=_ANY),
}

_OWN: dict[str, Schema] = {
    "flash": _any_of(
        _TRUTH,
        _one_of(*get_args(FlashPolicy)),
        _object(
            {}, policy=_one_of(*get_args(FlashPolicy)), relative_threshold=_number(0, 1),
            absolute_threshold=_number(0, 1),
        ),
    ),
    "thinking": _TRUTH,
    "mm_processor_kwargs": _object({}, max_dynamic_patch=_whole(1)),
}  # fmt: skip

_FUNCTION: dict[str, Schema] = {
    "description": _TEXT,
    "parameters": {**_JSON_SCHEMA, "properties": {"type": _one_of("object")}},
    "strict": _TRUTH,
}
_NAME: Schema = {"type": "string", "pattern": f"^{NAME}$"}
_KIND: Schema = _one_of("function")

_PICTURE: Schema = _object(
    {"type": _one_of("image_url"),
     "image_url": _object({"url": _ADDRESS}, detail=_one_of(*DETAILS), max_dynamic_patch=_whole(1))}
)  # fmt: skip
_VIDEO: Schema = _object(
    {"type": _one_of("video_url"),
     "video_url": _object({"url": _ADDRESS}, num_frames=_whole(1),
                          bound=_list(_number(0, 1e9), 2, 2))}
)  # fmt: skip
_SAID: Schema = _object({"type": _one_of("text"), "text": _TEXT})
_TEXTS: Schema = _any_of(_TEXT, _list(_SAID, 1))
_MADE_CALL: Schema = _object(
    {"id": _TEXT, "type": _KIND, "function": _object({"name": _TEXT}, arguments=_TEXT)}, index=_ANY
)
_NOTES = _ignored(("name", "refusal", "annotations"))

_MESSAGES: Schema = _list(
    _any_of(
        _object({"role": _one_of("system", "developer"), "content": _TEXTS}, **_NOTES),
        _object(
            {"role": _one_of("user"),
             "content": _any_of(_TEXT, _list(_any_of(_SAID, _PICTURE, _VIDEO), 1))}, **_NOTES
        ),
        _object(
            {"role": _one_of("assistant")}, content=_TEXTS, reasoning_content=_TEXT,
            tool_calls=_list(_MADE_CALL), **_NOTES
        ),
        _object({"role": _one_of("tool"), "content": _TEXTS, "tool_call_id": _TEXT}, **_NOTES),
    ),
    1,
)  # fmt: skip

CHAT: Schema = _object(
    {"messages": _MESSAGES},
    model=_TEXT, logprobs=_TRUTH, top_logprobs=_whole(0, MAX_TOP_LOGPROBS),
    tools=_list(
        _object({"type": _KIND, "function": _object({"name": _NAME}, **_FUNCTION)}), most=MAX_TOOLS
    ),
    tool_choice=_any_of(
        _one_of("none", "auto", "required"),
        _object({"type": _KIND, "function": _object({"name": _TEXT})}),
    ),
    media_io_kwargs=_object({}, video=_object({}, num_frames=_whole(1))),
    parallel_tool_calls=_TRUTH, modalities=_list(_one_of("text"), 1, 1),
    chat_template_kwargs=_object({}, enable_thinking=_TRUTH),
    **_SAMPLING, **_STREAM, **_OWN, **_ignored(IGNORED),
)  # fmt: skip
"""A body of ``/v1/chat/completions``."""

TEXT: Schema = _object(
    {"prompt": _any_of(
        {"type": "string", "minLength": 1}, {**_IDS, "minItems": 1},
        _list(_any_of({"type": "string", "minLength": 1}, {**_IDS, "minItems": 1}), 1, MAX_PROMPTS),
    )},
    model=_TEXT, logprobs=_whole(0, MAX_LOGPROBS), **_SAMPLING, **_STREAM, **_ignored(IGNORED),
)  # fmt: skip
"""A body of ``/v1/completions``."""

_INPUT_TEXT: Schema = _object(
    {"type": _one_of("input_text", "output_text", "text"), "text": _TEXT},
    annotations=_ANY, logprobs=_ANY,
)  # fmt: skip
_INPUT_PICTURE: Schema = _object(
    {"type": _one_of("input_image"), "image_url": _ADDRESS}, detail=_one_of(*DETAILS)
)
_PLACE = {"id": _ANY, "status": _ANY}
_INPUT_TEXTS = _any_of(_TEXT, _list(_INPUT_TEXT, 1))

RESPONSE: Schema = _object(
    {"input": _any_of(_TEXT, _list(_any_of(
        _object(
            {"role": _one_of("user"),
             "content": _any_of(_TEXT, _list(_any_of(_INPUT_TEXT, _INPUT_PICTURE), 1))},
            type=_one_of("message"), **_PLACE,
        ),
        _object(
            {"role": _one_of("system", "developer", "assistant"), "content": _INPUT_TEXTS},
            type=_one_of("message"), **_PLACE,
        ),
        _object(
            {"type": _one_of("function_call"), "call_id": _TEXT, "name": _TEXT}, arguments=_TEXT,
            **_PLACE,
        ),
        _object(
            {"type": _one_of("function_call_output"), "call_id": _TEXT, "output": _INPUT_TEXTS},
            **_PLACE,
        ),
    ), 1))},
    model=_TEXT, instructions=_TEXT, max_output_tokens=_whole(1), stream=_TRUTH,
    tools=_list(_object({"type": _KIND, "name": _NAME}, **_FUNCTION), most=MAX_TOOLS),
    tool_choice=_any_of(
        _one_of("none", "auto", "required"), _object({"type": _KIND, "name": _TEXT})
    ),
    parallel_tool_calls=_TRUTH, truncation=_one_of("disabled"),
    text=_object({}, verbosity=_ANY, format=_any_of(
        _object({"type": _one_of("text", "json_object")}),
        _object(
            {"type": _one_of("json_schema"), "schema": _any_of(_JSON_SCHEMA, _TRUTH)},
            name=_ANY, description=_ANY, strict=_ANY,
        ),
    )),
    **{n: _SAMPLING[n] for n in ("temperature", "top_p", "top_k", "min_p", "seed", "stop")},
    **_OWN, **_ignored(IGNORED_IN_RESPONSES),
)  # fmt: skip
"""A body of ``/v1/responses``."""

TOKENIZE: Schema = _any_of(_object({"prompt": _TEXT}, model=_TEXT), CHAT)
"""A body of ``/tokenize``."""

DETOKENIZE: Schema = _object({"tokens": _IDS}, model=_TEXT)
"""A body of ``/detokenize``."""

_ERROR: Schema = {
    "type": "object", "required": ["error"],
    "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"],
        "properties": {
            "message": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]},
            "code": {"type": ["string", "null"]},
        },
    }},
}  # fmt: skip

_REFUSALS = {
    400: "The body cannot be answered; param names the field.",
    401: "The API key is missing or wrong.",
    404: "There is no such model.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    429: "As many requests as may be are in work; Retry-After says when to try again.",
    500: "The answer broke off, or a fault of the server.",
    503: "The server is about to stop, or cannot answer now.",
    504: "The answer took too long.",
}


def describe_post(
    body: Schema, answer: Sequence[str], *, is_streamed: bool = False
) -> dict[str, Any]:
    """Describe a route that answers a body.

    Args:
        body: schema of what may be sent.
        answer: fields that answers have.
        is_streamed: whether answers may come as server-sent events.

    Returns:
        Arguments for the route.
    """
    request = {"required": True, "content": {"application/json": {"schema": body}}}
    found: dict[str, Any] = {"application/json": {"schema": _answer(answer)}}
    if is_streamed:
        event = {"type": "object", "required": ["data"], "properties": {"data": _TEXT}}
        found["text/event-stream"] = {"schema": event}
    responses: dict[int, Any] = {200: {"description": "The answer.", "content": found}}
    return {
        "openapi_extra": {"requestBody": request}, "response_class": Response,
        "responses": responses | _describe_refusals(_REFUSALS),
    }  # fmt: skip


def describe_get(answer: Sequence[str], *refusals: int, is_probe: bool = False) -> dict[str, Any]:
    """Describe a route that tells something.

    Args:
        answer: fields that answers have; none for plain text.
        refusals: statuses beside 200.
        is_probe: whether status 503 is an answer too.

    Returns:
        Arguments for the route.
    """
    content = {"application/json": {"schema": _answer(answer)}} if answer else {
        "text/plain": {"schema": _TEXT}
    }  # fmt: skip
    responses: dict[int, Any] = {200: {"description": "What is asked for.", "content": content}}
    if is_probe:
        responses[503] = {"description": "It is not so.", "content": content}
    return {"responses": responses | _describe_refusals(refusals), "response_class": Response}


def _describe_refusals(statuses: Iterable[int]) -> dict[int, Any]:
    content = {"application/json": {"schema": _ERROR}}
    return {one: {"description": _REFUSALS[one], "content": content} for one in statuses}


def _answer(fields: Sequence[str]) -> Schema:
    return {"type": "object", "required": list(fields), "properties": dict.fromkeys(fields, _ANY)}
