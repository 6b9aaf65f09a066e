"""Places and tiles: never more than there are, first come first served, none lost."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.room import Room


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 3)), max_size=25))
def test_the_limits_hold_and_everybody_has_his_turn(requests):
    settings = GatewaySettings(max_opening=2, max_tiles_in_work=5)
    room = Room(settings)
    begun, most = [], [0]

    async def one(number, num_tiles, opening, answering):
        await room.begin_opening()
        begun.append(number)
        assert room.num_opening <= 2
        assert room.num_tiles < 5
        for _ in range(opening):
            await asyncio.sleep(0)
        room.end_opening()
        with room.hold(num_tiles):
            most[0] = max(most[0], room.num_tiles)
            for _ in range(answering):
                await asyncio.sleep(0)

    async def run():
        tasks = [one(number, *request) for number, request in enumerate(requests)]
        await asyncio.wait_for(asyncio.gather(*tasks), 20)

    asyncio.run(run())
    assert begun == list(range(len(requests)))
    assert (room.num_opening, room.num_tiles, room.num_waiting) == (0, 0, 0)
    assert most[0] <= 4 + 2 * 6


def test_who_is_cancelled_in_the_line_lets_the_next_one_in():
    async def run():
        room = Room(GatewaySettings(max_opening=1))
        await room.begin_opening()
        first, second = (asyncio.create_task(room.begin_opening()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        room.end_opening()
        await asyncio.wait_for(second, 20)
        assert (room.num_opening, room.num_waiting) == (1, 0)

    asyncio.run(run())
