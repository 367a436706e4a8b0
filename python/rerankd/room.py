"""Room: the bytes that the messages of calls may take together, given in the order they are asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from rerankd.errors import OverloadedError

AHEAD_BYTES: Final = 256 << 10
"""What a call may send ahead of what is read of it."""

WAITING: Final = 512
"""Calls that may wait for room."""

CALL_BYTES: Final = AHEAD_BYTES + 50_000
"""The most that such a call takes: what it sent ahead, and what Python and gRPC have for a call."""


class Room:
    """So many bytes, of one event loop. A call asks for what its message may have at most, before it is read.

    Without it, a message is in memory, whole, before anything is known of its call: as many of them as there
    are calls, and no limit on what the queue holds counts those.
    """

    def __init__(self, size: int, waiting: int = WAITING) -> None:
        self._size = size
        self._free = size
        self._waiting = waiting
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        """Bytes that nobody has."""
        return self._free

    async def enter(self, size: int) -> Stay:
        """Returns when there is room for so many bytes; for more than all that there is, when nobody has any.

        Raises OverloadedError where too many wait already.
        """
        size = min(size, self._size)
        if not self._line and size <= self._free:
            self._free -= size
            return Stay(self, size)
        if len(self._line) >= self._waiting:
            raise OverloadedError("too many calls wait for room to read their messages in")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._line.append(entry)
        try:
            await turn
        except BaseException:
            if not turn.cancelled():
                self.give(size)  # its turn had come
            elif entry in self._line:
                self._line.remove(entry)
                self.give(0)
            raise
        return Stay(self, size)

    def give(self, size: int) -> None:
        """Takes bytes back, and lets in who has waited for them."""
        self._free += size
        while self._line:
            size, turn = self._line[0]
            if not turn.cancelled():
                if size > self._free:
                    return
                self._free -= size
                turn.set_result(None)
            self._line.popleft()


class Stay:
    """Bytes that one call has."""

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self._size = size

    def keep(self, size: int) -> None:
        """Gives back all but so many bytes."""
        if size < self._size:
            self._room.give(self._size - size)
            self._size = size

    def leave(self) -> None:
        """Gives back all; once more does nothing."""
        self.keep(0)
