"""Room for things of different sizes, such as decoded images in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """Holds so many units at once; who finds no room waits, in order of arrival. For one event loop.

    Args:
        capacity: in units; something larger gets in when nothing else is there.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def holding(self, units: int) -> AsyncIterator[None]:
        """Wait for room, and hold it for the block."""
        await self._enter(units)
        try:
            yield
        finally:
            self._leave(units)

    async def _enter(self, units: int) -> None:
        if not self._waiting and self._fits(units):
            self.used += units
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((units, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the room was given in the same moment
                self._leave(units)
            else:
                self._waiting.remove((units, turn))
                self._admit()  # those behind it may be smaller
            raise

    def _leave(self, units: int) -> None:
        self.used -= units
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            units, turn = self._waiting.popleft()
            if not turn.done():
                self.used += units
                turn.set_result(None)

    def _fits(self, units: int) -> bool:
        return self.used == 0 or self.used + units <= self.capacity
