"""How an answer is to be chosen, as a chat-completions body says it.

The names are those of OpenAI's API, and where it has none those that vLLM gave them. What the
settings mean is left to :mod:`internvl35.generate.sampling`. No counterpart in the paper.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from internvl35.errors import ConfigError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.sampling import SamplingSettings, StructureSettings
from internvl35.serve.fields import BodyError, Fields, as_ids, as_number, show

MAX_TOP_LOGPROBS = 20
"""Most log-probabilities that may be asked for beside a token's own."""

MAX_STOPS = 32
"""Most texts that may end an answer."""

_NUMBERS = (
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
_WHOLES = ("seed", "n", "min_tokens")


class SettingError(BodyError, ConfigError):
    """A setting of a body is out of range."""


def read_sampling(fields: Fields, defaults: SamplingSettings) -> SamplingSettings:
    """Take from a body how its answers are chosen.

    Args:
        fields: of the body.
        defaults: what holds where it says nothing.

    Returns:
        Settings.

    Raises:
        BodyError: if a field has another form.
        SettingError: if a value is out of range.
    """
    found: dict[str, Any] = {}
    newer = fields.whole("max_completion_tokens")
    older = fields.whole("max_tokens") if newer is None else fields.count("max_tokens")
    found["max_tokens"] = older if newer is None else newer  # first: min_tokens depends on it
    found |= {name: fields.number(name) for name in _NUMBERS}
    found |= {name: fields.whole(name) for name in _WHOLES}
    top_k = fields.whole("top_k")
    found["top_k"] = 0 if top_k == -1 else top_k  # of which vLLM makes all tokens
    found["ignore_end"] = fields.truth("ignore_eos")
    found["stop"] = _read_stop(fields)
    found["stop_token_ids"] = _read_ids(fields, "stop_token_ids")
    found["logit_bias"] = _read_bias(fields)
    found["num_logprobs"] = _read_logprobs(fields)
    found["structure"] = _read_structure(fields)
    settings = defaults
    for name, value in found.items():
        if value is not None:
            settings = _replace(settings, name, value, fields, is_newer=newer is not None)
    return settings


def _replace(
    settings: SamplingSettings, name: str, value: Any, fields: Fields, *, is_newer: bool
) -> SamplingSettings:
    try:
        return replace(settings, **{name: value})
    except ConfigError as error:
        field = "max_completion_tokens" if is_newer and name == "max_tokens" else name
        message = str(error).replace(name, field, 1) if field != name else str(error)
        raise SettingError(message, fields.path(field)) from error


def read_flash(fields: Fields) -> FlashSettings | None:
    """Take from a body which tiles are compressed, which is this package's own field ``flash``.

    Args:
        fields: of the body; ``flash`` is a policy's name, true or false, or an object of
            :class:`FlashSettings`.

    Returns:
        Settings, None where the body says nothing.

    Raises:
        BodyError: if the field has another form.
        SettingError: if a value is out of range.
    """
    value = fields.any("flash")
    if value is None:
        return None
    path = fields.path("flash")
    if isinstance(value, bool):  # on: as the released code does
        value = "released" if value else "off"
    if isinstance(value, str):
        return _make_flash(path, value)
    inner = Fields(value, path)
    policy = inner.text("policy") or "released"
    thresholds = inner.number("relative_threshold"), inner.number("absolute_threshold")
    inner.finish()
    return _make_flash(path, policy, *thresholds)


def _make_flash(path: str, policy: str, *thresholds: float | None) -> FlashSettings:
    try:
        return FlashSettings(policy, *thresholds)  # type: ignore[arg-type]  # which checks it
    except ConfigError as error:
        raise SettingError(f"{path}: {error}", path) from error


def _read_stop(fields: Fields) -> tuple[str, ...] | None:
    path, value = fields.path("stop"), fields.any("stop")
    if value is None:
        return None
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BodyError(f"{path} is {show(value)}; needed: a text or a list of texts", path)
    if len(texts) > MAX_STOPS:
        raise BodyError(f"{path} holds {len(texts)} texts; at most {MAX_STOPS}", path)
    return tuple(texts)


def _read_ids(fields: Fields, name: str) -> tuple[int, ...] | None:
    path, value = fields.path(name), fields.entries(name)
    return None if value is None else as_ids(value, path)


def _read_bias(fields: Fields) -> tuple[tuple[int, float], ...] | None:
    path, value = fields.path("logit_bias"), fields.any("logit_bias")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BodyError(f"{path} is {show(value)}; needed: an object", path)
    found: dict[int, float] = {}
    for name, bias in value.items():
        if not (name.isascii() and name.isdigit() and len(name) <= 9):
            raise BodyError(f"{path} names {show(name)}; needed: token ids", path)
        found[int(name)] = as_number(bias, f"{path}.{name}")
    return tuple(found.items())


def _read_logprobs(fields: Fields) -> int | None:
    is_wanted, path = fields.truth("logprobs"), fields.path("top_logprobs")
    number = fields.whole("top_logprobs")
    if number is None:
        return 0 if is_wanted else None
    if not 0 <= number <= MAX_TOP_LOGPROBS:
        raise BodyError(f"{path} is {number}; needed: 0 to {MAX_TOP_LOGPROBS}", path)
    if not is_wanted and number:
        raise BodyError(f"{path} is {number} but logprobs is not true; set it too", path)
    return number if is_wanted else None


def _read_structure(fields: Fields) -> StructureSettings | None:
    found = [_read_format(fields), _read_structured_outputs(fields)]
    given = [structure for structure in found if structure is not None]
    if len(given) > 1:
        raise BodyError(
            "response_format and structured_outputs both say what shape the answer has; drop one",
            fields.path("structured_outputs"),
        )
    return given[0] if given else None


def _read_format(fields: Fields) -> StructureSettings | None:
    """``response_format``: text, json_object, or json_schema."""
    inner = fields.inner("response_format")
    if inner is None:
        return None
    kind, path = inner.text("type"), inner.path("type")
    if kind == "json_schema":
        named = inner.inner("json_schema")
        schema = None if named is None else named.any("schema")
        if named is None or not isinstance(schema, dict | bool):
            where = inner.path("json_schema.schema")
            raise BodyError(f"{where} is {show(schema)}; needed: a JSON schema", where)
        named.finish(ignored=("name", "description", "strict"))
        inner.finish()
        return StructureSettings(json_schema=_write(schema, path))
    if kind not in ("text", "json_object"):
        raise BodyError(f"{path} is {show(kind)}; known: text, json_object, json_schema", path)
    inner.finish()
    return StructureSettings(is_json=True) if kind == "json_object" else None


def _read_structured_outputs(fields: Fields) -> StructureSettings | None:
    """``structured_outputs``: one of json (a schema), regex, choice and json_object."""
    inner = fields.inner("structured_outputs")
    if inner is None:
        return None
    path = inner.path("json")
    schema, regex = inner.any("json"), inner.text("regex")
    choices, is_json = inner.entries("choice"), inner.truth("json_object")
    inner.finish()
    if choices is not None and not all(isinstance(text, str) for text in choices):
        raise BodyError(f"{inner.path('choice')} is no list of texts", inner.path("choice"))
    if schema is not None and not isinstance(schema, str):
        schema = _write(schema, path)
    return StructureSettings(schema, regex, tuple(choices or ()), bool(is_json))


def _write(schema: Any, path: str) -> str:
    try:
        return json.dumps(schema)
    except RecursionError as error:
        raise ConfigError(f"{path}: the JSON schema is nested too deeply") from error
