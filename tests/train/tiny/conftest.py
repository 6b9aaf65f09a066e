from __future__ import annotations

import pytest

from internvl35.config import LanguageShape, VisionShape
from internvl35.data.synthetic import FAMILIES, draw
from internvl35.data.templates import TEMPLATES
from internvl35.data.tokenizer import save_tokenizer, train_tokenizer
from internvl35.train import reports
from internvl35.train.tiny import shape
from internvl35.train.tiny.recipe import Stage, TinyRecipe
from internvl35.train.tiny.shape import named_token_ids, tiny_config


@pytest.fixture(scope="session")
def tokenizer():
    """A small one: that of a real run takes longer than these runs."""
    texts = [template.default_system_prompt for template in TEMPLATES.values()]
    for family in FAMILIES:
        texts += [
            turn.question for index in range(5) for turn in draw(family, "train", index).turns
        ]
    return train_tokenizer(texts * 5, 600)


@pytest.fixture(scope="module", autouse=True)
def small_shape():
    """A network of a hundredth of the size, and no curves: what is tested needs neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape, "VISION", VisionShape(64, 1, 1, 64, tile_size=64, patch_size=16))
        patch.setattr(reports, "plot_figures", lambda *_: None)  # drawing would take longest
        patch.setattr(
            shape, "LANGUAGE", LanguageShape("qwen3", 64, 1, 1, 1, 64, 64, vocab_size=600)
        )
        yield


@pytest.fixture(scope="module")
def config(tokenizer, small_shape):
    found = tiny_config(*named_token_ids(tokenizer))
    found._attn_implementation = "eager"
    return found


@pytest.fixture(scope="session")
def recipe():
    """A run of four stages that takes seconds."""
    shares = (("counting", 1.0), ("several", 1.0), ("sums", 2.0), ("arithmetic", 1.0))
    return TinyRecipe(
        tower=Stage(2, shares=(("page", 1.0), ("shapes", 1.0)), num_warmup_steps=1),
        projector=Stage(2, shares=shares, num_warmup_steps=1),
        pretrain=Stage(3, shares=shares, num_warmup_steps=1, first_level=0.0),
        sft=Stage(2, shares=shares, num_warmup_steps=0, decay_share=1.0),
        samples_per_step=6,
        save_every=1,
        log_every=1,
        evaluate_every=0,
    )


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A run folder whose tokenizer is made already."""
    save_tokenizer(tokenizer, tmp_path / "run" / "tokenizer")
    return tmp_path / "run"
