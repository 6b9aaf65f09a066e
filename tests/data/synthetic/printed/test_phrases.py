import random
import re
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.labels import GLYPHS
from internvl35.data.synthetic.printed.phrases import DAYS, LEAST_LIMIT, MONTHS, choose_phrase
from internvl35.data.synthetic.printed.words import choose_code, choose_number, choose_word

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.integers(LEAST_LIMIT, 28), st.booleans())
def test_a_phrase_keeps_within_its_limit_and_has_characters_that_are_marked(
    seed: int, limit: int, has_dollar: bool
) -> None:
    phrase = choose_phrase(Chance(random.Random(seed)), limit, has_dollar=has_dollar)
    assert 0 < len(phrase) <= limit
    assert phrase == " ".join(phrase.split())
    assert set(phrase) <= {*GLYPHS, " "}
    assert has_dollar or "$" not in phrase


@given(SEEDS, st.integers(1, 8))
def test_words_numbers_and_codes_have_the_length_that_is_asked_for(seed: int, length: int) -> None:
    chance = Chance(random.Random(seed))
    assert len(choose_word(chance, length)) == length
    number = choose_number(chance, length)
    assert len(number) == length
    assert re.search("[2-9]", number)
    if length > 1:
        code = choose_code(chance, length)
        assert len(code) == length
        assert re.search("[A-Z]", code)
        assert re.search("[2-9]", code)


def test_sums_are_right_and_dates_exist() -> None:
    phrases = [choose_phrase(Chance(random.Random(seed)), 28) for seed in range(3000)]
    sums = [re.fullmatch(r"(\d+) \+ (\d+) = (\d+)", phrase) for phrase in phrases]
    found = [tuple(map(int, parts.groups())) for parts in sums if parts]
    assert len(found) > 20
    assert all(first + second == total for first, second, total in found)
    days = [re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", phrase) for phrase in phrases]
    assert sum(date(*map(int, parts.groups())) > date(1949, 1, 1) for parts in days if parts) > 5
    assert len(set(MONTHS)) == 12
    assert len(set(DAYS)) == 7
