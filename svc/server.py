"""uvicorn with the flags that cost nothing, and what a start says."""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.basereload import BaseReload
from uvicorn.supervisors.statreload import StatReload

from svc.config import PACKAGE, find_folder
from svc.http.fast_path import FastProtocol
from svc.http.protocol import find_misfit

SHUTDOWN_TIMEOUT = 10
"""Seconds that requests may take to end once the service is told to."""

MakeApp = Callable[[], ASGIApp]


class ServeError(Exception):
    """The service cannot start; the message says why."""


def serve(
    make_app: MakeApp,
    host: str,
    port: int,
    *,
    database: str,
    greet: Callable[[str], str] | None = None,
    workers: int = 1,
    reload: bool = False,
    keep_alive: int = 75,
) -> int:
    """Run until a signal ends it; the exit code is 1 where it could not start. Raises ServeError.

    A start says where it listens and what `database` is used; `greet` makes more of the address to say.
    """
    listener = listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"Listening on {address}\nDatabase: {database}", flush=True)
    if greet and (greeting := greet(address)):
        print(greeting, flush=True)
    if reload:
        settings = configure(make_app, reload=True, keep_alive=keep_alive)
        SourceReload(settings, uvicorn.Server(settings).run, [listener]).run()
        return 0
    settings = configure(make_app, workers, keep_alive=keep_alive)
    if workers > 1:
        Multiprocess(settings, [listener]).run()
        return 0
    server = uvicorn.Server(settings)
    server.run([listener])
    return 0 if server.started else 1


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket: clients that come before the workers are up wait, and are not refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ServeError(f"Cannot listen on {host}, port {port}: {error.strerror}") from None


class SourceReload(StatReload):
    """uvicorn's, which starts the service anew when a file changes, with .sql files among them.

    It looks at the files before each start: uvicorn looks after it, and misses what changes meanwhile.
    """

    def __init__(
        self, config: uvicorn.Config, target: Callable[..., None], sockets: list[socket.socket]
    ) -> None:
        super().__init__(config, target, sockets)
        self.mtimes = self._read_mtimes()

    def restart(self) -> None:
        """Start the service anew."""
        self.mtimes = self._read_mtimes()
        BaseReload.restart(self)

    def _read_mtimes(self) -> dict[Path, float]:
        return {path: path.stat().st_mtime for path in self.iter_py_files()}

    def iter_py_files(self) -> Iterator[Path]:
        """Give every file that a start reads."""
        folders = find_folder("queries"), find_folder("migrations")
        yield from chain(PACKAGE.rglob("*.py"), *(folder.glob("*.sql") for folder in folders))


def make_worker_app(make_app: MakeApp) -> ASGIApp:
    """Return the app of one of several processes, which ends when the one that started it is gone."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    return make_app()


def end_with_parent() -> None:
    """Wait for the parent to end, however it does, and then end this process as a signal would."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def find_protocol() -> type[asyncio.Protocol] | str:
    """Return our protocol; uvicorn's own where that is not the class that ours was made for."""
    if misfit := find_misfit():
        print(f"Without short cuts and limits on receiving: {misfit}", file=sys.stderr, flush=True)
        return "httptools"
    return FastProtocol


def configure(
    make_app: MakeApp, workers: int = 1, *, reload: bool = False, keep_alive: int = 75
) -> uvicorn.Config:
    """Return uvicorn's settings. Its access log and its proxy headers are worth 1.5× on small answers."""
    alone = workers == 1 and not reload
    return uvicorn.Config(
        make_app if alone else partial(make_worker_app, make_app),
        factory=True,
        workers=workers,
        reload=reload,
        loop="uvloop",
        http=find_protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
    )
