"""SQL round trips, counted: a proxy between a service and PostgreSQL's Unix socket.

A round trip begins when a client sends after the server has: what is pipelined is one.
"""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

T = TypeVar("T")

SOCKET = ".s.PGSQL.5432"
TERMINATE = b"X\0\0\0\4"
"""A client's last word, which has no answer."""


class Proxy:
    """Counts the round trips through a socket in `folder` to that in `target`, while a `with` block lasts."""

    def __init__(self, folder: Path, target: str) -> None:
        self.count = 0
        self._here, self._there = str(folder / SOCKET), f"{target}/{SOCKET}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, url: str) -> str:
        """Return the database's URL, by way of the proxy."""
        folder = quote(str(Path(self._here).parent), safe="/")
        return urlunsplit(urlsplit(url)._replace(query=f"host={folder}"))

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._server = self._run(asyncio.start_unix_server(self._serve, self._here))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        Path(self._here).unlink(missing_ok=True)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            await self._pass_both(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass_both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what the client and the server send, until either closes."""
        its_reader, its_writer = await asyncio.open_unix_connection(self._there)
        answered = True

        async def forth() -> None:
            nonlocal answered
            while data := await reader.read(1 << 18):
                if answered and data != TERMINATE:
                    answered = False
                    self.count += 1
                its_writer.write(data)

        async def back() -> None:
            nonlocal answered
            while data := await its_reader.read(1 << 18):
                answered = True
                writer.write(data)

        directions = [asyncio.create_task(forth()), asyncio.create_task(back())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*directions, return_exceptions=True)
            its_writer.close()
