"""The grammar of flags: spellings, truth values, lists, files of flags, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from internvl35.commands.flag_file import read_flag_file
from internvl35.commands.flag_names import ALIASES, ENVIRONMENT, FIXED, REPLACED, VALUE_ALIASES
from internvl35.commands.flags import FlagCommand, spread_flags
from internvl35.errors import ConfigError
from internvl35.train.arguments import setting_groups
from internvl35.train.settings import FinetuneSettings


@dataclass(frozen=True)
class FruitSettings:
    """A planted settings class."""

    lora_rank: int = 8
    """How many seeds."""
    dataset: tuple[str, ...] = ("apple",)
    """Where it
    grows."""
    interleave_prob: tuple[float, ...] = ()
    """How often."""
    freeze_vit: bool = True
    """Whether it is cold."""
    stream: bool | None = None
    """Whether it flows."""
    tuner_type: Literal["lora", "full"] = "lora"
    """What it is."""
    quant_bits: Literal[4, 8] | None = None
    """How small."""
    frame_label: Literal["a\n", "b"] = "a\n"
    """What it is called."""
    max_dynamic_patch: int | None = None
    """How many pieces."""
    use_hf: bool | None = None
    """Where from."""
    torch_dtype: str | None = None
    """How fine."""


@dataclass(frozen=True)
class BowlSettings:
    """Another one."""

    max_steps: int = -1
    """How deep."""


@pytest.fixture
def parse(monkeypatch):
    """Give what a command line means: the flags that were given, and how it ended."""
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    taken = []
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(lambda: None)

    @spread_flags(FruitSettings, BowlSettings)
    def eat(flags, recipe: Annotated[str | None, typer.Option(help="A name.")] = None):
        """Eat."""
        taken.append((flags, recipe))

    app.command("eat", cls=FlagCommand)(eat)

    def run(*arguments):
        taken.clear()
        result = CliRunner().invoke(app, ["eat", *map(str, arguments)])
        if isinstance(result.exception, ConfigError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return dict(taken[0][0].values) if taken else result.output

    run.taken = taken
    return run


def test_only_what_was_given_is_given(parse):
    assert parse() == {}
    assert parse("--lora_rank", 8) == {"lora_rank": 8}  # even if it is the default


@pytest.mark.parametrize("flag", ["--lora_rank", "--lora-rank"])
@pytest.mark.parametrize("form", [lambda flag: (flag, "4"), lambda flag: (f"{flag}=4",)])
def test_dashes_and_equals_signs_are_accepted(parse, flag, form):
    assert parse(*form(flag)) == {"lora_rank": 4}


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--freeze_vit"], True),
        (["--freeze_vit", "true"], True),
        (["--freeze_vit", "True"], True),
        (["--freeze_vit=1"], True),
        (["--freeze_vit", "yes"], True),
        (["--freeze_vit", "false"], False),
        (["--freeze_vit", "0"], False),
        (["--freeze_vit", "off", "--lora_rank", "4"], False),
        (["--freeze_vit", "--lora_rank", "4"], True),
    ],
)
def test_truth_values_are_written_out_and_a_bare_flag_means_true(parse, arguments, value):
    assert parse(*arguments)["freeze_vit"] is value


def test_lists_take_several_values_and_add_up(parse):
    assert parse("--dataset", "a", "b c", "--lora_rank", 4, "--dataset", "d") == {
        "dataset": ("a", "b c", "d"), "lora_rank": 4,
    }  # fmt: skip
    assert parse("--interleave_prob", "0.5", "1e-3") == {"interleave_prob": (0.5, 0.001)}


def test_a_value_may_look_like_a_short_flag_and_the_last_one_counts(parse):
    assert parse("--max_steps", "-1") == {"max_steps": -1}
    assert parse("--lora_rank", 4, "--lora_rank", 5) == {"lora_rank": 5}
    assert parse("--torch_dtype=--x y=z") == {"torch_dtype": "--x y=z"}


def test_other_spellings_mean_the_same(parse):
    assert parse("--train_type", "full") == parse("--sft-type", "full") == {"tuner_type": "full"}
    assert parse("--max_num", 6) == {"max_dynamic_patch": 6}
    assert parse("--dtype", "bf16") == {"torch_dtype": "bfloat16"}


def test_one_of_a_few_values_comes_back_as_its_own_type(parse):
    assert parse("--quant_bits", 4) == {"quant_bits": 4}
    assert parse("--frame_label", r"a\n") == {"frame_label": "a\n"}


def test_the_command_s_own_options_are_read_by_the_same_grammar(parse):
    assert parse("--recipe", "x", "--lora_rank", 4) == {"lora_rank": 4}
    flags, recipe = parse.taken[0]
    assert recipe == "x"
    assert flags.arguments == ("eat", "--recipe", "x", "--lora_rank", "4")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--lora_rnk", "4"], r"^unknown flag --lora_rnk; did you mean --lora_rank\?$"),
        (["--train_tpe", "x"], r"did you mean --train_type\?"),
        (["--xyzzy"], "^unknown flag --xyzzy; --help lists all flags$"),
        (["--bf16", "true"], "^unknown flag --bf16; use --torch_dtype bfloat16$"),
        (["--freeze_vit", "maybe"], "^--freeze_vit is 'maybe'; needed: true or false$"),
        (["--freeze_vit", "true", "false"], "needed: true or false"),
        (["--lora_rank"], "^--lora_rank has no value; give one, as in --lora_rank VALUE$"),
        (["--dataset", "--lora_rank", "4"], "^--dataset has no value; .* --dataset <str>"),
        (["--lora_rank", "4", "5"], "^--lora_rank takes one value but has 2: 4 5; put quotes"),
        (["full"], "^'full' is no flag; flags begin with --, and only a .yaml or .json file"),
        (["-x"], "^'-x' belongs to no flag"),
        (["--model_type", "qwen2_vl"], "^--model_type is 'qwen2_vl'; needed: internvl, or leave"),
        (["--streaming", "true"], "needed: false, or leave it out: files are read row by row"),
        (["none.yaml"], r"the file of flags none\.yaml cannot be read"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_to_do(parse, arguments, found):
    with pytest.raises(ConfigError, match=found):
        parse(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [["--model_type", "internvl3_5"], ["--check_model", "false"], ["--use_chat_template"]],
)
def test_flags_that_would_change_nothing_pass(parse, arguments):
    assert parse(*arguments, "--lora_rank", 4) == {"lora_rank": 4}


def test_a_value_of_another_type_is_refused_by_name():
    app = typer.Typer(rich_markup_mode=None)
    app.command(cls=FlagCommand)(spread_flags(FruitSettings)(lambda flags: None))
    result = CliRunner().invoke(app, ["--lora_rank", "many"])
    assert result.exit_code == 2
    assert "--lora_rank" in result.output


def test_help_has_a_heading_a_group_and_every_sentence(parse):
    text = parse("--lora_rank", "--help")
    assert "Usage: root eat [OPTIONS] [FILE.yaml|FILE.json]" in text
    assert text.index("Options:") < text.index("Fruit:") < text.index("Bowl:")
    words = " ".join(text.split())
    assert "--lora_rank <int> How many seeds. [default: 8]" in words
    assert "--dataset <str>... Where it grows. [default: apple]" in words
    assert "--freeze_vit [true|false] Whether it is cold. [default: true]" in words
    assert "--tuner_type, --train_type, --sft_type [lora|full] What it is. [default: lora]" in words
    assert "--quant_bits [4|8] How small." in words
    assert "How many pieces. Environment variable: MAX_NUM." in words


def test_two_groups_with_the_same_flag_are_refused():
    with pytest.raises(AssertionError, match="twice"):
        spread_flags(FruitSettings, FruitSettings)(lambda flags: None)


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_a_file_of_flags_may_come_first(parse, tmp_path, suffix):
    content = {
        "lora_rank": 4, "dataset": ["a", "b"], "freeze_vit": False, "stream": None,
        "train-type": "full", "quant_bits": 8, "interleave_prob": [0.5, 1],
        "model_type": "internvl",
    }  # fmt: skip
    path = tmp_path / f"flags.{suffix}"
    path.write_text(json.dumps(content))  # which is YAML too
    expected = {
        "lora_rank": 4, "dataset": ("a", "b"), "freeze_vit": False, "tuner_type": "full",
        "quant_bits": 8, "interleave_prob": (0.5, 1.0),
    }  # fmt: skip
    assert parse(path) == expected
    assert parse(path, "--lora_rank", 5, "--dataset", "c") == expected | {
        "lora_rank": 5, "dataset": ("c",),
    }  # fmt: skip
    assert parse.taken[0][0].arguments[1] == str(path)


def test_yaml_is_read_as_people_write_it(parse, tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text(
        "# mine\nlora_rank: 4\nfreeze_vit: yes\ndataset: one.jsonl\ninterleave_prob: 1e-4\n"
    )
    assert parse(path) == {
        "lora_rank": 4, "freeze_vit": True, "dataset": ("one.jsonl",), "interleave_prob": (1e-4,),
    }  # fmt: skip
    path.write_text("")
    assert parse(path) == {}


def test_a_file_may_hold_environment_variables_which_the_real_ones_go_before(
    parse, tmp_path, monkeypatch
):
    monkeypatch.setenv("PLANTED_A", "outer")
    monkeypatch.delenv("PLANTED_B", raising=False)
    monkeypatch.setenv("PLANTED_B", "x")  # so that it is taken away again
    monkeypatch.delenv("PLANTED_B")
    monkeypatch.delenv("MAX_NUM", raising=False)
    path = tmp_path / "flags.yaml"
    path.write_text("ENV:\n  PLANTED_A: inner\n  PLANTED_B: 3\n  MAX_NUM: 6\n")
    try:
        assert parse(path) == {"max_dynamic_patch": 6}
        assert (os.environ["PLANTED_A"], os.environ["PLANTED_B"]) == ("outer", "3")
    finally:
        os.environ.pop("PLANTED_B", None)
        os.environ.pop("MAX_NUM", None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lora_rnk: 4", r"flags\.yaml: unknown flag lora_rnk; did you mean lora_rank\?"),
        ("freeze_vit: maybe", r"flags\.yaml: freeze_vit is 'maybe'"),
        ("lora_rank: [1, 2]", r"flags\.yaml: lora_rank takes one value but has 2"),
        ("dataset: []", r"flags\.yaml: dataset has no value"),
        ("- a", r"flags\.yaml holds a list; needed: one flag a key"),
        ("a: [", r"flags\.yaml is not YAML"),
        ("ENV: 3", r"flags\.yaml: ENV is not an object"),
        ("bf16: true", r"flags\.yaml: unknown flag bf16; use --torch_dtype bfloat16"),
    ],
)
def test_a_file_that_is_not_understood_is_named(parse, tmp_path, text, found):
    path = tmp_path / "flags.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=found):
        parse(path)


def test_a_file_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "flags.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"flags\.json is not JSON"):
        read_flag_file(path)


def test_an_object_in_a_file_becomes_json_text(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("columns: {caption: response}\n")
    assert read_flag_file(path) == ({"columns": ['{"caption": "response"}']}, {})


def test_the_environment_stands_in_for_flags_and_comes_last(parse, tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_NUM", "6")
    monkeypatch.setenv("USE_HF", "1")
    assert parse() == {"max_dynamic_patch": 6, "use_hf": True}
    path = tmp_path / "flags.yaml"
    path.write_text("max_num: 7\n")
    assert parse(path)["max_dynamic_patch"] == 7
    assert parse(path, "--max_dynamic_patch", 8)["max_dynamic_patch"] == 8
    monkeypatch.setenv("USE_HF", "perhaps")
    with pytest.raises(ConfigError, match="environment variable USE_HF: --use_hf is 'perhaps'"):
        parse()


KNOWN = set(setting_groups())


def test_the_tables_name_no_flag_that_there_is_as_one_that_there_is_not():
    assert set(ALIASES) <= KNOWN
    others = {name for names in ALIASES.values() for name in names}
    assert not (KNOWN | others) & (set(REPLACED) | set(FIXED))
    assert not others & KNOWN
    assert set(VALUE_ALIASES) <= KNOWN | {"infer_backend"}
    assert set(ENVIRONMENT) <= KNOWN


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
    lambda text: not text.startswith("-")
)


@pytest.fixture(scope="module")
def read_flags():
    """Give the flags that a command line of all settings holds."""
    taken = []
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(cls=FlagCommand)(spread_flags(FinetuneSettings)(taken.append))
    command = get_command(app)

    def read(arguments):
        command.main(arguments, standalone_mode=False)
        return dict(taken.pop().values)

    return read


@settings(max_examples=40)
@given(
    chosen=st.fixed_dictionaries(
        {},
        optional={
            "lora_rank": st.integers(1, 512),
            "learning_rate": st.floats(1e-9, 1.0),
            "freeze_vit": st.booleans(),
            "target_modules": st.lists(WORDS, min_size=1).map(tuple),
            "dataset": st.lists(WORDS, min_size=1).map(tuple),
            "system": WORDS,
            "tuner_type": st.sampled_from(["lora", "full"]),
            "quant_bits": st.just(4),
            "max_steps": st.sampled_from([-1, 1, 10**6]),
            "columns": st.just('{"caption": "response"}'),
        },
    )
)
def test_settings_survive_a_command_line(read_flags, chosen):
    arguments = []
    for name, value in chosen.items():
        values = value if isinstance(value, tuple) else (value,)
        arguments += [f"--{name}", *(str(item) for item in values)]
    assert read_flags(arguments) == chosen
