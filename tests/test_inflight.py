"""How many calls are in progress, and when there is none."""

from __future__ import annotations

import asyncio
import contextlib

from rerankd.inflight import InFlight
from support import PATIENCE


async def test_it_is_idle_until_a_call_begins_and_when_the_last_has_ended() -> None:
    in_flight = InFlight()
    await asyncio.wait_for(in_flight.idle(), PATIENCE)
    with in_flight:
        waiting = asyncio.create_task(in_flight.idle())
        with contextlib.suppress(KeyError), in_flight:
            assert in_flight.count == 2
            raise KeyError
        await asyncio.sleep(0)
        assert in_flight.count == 1
        assert not waiting.done()
    await asyncio.wait_for(waiting, PATIENCE)
    assert in_flight.count == 0
