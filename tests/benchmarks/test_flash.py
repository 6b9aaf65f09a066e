"""The benchmark of Flash checkpoints: what is asked, what is kept, and which figures follow."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.flash_answers import (
    Answer,
    Asking,
    Inquiry,
    RandomRouter,
    keep_answers,
    random_settings,
    routed_at_random,
    tile_scores,
)
from benchmarks.flash_figures import (
    Columns,
    bootstrap,
    family_figures,
    margin,
    policy_figures,
    share,
    spread_thresholds,
)
from flash_models import FULL, SHORT, make_flash_model
from PIL import Image

from benchmarks import flash, flash_answers, flash_attribution, flash_tiles
from internvl35 import AutoTokenizer, FlashSettings
from internvl35.chat import Chat
from internvl35.data.synthetic import FAMILIES
from internvl35.data.tokenizer import save_tokenizer
from internvl35.errors import ConfigError

FEW = Asking(("counting", "shapes"), num_pictures=3, max_tokens=2, max_questions=2)


def answers(rights, compressed=0, tiles=5):
    tokens = FULL * tiles - (FULL - SHORT) * compressed
    return [Answer(bool(right), tiles, compressed, tokens) for right in rights]


def judge_by_tiles(drawing, reply):
    """Random weights know nothing; here an answer is right if a tile keeps its tokens."""
    is_right = reply.num_compressed_tiles < reply.num_tiles
    return Answer(is_right, reply.num_tiles, reply.num_compressed_tiles, reply.num_visual_tokens)


def shorten(measurement):
    return replace(measurement, asking=replace(measurement.asking, max_tokens=2))


@pytest.fixture(scope="module")
def tokenizer(random_checkpoint):
    return AutoTokenizer.from_pretrained(random_checkpoint)


@pytest.fixture(scope="module")
def flash_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flash") / "checkpoint"
    make_flash_model().save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def base_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    make_flash_model(flash_mode=False).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def chat(tokenizer):
    return Chat(make_flash_model(), tokenizer)


def test_every_asked_family_draws_one_picture_that_enlarged_fills_several_tiles(chat):
    asking = Asking(num_pictures=3)
    for family in asking.families:
        assert family in FAMILIES
        assert [len(drawing.images) for drawing in asking.drawings(family)] == [1, 1, 1]
    replies = Inquiry(FEW, FEW.drawings("counting")).ask(chat, FlashSettings("off"))
    assert all(one.num_tiles >= 4 for one in replies)
    assert all(one.num_visual_tokens == FULL * one.num_tiles for one in replies)


def test_an_answer_counts_the_tiles_and_tokens_of_its_policy(chat):
    seen = []
    inquiry = Inquiry(FEW, FEW.drawings("shapes"), seen.append)
    for one in inquiry.ask(chat, FlashSettings("all")):
        assert one.num_compressed == one.num_tiles
        assert one.num_visual_tokens == SHORT * one.num_tiles
    assert seen == [2, 1]


def test_chance_compresses_the_share_that_is_asked_for_and_the_router_comes_back(chat):
    own = chat.model.router
    drawings = Asking(("counting",), num_pictures=12, max_tokens=1).drawings("counting")
    inquiry = Inquiry(FEW, drawings)
    with routed_at_random(chat, "a"):
        few = inquiry.ask(chat, random_settings(0.2))
        none = inquiry.ask(chat, random_settings(0.0))
        everything = inquiry.ask(chat, random_settings(1.0))
    assert chat.model.router is own
    num_tiles = sum(one.num_tiles for one in few)
    # 60 tiles: four deviations of the binomial
    assert abs(sum(one.num_compressed for one in few) / num_tiles - 0.2) < 0.21
    assert sum(one.num_compressed for one in few) > 0
    assert sum(one.num_compressed for one in none) == 0
    assert sum(one.num_compressed for one in everything) == num_tiles
    draws = [RandomRouter(seed).scores(torch.zeros(9, 2, 2, 3)).tolist() for seed in "aab"]
    assert draws[0] == draws[1] != draws[2]


def test_every_draw_of_chance_chooses_anew_among_pictures_that_were_seen(chat):
    drawings = Asking(("counting",), num_pictures=6, max_tokens=1).drawings("counting")
    inquiry, chosen = Inquiry(FEW, drawings), []
    for seed in "aba":
        with routed_at_random(chat, seed):
            found = inquiry.ask(chat, random_settings(0.5))
        chosen.append([one.num_compressed for one in found])
    assert chosen[0] == chosen[2] != chosen[1]
    own = inquiry.ask(chat, random_settings(0.5))
    assert [one.num_compressed for one in own] not in chosen


def test_scores_are_those_that_a_question_is_routed_by(chat):
    asking = Asking(("counting",), num_pictures=2, max_tokens=1)
    found = tile_scores(chat, asking, "counting")
    replies = [
        chat.ask("x", images=drawing.images, flash=FlashSettings("absolute"),)
        for drawing in asking.drawings("counting")
    ]  # fmt: skip
    wanted = [score for reply in replies for score in reply.routing.scores]
    assert found == pytest.approx(wanted, abs=1e-6)


def test_thresholds_compress_the_shares_that_they_are_made_for():
    scores = np.random.default_rng(0).random(1000)
    for rate, threshold in zip((0.25, 0.9), spread_thresholds(scores, (0.25, 0.9)), strict=True):
        assert (scores >= threshold).mean() == pytest.approx(rate, abs=0.002)
    assert spread_thresholds([0.5] * 7, (0.2, 0.6)) == [0.5]


def test_a_bootstrap_of_a_share_has_the_interval_of_the_binomial():
    right = np.array([1.0] * 300 + [0.0] * 100)
    found = bootstrap([400], share(right, np.ones(400)))
    deviation = (0.75 * 0.25 / 400) ** 0.5
    assert found["value"] == 0.75
    assert found["low"] == pytest.approx(0.75 - 1.96 * deviation, abs=0.006)
    assert found["high"] == pytest.approx(0.75 + 1.96 * deviation, abs=0.006)


def test_pictures_are_drawn_anew_within_their_families():
    # one family always right, one always wrong: drawn within families nothing varies
    right = np.array([1.0] * 50 + [0.0] * 50)
    found = bootstrap([50, 50], share(right, np.ones(100)))
    assert found == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_answers_that_differ_nowhere_are_kept_for_certain_whatever_is_right():
    families = {"a": {"base": answers([1, 0, 1, 1]), "x": answers([1, 0, 1, 1], compressed=4)}}
    found = policy_figures(families, ["x"], "base")
    assert found["retention"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    whole, left = 5 * FULL, 5 * FULL - 4 * (FULL - SHORT)
    assert found["visual_token_share"]["value"] == pytest.approx(left / whole, abs=1e-4)
    assert found["compressed_share"] == 0.8
    assert found["accuracy"]["value"] == 0.75
    assert found["accuracy"]["low"] < 0.75 < found["accuracy"]["high"]


def test_a_base_without_a_right_answer_is_refused():
    families = {"a": {"base": answers([0, 0]), "x": answers([1, 0])}}
    with pytest.raises(ConfigError, match="the base answered none of 2 questions rightly"):
        policy_figures(families, ["x"], "base")


def test_several_draws_are_averaged_picture_by_picture():
    families = {"a": {"base": answers([1, 1]), "0": answers([1, 0]), "1": answers([1, 1])}}
    assert policy_figures(families, ["0", "1"], "base")["retention"]["value"] == 0.75
    found = margin(families, ["1"], ["0"], "base")
    assert (found["value"], found["low"]) == (0.5, 0.0)
    rows = family_figures(families["a"], {"base": ["base"], "random": ["0", "1"]})
    assert rows["random"]["accuracy"] == {"value": 0.75}
    assert rows["base"]["accuracy"]["high"] == 1.0
    assert rows["base"]["accuracy"]["low"] == pytest.approx(0.3424, abs=1e-4)  # Wilson, 2 of 2
    assert Columns.of([answers([1, 0]), answers([0, 0])]).right.tolist() == [0.5, 0.0]


def test_the_whole_measurement_goes_on_behind_a_family_that_was_finished(
    results, flash_folder, base_folder, monkeypatch, capsys
):
    arguments = [
        "--model", str(flash_folder), "--base", str(base_folder), "--families", "counting",
        "shapes", "--pictures", "2", "--random-draws", "1",
    ]  # fmt: skip
    monkeypatch.setattr(flash, "NUM_JUDGED", 2)
    read = flash.read_measurement
    monkeypatch.setattr(flash_answers, "judge", judge_by_tiles)
    monkeypatch.setattr(flash, "read_measurement", lambda given: shorten(read(given)))
    asked, rates = [], []
    original = flash.ask_base
    prefill = {"prefill": {"speedup": 2.0, "interval": [1.5, 2.5]}, "device": "cpu"}
    prefills = iter([KeyboardInterrupt(), prefill])

    def measure_prefill(_):
        found = next(prefills)
        if isinstance(found, KeyboardInterrupt):
            raise found
        return found

    def settings_of_chance(rate):
        rates.append(rate)
        return random_settings(rate)

    monkeypatch.setattr(flash, "measure_prefill", measure_prefill)
    monkeypatch.setattr(flash, "show", lambda _: None)
    monkeypatch.setattr(flash, "random_settings", settings_of_chance)

    def dying(base, inquiry):
        asked.append(inquiry.drawings[0].family)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return original(base, inquiry)

    monkeypatch.setattr(flash, "ask_base", dying)
    with pytest.raises(KeyboardInterrupt):
        flash.main(arguments)
    assert len(list(results.glob("flash-*.partial.json"))) == 1
    with pytest.raises(KeyboardInterrupt):  # while prefill is measured, all answers being there
        flash.main(arguments)
    assert flash.main(arguments) == 0
    assert asked == ["counting", "shapes", "shapes"]
    assert list(results.glob("*.partial*")) == []
    found = json.loads((results / "flash.json").read_text())
    assert {"retention", "visual_token_share", "retention_random_routing"} <= set(found)
    assert found["threshold"] == 0.2  # of the checkpoint
    assert found["policies"]["off"]["visual_token_share"]["value"] == 1.0
    assert found["policies"]["off"]["retention"]["value"] == 1.0
    assert found["policies"]["all"]["retention"]["value"] == 0.0
    assert found["policies"]["all"]["visual_token_share"]["value"] == SHORT / FULL
    rows = [name for name in found["policies"] if name.startswith("absolute")]
    shares = [found["policies"][row]["compressed_share"] for row in rows]
    assert shares == sorted(shares)
    assert set(found["families"]) == {"counting", "shapes"}
    tokens = [found["families"][name]["absolute 0.2"]["visual_tokens"] for name in FEW.families]
    whole = [found["families"][name]["base"]["visual_tokens"] for name in FEW.families]
    compressed = [
        (all_ - own) / all_ / (1 - SHORT / FULL) for own, all_ in zip(tokens, whole, strict=True)
    ]
    assert rates == pytest.approx(compressed, abs=1e-3)
    assert found["prefill_speedup"] == {"value": 2.0, "low": 1.5, "high": 2.5}
    printed = capsys.readouterr().out
    is_short = found["visual_token_share"]["value"] <= 0.5
    assert ("reached: visual_token_share" in printed) == is_short
    assert ("missed: visual_token_share" in printed) != is_short


def test_answers_of_another_measurement_are_not_taken(tmp_path, flash_folder):
    kept = keep_answers(tmp_path, [str(flash_folder)], [1])
    kept.keep("counting", {"base": answers([1, 0], compressed=2)})
    assert keep_answers(tmp_path, [str(flash_folder)], [1]).done == kept.done
    assert keep_answers(tmp_path, [str(flash_folder)], [2]).done == {}
    kept.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_base_model_is_refused_and_so_is_another_tiling(chat, tokenizer):
    measurement = flash.Measurement("a", "b")
    base = Chat(make_flash_model(flash_mode=False), tokenizer)
    with pytest.raises(ConfigError, match=r"a has no router; needed: a Flash checkpoint"):
        flash.check_models(measurement, base, base)
    other = Chat(make_flash_model(flash_mode=False, max_dynamic_patch=2), tokenizer)
    with pytest.raises(ConfigError, match=r"name the checkpoint that the Flash one was made from"):
        flash.check_models(measurement, chat, other)


def test_an_aim_is_reached_from_its_value_on():
    def verdicts(retention, tokens, speedup, low):
        figures = {
            "retention": {"value": retention}, "visual_token_share": {"value": tokens},
            "prefill_speedup": {"value": speedup}, "margin_over_random": {"low": low},
        }  # fmt: skip
        return [is_reached for _, is_reached in flash.judge(figures)]

    assert verdicts(0.99, 0.5, 1.4, 0.001) == [True] * 4
    assert verdicts(0.9899, 0.501, 1.39, 0.0) == [False] * 4


def test_prefill_stands_among_the_figures_in_their_form_and_without_times():
    found = {
        "device": "cpu", "prefill": {"seconds": [2.0, 1.0], "speedup": 2.0, "interval": [1.9, 2.1]}
    }  # fmt: skip
    figures = flash.prefill_figures(found)
    assert figures["prefill_speedup"] == {"value": 2.0, "low": 1.9, "high": 2.1}
    assert "seconds" not in figures["prefill"]["prefill"]


def test_the_picture_of_tiles_shows_full_and_empty_pictures(chat, tmp_path):
    corner = flash_tiles.put_in_corner(Image.new("RGB", (10, 20), "red"), 3)
    assert corner.size == (30, 60)
    assert corner.getpixel((29, 59)) == (255, 0, 0)
    rows = [flash_tiles.full_pictures(0)[:1], flash_tiles.sparse_pictures(0)[:1]]
    sheet = flash_tiles.draw_sheet(chat, rows, FlashSettings("absolute"))
    alone = flash_tiles.draw_sheet(chat, rows[:1], FlashSettings("absolute"))
    assert sheet.height > alone.height
    assert np.asarray(sheet)[: alone.height, : alone.width].tolist() == np.asarray(alone).tolist()


def test_replies_about_several_pictures_are_joined_in_their_order(chat):
    pictures = [*flash_tiles.full_pictures(0)[:1], *flash_tiles.sparse_pictures(1)[:1]]
    replies = [flash_tiles.look(chat, one, FlashSettings("absolute")) for one in pictures]
    joined = flash_tiles.join_replies(replies)
    assert joined.num_tiles == sum(reply.num_tiles for reply in replies)
    assert joined.routing.scores == tuple(s for reply in replies for s in reply.routing.scores)
    assert len(joined.conversation.grids) == len(joined.conversation.pictures) == 2


def test_ways_are_compared_with_chance_and_with_the_default():
    families = {
        "a": {
            "base": answers([1, 1, 1, 1]), "random": answers([0, 0, 1, 1]),
            "one tile, 50, others drawn": answers([1, 1, 1, 0]),
            "all tiles, 50": answers([1, 1, 1, 1]),
        }
    }  # fmt: skip
    found = flash_attribution.describe(families, ["one tile, 50, others drawn", "all tiles, 50"])
    assert found["one tile, 50, others drawn"]["margin_over_random"]["value"] == 0.25
    assert found["all tiles, 50"]["margin_over_default"]["value"] == 0.25
    assert "margin_over_default" not in found["one tile, 50, others drawn"]
    assert "margin_over_random" not in found["random"]
