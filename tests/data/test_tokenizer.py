import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from internvl35.data.prompt import Message, PromptBuilder, PromptSettings
from internvl35.data.tokenizer import (
    INTERNVL_TOKENS,
    NAMED_TOKENS,
    SPECIAL_TOKENS,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from internvl35.errors import CheckpointError, ConfigError

TEXTS = ["how many red circles are there? 12 of them", "the word says HELLO and Hello"] * 30


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def test_the_special_tokens_follow_the_vocabulary_in_the_released_order(small_tokenizer):
    first = len(small_tokenizer) - len(SPECIAL_TOKENS)
    found = [small_tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS]
    assert found == list(range(first, len(small_tokenizer)))


def test_the_vocabulary_is_not_larger_than_asked(small_tokenizer):
    assert len(train_tokenizer(TEXTS, 300)) == 300
    assert len(small_tokenizer) <= 600


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ConfigError, match="vocab_size is 200; at least 271"):
        train_tokenizer(TEXTS, 200)


def test_training_twice_gives_the_same_tokenizer():
    first, second = (train_tokenizer(iter(TEXTS), 400).backend_tokenizer for _ in range(2))
    assert first.to_str() == second.to_str()


def test_capitals_and_digits_are_never_merged():
    tokenizer = train_tokenizer(["HELLO WORLD AB 1999 ABBA Hello"] * 500, 500)
    singles = set(string.ascii_uppercase + string.digits)
    special = set(SPECIAL_TOKENS)
    for token in tokenizer.get_vocab():
        assert token in special or len(token) == 1 or not singles & set(token), token
    assert tokenizer.tokenize("AXE12") == ["A", "X", "E", "1", "2"]


@given(text=st.text())
@settings(deadline=None)
def test_any_text_comes_back_from_its_tokens(small_tokenizer, text):
    normal = small_tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert small_tokenizer.decode(ids(small_tokenizer, text)) == normal


def test_thinking_tags_survive_decoding_without_special_tokens(small_tokenizer):
    text = "<think>a</think>b<|im_end|>"
    decoded = small_tokenizer.decode(ids(small_tokenizer, text), skip_special_tokens=True)
    assert decoded == "<think>a</think>b"


def test_a_saved_tokenizer_reads_back_equal_here_and_in_stock_transformers(
    small_tokenizer, tmp_path
):
    save_tokenizer(small_tokenizer, tmp_path / "new" / "folder")
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}
    text = "Two <img> marks, 31 <think>reasons</think> <|im_end|>\n\n <video>"
    for read in (load_tokenizer, AutoTokenizer.from_pretrained):
        tokenizer = read(tmp_path / "new" / "folder")
        assert tokenizer.get_vocab() == small_tokenizer.get_vocab()
        assert ids(tokenizer, text) == ids(small_tokenizer, text)
        assert tokenizer.eos_token == "<|im_end|>"
        assert tokenizer.pad_token == "<|endoftext|>"
        assert tokenizer.chat_template == small_tokenizer.chat_template
        for attribute, token in NAMED_TOKENS.items():
            assert getattr(tokenizer, attribute) == token
            assert getattr(tokenizer, f"{attribute}_id") == small_tokenizer.get_vocab()[token]


def test_the_chat_template_gives_the_tokens_of_the_prompt_builder_without_a_system_prompt(
    small_tokenizer,
):
    turns = [("user", "how many?"), ("assistant", "12"), ("user", "  sure?\n")]
    stock = small_tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    builder = PromptBuilder(small_tokenizer, PromptSettings(system_prompt="none"))
    assert list(builder.build([Message(*turn) for turn in turns]).token_ids) == stock


def test_files_of_the_remote_code_layout_give_the_same_tokens_as_tokenizer_json(
    qwen3_folder, tmp_path
):
    whole = load_tokenizer(qwen3_folder)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).symlink_to(qwen3_folder / name)
    added = whole.backend_tokenizer.get_added_tokens_decoder()
    flat = {token.content: token_id for token_id, token in added.items()}
    (tmp_path / "added_tokens.json").write_text(json.dumps(flat))
    parts = load_tokenizer(tmp_path)
    text = "Hello 123  it's 書生 <think>\n a</think> <|im_end|>\n\n x\tz e\u0301 <box>"
    assert parts.get_vocab() == whole.get_vocab()
    assert ids(parts, text) == ids(whole, text)


def test_qwen3_with_internvl_tokens_has_the_released_ids(qwen3_tokenizer):
    found = [qwen3_tokenizer.convert_tokens_to_ids(name) for name in INTERNVL_TOKENS]
    assert found == list(range(151669, 151678))
    assert qwen3_tokenizer.eos_token_id == 151645
    assert qwen3_tokenizer.pad_token_id == 151643


def test_reading_adds_no_token_that_weights_have_no_row_for(qwen3_tokenizer):
    assert len(qwen3_tokenizer) == 151678
    assert qwen3_tokenizer.video_token == "<video>"


def test_a_saved_released_tokenizer_has_what_the_stock_processor_asks_for(
    qwen3_tokenizer, tmp_path
):
    save_tokenizer(qwen3_tokenizer, tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    assert {name: getattr(stock, name) for name in NAMED_TOKENS} == NAMED_TOKENS
    assert stock.context_image_token_id == 151671


def test_code_that_a_checkpoint_brings_is_not_run(small_tokenizer, tmp_path):
    save_tokenizer(small_tokenizer, tmp_path)
    settings_file = tmp_path / "tokenizer_config.json"
    planted = json.loads(settings_file.read_text())
    planted |= {
        "tokenizer_class": "Planted",
        "auto_map": {"AutoTokenizer": ["planted.Planted", None]},
    }
    settings_file.write_text(json.dumps(planted))
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl_chat"}))
    assert load_tokenizer(tmp_path).get_vocab() == small_tokenizer.get_vocab()
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no tokenizer; needed: tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]"])
def test_a_broken_file_is_refused_by_name(small_tokenizer, tmp_path, name, content):
    save_tokenizer(small_tokenizer, tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(tmp_path)


def test_broken_merges_are_refused_by_name(small_tokenizer, tmp_path):
    save_tokenizer(small_tokenizer, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "merges.txt").write_text("a b\nonly-one-part\n")
    with pytest.raises(CheckpointError, match=r"merges\.txt"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_another_model_is_refused_with_the_missing_tokens(tmp_path):
    backend = Tokenizer.from_str(train_tokenizer(TEXTS, 300).backend_tokenizer.to_str())
    stripped = json.loads(backend.to_str())
    stripped["added_tokens"] = [
        entry for entry in stripped["added_tokens"] if entry["content"] != "<box>"
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(stripped))
    with pytest.raises(CheckpointError, match=r"lacks 1 of InternVL's 9 tokens \(<box>\)"):
        load_tokenizer(tmp_path)


def test_a_list_of_added_tokens_that_does_not_fit_the_vocabulary_is_refused(
    small_tokenizer, tmp_path
):
    save_tokenizer(small_tokenizer, tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<img>": 7}))
    with pytest.raises(CheckpointError, match=r"<img> has id \d+ in .* but id 7"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("listed", [["<img>"], {"x": {"content": "<img>"}}, {"5": {}}, {"5": 3}])
def test_a_malformed_list_of_added_tokens_is_refused(small_tokenizer, tmp_path, listed):
    save_tokenizer(small_tokenizer, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    with pytest.raises(CheckpointError, match=r"added tokens listed in .* cannot be read"):
        load_tokenizer(tmp_path)
