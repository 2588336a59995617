"""Batchers of things, as the app makes them, and what they send."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from svc.config import Config
from svc.postgres.queueing import CONCURRENCY, Limits
from tests.support.batches import Recorder, Sent
from tests.support.pools import opened
from tests.support.things import StoredThing, ThingChange, ThingQueries, Things, UpdateThing
from tests.support.waiting import until


class ThingBatchers(Struct):
    """One worker's batchers of things, and what they sent."""

    sent: Sent
    things: Things

    async def get(self, number: int) -> StoredThing | None:
        """Return a thing by its id."""
        return await self.things.by_id.get(number)

    async def find(self, number: int) -> StoredThing | None:
        """Return a thing by its name."""
        return await self.things.by_name.get(f"thing {number}")

    async def change(self, number: int) -> StoredThing | None:
        """Give a thing the note that it has already."""
        return await self.things.changes.get(ThingChange(number, None, UpdateThing(note=str(number))))


Ask = Callable[[ThingBatchers, int], Awaitable[StoredThing | None]]

KINDS: list[tuple[Ask, str, str]] = [
    (ThingBatchers.get, "get_thing", "get_things"),
    (ThingBatchers.find, "get_thing_by_name", "get_things_by_name"),
    (ThingBatchers.change, "update_thing", "update_things"),
]
"""How each kind is asked for, its statement for one, and the one for several."""


@asynccontextmanager
async def thing_batchers(config: Config, **settings: Any) -> AsyncGenerator[ThingBatchers]:
    """Give the batchers of things as the app makes them."""
    async with opened(config, **settings) as database:
        recorder = Recorder(database)
        yield ThingBatchers(recorder.sent, Things(ThingQueries.bind(recorder), Limits.of(database.config)))


def notes(things: Sequence[StoredThing | None]) -> list[str | None]:
    """Return the notes of things, None for none."""
    return [thing and thing.note for thing in things]


async def fill_places(
    batchers: ThingBatchers, ask: Ask = ThingBatchers.get
) -> "list[asyncio.Task[StoredThing | None]]":
    """Start as many single ones as may be under way at once, each in a turn of its own."""
    tasks = []
    for number in range(1, CONCURRENCY + 1):
        tasks.append(start(ask(batchers, number)))
        await until(lambda: len(batchers.sent) == len(tasks))
    return tasks


def start(asked: Awaitable[StoredThing | None]) -> "asyncio.Task[StoredThing | None]":
    """Start to ask, and do not wait for the answer."""
    return asyncio.ensure_future(asked)
