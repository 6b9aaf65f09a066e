"""Settings classes as options, and recipes on the command line."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from internvl35.commands.options import FLAGS, read_sentences, spread_settings
from internvl35.commands.recipe import (
    RECIPE_FILE,
    override,
    parse_changes,
    read_recipe,
    settle_recipe,
)
from internvl35.commands.terminal import printable
from internvl35.errors import ConfigError, DataError
from internvl35.generate.sampling import SamplingSettings
from internvl35.train.tiny.recipe import TinyRecipe


@dataclass(frozen=True)
class Fruit:
    """A planted settings class."""

    kind: Literal["apple", "pear"] = "apple"
    """What ``it`` is,
    on two lines."""
    num_seeds: int | None = None
    """How many seeds."""
    names: tuple[str, ...] = field(default=(), metadata={FLAGS: ("--name", "-n")})
    """What it is called."""
    ripe: bool = False
    """Whether it can be eaten."""

    def __post_init__(self) -> None:
        if self.num_seeds is not None and self.num_seeds < 0:
            raise ConfigError(f"num_seeds is {self.num_seeds}")


@pytest.fixture
def eat():
    taken = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @spread_settings
    def command(
        fruit: Fruit, where: Annotated[str, typer.Argument(help="Where.")] = "home"
    ) -> None:
        """Eat."""
        taken.append((fruit, where))

    return lambda *arguments: (CliRunner().invoke(app, arguments), taken)


def test_fields_become_options_and_come_back_as_the_class(eat):
    result, taken = eat("garden", "--kind", "pear", "--num-seeds", "3", "-n", "a", "--name", "b")
    assert result.exit_code == 0
    assert taken == [(Fruit("pear", 3, ("a", "b"), ripe=False), "garden")]
    assert eat("--ripe")[1][-1] == (Fruit(ripe=True), "home")


def test_help_is_the_sentence_under_the_field(eat):
    result, _ = eat("--help")
    text = " ".join(result.output.split())
    assert "What it is, on two lines. [default: apple]" in text
    assert "--name <str> What it is called." in text


def test_the_checks_of_the_class_hold(eat):
    result, taken = eat("--num-seeds", "-1")
    assert isinstance(result.exception, ConfigError)
    assert taken == []
    assert eat("--kind", "plum")[0].exit_code == 2


def test_two_classes_with_the_same_field_are_refused():
    def command(one: Fruit, other: Fruit) -> None: ...

    command.__annotations__ = {"one": Fruit, "other": Fruit}
    with pytest.raises(AssertionError, match="twice"):
        spread_settings(command)


def test_sentences_are_read_without_importing():
    sentences = read_sentences("internvl35.generate.sampling", "SamplingSettings")
    assert sentences["stop"] == "Texts that end an answer; they are not part of it."
    assert set(sentences) == set(inspect.signature(SamplingSettings).parameters)


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("a\tb\nc", "utf-8", "a\tb\nc"),
        ("\x1b]0;title\x07\x1b[2Jred\r\x9b1m", "utf-8", "]0;title[2Jred1m"),
        ("多 ü", "latin-1", "? ü"),
        ("a\ud800b", None, "a?b"),
    ],
)
def test_what_would_steer_a_terminal_is_left_out(text, encoding, expected):
    assert printable(text, encoding) == expected


RECIPE = TinyRecipe()


def test_settings_are_changed_by_name_at_any_depth():
    changed = override(
        RECIPE,
        {"seed": 3, "sft.learning_rate": 1, "sft.shares": [["counting", 1.0]],
         "sft.averaging": "token"},
    )  # fmt: skip
    assert (changed.seed, changed.sft.learning_rate) == (3, 1.0)
    assert changed.sft.shares == (("counting", 1.0),)
    assert changed.sft.averaging == "token"
    assert changed.sft.num_steps == RECIPE.sft.num_steps


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"sead": 1}, "there is no setting 'sead'; known: tower, projector"),
        ({"sft.rounds": 1}, "there is no setting 'sft.rounds'; known: num_steps"),
        ({"seed.x": 1}, "seed holds no others"),
        ({"sft": 1}, "sft is not one setting; known: sft.num_steps"),
        ({"seed": "many"}, "seed is 'many'; needed: int, for example 0"),
        ({"seed": True}, "needed: int"),
        ({"sft.num_steps": -1}, "a stage of -1 steps"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(changes, found):
    with pytest.raises(ConfigError, match=found.replace(".", r"\.")):
        override(RECIPE, changes)


def test_changes_are_read_as_numbers_tuples_or_text():
    texts = ["seed=3", "a.b = 1e-3", "shares=(('x', 1.0),)", "kind=muon", "empty=", "eq=a=b"]
    assert parse_changes(texts) == {
        "seed": 3, "a.b": 0.001, "shares": (("x", 1.0),), "kind": "muon", "empty": "", "eq": "a=b",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        parse_changes(["seed"])


def test_a_run_keeps_its_recipe(tmp_path):
    folder = tmp_path / "runs" / "a"
    first = settle_recipe(folder, RECIPE, {"seed": 4, "sft.num_steps": 9}, ())
    assert first == replace(RECIPE, seed=4, sft=replace(RECIPE.sft, num_steps=9))
    assert read_recipe(folder / RECIPE_FILE, TinyRecipe) == first
    assert settle_recipe(folder, RECIPE, {}, ()) == first
    assert settle_recipe(folder, RECIPE, {"seed": 4}, ()) == first
    longer = settle_recipe(folder, RECIPE, {"sft.num_steps": 12}, ("sft.num_steps",))
    assert longer.sft.num_steps == 12
    assert settle_recipe(folder, RECIPE, {}, ()) == longer


def test_what_decides_on_the_data_does_not_change_under_way(tmp_path):
    settle_recipe(tmp_path, RECIPE, {}, ())
    with pytest.raises(ConfigError, match=r"seed is 1 but the run in .* was started with 0"):
        settle_recipe(tmp_path, RECIPE, {"seed": 1}, ("sft.num_steps",))
    assert read_recipe(tmp_path / RECIPE_FILE, TinyRecipe) == RECIPE


@pytest.mark.parametrize("text", ["{", "[]", '{"sead": 1}', '{"sft": 3}', '{"sft": {"x": 1}}'])
def test_a_file_that_is_no_recipe_is_named(tmp_path, text):
    (tmp_path / RECIPE_FILE).write_text(text)
    with pytest.raises(DataError, match=r"recipe\.json is not a recipe"):
        settle_recipe(tmp_path, RECIPE, {}, ())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="nothing can be written"):
        settle_recipe(tmp_path / "file", RECIPE, {}, ())


def test_the_recipe_file_lists_every_setting(tmp_path):
    settle_recipe(tmp_path, RECIPE, {}, ())
    written = json.loads((tmp_path / RECIPE_FILE).read_text())
    assert written["samples_per_step"] == RECIPE.samples_per_step
    assert written["sft"]["num_steps"] == RECIPE.sft.num_steps
