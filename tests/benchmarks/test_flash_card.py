"""The embedded Flash checkpoint and its card: what was trained, and what was measured with it."""

from __future__ import annotations

import json

import torch
from benchmarks.kept_answers import hash_weights
from benchmarks.tiny_table import percent, read_figures

from benchmarks import flash_card
from internvl35.chat import load
from internvl35.commands.recipe import settle_recipe
from internvl35.config import TINY, TINY_FLASH
from internvl35.model.hub import resolve_checkpoint
from internvl35.train.flash_recipe import FlashRecipe
from internvl35.train.run_folder import STEP_KEY


def test_the_card_beside_the_embedded_weights_says_what_was_measured_with_them():
    folder = resolve_checkpoint(TINY_FLASH)
    figures, run = read_figures("flash"), read_figures("flash_run")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == flash_card.write_card(folder, figures, run)
    assert figures["weights"] == hash_weights(TINY_FLASH)
    assert figures["base_weights"] == hash_weights(TINY)
    kept = figures["retention"]
    row = next(line for line in card.splitlines() if " * |" in line)
    assert f"{percent(kept['value'])} ({percent(kept['low'])} to {percent(kept['high'])})" in row


def test_the_embedded_flash_checkpoint_differs_from_its_base_by_what_was_trained():
    base, made = load(TINY).model, load(TINY_FLASH).model
    assert made.config.flash_mode
    assert made.router is not None
    for part in ("vision_tower", "multi_modal_projector"):
        own = getattr(made, part).state_dict()
        for name, values in getattr(base, part).state_dict().items():
            assert torch.equal(values, own[name]), name
    embeddings = [model.get_input_embeddings().weight for model in (base, made)]
    assert not torch.equal(*embeddings)


def test_a_run_is_summed_up_by_its_stages(tmp_path):
    settle_recipe(tmp_path, FlashRecipe(num_rows=40, router_steps=7), {}, ())
    for stage, figures in {
        "1-consistency": {"eval_loss": 0.5},
        "2-router": {"eval_acc": 1},
    }.items():
        (tmp_path / stage).mkdir()
        found = [{"loss": 1.0}, {"eval_loss": 0.75}, {"eval_loss": 0.5} | figures, {"loss": 0.25}]
        lines = [{STEP_KEY: f"{step}/4"} | one for step, one in enumerate(found, 1)]
        (tmp_path / stage / "logging.jsonl").write_text("\n".join(map(json.dumps, lines)))
    summary = flash_card.describe_run(tmp_path)
    assert [stage["last"] for stage in summary["stages"]] == [
        {"eval_loss": 0.5}, {"eval_loss": 0.5, "eval_acc": 1},
    ]  # fmt: skip
    assert summary["stages"][1] | {"last": {}} == {
        "stage": "router", "steps": 7, "rows": 7 * 16, "last": {},
    }  # fmt: skip
