from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from internvl35.data.token_writer import ImageSpan
from internvl35.errors import ConfigError
from internvl35.generate.answers import TokenLogprob
from internvl35.generate.flash import FlashSettings
from internvl35.generate.sampling import SamplingSettings, StructureSettings
from internvl35.serve import messages
from internvl35.serve.frames import ChecksumSeal, Header, NackCode, WireError, sealed
from internvl35.serve.message_frames import add_tensor, read_message, write_message
from internvl35.serve.messages import (
    Block,
    Cancel,
    Credit,
    Encode,
    Encoded,
    Features,
    Finished,
    Freed,
    Generate,
    Goodbye,
    Load,
    Message,
    Nack,
    Ping,
    Pong,
    Profile,
    Progress,
    PromptLogprobs,
    Tiles,
    to_block,
    to_tensor,
)
from internvl35.serve.plans import (
    VisualSizes,
    check_opening,
    check_prompt,
    plan_answer,
    plan_request,
)

ID = "00112233445566778899aabbccddeeff"
PROFILE = Profile("language", "mouth", 4, 4, 1, 8, image_token_id=7, max_tiles=9)
SIZES = VisualSizes.of(PROFILE)
SAMPLING = SamplingSettings(
    temperature=0.5, stop=("\n", "ende ü"), logit_bias=((3, -1.5),), n=2, num_prompt_logprobs=1,
    structure=StructureSettings(choices=("a", "b")),
)  # fmt: skip
LOGPROB = TokenLogprob(5, -0.25, ((5, -0.25), (6, -math.inf)))
EVERY: tuple[Message, ...] = (
    Encode(ID, 3, (1, 2), FlashSettings("absolute", None, 0.5), "salt", -1),
    Encode(ID, 0, (1,), None, "", 0, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    Tiles(ID, 1, 1, Block("u8", (1, 4, 4, 3), bytes(range(48)))),
    Features(ID, 0, 2, (True, False), (0.9, 0.1), Block("bf16", (5, 8), bytes(80))),
    Features(ID, 0, 1, (True,), None, Block("bf16", (1, 8), bytes(16))),
    Encoded(ID, 1, 0.5),
    Generate(
        ID, 1, (ImageSpan(1, 5, 2),), (True, False), SAMPLING, "", 0, "adapter",
        to_block(torch.tensor([1, 7, 7, 7, 7, 7, 2], dtype=torch.int32)),
    ),
    Progress(ID, 1, (5, 6), "hé\x00 \U0001f600", (LOGPROB, LOGPROB), "length", None),
    PromptLogprobs(ID, 0, (None, LOGPROB)),
    Finished(ID, 4, None, 1.5),
    Nack(ID, NackCode.BUSY, "full", 1.0),
    Cancel(ID),
    Credit(ID, 2**40),
    Freed(7),
    Ping(1, Block("u8", (1, 16), bytes.fromhex(ID))),
    Ping(2, None),
    Pong(1, Load(1, 2, 3, 4)),
    Goodbye(),
)  # fmt: skip


def travel(message: Message) -> Message:
    header, meta, block = write_message(message)
    header = sealed(header, block, ChecksumSeal())
    payload = None if block is None else memoryview(bytes(block.data))
    return add_tensor(read_message(header, meta), header, payload)


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_every_message_arrives_as_it_was_sent(message: Message) -> None:
    assert travel(message) == message


def test_every_message_that_exists_is_among_those() -> None:
    kinds = {value.KIND: name for name, value in vars(messages).items() if hasattr(value, "KIND")}
    assert set(kinds.values()) == {type(message).__name__ for message in EVERY}
    assert len(kinds) == len({type(message) for message in EVERY})


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int32, torch.float16, torch.bfloat16, torch.float32]
)
def test_numbers_arrive_bit_by_bit(dtype: torch.dtype) -> None:
    bits = torch.arange(240, dtype=torch.uint8).reshape(2, 3, 40)
    values = bits.view(dtype)  # NaN and infinity among them
    found = to_tensor(to_block(values))
    assert found.dtype == dtype
    assert found.shape == values.shape
    assert torch.equal(found.view(torch.uint8), bits)


def test_tensors_with_gaps_and_without_numbers_arrive() -> None:
    values = torch.arange(12.0).reshape(3, 4).T[1:3]
    assert torch.equal(to_tensor(to_block(values)), values)
    assert to_tensor(to_block(torch.empty(0, 8))).shape == (0, 8)


def test_no_byte_of_a_tensor_is_copied_on_the_way_in_and_out() -> None:
    values = torch.zeros(4, dtype=torch.float32)
    block = to_block(values)
    values[0] = 1.0
    assert to_tensor(block).data_ptr() == values.data_ptr()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.data(), st.integers(0, len(EVERY) - 1))
def test_a_field_of_another_type_is_refused_or_means_the_same(
    data: st.DataObject, place: int
) -> None:
    header, meta, block = write_message(EVERY[place])
    header = sealed(header, block, ChecksumSeal())
    value: dict[str, Any] = json.loads(meta)
    name = data.draw(st.sampled_from([*value, "planted"]))
    value[name] = data.draw(json_values)
    try:
        found = read_message(header, json.dumps(value).encode())
    except WireError:
        return
    assert json.loads(write_message(found)[1]) == value


@given(
    st.integers(1, 255),
    st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_noise_in_place_of_fields_is_refused(kind: int, noise: bytes) -> None:
    assume(noise != b"{}")
    with pytest.raises(WireError):
        read_message(Header(kind, ID), noise)


@pytest.mark.parametrize(
    "meta",
    [
        b'{"num_bytes":1,"num_bytes":1}', b'{"num_bytes":NaN}', b'{"num_bytes":true}',
        b'{"num_bytes":1.0}', b'{"num_bytes":9223372036854775808}', b'{"num_bytes":"1"}',
        b'{"num_bytes":1', b'{"num_bytes":null}', b'{"num_bytes":' + b"[" * 100_000, b"\xff",
        b'{"num_bytes":' + b"1" * 5000 + b"}", b"[]", b"{}", b'{"num_bytes":1,"more":1}',
    ],
)  # fmt: skip
def test_json_that_two_readers_could_read_differently_is_refused(meta: bytes) -> None:
    with pytest.raises(WireError, match=r"Credit|no JSON object"):
        read_message(Header(Credit.KIND, ID), meta)


def test_half_a_character_is_refused_on_both_sides() -> None:
    with pytest.raises(WireError, match="cannot be written"):
        write_message(Nack(ID, NackCode.BUSY, "\ud800", None))
    meta = b'{"code":"busy","text":"\\ud800","retry_after_s":null}'
    with pytest.raises(WireError, match="half a character"):
        read_message(Header(Nack.KIND, ID), meta)


def test_settings_that_a_request_may_not_have_are_refused_by_their_own_rules() -> None:
    generate = EVERY[6]
    header, meta, block = write_message(generate)
    value = json.loads(meta)
    value["sampling"]["temperature"] = -1
    with pytest.raises(WireError, match=r"Generate.sampling breaks a rule: temperature is -1"):
        read_message(sealed(header, block, ChecksumSeal()), json.dumps(value).encode())


def test_a_tensor_that_is_missing_or_too_many_is_refused() -> None:
    header, meta, _ = write_message(EVERY[2])
    with pytest.raises(WireError, match="lacks its own"):
        read_message(header, meta)
    header, meta, _ = write_message(Cancel(ID))
    with pytest.raises(WireError, match="brings a tensor"):
        read_message(sealed(header, Block("u8", (1,), b"a"), ChecksumSeal()), meta)
    for wrong in ({"first_tile": 1}, {"num_tiles": 1}):
        with pytest.raises(WireError, match="Cancel has no"):
            read_message(replace(header, **wrong), meta)  # type: ignore[arg-type]


def test_a_profile_without_sense_is_refused() -> None:
    for wrong in ({"width": 0}, {"compressed_tokens": 4}, {"name": "a\nb"}, {"max_requests": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            replace(PROFILE, **wrong)  # type: ignore[arg-type]


def check(plan: Any, message: Message) -> None:
    header, meta, block = write_message(message)
    header = sealed(header, block, ChecksumSeal())
    plan.check(header, read_message(header, meta))


def features(first: int, choices: tuple[bool, ...], tokens: int, **wrong: Any) -> Features:
    block = wrong.pop("values", Block("bf16", (tokens, 8), bytes(16 * tokens)))
    own = Features(ID, first, len(choices), choices, None, block)
    return replace(own, **wrong)


@given(st.permutations(range(5)), st.lists(st.booleans(), min_size=5, max_size=5))
def test_visual_tokens_may_come_in_any_order_each_once(
    order: list[int], choices: list[bool]
) -> None:
    plan = plan_answer(Encode(ID, 0, (2, 3), None, "", 0), SIZES)
    for number, tile in enumerate(order):
        with pytest.raises(WireError, match="before its last tile"):
            check(plan, Encoded(ID, 0, 0.0))
        own = (choices[tile],)
        check(plan, features(tile, own, SIZES.count_tokens(own)))
        with pytest.raises(WireError, match="came before"):
            check(plan, features(tile, own, SIZES.count_tokens(own)))
        assert plan.is_complete == (number == 4)  # type: ignore[union-attr]
    check(plan, Encoded(ID, 0, 0.0))


@pytest.mark.parametrize(
    "message",
    [
        features(0, (False,), 3),
        features(0, (False,), 4, values=Block("f16", (4, 8), bytes(64))),
        features(0, (False,), 4, values=Block("bf16", (8, 4), bytes(64))),
        features(0, (False,), 4, values=Block("bf16", (32,), bytes(64))),
        features(0, (False,), 4, num_tiles=2),
        features(0, (False,), 4, scores=(0.5, 0.5)),
        features(4, (False, False), 8),
        features(2**31, (False,), 4),
        features(0, (), 0),
        EVERY[2],
        EVERY[9],
    ],
)
def test_visual_tokens_that_do_not_fit_are_refused(message: Message) -> None:
    plan = plan_answer(Encode(ID, 0, (2, 3), None, "", 0), SIZES)
    with pytest.raises(WireError) as caught:
        check(plan, message)
    assert caught.value.code is NackCode.UNPLANNED


def test_a_checkpoint_without_router_compresses_nothing() -> None:
    sizes = VisualSizes.of(replace(PROFILE, compressed_tokens=0))
    plan = plan_answer(Encode(ID, 0, (1,), None, "", 0), sizes)
    with pytest.raises(WireError, match="no router"):
        check(plan, features(0, (True,), 1))


def test_a_language_server_takes_the_compression_that_its_prompt_says() -> None:
    opening = EVERY[6]
    assert isinstance(opening, Generate)
    plan = plan_request(opening, SIZES)
    with pytest.raises(WireError, match="otherwise than the prompt"):
        check(plan, features(0, (False,), 4))
    check(plan, features(1, (False,), 4))
    check(plan, features(0, (True,), 1))
    with pytest.raises(WireError, match="in place of visual tokens"):
        check(plan, Encoded(ID, 0, 0.0))


def test_a_gateway_takes_the_answers_that_it_asked_for() -> None:
    opening = EVERY[6]
    assert isinstance(opening, Generate)
    plan = plan_answer(opening, SIZES)
    for message in (EVERY[7], EVERY[8], EVERY[9]):
        check(plan, message)
    wrong = (
        replace(EVERY[7], sample=2), replace(EVERY[7], sample=-1), replace(EVERY[8], start=6),
        replace(EVERY[8], start=-1), EVERY[5], EVERY[3], EVERY[7],  # the last has ended
    )  # fmt: skip
    for message in wrong:
        with pytest.raises(WireError) as caught:
            check(plan, message)
        assert caught.value.code is NackCode.UNPLANNED


def open_checked(opening: Encode | Generate) -> None:
    header, meta, block = write_message(opening)
    header = sealed(header, block, ChecksumSeal())
    found = read_message(header, meta)
    assert isinstance(found, Encode | Generate)
    check_opening(header, found, PROFILE)
    if isinstance(opening, Generate):
        check_prompt(opening, PROFILE)


def prompt(*token_ids: int) -> Block:
    return to_block(torch.tensor(token_ids, dtype=torch.int32))


PICTURE = Generate(
    ID, 0, (ImageSpan(1, 1, 1), ImageSpan(3, 4, 1)), (True, False), SamplingSettings(), "", 0,
    None, prompt(1, 7, 2, 7, 7, 7, 7),
)  # fmt: skip


def test_a_prompt_whose_places_are_those_of_its_tiles_is_taken() -> None:
    open_checked(PICTURE)
    open_checked(replace(PICTURE, spans=(), is_compressed=(), values=prompt(1, 2)))


@pytest.mark.parametrize(
    "change",
    [
        {"values": prompt(1, 7, 2, 7, 7, 7, 1)},
        {"values": prompt(7, 7, 2, 7, 7, 7, 7)},
        {"values": prompt(1, 7, 7, 7, 7, 7, 7)},
        {"values": prompt(1, 7, -2, 7, 7, 7, 7)},
        {"values": prompt(1, 7, 2, 7, 7, 7)},
        {"values": Block("u8", (7,), bytes(7))},
        {"values": Block("i32", (0,), b"")},
        {"values": Block("i32", (1, 7), bytes(28))},
        {"is_compressed": (False, False)},
        {"is_compressed": (True,)},
        {"is_compressed": (True, False, False)},
        {"spans": (ImageSpan(1, 1, 1),)},
        {"spans": (ImageSpan(3, 1, 1), ImageSpan(1, 4, 1))},
        {"spans": (ImageSpan(-1, 1, 1), ImageSpan(3, 4, 1))},
        {"spans": (ImageSpan(1, 1, 1), ImageSpan(1, 4, 1))},
        {"spans": (ImageSpan(1, 1, 1), ImageSpan(3, 4, 0))},
        {"spans": (ImageSpan(1, 1, 1), ImageSpan(3, 4, -1))},
        {"spans": (ImageSpan(1, 1, 1), ImageSpan(2**40, 4, 1))},
    ],
)
def test_a_prompt_whose_places_are_not_those_of_its_tiles_is_refused(
    change: dict[str, Any],
) -> None:
    with pytest.raises(WireError) as caught:
        open_checked(replace(PICTURE, **change))
    assert caught.value.code is NackCode.UNPLANNED


@pytest.mark.parametrize("tiles", [(), (0,), (2, -1), (2, 0)])
def test_a_picture_without_tiles_is_refused(tiles: tuple[int, ...]) -> None:
    with pytest.raises(WireError, match="a tile at least"):
        open_checked(Encode(ID, 0, tiles, None, "", 0))


def test_what_is_larger_than_a_server_takes_is_refused_before_it_is_read() -> None:
    small = replace(PROFILE, max_prompt_tokens=6)
    header, _, block = write_message(PICTURE)
    with pytest.raises(WireError, match="7 tokens; needed: 6") as caught:
        check_opening(sealed(header, block, ChecksumSeal()), PICTURE, small)
    assert caught.value.code is NackCode.TOO_LARGE
    with pytest.raises(WireError, match="10 tiles; needed: 9") as caught:
        open_checked(Encode(ID, 0, (4, 6), None, "", 0))
    assert caught.value.code is NackCode.TOO_LARGE
