"""README's table and the model card say what was measured, and are not stale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.kept_answers import hash_weights
from benchmarks.tiny_card import count_parameters, describe_run, write_card
from benchmarks.tiny_table import (
    BEGIN,
    END,
    family_table,
    percent,
    read_figures,
    replace_table,
    sampling_table,
)
from huggingface_hub import ModelCard

from benchmarks import tiny_card
from internvl35.chat import load
from internvl35.commands.recipe import settle_recipe
from internvl35.data.synthetic import FAMILIES
from internvl35.model.hub import resolve_checkpoint
from internvl35.train.tiny.recipe import TinyRecipe

ROOT = Path(__file__).parents[2]


def figure(value, n=500):
    return {"value": value, "low": value - 0.1, "high": value + 0.05, "n": n}


FIGURES = {
    "date": "2026-01-31", "pictures": 500, "sampled_pictures": 100, "samples": 8,
    "mean_right": 0.75, "calibration": {"calibration_error": 0.0316, "auroc": 0.875},
    "families": {
        "counting": {
            "direct": {
                "figures": {"right": figure(0.914)},
                "kinds": {"count": {}},
                "unseen": {"wording": {"seen": figure(0.92), "unseen": figure(0.9, 250)}},
                "calibration": {"calibration_error": 0.0214, "auroc": None},
            },
            "sampled": {"direct": {"pass@1": figure(0.8), "pass@8": figure(0.95)}},
        },
        "sums": {
            "direct": {
                "figures": {"right": figure(0.5), "characters": figure(0.6)},
                "kinds": {"two steps": {}},
                "unseen": {},
                "calibration": {"calibration_error": 0.1, "auroc": 0.75},
            },
            "thinking": {"figures": {"right": figure(0.7)}},
        },
    },
}  # fmt: skip


def test_the_table_has_a_line_a_family():
    assert family_table(FIGURES).splitlines()[2:] == [
        "| counting | 91.4 % | 81.4 % to 96.4 % | unseen wording 90.0 % | 500 |",
        "| sums | 50.0 % | 40.0 % to 55.0 % | characters 60.0 %, thinking 70.0 % | 500 |",
    ]


def test_drawn_answers_and_probabilities_have_a_table_of_their_own():
    assert sampling_table(FIGURES).splitlines()[0].startswith("| task | pass@1 | pass@8 |")
    assert sampling_table(FIGURES).splitlines()[2:] == [
        "| counting | 80.0 % | 95.0 % | 0.021 |  |",
        "| sums |  |  | 0.100 | 0.750 |",
    ]


def test_a_table_replaces_the_one_between_the_marks():
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    assert replace_table(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter"
    with pytest.raises(ValueError, match="lacks"):
        replace_table("no marks", "new")


def test_the_figures_are_those_of_the_embedded_weights():
    assert read_figures()["weights"] == hash_weights("tiny"), "make bench-tiny measures them"


def test_the_readme_shows_what_was_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert replace_table(readme, family_table(read_figures())) == readme, (
        "python -m benchmarks.tiny_card brings it up to date"
    )


def test_the_card_beside_the_weights_is_up_to_date():
    folder = resolve_checkpoint("tiny")
    card = (folder / "README.md").read_text(encoding="utf-8")
    expected = write_card(folder, read_figures(), read_figures("tiny_run"))
    assert card == expected, "python -m benchmarks.tiny_card brings it up to date"


def test_the_card_can_be_read_by_the_hub():
    card = ModelCard(write_card(resolve_checkpoint("tiny"), FIGURES, {}))
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.language == ["en", "zh"]
    assert "internvl" in card.data.tags
    assert (type(FAMILIES["sums"]).__doc__ or "").splitlines()[0] in card.text
    assert family_table(FIGURES) in card.text
    assert percent(FIGURES["mean_right"]) in card.text


def test_a_card_without_a_run_says_nothing_of_stages():
    folder = resolve_checkpoint("tiny")
    run = {"recipe": {"optimizer": "muon"}, "stages": [
        {"stage": "tower", "steps": 2200, "drawings": 105_600},
        {"stage": "sft", "steps": 3000, "drawings": 144_000},
    ]}  # fmt: skip
    assert "## Training" not in write_card(folder, FIGURES, {})
    card = write_card(folder, FIGURES, run)
    assert (
        "| sft | everything learns from drawings as hard as the test's | 3,000 | 144,000 |" in card
    )
    assert "249,600 drawings in all" in card


def test_weights_are_counted_in_the_file():
    parameters = load("tiny").model.parameters()
    assert count_parameters(resolve_checkpoint("tiny")) == sum(p.numel() for p in parameters)


def test_a_run_is_summed_up(tmp_path):
    recipe = settle_recipe(tmp_path, TinyRecipe(), {"samples_per_step": 10}, [])
    for folder, steps in (("1-tower", 30), ("4-sft", 20)):
        (tmp_path / folder).mkdir()
        lines = [
            {"loss": 3.0 - step / 20, "global_step/max_steps": f"{step}/{steps}"}
            for step in range(10, steps + 1, 10)
        ]
        log = tmp_path / folder / "logging.jsonl"
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = describe_run(tmp_path)
    assert run["recipe"]["samples_per_step"] == 10
    assert [(s["stage"], s["steps"], s["drawings"]) for s in run["stages"]] == [
        ("tower", 30, 300),
        ("sft", 20, 200),
    ]
    assert run["stages"][0]["last_loss"] == 1.5
    assert run["stages"][1]["learning_rate"] == recipe.sft.learning_rate


def test_the_command_writes_card_and_readme(tmp_path, monkeypatch, results):
    results.mkdir(parents=True)
    (results / "tiny.json").write_text(json.dumps(FIGURES))
    folder, readme = tmp_path / "tiny", tmp_path / "README.md"
    folder.mkdir()
    for path in resolve_checkpoint("tiny").glob("*[ns]"):  # weights and settings
        (folder / path.name).symlink_to(path)
    readme.write_text(f"# Page\n{BEGIN}\n{END}\n")
    monkeypatch.setattr(tiny_card, "resolve_checkpoint", lambda name: folder)
    monkeypatch.setattr(tiny_card, "README", readme)
    tiny_card.main([])
    assert family_table(FIGURES) in readme.read_text()
    assert family_table(FIGURES) in (folder / "README.md").read_text()
