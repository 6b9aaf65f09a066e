"""Holds answers to a JSON schema, a regular expression or a choice: which tokens may come next.

llguidance follows the grammar; what is asked for is checked here first, tried in
:mod:`internvl35.generate.grammar_trial`, and kept for the next answer. Choosing among the tokens
that are left is left to :mod:`internvl35.generate.sampler`. No counterpart in the paper.
"""

from __future__ import annotations

import json
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from internvl35.errors import ConfigError
from internvl35.generate.grammar_trial import LIMITS, GrammarTrial, find_matcher_fault
from internvl35.generate.sampling import StructureSettings

MAX_GRAMMARS = 64
"""Grammars that are kept; the one unused for longest makes room."""

MAX_SCHEMA_BYTES = 256 << 10
"""Longest JSON schema, and most that choices may hold together."""

MAX_REGEX_BYTES = 16 << 10
"""Longest regular expression."""

MAX_CHOICES = 10_000
"""Most texts to choose from."""

WHITESPACE = r"[ \t\n\r]{1,40}"
"""What may stand between parts of JSON; a model could write spaces for ever otherwise."""

_JSON_OPTIONS: Any = {"whitespace_pattern": WHITESPACE, "lenient": False, "coerce_one_of": False}
_SET_OPERATORS = ("&&", "--", "~~", "||")
_FLAG_GROUP = re.compile(r"\(\?(?:[is]+[:)]|:|P<)")
_SHORT = 80


class GrammarState:
    """Where one answer stands in its grammar."""

    def __init__(self, grammar: Grammar, matcher: Any, num_tokens: int) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._num_tokens = num_tokens

    @property
    def is_finished(self) -> bool:
        """Whether nothing but an end token may follow, if anything may."""
        return bool(self._matcher.is_stopped())

    @property
    def fault(self) -> str | None:
        """Why the answer cannot go on: a token that was not allowed, or limits; None if it can."""
        if not self._matcher.is_error():
            return None
        error = self._matcher.get_error().split("\n")[0]
        return f"the answer can be held to its structure no further: {error}; simplify it"

    def allowed(self) -> Tensor:
        """Tell which tokens may come next.

        Returns:
            ``(W,)`` bool, a new one each time: end tokens too where the answer may end; none at all
            if there is a :attr:`fault`, so that this answer fails and no other.
        """
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._has_failed():
            return torch.zeros(self._num_tokens, dtype=torch.bool)
        bits = np.unpackbits(mask, count=self._num_tokens, bitorder="little")
        return torch.from_numpy(bits).view(torch.bool)

    def accept(self, token_id: int) -> None:
        """Take the token that was chosen.

        Args:
            token_id: one that :meth:`allowed` tells; another one is a :attr:`fault`.
        """
        if not self._matcher.consume_token(token_id):
            self._has_failed()

    def _has_failed(self) -> bool:
        has_failed = bool(self._matcher.is_error())
        self._grammar.has_failed |= has_failed
        return has_failed


class Grammar:
    """A structure, compiled for a vocabulary; every answer follows it by itself."""

    def __init__(self, matcher: Any, num_tokens: int) -> None:
        self._matcher = matcher
        self._num_tokens = num_tokens
        self.has_failed = False
        """Whether an answer met its limits; its answers share an automaton that only grows, so it
        is made anew for the next."""

    def start(self) -> GrammarState:
        """Begin an answer."""
        return GrammarState(self, self._matcher.deep_copy(), self._num_tokens)


class GrammarCompiler:
    """Makes grammars of structures and keeps them.

    A structure that is new takes milliseconds, a hostile one seconds: call :meth:`compile` from
    the thread that takes a request, not from one that others' answers wait for.
    """

    def __init__(self, tokenizer: Any, num_tokens: int, end_token_ids: Sequence[int]) -> None:
        """Remember the vocabulary; nothing is loaded before the first structure.

        Args:
            tokenizer: a ``PreTrainedTokenizerFast``.
            num_tokens: ``W``, width of the logits; rows beyond the tokenizer are never allowed.
            end_token_ids: tokens that end an answer.
        """
        self._tokenizer = tokenizer
        self._num_tokens = num_tokens
        self._end_token_ids = [int(token_id) for token_id in end_token_ids]
        self._lock = threading.Lock()
        self._vocabulary: Any = None
        self._grammars: OrderedDict[StructureSettings, Grammar] = OrderedDict()
        self._trial = GrammarTrial()
        weakref.finalize(self, self._trial.close)

    def compile(self, structure: StructureSettings) -> Grammar:
        """Make the grammar of a structure, or take the one that was made before.

        Args:
            structure: what shape an answer must have.

        Returns:
            The grammar, which any number of answers may start from, in any thread.

        Raises:
            ConfigError: if the structure is wrong, unsupported, impossible or too complex, or if
                llguidance is not installed.
        """
        with self._lock:
            kept = self._grammars.get(structure)
            if kept is not None and not kept.has_failed:
                self._grammars.move_to_end(structure)
                return kept
            vocabulary = self._vocabulary = self._vocabulary or self._read_vocabulary()
        grammar = self._compile(structure, vocabulary)
        with self._lock:
            self._grammars[structure] = grammar
            while len(self._grammars) > MAX_GRAMMARS:
                self._grammars.popitem(last=False)
        return grammar

    def _read_vocabulary(self) -> Any:
        try:
            from llguidance import hf
        except ImportError as error:
            raise ConfigError(
                "answers of a given structure need the package llguidance, which is not "
                "installed; pip install 'internvl35[structured]'"
            ) from error
        if self._tokenizer is None:
            raise ConfigError(
                "answers of a given structure need a tokenizer, and the engine has none; pass one"
            )
        size = len(self._tokenizer)
        if not self._end_token_ids or size > self._num_tokens:
            raise ConfigError(
                f"the tokenizer has {size} tokens of which {len(self._end_token_ids)} end an "
                f"answer, and the model {self._num_tokens}; answers of a given structure need an "
                "end token, and no token that the model lacks"
            )
        return hf.from_tokenizer(
            self._tokenizer, n_vocab=self._num_tokens, eos_token=self._end_token_ids
        )

    def _compile(self, structure: StructureSettings, vocabulary: Any) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        name, grammar = _write_grammar(structure)
        fault = self._trial.find_fault(grammar)
        if fault is None:
            limits = LLParserLimits(**LIMITS)
            matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=limits)
            fault = find_matcher_fault(matcher)
        if fault is not None:
            raise ConfigError(f"{name} cannot be followed: {fault}; simplify or correct it")
        return Grammar(matcher, self._num_tokens)


def _write_grammar(structure: StructureSettings) -> tuple[str, str]:
    """Put a structure into the library's words.

    Returns:
        The setting's name for messages, and the grammar.
    """
    from llguidance import LLMatcher, regex_to_lark

    if structure.regex is not None:
        _check_regex(structure.regex)
        ascii_only = regex_to_lark(structure.regex, "dws")
        return "regex", LLMatcher.grammar_from_regex(ascii_only)
    if structure.choices:
        return "choices", LLMatcher.grammar_from_regex(_alternatives(structure.choices))
    schema = json.dumps(read_schema(structure))
    try:
        return "json_schema", LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)
    except ValueError as error:
        raise ConfigError(f"json_schema cannot be read: {error}; simplify it") from error


def read_schema(structure: StructureSettings) -> dict[str, Any]:
    """Read the JSON schema of a structure.

    Args:
        structure: one that asks for JSON.

    Returns:
        The schema, without options of the library: those are ours to choose.

    Raises:
        ConfigError: if it is none.
    """
    text = '{"type": "object"}' if structure.json_schema is None else structure.json_schema
    _check_size("json_schema", text, MAX_SCHEMA_BYTES)
    try:
        schema = json.loads(text)
        json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"json_schema is no JSON: {error}; needed: a schema's text") from error
    if not isinstance(schema, dict):
        raise ConfigError(f"json_schema is {text[:_SHORT]}; needed: a JSON object, {{}} for any")
    schema.pop("x-guidance", None)
    return schema


def _alternatives(choices: Sequence[str]) -> str:
    if len(choices) > MAX_CHOICES:
        raise ConfigError(f"there are {len(choices)} choices; needed: at most {MAX_CHOICES}")
    _check_size("choices", "".join(choices), MAX_SCHEMA_BYTES)
    return "|".join(f"(?:{_quote(choice)})" for choice in dict.fromkeys(choices))


def _quote(text: str) -> str:
    """Write a text as a regular expression that matches nothing else."""
    return "".join(
        char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}" for char in text
    )


def _check_size(name: str, text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{name} holds half of a surrogate pair at {error.start}; needed: whole characters"
        ) from error
    if size > most:
        raise ConfigError(f"{name} has {size} bytes; needed: at most {most}")


def _check_regex(pattern: str) -> None:
    """Refuse what Python's ``re`` and the library do not read alike.

    Both know more than the other; what is left means ``re.fullmatch(pattern, answer, re.ASCII)``.
    """
    _check_size("regex", pattern, MAX_REGEX_BYTES)
    found = _find_foreign(pattern)
    if found is not None:
        place, reason = found
        raise ConfigError(f"regex {pattern[:_SHORT]!r} at {place}: {reason}")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"regex {pattern[:_SHORT]!r} is none: {error}; correct it") from error


def _find_foreign(pattern: str) -> tuple[int, str] | None:
    """Find the first place that dialects read differently, and say why."""
    place, set_start = 0, -1
    while place < len(pattern):
        char, pair = pattern[place], pattern[place : place + 2]
        if char == "\\":
            place += 2
            continue
        if set_start >= 0:
            if char == "[" or pair in _SET_OPERATORS:
                return place, f"{char} in a set has two meanings; put a backslash in front"
            if char == "]" and place > set_start:
                set_start = -1
        elif char == "[":
            set_start = place + (2 if pair == "[^" else 1)
            place = set_start
            continue
        elif pair == "(?" and not _FLAG_GROUP.match(pattern, place):
            return place, "of groups with a question mark only (?:, (?P<name>, (?i and (?s are read"
        elif len(pair) == 2 and char in "*+?}" and pair[1] == "+":
            return place, "possessive repeats are not supported; drop the second sign"
        place += 1
    return None
