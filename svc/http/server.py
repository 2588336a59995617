"""`svc serve`: uvicorn with the flags that cost nothing, and what a start says."""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
from functools import partial

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from svc.accounts.keys import SCOPES, ApiKeyQueries, create_key
from svc.app import create_app
from svc.config import Config
from svc.http.fast_path import HotProtocol
from svc.http.protocol import find_misfit
from svc.postgres.pool import Database

GRACE_SECONDS = 10


class ServeError(Exception):
    """The service cannot start; the message says why."""


def serve(config: Config, host: str, port: int, workers: int, *, embedded: bool) -> int:
    """Runs until a signal ends it; the exit code is 1 where it could not start. Raises ServeError."""
    listener = listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    used = f"embedded PostgreSQL in {config.data_dir}" if embedded else repr(config.database_url)
    print(f"Listening on {address}\nDatabase: {used}", flush=True)
    if embedded and (token := asyncio.run(create_first_key(config))):
        print(WELCOME.format(token=token, address=address), flush=True)
    settings = configure(config, workers)
    if workers > 1:
        Multiprocess(settings, [listener]).run()
        return 0
    server = uvicorn.Server(settings)
    server.run([listener])
    return 0 if server.started else 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: clients that come before the workers are up wait instead of being refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ServeError(f"Cannot listen on {host}, port {port}: {error.strerror}") from None


async def create_first_key(config: Config) -> str | None:
    """A key for a database that has none yet; None where there is one already."""
    database = Database(config)
    keys = ApiKeyQueries.bind(database)
    try:
        if await keys.list_api_keys():
            return None
        return await create_key("first", list(SCOPES), None, keys)
    finally:
        await database.close()


WELCOME = """
This is a new database, so here is its first API key. It is shown once; `svc keys create` makes more.

    export KEY={token}

Register, read, list, change and delete a user:

    curl -i {address}/users -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' -d '{{"email": "ada@example.com", "password": "correct horse", "display_name": "Ada"}}'
    curl -i {address}/users/1 -H "Authorization: Bearer $KEY"
    curl -i {address}/users -H "Authorization: Bearer $KEY"
    curl -i {address}/users/1 -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' -X PATCH -d '{{"display_name": "Ada Lovelace"}}'
    curl -i {address}/users/1 -H "Authorization: Bearer $KEY" -X DELETE
"""  # noqa: E501


def create_worker(config: Config) -> ASGIApp:
    """The app of one of several workers, which ends when the process that started it is gone."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    return create_app(config)


def end_with_parent() -> None:
    """Waits for the parent to end, however it does, and then ends this process as a signal would."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def find_protocol() -> type[asyncio.Protocol] | str:
    """Ours; uvicorn's own where that is not the class that ours was made for."""
    if misfit := find_misfit():
        print(f"Without short cuts and limits on receiving: {misfit}", file=sys.stderr, flush=True)
        return "httptools"
    return HotProtocol


def configure(config: Config, workers: int = 1) -> uvicorn.Config:
    """uvicorn's settings. Its access log and its proxy headers are worth 1.5× on small answers."""
    return uvicorn.Config(
        partial(create_app if workers == 1 else create_worker, config),
        factory=True,
        workers=workers,
        loop="uvloop",
        http=find_protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
