"""Ports in front of a PostgreSQL server that can be shut, and hold, mute, slow down or cut what goes through."""

import asyncio
import random
from contextlib import suppress

from psycopg.conninfo import conninfo_to_dict

from svc.database_url import DatabaseUrl
from tests.support.waiting import DEADLINE


class Gate:
    """A port in front of the server: it can be shut, and what is connected through it can be frozen.

    `_pairs` has two directions for each connection, requests and then answers; `_pumps` a task for each.
    """

    def __init__(self, url: object) -> None:
        self._to = conninfo_to_dict(str(url))
        self._port = 0
        self._pairs: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._pumps: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> DatabaseUrl:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        login = f"{self._to.get('user', '')}:{self._to.get('password', '')}"
        return DatabaseUrl(f"postgresql://{login}@127.0.0.1:{self._port}/{self._to['dbname']}")

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.freeze()
        for _, writer in self._pairs:
            writer.close()

    def freeze(self) -> None:
        """Hold all that comes on what is connected; what connects from now on is not touched."""
        while self._pumps:
            self._pumps.pop().cancel()

    def thaw(self, last: int = 0) -> None:
        """Let what is connected go on, or only the last so many directions of it."""
        self._pumps += [asyncio.create_task(pump(*pair)) for pair in self._pairs[-last:]]

    async def wait_until_left(self) -> None:
        """Wait until everybody on this side has hung up."""
        async with asyncio.timeout(DEADLINE):
            for reader, _ in self._pairs[::2]:
                with suppress(ConnectionError):
                    await reader.read()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self._to["host"]), int(self._to.get("port") or 5432)
        local = asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}") if host.startswith("/") else None
        answers, requests = await (local or asyncio.open_connection(host, port))
        self._pairs += [(reader, requests), (answers, writer)]
        self.thaw(2)


class LossyGate(Gate):
    """One that can lose what the server answers."""

    def mute(self) -> None:
        """Let nothing of what the server says through any more."""
        for task in self._pumps[1::2]:
            task.cancel()

    def cut(self) -> None:
        """Hang up on its clients."""
        for _, writer in self._pairs[1::2]:
            writer.close()


class SlowGate(Gate):
    """One through which answers come late, some later than others: many a batch is overtaken by a change."""

    def thaw(self, last: int = 0) -> None:
        """Let the newest connection go on."""
        requests, answers = self._pairs[-2:]
        self._pumps += [asyncio.create_task(pump(*requests)), asyncio.create_task(pump_late(*answers))]


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass bytes on until one side is closed."""
    with suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
    target.close()


async def pump_late(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass bytes on after a while."""
    dice = random.Random(1)
    with suppress(ConnectionError):
        while data := await source.read(65536):
            await asyncio.sleep(dice.choice([0, 0, 0.004, 0.008]))
            target.write(data)
    target.close()
