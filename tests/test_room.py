"""Room: in order, never more than there is, and nothing lost by who gives up."""

from __future__ import annotations

import asyncio

import pytest
from rerankd.errors import OverloadedError
from rerankd.room import Room


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_first_enters_first_whatever_its_size() -> None:
    room, entered = Room(100), list[str]()

    async def enter(name: str, size: int) -> None:
        await room.enter(size)
        entered.append(name)

    first = await room.enter(60)
    waiting = [asyncio.create_task(enter(name, size)) for name, size in (("large", 80), ("small", 10))]
    await settle()
    assert entered == []
    first.keep(30)
    await settle()
    assert (entered, room.free) == ([], 70), "there is room for the small one, whose turn it is not"
    first.leave()
    await asyncio.gather(*waiting)
    assert (entered, room.free) == (["large", "small"], 10)
    first.leave()
    assert room.free == 10, "what is given back is given back once"


async def test_who_gives_up_frees_its_place_and_what_it_was_given() -> None:
    room = Room(100)
    first = await room.enter(100)
    waiting = [asyncio.create_task(room.enter(size)) for size in (100, 50, 40)]
    await settle()
    waiting[0].cancel()
    first.leave()
    waiting[1].cancel()  # it has its turn by now, and has not run yet
    await asyncio.wait(waiting)
    assert (await waiting[2], room.free)[1] == 60


async def test_the_line_is_bounded_and_more_than_all_is_all() -> None:
    room = Room(100, waiting=1)
    stay = await room.enter(1000)
    assert room.free == 0
    waits = asyncio.create_task(room.enter(1))
    await settle()
    with pytest.raises(OverloadedError, match="too many calls wait for room"):
        await room.enter(1)
    stay.leave()
    await waits
    assert room.free == 99
